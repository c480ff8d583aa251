"""Structure search on WikiText-2: who finds the best sub-blocks to close, and what 32 candidates cost.

    python -m benchmarks.structure --data DIR --json structure.json --figure structure.png
    python -m benchmarks.structure --data DIR --cost --json cost.json

DIR holds wikitext2/validation.jsonl (searched on) and wikitext2/test.jsonl. Runs that the file has are not
run again: --closed, --seed and --method cut all into pieces, which may share a file one after the other. All
methods of a seed and a number of closed sub-blocks may spend what greedy search does.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import shared

if TYPE_CHECKING:
    from gfo.models.frozen import FrozenModel


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, checked."""
    from benchmarks.structure.searches import METHODS

    parser = shared.Parser(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path, help="where the runs are drawn")
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--switches", type=int, default=3)
    parser.add_argument("--closed", type=int, nargs="+", default=[12, 20])
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--method", nargs="+")
    parser.add_argument("--windows", type=int, default=16, help="of 128 tokens that are searched on")
    parser.add_argument("--tokens", type=int, help="the budget in forward tokens; by default greedy's")
    options = parser.parse_args(arguments)
    options.method = shared.chosen("--method", options.method, METHODS)
    shared.check_at_least_one(options, ("rounds", "switches", "closed", "windows", "tokens"))
    shared.check_output("--json", options.json)
    shared.check_output("--figure", options.figure)
    return options


def documents(folder: Path, split: str, windows: int, seed: int) -> list[dict[str, str]]:
    """Stretches of articles, as many as windows, in a random order by the seed."""
    import numpy as np

    import gfo

    rows = gfo.datasets.load(folder / "wikitext2" / f"{split}.jsonl")
    order = np.random.default_rng(seed).permutation(len(rows))
    texts = [rows[i]["text"] for i in order]
    return [{"text": text[:600]} for text in texts if len(text) >= 600][:windows]


def task_of(options: argparse.Namespace, seed: int) -> Any:
    """KL to the unchanged model: rows for search by the seed, the same ones for test."""
    import gfo

    found = documents(options.data, "validation", 2 * options.windows, seed)
    test = documents(options.data, "test", 32, 0)
    half = len(found) // 2
    return gfo.Distance(found[:half], found[half:], test)


def search(model: FrozenModel, options: argparse.Namespace) -> None:
    """Run what is missing, and print the table."""
    found = json.loads(options.json.read_text()) if options.json and options.json.exists() else {"runs": []}
    done = {(run["closed"], run["seed"], run["method"]): run for run in found["runs"]}
    for closed in options.closed:
        for seed in options.seed:
            _search_one(model, options, closed, seed, done)
    _table(done)
    if options.figure is not None:
        from benchmarks.structure.figures import draw

        draw(list(done.values()), options.figure)


def _search_one(
    model: FrozenModel, options: argparse.Namespace, closed: int, seed: int, done: dict[Any, Any]
) -> None:
    """The methods that are missing of one number of closed sub-blocks and seed; greedy first."""
    from benchmarks.structure.searches import METHODS, Problem

    task, tokens = task_of(options, seed), options.tokens
    first = ["greedy"] if tokens is None else []
    for method in dict.fromkeys([*first, *options.method]):
        key = closed, seed, method
        if key not in done:
            problem = Problem(model, task, closed, seed)
            z = METHODS[method](problem, tokens or 0)
            scores = {split: problem.score(z, split) for split in ("train", "dev", "test")}
            spent = problem.spent.forward_tokens
            done[key] = {"closed": closed, "seed": seed, "method": method, "forward_tokens": spent}
            done[key] |= {"z": "".join(str(int(gene)) for gene in z), **scores}
            shared.say(f"{closed} closed, seed {seed}, {method}: {scores}, {spent:,} tokens")
            shared.write_json(options.json, {"runs": list(done.values()), **shared.source()})
        if tokens is None:
            tokens = done[key]["forward_tokens"]


def _table(done: dict[Any, Any]) -> None:
    """Medians over seeds."""
    from statistics import median

    rows = []
    for closed, method in dict.fromkeys((closed, method) for closed, _, method in done):
        some = [run for key, run in done.items() if (key[0], key[2]) == (closed, method)]
        numbers = [f"{median(run[split] for run in some):.3f}" for split in ("train", "dev", "test")]
        tokens = f"{median(run['forward_tokens'] for run in some):,.0f}"
        rows.append([method, str(closed), str(len(some)), *numbers, tokens])
    columns = ["method", "closed", "seeds", "train KL", "dev KL", "test KL", "forward tokens"]
    shared.show("KL to the unchanged model, medians", columns, rows)


def cost(model: FrozenModel, options: argparse.Namespace) -> None:
    """Measure what 32 candidates cost, and print it."""
    import gfo
    from benchmarks.structure.cost import measure

    rows = documents(options.data, "validation", 3, options.seed[0])
    task = gfo.LanguageModeling(rows, template="{text}", window=128)
    found = measure(model, task, options.rounds, options.seed[0], options.switches)
    shared.write_json(options.json, found | shared.source())
    names = ("of_masked", "of_one_at_a_time", "work_left", "work_left_simulated", "largest_difference")
    lines = [[way, f"{seconds:.2f}"] for way, seconds in found["cpu_seconds"].items()]
    lines += [[name.replace("_", " "), f"{found[name]:.3g}"] for name in names]
    shared.show(f"{found['candidates']} candidates, {found['closed']} closed", ["", "CPU seconds"], lines)


def run(options: argparse.Namespace) -> None:
    """What the options ask for."""
    import gfo

    model = gfo.load_model(options.model)
    (cost if options.cost else search)(model, options)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    return shared.command(arguments, parse, run, goes_on=True)


if __name__ == "__main__":
    shared.start(main, threads=1)
