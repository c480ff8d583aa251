"""How many bits where: ways to choose levels under limits of bytes, by what is lost on other documents.

    python -m benchmarks.compression --data DIR --json levels.json

The same command goes on where it was stopped. See README.md of the benchmarks.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import shared
from benchmarks.shared import say

if TYPE_CHECKING:
    from benchmarks.compression.measure import Bench

LIMITS = (0.42, 0.5, 0.6, 0.7)
LEVELS = ("Q8_0", "Q5_0", "Q4_0", "HQ3")
SEARCH = "search"
METHODS = ("uniform", "weight error", "output error", "greedy", "knapsack", SEARCH)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, checked."""
    parser = shared.Parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds wikitext2")
    parser.add_argument("--model", default="smollm2-135m", help="a decoder")
    parser.add_argument(
        "--limits", type=float, nargs="+", default=list(LIMITS), help="shares of Q8_0's bytes"
    )
    parser.add_argument("--levels", nargs="+", default=list(LEVELS))
    parser.add_argument("--scaled", action="store_true", help="scale columns by the calibration texts")
    parser.add_argument("--calibration", type=int, default=2048, help="tokens that choices are made on")
    parser.add_argument("--test", type=int, default=2048, help="tokens of other documents")
    parser.add_argument("--window", type=int, default=128, help="tokens of a window")
    parser.add_argument("--evaluations", type=int, default=400, help="of a search")
    parser.add_argument("--seeds", type=int, default=5, help="of the search")
    parser.add_argument("--json", type=Path, help="results; those that it holds are not measured again")
    options = parser.parse_args(arguments)
    shared.check_at_least_one(options, ("calibration", "test", "window", "evaluations", "seeds"))
    shared.check_output("--json", options.json)
    return options


def run(options: argparse.Namespace) -> None:
    """Measure what is missing, and show all."""
    from benchmarks.compression.measure import Bench

    found = _found(options)
    bench = Bench(options)
    for limit in options.limits:
        for method in METHODS:
            for seed in range(options.seeds if method == SEARCH else 1):
                if not any(_is(row, limit, method, seed) for row in found["rows"]):
                    found["rows"].append(_row(bench, limit, method, seed))
                    shared.write_json(options.json, found)
    columns = ("method", "limit", "seed", "share", "bits", "predicted", "loss", "test KL")
    shared.show(
        "Loss: KL on the documents that choices are made on, nats a token.",
        columns,
        map(_line, found["rows"]),
    )


def _row(bench: Bench, limit: float, method: str, seed: int) -> dict[str, Any]:
    """One choice, measured."""
    row = {"limit": limit, "method": method, "seed": seed, **bench.measured(limit, method, seed)}
    say(f"{method} at {limit:g}: test {row['test']:.3f}")
    return row


def _found(options: argparse.Namespace) -> dict[str, Any]:
    """What the file holds, or nothing; of other options it is refused."""
    left_out = ("json", "limits", "seeds", "data")
    given = {name: value for name, value in vars(options).items() if name not in left_out}
    if options.json is None or not options.json.exists():
        return {"options": given, "rows": [], **shared.source()}
    found: dict[str, Any] = json.loads(options.json.read_text(encoding="utf-8"))
    if found["options"] != given:
        raise shared.UnusableError(f"--json {options.json}: it is of {found['options']}; name another file")
    return found


def _is(row: dict[str, Any], limit: float, method: str, seed: int) -> bool:
    return (row["limit"], row["method"], row["seed"]) == (limit, method, seed)


def _line(row: dict[str, Any]) -> list[str]:
    numbers = (f"{row[name]:.3f}" for name in ("share", "bits", "predicted", "loss", "test"))
    return [row["method"], f"{row['limit']:g}", str(row["seed"]), *numbers]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    return shared.command(arguments, parse, run, goes_on=True)


if __name__ == "__main__":
    shared.start(main)
