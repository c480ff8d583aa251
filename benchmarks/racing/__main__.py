"""Racing on SST-2 and AG News: what it saves, whether the best candidate stays, and what searches reach.

    python -m benchmarks.racing --data DIR --figure racing.png
    python -m benchmarks.racing --data DIR --part searches
    python -m benchmarks.racing

The first computes the losses of each population on all rows once (losses.json; what that has is not computed
again) and races 200 orders of the rows on them, without another forward pass; without --data only those that
are there. Beside them are races of losses that are drawn. The second compares methods with and without racing
at the same forward tokens (searches.json).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import gfo
from benchmarks import shared
from benchmarks.racing.losses import SPACES, TASKS, Population, populations
from benchmarks.racing.orders import raced, settings, simulated
from benchmarks.racing.searches import searches
from benchmarks.shared import say
from gfo.core.errors import GfoError
from gfo.models.frozen import FrozenModel

RESULTS = shared.RESULTS / "racing"
MODEL = "smollm2-135m"
SETTINGS = [gfo.Racing(), gfo.Racing(p=0.01), gfo.Racing(p=0.1), gfo.Racing(first=8), gfo.Racing(block=4)]
LEVELS, SPREADS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3), (0.0, 0.1, 0.3, 1.0)
SHUFFLES = (13, 21, 42)


@cache
def model() -> FrozenModel:
    """The model, loaded when it is first needed."""
    return gfo.load_model(MODEL, device="cpu")


def known(options: argparse.Namespace) -> list[Population]:
    """The populations of the file of losses, those that are missing computed if there are data."""
    path = options.out / "losses.json"
    records = json.loads(path.read_text(encoding="utf-8"))["populations"] if path.exists() else []
    done = {(record["task"], record["space"]) for record in records}
    wanted = [(task, space) for space in SPACES for task in TASKS if (task, space) not in done]
    for task, space in wanted if options.data else ():
        sizes = {"rows": options.rows, "candidates": options.candidates}
        records += [p.record for p in populations(model(), options.data, task, space, **sizes)]
        shared.write_json(path, {**shared.source("torch", "transformers"), "populations": records})
    if not records:
        raise GfoError(f"--out {options.out}: it holds no losses.json; give --data, the data's folder")
    return [Population.of(record) for record in records]


def orders(options: argparse.Namespace) -> dict[str, Any]:
    """Every setting on every population, and on losses that are drawn."""
    those = known(options)
    rows = [
        {**population.name, **settings(how), **raced(population.losses, how, options.orders)}
        for how in SETTINGS
        for population in those
    ]
    drawn = [
        {"p": p, "spread": spread, **simulated(gfo.Racing(p=p), spread, races=options.orders)}
        for p in LEVELS
        for spread in SPREADS
    ]
    facts = {**shared.source("numpy", "scipy"), "orders": options.orders, "raced": rows, "drawn": drawn}
    shared.write_json(options.out / "orders.json", facts)
    return facts


def compare(options: argparse.Namespace) -> None:
    """Searches with and without racing; those that the file has are not run again."""
    path = options.out / "searches.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["searches"] if path.exists() else []
    for shuffle in SHUFFLES:
        for task in TASKS:
            if not any(row["task"] == task and row["shuffle"] == shuffle for row in rows):
                sizes = {"rows": options.searched, "population": options.population, "tokens": options.tokens}
                rows.extend(searches(model(), options.data, task, shuffle, **sizes))
                facts = {**shared.source("torch", "transformers"), **sizes, "searches": rows}
                shared.write_json(path, facts)
    columns = ("task", "shuffle", "method", "racing", "best", "point", "steps", "seconds")
    shared.show("Searches", columns, [[str(row[name]) for name in columns] for row in rows], words=4)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, checked."""
    parser = shared.Parser(__doc__)
    parser.add_argument("--data", type=Path, help="folder that holds sst2 and agnews")
    parser.add_argument("--part", choices=("orders", "searches"), default="orders")
    parser.add_argument("--rows", type=int, default=128, help="of a population (default %(default)s)")
    parser.add_argument("--candidates", type=int, default=24, help="of a population (default %(default)s)")
    parser.add_argument("--orders", type=int, default=200, help="random orders (default %(default)s)")
    parser.add_argument("--searched", type=int, default=48, help="rows of a search (default %(default)s)")
    parser.add_argument("--population", type=int, default=12, help="of a search (default %(default)s)")
    parser.add_argument("--tokens", type=int, default=240, help="of a search (default %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--figure", type=Path, help="where shares and false drops are drawn")
    options = parser.parse_args(arguments)
    shared.check_at_least_one(options, ("rows", "candidates", "orders", "searched", "population", "tokens"))
    shared.check_output("--figure", options.figure)
    if options.part == "searches" and options.data is None:
        raise GfoError("--part searches: it needs rows; give --data, the data's folder")
    return options


def do(options: argparse.Namespace) -> None:
    """What the options ask for."""
    from benchmarks.racing.figures import draw

    options.out.mkdir(parents=True, exist_ok=True)
    if options.part == "searches":
        compare(options)
        return
    facts = orders(options)
    columns = tuple(facts["raced"][0])
    shared.show("Races", columns, [[str(row[name]) for name in columns] for row in facts["raced"]], words=3)
    if options.figure is not None:
        draw(facts, options.figure)
        say(f"drawn to {options.figure}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    return shared.command(arguments, parse, do, goes_on=True)


if __name__ == "__main__":
    shared.start(main, threads=1)
