"""Successive halving on 64 full curves of LoRA on a tiny model: how often it finds the best, at what cost.

    python -m benchmarks.halving --curves
    python -m benchmarks.halving

The first trains each of the grid to the end and writes curves.json; what that has is not run again.
The second begins the grid's trials in 200 random orders, one at a time, until a share of what all curves cost
is spent, and writes orders.json: how often the best trial of those at the last rung is the grid's best.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import shared
from benchmarks.shared import say
from gfo.core.hyperparameters import Hyperparameters
from gfo.run.halving import ASHA, Hyperband
from gfo.run.trials import Outcome, Trials

RESULTS = shared.RESULTS / "halving"
STEPS, EVERY, WINDOW = 320, 4, 24  # of each curve; between scores on dev; tokens of a text
ROWS = {"train": 48, "dev": 48}
RUNGS = {2: [20, 40, 80, 160, 320], 4: [20, 80, 320]}  # by eta
GRID: dict[str, list[Any]] = {
    "lr": [1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.2, 0.4, 0.8],
    "rank": [1, 8],
    "dropout": [0.0, 0.2],
    "schedule": ["linear", "constant"],
}


def curve(options: dict[str, Any]) -> list[float]:
    """The best dev loss until each `EVERY`th step of a training."""
    import gfo
    from gfo.testing.tiny import tiny_model

    data = Path(gfo.__file__).parent / "data" / "sentiment"
    task = gfo.LanguageModeling(data / "train.jsonl", data / "dev.jsonl", window=WINDOW, limits=ROWS)
    budget = gfo.Budget(evaluations=STEPS)
    result = gfo.baselines.run(
        "lora", tiny_model(), task, options=options, budget=budget, dev_every=EVERY, progress=False
    )
    dev = [float(step.dev["loss"] or np.inf) for step in result.history if step.dev is not None]
    return list(map(float, np.minimum.accumulate(dev).round(6)))


def write_curves(path: Path) -> None:
    """Train what the file does not have."""
    known = json.loads(path.read_text(encoding="utf-8"))["curves"] if path.exists() else []
    done = {json.dumps(line["options"]): line for line in known}
    grid = [dict(zip(GRID, values, strict=True)) for values in itertools.product(*GRID.values())]
    for number, options in enumerate(grid, 1):
        key = json.dumps(options)
        if key not in done:
            done[key] = {"options": options, "dev": curve(options)}
            say(f"{number} of {len(grid)}: {options}, {done[key]['dev'][-1]:.3f}")
            shared.write_json(path, {**shared.source("torch", "transformers"), "curves": list(done.values())})


def find(curves: list[list[float]], how: ASHA | Hyperband, share: float, seed: int) -> tuple[bool, float]:
    """Whether the best is found when so much of the whole cost is spent, and what was spent, as a share."""

    def trial(values: Any, budget: int | None, folder: Path | None) -> Outcome:
        steps = budget or STEPS
        return Outcome(curves[values["number"]][steps // EVERY - 1], steps)

    most = share * how.rungs[-1] * len(curves)
    trials = Trials(trial, Hyperparameters({"number": list(range(len(curves)))}), how)
    for step, number in enumerate(np.random.default_rng(seed).permutation(len(curves))):
        trials(np.array([[float(number)]]), step)
    spent, reached, last = 0, [0] * len(curves), {}
    for record in trials.records:  # of which those count that ended in time
        number = record.values["number"]
        if spent + record.forward_tokens - reached[number] > most:
            break
        spent += record.forward_tokens - reached[number]
        reached[number] = record.forward_tokens
        if record.budget == how.rungs[-1]:
            last[number] = record.value
    best = min(range(len(curves)), key=lambda i: curves[i][how.rungs[-1] // EVERY - 1])
    return bool(last) and min(last, key=lambda number: last[number]) == best, spent / most * share


def write_orders(folder: Path, share: float, orders: int) -> dict[str, Any]:
    """How often each way finds the best within the share; and with all trials begun."""
    lines = json.loads((folder / "curves.json").read_text(encoding="utf-8"))["curves"]
    curves = [line["dev"] for line in lines]
    ways: dict[str, ASHA | Hyperband] = {f"asha, eta {eta}": ASHA(RUNGS[eta], eta) for eta in RUNGS}
    ways["hyperband, eta 4"] = Hyperband(RUNGS[4], 4)
    found: dict[str, Any] = {}
    for name, how in ways.items():
        tried = [find(curves, how, share, seed) for seed in range(orders)]
        found[name] = {
            "rungs": list(how.rungs),
            "found": sum(best for best, _ in tried) / orders,
            "spent": float(np.median([spent for _, spent in tried])),
        }
        say(f"{name}: the best in {found[name]['found']:.1%} of {orders}, for {found[name]['spent']:.3f}")
    facts = {"share": share, "orders": orders, "trials": len(curves), "ways": found}
    shared.write_json(folder / "orders.json", {**shared.source("numpy"), **facts})
    return facts


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, checked."""
    parser = shared.Parser(__doc__)
    parser.add_argument("--curves", action="store_true", help="train the grid")
    parser.add_argument("--orders", type=int, default=200, help="random orders (default %(default)s)")
    parser.add_argument("--share", type=float, default=0.25, help="of the whole cost (default %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    shared.check_at_least_one(options, ("orders",))
    return options


def do(options: argparse.Namespace) -> None:
    """What the options ask for."""
    options.out.mkdir(parents=True, exist_ok=True)
    if options.curves:
        write_curves(options.out / "curves.json")
    else:
        write_orders(options.out, options.share, options.orders)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    return shared.command(arguments, parse, do, goes_on=True)


if __name__ == "__main__":
    shared.start(main, threads=1)
