"""The cells of the optimizer benchmark, how each is run, and the file they are kept in."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.optimizers.methods import PAIRS, method, pair
from benchmarks.optimizers.problems import (
    HOPELESS,
    LOW,
    LOW_BUDGET,
    MAIN,
    PRECISIONS,
    Finished,
    Recorder,
    budget,
    low_budget_function,
    problem,
)
from gfo import optimizers
from gfo.core.errors import GfoError


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


def cells(
    methods: Sequence[str], functions: Sequence[str], dims: Sequence[int], *, seeds: int, most: int
) -> Iterator[Cell]:
    """What is to be run, references after our methods.

    Args:
        methods: of ours.
        functions: where the references are met, too.
        dims: of these functions.
        seeds: runs of each cell.
        most: evaluations of a run.
    """
    for function in LOW:
        for name in methods:
            yield Cell(name, function, LOW_BUDGET["d"], seeds, False, LOW_BUDGET["evaluations"], True)
    for rank in range(1 + max(len(p.references) for p in PAIRS)):
        for d in dims:
            for name in methods:
                p = pair(name)
                for function in p.functions:
                    here = d in p.dimensions and function in functions
                    for run in (name, *p.references)[rank : rank + 1] if here else ():
                        most = budget(d, most, slow=method(run).slow)
                        yield Cell(run, function, d, seeds, p.box, most)


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
