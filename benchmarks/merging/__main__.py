"""Merging four LoRA adapters: what a search finds beyond parents, mean, one coefficient and random adapters.

    python -m benchmarks.merging --data DIR --out DIR

trains adapters of SmolLM2 on SST-2, AG News, SNLI and E2E by gfo's own baseline, and merges them for SST-2
and AG News at once and for RTE, which none has seen. Each piece is a file; the same command goes on with
those that are missing. See README.md of the benchmarks.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import shared
from benchmarks.merging.tasks import ADAPTERS, TARGETS

if TYPE_CHECKING:
    from benchmarks.merging.pieces import Bench

OPTIMIZERS = ("cma", "ga")
KINDS = ("trained", "random")
FRONT = "nsga2"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, checked."""
    parser = shared.Parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder of pieces, table and figure")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--adapter-tokens", type=int, default=200_000, help="forward tokens of an adapter")
    parser.add_argument("--evaluations", type=int, default=200, help="of a search")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--groups", type=int, default=3, help="of layers")
    parser.add_argument("--test", type=int, default=300, help="rows that test has at most")
    options = parser.parse_args(arguments)
    shared.check_at_least_one(options, ("adapter_tokens", "evaluations", "seeds", "groups", "test"))
    return options


def run(options: argparse.Namespace) -> None:
    """Make the pieces that are missing, and show all."""
    from benchmarks.merging.pieces import Bench
    from benchmarks.merging.report import report

    options.out.mkdir(parents=True, exist_ok=True)
    _check_same(options)
    bench = Bench(options)
    found = {name: _piece(options.out / f"{name}.json", bench, name) for name in names(options)}
    report(found, options)


def names(options: argparse.Namespace) -> Iterator[str]:
    """The pieces in their order."""
    for kind in KINDS:
        yield from (f"adapter-{kind}-{name}" for name in ADAPTERS)
    for target in TARGETS:
        yield from (f"controls-{kind}-{target}" for kind in KINDS)
        for seed in range(options.seeds):
            for kind in KINDS:
                yield from (f"search-{kind}-{target}-{optimizer}-{seed}" for optimizer in OPTIMIZERS)
    yield f"search-trained-two-{FRONT}-0"


def _piece(path: Path, bench: Bench, name: str) -> dict[str, Any]:
    """What a piece found, made if it is not there."""
    if not path.exists():
        shared.write_json(path, {**bench.made(name), **shared.source("peft")})
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _check_same(options: argparse.Namespace) -> None:
    """Raise an error for a folder of other options."""
    left_out = ("data", "out", "seeds")
    given = {name: value for name, value in vars(options).items() if name not in left_out}
    path = options.out / "options.json"
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) != given:
        raise shared.UnusableError(f"--out {options.out}: it is of other options; name another folder")
    shared.write_json(path, given)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    return shared.command(arguments, parse, run, goes_on=True)


if __name__ == "__main__":
    shared.start(main)
