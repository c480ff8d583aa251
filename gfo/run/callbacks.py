"""What is called at each step of a run."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gfo.core.checking import checked
from gfo.core.domain import Array
from gfo.core.errors import GfoError
from gfo.core.files import absolute, append, write_whole
from gfo.core.metric import LOSS, Metric
from gfo.core.protocols import Cost, Evaluator, Optimizer, Repairing, metrics_of
from gfo.report.scores import deciding_metric
from gfo.run.budget import Budget
from gfo.run.history import COLUMNS, History

if TYPE_CHECKING:
    from gfo.run.aims import Aims, Judged
    from gfo.run.asynchronous import Stream
    from gfo.run.memo import Memo
    from gfo.run.selection import DevSelection


@dataclass
class Run:
    """A run as callbacks see it; theirs to read, not to change.

    Attributes:
        cost: of the search, without scoring.
        seconds: wall-clock time since the start.
        incumbent: the candidate [d] with the lowest loss so far, of those that keep to limits; None before.
        repairs: whether points are moved to the nearest allowed ones before they are evaluated.
        aims: several objectives and limits, and what came of them; None where there is one objective alone.
        judged: what the newest step's candidates are by the aims.
        memo: what points got that were asked before; None where they are evaluated again.
        stream: of an asynchronous run, what asks, evaluates and tells its parts; the optimizer, too.
        telling: whether the optimizer is being told a step that the history does not have yet.
    """

    optimizer: Optimizer
    evaluator: Evaluator
    budget: Budget
    history: History
    selection: DevSelection | None = None
    cost: Cost = field(default_factory=Cost)
    seconds: float = 0.0
    incumbent: Array | None = None
    aims: Aims | None = None
    judged: Judged | None = None
    memo: Memo | None = None
    stream: Stream | None = None
    telling: bool = False

    def __post_init__(self) -> None:
        self.repairs = isinstance(self.evaluator, Repairing)
        if self.stream is not None:
            self.stream.recall(self.history.recorded)
        if self.aims is not None and self.selection is not None:
            self.aims.choose_on_dev(self.selection)

    def repaired(self, z: Array) -> Array:
        """z [K, d] -> the points [K, d] that are evaluated for it: the nearest allowed ones."""
        return self.evaluator.repair(z) if isinstance(self.evaluator, Repairing) else z

    def recommendation(self) -> Array:
        """What the optimizer recommends now, [d], or the nearest allowed point.

        Under limits it is one that is known to keep to them, if there is any.
        """
        z: Array = self.repaired(self.optimizer.recommend()[None])[0]
        return z if self.aims is None else self.aims.allowed(z, self.incumbent)

    @property
    def found(self) -> Array:
        """The run's result as it stands, [d]: what dev likes best, or without dev the recommendation."""
        best = None if self.selection is None else self.selection.best
        return self.recommendation() if best is None else best.z

    @property
    def share_spent(self) -> float:
        """How much of the budget is gone, 0 to 1."""
        return min(1.0, self.budget.share_spent(self.cost, self.seconds))

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What scores on dev are, "loss" first."""
        return metrics_of(self.evaluator)


class Callback:
    """Overwrite what you need; each method is called with the run as it stands.

    A resumed run goes through its recorded steps again, without evaluating, and calls `step` for each: what
    a callback counts or writes is as without the stop, if it begins anew in `start`. Only a `run.optimizer`
    that saves its state (`bo`) is further on by then.

    One that keeps the path of the recommendations, and ends a run that goes too far::

        class Path(gfo.Callback):
            def start(self, run):
                self.points = []

            def step(self, run):
                self.points.append(run.optimizer.recommend())
                if np.linalg.norm(self.points[-1]) > 50:
                    return f"too far out after {run.history[-1].evaluations} evaluations"

        gfo.minimize(optimizer, f, budget=budget, callbacks=[Path()])
    """

    def start(self, run: Run) -> None:
        """Before the first step."""

    def step(self, run: Run) -> str | None:
        """After each step (`run.history[-1]`); a text ends the run with it as the reason."""
        return None

    def end(self, run: Run) -> None:
        """After the last step, also when the run was interrupted or failed."""


@checked
class StopOnTarget(Callback):
    """Ends a run that has reached what was wanted.

    Args:
        target: the training loss of any candidate to reach, or the value of the metric.
        metric: of the scores on dev, which is to be the target or better, as the metric says: a loss at most,
            an accuracy at least. None for the training loss.

    Raises:
        GfoError: for a target that is not finite; in the run, for a task without dev or an unknown metric.
    """

    def __init__(self, target: float, *, metric: str | None = None) -> None:
        if not math.isfinite(target):
            raise GfoError(f"stop: target = {target} must be a finite number")
        self.target, self.metric = target, metric

    def start(self, run: Run) -> None:
        if self.metric is not None:
            _needs_dev(run)

    def step(self, run: Run) -> str | None:
        value, metric = run.history[-1].best, LOSS
        if self.metric is not None:
            if run.history[-1].dev is None:
                return None
            value, metric = _dev(run, self.metric)
        if value is None or not metric.reaches(value, self.target):
            return None
        where = "training" if self.metric is None else "dev"
        return f"target: {where} {metric.name} {value:.6g} reached {self.target:g}"


@checked
class EarlyStopping(Callback):
    """Ends a run whose scores on dev no longer improve.

    Args:
        patience: readings of dev, which come every `dev_every` steps, without a better one than before.
        metric: what is to improve, "loss" or another one of the task's, which says in which direction.
        least: by how much, to count.

    Raises:
        GfoError: for a patience below 1; in the run, for a task without dev or an unknown metric.
    """

    def __init__(self, patience: int, *, metric: str = "loss", least: float = 0.0) -> None:
        if patience < 1:
            raise GfoError(f"stop: patience = {patience} must be at least 1")
        self.patience, self.metric, self.least = patience, metric, least

    def start(self, run: Run) -> None:
        _needs_dev(run)
        self._best, self._waited = -math.inf, 0

    def step(self, run: Run) -> str | None:
        if run.history[-1].dev is None:
            return None
        value, metric = _dev(run, self.metric)
        merit = metric.merit(value)
        if merit > self._best + self.least or (math.isinf(self._best) and math.isfinite(merit)):
            self._best, self._waited = merit, 0
        else:
            self._waited += 1
        if self._waited < self.patience:
            return None
        return f"early stopping: dev {self.metric} has not improved in {self.patience} readings"


@checked
class CSVLog(Callback):
    """Writes a table with a row a step, for spreadsheets; of a resumed run whole again.

    Args:
        path: of the file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = absolute(path, "CSVLog: path")
        self._dev: list[str] = []

    def start(self, run: Run) -> None:
        write_whole(self.path, "", name="CSVLog")

    def step(self, run: Run) -> str | None:
        last = run.history[-1]
        if not self._dev and run.selection is not None:
            self._dev = list(run.selection.names)
        rows = io.StringIO(newline="")
        writer = csv.writer(rows)
        if last.step == 0:
            writer.writerow([*COLUMNS, *(f"dev_{name}" for name in self._dev)])
        dev = last.dev or {}
        writer.writerow([getattr(last, c) for c in COLUMNS] + [dev.get(name) for name in self._dev])
        append(self.path, rows.getvalue())
        return None


def _needs_dev(run: Run) -> None:
    if run.selection is None:
        raise GfoError("stop: it reads scores on dev; give the task dev rows, or minimize dev_every")


def _dev(run: Run, name: str) -> tuple[float | None, Metric]:
    """A score on dev after the last step, which read it, None if it is not finite; and what it is."""
    dev = run.history[-1].dev or {}
    metric = deciding_metric(run.metrics, name, dev, "stop metric")
    return dev[name], metric
