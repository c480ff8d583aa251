"""Refit: dev has said how long to search; the same search again, on the rows of train and dev together.

Nothing is held out then: what the method recommends at the end is the result (or the best candidate of all,
where dev chose among those). The second search is a run of its own, in a folder within that of the first, and
stops and goes on as any other. Both are counted in the result's cost.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from gfo.core.domain import Array
from gfo.core.errors import GfoError
from gfo.core.files import cannot_write, make_folder
from gfo.core.protocols import Optimizer, Task
from gfo.run.budget import Part
from gfo.run.callbacks import Callback, Run
from gfo.run.folder import RunFolder
from gfo.run.result import Result
from gfo.run.schema import RUN, read_result, read_run
from gfo.run.stored import REFIT
from gfo.run.warm_start import START
from gfo.tasks.parts.joining import joined


class Refit:
    """What `gfo.minimize` makes of a search's result: that of the second search.

    Args:
        again: runs it, given `budget`, `out`, `resume` and `callbacks`.
        out: the folder of the first search, if it has one.
    """

    def __init__(self, again: Callable[..., Result], out: RunFolder | None) -> None:
        self._again, self._out = again, out

    def __call__(self, run: Run, result: Result) -> Result:
        """The result of the second search, or the first one's where there is none, or it was interrupted."""
        if result.stopped == "interrupted":
            return result
        budget = _budget(run)
        if budget is None:
            return replace(result, selection=f"{result.selection}; no refit, as dev chose no evaluation")
        last, folder = Last(), self._folder(budget)
        try:
            second = self._again(budget=budget, out=folder, resume=folder is not None, callbacks=[last])
        except KeyboardInterrupt:
            if folder is not None:
                raise  # nothing is lost
            return replace(result, stopped="interrupted")
        if second.stopped == "interrupted":
            cost = result.cost + second.cost
            selection = f"{result.selection}; its refit is not done"
            return replace(result, stopped="interrupted", cost=cost, selection=selection)
        return _joined(result, second, last.point if _by_incumbent(run) else None)

    def _folder(self, budget: Part) -> Path | None:
        """Where the second search is, without one of other evaluations; it starts where the first did."""
        if self._out is None:
            return None
        folder = self._out.path / REFIT
        if (folder / RUN).exists() and _as_long(read_run(folder), budget):
            return folder
        try:
            if folder.exists():
                shutil.rmtree(folder)
            make_folder(folder)
            if (self._out.path / START).exists():
                shutil.copyfile(self._out.path / START, folder / START)
        except OSError as error:
            raise cannot_write(folder, error) from None
        return folder


class Last(Callback):
    """Keeps the best candidate of a run, which is `point` [d] at its end."""

    point: Array | None = None

    def end(self, run: Run) -> None:
        """After the last step."""
        self.point = run.incumbent


def check_refit(optimizer: str | Optimizer, objectives: Any, elsewhere: Any) -> None:
    """Raise GfoError for a search that is not refit.

    Args:
        optimizer: of the search.
        objectives: of the search or its options; none for one alone.
        elsewhere: what evaluates in the place of what is here; None for nothing.
    """
    if not isinstance(optimizer, str):
        raise GfoError("refit: give optimizer as a name; an object can search once")
    if objectives:
        raise GfoError("refit: of several objectives dev chooses a front, and no evaluation; leave refit out")
    if elsewhere is not None:
        raise GfoError("refit: an evaluator elsewhere knows no joined rows; leave one of the two out")


def learnt_in(folder: Path) -> Path:
    """The folder of the search that found the result of the run in a folder."""
    return folder / REFIT if REFIT in read_result(folder) else folder


def learnt_of(folder: Path | None, task: Task) -> Task:
    """The task with the rows of which the result of the run in a folder was learnt."""
    return task if folder is None or learnt_in(folder) == folder else joined(task)


def _budget(run: Run) -> Part | None:
    """The evaluations until what dev chose; None if it chose the start, or nothing."""
    best = None if run.selection is None else run.selection.best
    if best is None or best.step < 0:
        return None
    step = run.history[best.step]
    share = run.budget.share_spent(step.cost, step.seconds)
    return Part(evaluations=step.evaluations, of=run.budget, share=share)


def _as_long(record: Mapping[str, Any], budget: Part) -> bool:
    found: Any = record.get("budget")
    return isinstance(found, dict) and found.get("evaluations") == budget.evaluations


def _by_incumbent(run: Run) -> bool:
    return run.selection is not None and run.selection.options.point == "incumbent"


def _joined(result: Result, second: Result, point: Array | None) -> Result:
    """The first search's result with what the second one found, and both costs."""
    evaluations = second.cost.candidates
    costs = {"search": asdict(result.cost), "refit": asdict(second.cost)}
    return replace(
        result,
        z=second.z if point is None else point,
        judge=second.judge,
        cost=result.cost + second.cost,
        selection=f"refit on train and dev for {evaluations:,} evaluations, those of {result.selection}",
        limited=second.limited,
        spread=second.spread,
        record={**result.record, REFIT: {"evaluations": evaluations, **costs}},
    )
