"""Evaluations and seconds of gfo's optimizers to stated precisions, against reference implementations.

    python -m benchmarks.optimizers
    python -m benchmarks.optimizers --overhead --data DIR
    python -m benchmarks.optimizers --suite bbob
    python -m benchmarks.optimizers --nevergrad

See README.md of the benchmarks for the protocol.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import shared
from benchmarks.optimizers.cells import Cell, cells, read_runs, run_cell
from benchmarks.optimizers.methods import PAIRS, installed, method
from benchmarks.optimizers.problems import DIMENSIONS, INTEGER, REAL
from benchmarks.optimizers.suites import SUITES
from benchmarks.shared import check_at_least_one, chosen, say
from gfo import optimizers
from gfo.core.errors import GfoError
from gfo.core.files import append, write_whole

RESULTS = shared.RESULTS / "optimizers"
RUNS = "runs.jsonl"  # the raw results, a line a cell
FEWEST_SEEDS = 3


def run_all(options: argparse.Namespace) -> dict[Cell, dict[str, Any]]:
    """Run what is missing in the file, line by line; every cell asked for that could be run."""
    path = options.out / RUNS
    asked = list(
        dict.fromkeys(
            cells(options.methods, options.functions, options.dims, seeds=options.seeds, most=options.most)
        )
    )
    absent = sorted({c.method for c in asked if not installed(c.method)})
    for name in absent:
        say(f"{name} is left out: package {method(name).package} is not installed")
    asked = [c for c in asked if c.method not in absent]
    known = read_runs(path)
    done = {} if options.again else {c: known[c] for c in asked if c in known}
    missing = [c for c in asked if c not in done]
    say(f"{len(asked)} cells, {len(missing)} of them to run, {options.seeds} seeds each")
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    if not before.endswith("\n"):
        write_whole(path, before + "\n" if before else "")
    for number, (cell, line) in enumerate(_results(missing, options.processes), start=1):
        append(path, json.dumps(line) + "\n")
        done[cell] = line
        say(f"{number} of {len(missing)}: {cell.method}, {cell.function}, d = {cell.d}")
    lines = (json.dumps(line) + "\n" for line in (known | done).values())  # without those replaced
    write_whole(path, "".join(lines))
    return done


def _results(todo: Sequence[Cell], processes: int) -> Iterator[tuple[Cell, dict[str, Any]]]:
    if processes == 1:
        yield from ((cell, run_cell(cell)) for cell in todo)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from zip(todo, pool.imap(run_cell, todo), strict=True)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    """The checked options."""
    ours = [p.name for p in PAIRS]
    functions = [*REAL, *INTEGER]
    parser = shared.Parser(__doc__)
    add = parser.add_argument
    add("--methods", help=f"of ours, with commas; default: {','.join(ours)}")
    add("--functions", help=f"with commas; default: {','.join(functions)}")
    add("--dims", help=f"with commas; default: {','.join(map(str, DIMENSIONS))}")
    add("--seeds", type=int, default=15, help="runs of each (default %(default)s)")
    add("--most", type=int, default=4_000, help="evaluations of a run (default %(default)s)")
    add("--processes", type=int, default=1, help="cells at a time (default %(default)s)")
    add("--out", type=Path, default=RESULTS, help="folder of the results; a run that was cut off goes on")
    add("--again", action="store_true", help="run what the folder has already, too")
    add("--overhead", action="store_true", help="measure ask + tell at d = 1,000, K = 64 instead")
    add("--data", type=Path, help="with --overhead: folder of SST-2, for the seconds of an evaluation step")
    add("--nevergrad", action="store_true", help="instead: which names of nevergrad's registry run")
    add("--suite", help=f"instead: problems of others, {', '.join(SUITES)}")
    add("--instances", type=int, help="with --suite, of each function; default: the suite's")
    options = parser.parse_args(arguments)
    if options.suite:
        return _suite_options(options)
    every = [name for name in optimizers.names() if name != "bo"]  # bo: minutes a run
    default = every if options.overhead else ours
    options.methods = chosen("method", _listed(options.methods) or default, optimizers.names())
    options.functions = chosen("function", _listed(options.functions), functions)
    options.dims = [_dimension(text) for text in _listed(options.dims)] or list(DIMENSIONS)
    if options.seeds < FEWEST_SEEDS:
        raise GfoError(f"--seeds {options.seeds}: medians and spread need at least {FEWEST_SEEDS}")
    check_at_least_one(options, ["processes", "most"])
    if options.data and not options.overhead:
        raise GfoError(f"--data {options.data}: is read with --overhead only")
    if not (options.out.is_dir() and os.access(options.out, os.W_OK)):
        raise GfoError(f"--out {options.out}: no such folder, or not writable")
    return options


def _suite_options(options: argparse.Namespace) -> argparse.Namespace:
    """The checked options of a run on a suite."""
    [name] = chosen("--suite", [options.suite], SUITES)
    suite = SUITES[name]
    every = [name for name in optimizers.names() if name != "bo"]  # bo: minutes a run
    options.methods = chosen("method", _listed(options.methods) or every, optimizers.names())
    options.dims = [_dimension(text) for text in _listed(options.dims)] or list(suite.dimensions)
    options.instances = suite.instances if options.instances is None else options.instances
    check_at_least_one(options, ["processes", "instances"])
    return options


def _listed(text: str | None) -> list[str]:
    return [name.strip() for name in text.split(",")] if text else []


def _dimension(text: str) -> int:
    if not text.isdigit() or int(text) < 2:
        raise GfoError(f"--dims {text}: must be whole numbers of at least 2, with commas")
    return int(text)


def _run_and_write(options: argparse.Namespace) -> None:
    if options.nevergrad:
        from benchmarks.optimizers.nevergrad_names import write_names

        write_names(options.out)
    elif options.suite:
        from benchmarks.optimizers.suite_runs import run_suite

        suite, out = SUITES[options.suite], options.out / "suites"
        run_suite(suite, options.methods, options.dims, options.instances, out, options.processes)
    elif options.overhead:
        from benchmarks.optimizers.overhead import write_overhead

        write_overhead(options.out, options.data, options.methods)
    else:
        from benchmarks.optimizers.report import write_report

        write_report(options.out, list(run_all(options).values()), options.methods)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    return shared.command(arguments, _options, _run_and_write, goes_on=True)


if __name__ == "__main__":
    shared.start(main)
