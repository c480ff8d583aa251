"""Evaluations and seconds of gfo's optimizers to stated precisions, against reference implementations.

    python benchmarks/optimizers.py
    python benchmarks/optimizers.py --overhead --data DIR

See README.md beside this file for the protocol.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from benchmarks.optimizers.methods import PAIRS, installed, method, pair
from benchmarks.optimizers.problems import (
    DIMENSIONS,
    HOPELESS,
    INTEGER,
    LOW,
    LOW_BUDGET,
    MAIN,
    PRECISIONS,
    REAL,
    Finished,
    Recorder,
    budget,
    low_budget_function,
    problem,
)
from threadpoolctl import threadpool_limits

from gfo import optimizers
from gfo.core.errors import GfoError, unknown_name

RESULTS = Path(__file__).parent / "results" / "optimizers"
RUNS = "runs.jsonl"  # the raw results, a line a cell
FEWEST_SEEDS = 3


class Cell(NamedTuple):
    """All seeds of one method on one function; `low` names the check at a low budget."""

    method: str
    function: str
    d: int
    seeds: int
    box: bool
    budget: int
    low: bool = False


def run_cell(cell: Cell) -> dict[str, Any]:
    """One line of the raw results, computed by one thread."""
    runs: list[dict[str, Any]] = []
    with threadpool_limits(1):
        for seed in range(cell.seeds):
            runs.append(_low_run(cell, seed) if cell.low else _run(cell, seed))
            if len(runs) == HOPELESS and not cell.low and all(run["seconds"] is None for run in runs):
                break
    return {**cell._asdict(), **{key: [run[key] for run in runs] for key in runs[0]}}


def _run(cell: Cell, seed: int) -> dict[str, Any]:
    recorder = Recorder(problem(cell.function, cell.d, seed, box=cell.box), cell.budget)
    with contextlib.suppress(Finished):
        method(cell.method).run(recorder, seed)
    seconds = recorder.seconds[PRECISIONS.index(MAIN)]
    return {"hits": recorder.hits, "seconds": None if seconds is None else round(seconds, 4)}


def _low_run(cell: Cell, seed: int) -> dict[str, Any]:
    """The loss of what is recommended after the budget, as a share of the loss at the start."""
    f = low_budget_function(cell.function, seed)
    optimizer = optimizers.make(cell.method, domain=f.domain, seed=seed)
    used = 0
    while used < cell.budget and optimizer.should_stop() is None:
        z = optimizer.ask()
        optimizer.tell(z, f(z))
        used += len(z)
    ends = f(np.stack([np.zeros(cell.d), optimizer.recommend()]))
    return {"loss": float(f"{ends[1] / ends[0]:.4g}")}


def cells(options: argparse.Namespace) -> Iterator[Cell]:
    """What is to be run, references after our methods."""
    for function in LOW:
        for name in options.methods:
            yield Cell(name, function, LOW_BUDGET["d"], options.seeds, False, LOW_BUDGET["evaluations"], True)
    for rank in range(1 + max(len(p.references) for p in PAIRS)):
        for d in options.dims:
            for name in options.methods:
                p = pair(name)
                for function in p.functions:
                    here = d in p.dimensions and function in options.functions
                    for run in (name, *p.references)[rank : rank + 1] if here else ():
                        most = budget(d, options.most, slow=method(run).slow)
                        yield Cell(run, function, d, options.seeds, p.box, most)


def read_runs(path: Path) -> dict[Cell, dict[str, Any]]:
    """The cells of a file of raw results; a later line replaces an earlier one.

    A last line that was cut off when the run was killed is left out.
    """
    found: dict[Cell, dict[str, Any]] = {}
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for number, text in enumerate(lines, start=1):
        try:
            line = json.loads(text)
            cell = Cell(**{key: line[key] for key in Cell._fields})
        except (ValueError, KeyError) as error:
            if number == len(lines):
                continue
            raise GfoError(f"{path.name}, line {number} is no result of this benchmark ({error!r})") from None
        found[cell] = line
    return found


def run_all(options: argparse.Namespace) -> dict[Cell, dict[str, Any]]:
    """Run what is missing in the file, line by line; every cell asked for that could be run."""
    path = options.out / RUNS
    asked = list(dict.fromkeys(cells(options)))
    absent = sorted({c.method for c in asked if not installed(c.method)})
    for name in absent:
        say(f"{name} is left out: package {method(name).package} is not installed")
    asked = [c for c in asked if c.method not in absent]
    known = read_runs(path)
    done = {} if options.again else {c: known[c] for c in asked if c in known}
    missing = [c for c in asked if c not in done]
    say(f"{len(asked)} cells, {len(missing)} of them to run, {options.seeds} seeds each")
    with path.open("a", encoding="utf-8") as file:
        if path.stat().st_size and not path.read_bytes().endswith(b"\n"):
            file.write("\n")
        for number, (cell, line) in enumerate(_results(missing, options.processes), start=1):
            file.write(json.dumps(line) + "\n")
            file.flush()
            done[cell] = line
            say(f"{number} of {len(missing)}: {cell.method}, {cell.function}, d = {cell.d}")
    lines = (json.dumps(line) + "\n" for line in (known | done).values())  # without those replaced
    path.write_text("".join(lines), encoding="utf-8")
    return done


def _results(todo: Sequence[Cell], processes: int) -> Iterator[tuple[Cell, dict[str, Any]]]:
    if processes == 1:
        yield from ((cell, run_cell(cell)) for cell in todo)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from zip(todo, pool.imap(run_cell, todo), strict=True)


def say(line: str) -> None:
    """Progress, apart from the results."""
    print(line, file=sys.stderr, flush=True)


class _Parser(argparse.ArgumentParser):
    """Errors are one line, as everywhere in gfo."""

    def error(self, message: str) -> NoReturn:
        raise GfoError(message)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    """The checked options."""
    ours = [p.name for p in PAIRS]
    functions = [*REAL, *INTEGER]
    parser = _Parser(description=(__doc__ or "").partition("\n")[0])
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
    options = parser.parse_args(arguments)
    every = [name for name in optimizers.names() if name != "bo"]  # bo: minutes a run
    options.methods = _names(
        "method", options.methods, every if options.overhead else ours, optimizers.names()
    )
    options.functions = _names("function", options.functions, functions, functions)
    options.dims = (
        [_dimension(text) for text in options.dims.split(",")] if options.dims else list(DIMENSIONS)
    )
    if options.seeds < FEWEST_SEEDS:
        raise GfoError(f"--seeds {options.seeds}: medians and spread need at least {FEWEST_SEEDS}")
    for name in ("processes", "most"):
        if getattr(options, name) < 1:
            raise GfoError(f"--{name} {getattr(options, name)}: must be at least 1")
    if options.data and not options.overhead:
        raise GfoError(f"--data {options.data}: is read with --overhead only")
    if not (options.out.is_dir() and os.access(options.out, os.W_OK)):
        raise GfoError(f"--out {options.out}: no such folder, or not writable")
    return options


def _names(kind: str, given: str | None, default: Sequence[str], known: Sequence[str]) -> list[str]:
    names = [name.strip() for name in given.split(",")] if given else list(default)
    for name in names:
        if name not in known:
            raise unknown_name(kind, name, known)
    return list(dict.fromkeys(names))


def _dimension(text: str) -> int:
    if not text.strip().isdigit() or int(text) < 2:
        raise GfoError(f"--dims {text}: must be whole numbers of at least 2, with commas")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    try:
        options = _options(sys.argv[1:] if arguments is None else arguments)
        if options.overhead:
            from benchmarks.optimizers.overhead import write_overhead

            write_overhead(options.out, options.data, options.methods)
        else:
            from benchmarks.optimizers.report import write_report

            write_report(options.out, list(run_all(options).values()), options.methods)
    except GfoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on where this one ended", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
