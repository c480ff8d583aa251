"""How many bits where: ways to choose levels under limits of bytes, by what is lost on other documents.

    python -m benchmarks.compression --data DIR --json levels.json --figure levels.png
    python -m benchmarks.compression --data DIR --part uniform --json uniform.json
    python -m benchmarks.compression --data DIR --part sst2 --json sst2.json --figure sst2.png
    python -m benchmarks.compression --data DIR --part front --json front.json --figure front.png

The same command goes on where it was stopped; --seed, --limits and --method cut it into pieces, which may
share a file one after the other. See README.md of the benchmarks.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks import shared
from benchmarks.shared import say

if TYPE_CHECKING:
    from benchmarks.compression.measure import Bench

LIMITS = (0.42, 0.5, 0.6, 0.7)
LEVELS = ("Q8_0", "Q5_0", "Q4_0", "HQ3")
EVERYWHERE = ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "HQ4", "HQ3", "HQ2", "S25", "S50", "S2:4", "R75", "R50")
METHODS = {
    "levels": ("uniform", "weight error", "output error", "greedy", "knapsack", "search", "with LoRA"),
    "sst2": ("manual", "uniform", "knapsack", "search"),
    "front": ("nsga2",),
    "uniform": EVERYWHERE,
}
"""Part -> its methods."""
WITHOUT_LIMIT = ("manual", "nsga2", *EVERYWHERE)
PIECES = ("json", "figure", "limits", "seed", "method", "data")  # options that say what of it is done


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, checked."""
    parser = shared.Parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds wikitext2, and sst2")
    parser.add_argument("--part", choices=METHODS, default="levels")
    parser.add_argument("--model", default="smollm2-135m", help="a decoder")
    parser.add_argument(
        "--limits", type=float, nargs="+", default=list(LIMITS), help="shares of Q8_0's bytes"
    )
    parser.add_argument("--levels", nargs="+", default=list(LEVELS))
    parser.add_argument("--method", nargs="+")
    parser.add_argument("--scaled", action="store_true", help="scale columns by the calibration texts")
    parser.add_argument("--calibration", type=int, default=2048, help="tokens that choices are made on")
    parser.add_argument("--dev", type=int, default=1024, help="tokens that a search's result is chosen by")
    parser.add_argument("--test", type=int, default=4096, help="tokens of other documents")
    parser.add_argument("--window", type=int, default=128, help="tokens of a window")
    parser.add_argument(
        "--rows", type=int, default=64, help="of SST-2 to choose on, and as many to select by"
    )
    parser.add_argument("--test-rows", type=int, default=500, help="of SST-2")
    parser.add_argument("--evaluations", type=int, default=400, help="of a search")
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--json", type=Path, help="results; those that it holds are not measured again")
    parser.add_argument("--figure", type=Path, help="where what the file holds is drawn")
    options = parser.parse_args(arguments)
    options.method = shared.chosen("--method", options.method, METHODS[options.part])
    whole = ("calibration", "dev", "test", "window", "rows", "test_rows", "evaluations")
    shared.check_at_least_one(options, whole)
    shared.check_output("--json", options.json)
    shared.check_output("--figure", options.figure)
    return options


def run(options: argparse.Namespace) -> None:
    """Measure what is missing, and show all."""
    from benchmarks.compression.figures import draw
    from benchmarks.compression.measure import Bench, model_of

    found = _found(options)
    left = [each for each in _wanted(options) if not any(_is(row, *each) for row in found["rows"])]
    model = model_of(options) if left else None
    for seed in options.seed:
        mine = [each for each in left if each[2] == seed]
        bench = Bench(options, model, seed) if mine else None
        for limit, method, _ in mine:
            assert bench is not None
            found["rows"].append(_row(bench, limit, method, seed))
            shared.write_json(options.json, found)
    _show(options.part, found["rows"])
    if options.figure is not None:
        draw(options.part, found["rows"], options.figure)
        say(f"drawn to {options.figure}")


def _wanted(options: argparse.Namespace) -> Iterator[tuple[float | None, str, int]]:
    """(limit, method, seed) of all that is asked for, seed by seed."""
    for seed in options.seed:
        for limit in options.limits:
            yield from ((limit, method, seed) for method in options.method if method not in WITHOUT_LIMIT)
        yield from ((None, method, seed) for method in options.method if method in WITHOUT_LIMIT)


def _row(bench: Bench, limit: float | None, method: str, seed: int) -> dict[str, Any]:
    """One choice, measured."""
    part, limited = bench.options.part, limit or 0.0
    if part == "front":
        found = bench.front()
    elif part == "uniform":
        found = bench.everywhere(method)
    elif part == "sst2":
        found = bench.in_task(limited, method)
    else:
        found = bench.measured(limited, method)
    row = {"limit": limit, "method": method, "seed": seed, **found}
    say(f"{method}, limit {limit}, seed {seed}: test {row.get('test', 'of each point')}")
    return row


def _found(options: argparse.Namespace) -> dict[str, Any]:
    """What the file holds, or nothing; of other options it is refused."""
    given = {name: value for name, value in vars(options).items() if name not in PIECES}
    if options.json is None or not options.json.exists():
        return {"options": given, "rows": [], **shared.source()}
    found: dict[str, Any] = json.loads(options.json.read_text(encoding="utf-8"))
    if found["options"] != given:
        raise shared.UnusableError(f"--json {options.json}: it is of {found['options']}; name another file")
    return found


def _is(row: dict[str, Any], limit: float | None, method: str, seed: int) -> bool:
    return (row["limit"], row["method"], row["seed"]) == (limit, method, seed)


def _show(part: str, rows: Sequence[dict[str, Any]]) -> None:
    """Medians over seeds; of fronts each seed's points."""
    numbers = ("share", "bits", "predicted", "train", "dev", "test")
    what = "accuracy" if part == "sst2" else "KL to the model, nats a token"
    columns = ["method", "limit", "seeds", *numbers]
    lines = []
    if part == "front":
        for row in rows:
            for i, point in enumerate(row["points"]):
                lines.append([f"point {i}", "-", str(row["seed"]), *_medians([point], numbers)])
    else:
        for limit, method in dict.fromkeys((row["limit"], row["method"]) for row in rows):
            some = [row for row in rows if (row["limit"], row["method"]) == (limit, method)]
            said = "-" if limit is None else f"{limit:g}"
            lines.append([method, said, str(len(some)), *_medians(some, numbers)])
    shared.show(f"{what}; train is what choices are made on", columns, lines)


def _medians(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> list[str]:
    """The medians of numbers that rows have."""
    return [f"{median(row[name] for row in rows):.3f}" if name in rows[0] else "-" for name in names]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    return shared.command(arguments, parse, run, goes_on=True)


if __name__ == "__main__":
    shared.start(main)
