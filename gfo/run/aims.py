"""What a run is to reach beside a low loss: several objectives, and limits that its result keeps to.

Limits go by feasibility first (Deb 2000, doi:10.1016/S0045-7825(99)00389-8): what keeps to them beats what
does not, and of two that do not the one of the smaller violation is better. An optimizer that can take them
(`Limited`) is told the violations. All others are told a loss that ranks so, without a parameter: the worst
loss of any candidate that keeps to the limits (before there is one, of the first step), plus the violation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gfo.core.domain import Array
from gfo.core.errors import GfoError, check_name
from gfo.core.metric import Metric, named
from gfo.core.objectives import Limited, MultiObjective
from gfo.core.protocols import Evaluation, Evaluator, Measuring, Optimizer, metrics_of
from gfo.run.front import Front, as_losses
from gfo.run.history import History
from gfo.run.selection import DevSelection


@dataclass(frozen=True)
class Limit:
    """A number that the result has to have, or a better one, as its metric says which way is better."""

    metric: Metric
    value: float

    @classmethod
    def of(cls, name: str, value: float, metrics: Sequence[Metric]) -> Limit:
        """The limit of that name, one of the metrics or a measure; raises GfoError for no finite number."""
        if not np.isfinite(value):
            raise GfoError(f"limits: {name} = {value} must be a finite number")
        return cls(named(name, metrics), float(value))

    def violation(self, values: Array) -> Array:
        """How far values [K] are beyond, as a share of the limit, or of 1 if it is 0; else 0, [K]."""
        beyond = values - self.value if self.metric.lower_is_better else self.value - values
        return np.asarray(np.where(beyond <= 0, 0.0, beyond / (abs(self.value) or 1.0)))

    def __str__(self) -> str:
        side = "at most" if self.metric.lower_is_better else "at least"
        return f"{self.metric.name} {side} {self.metric.show(self.value)}"


@dataclass(frozen=True)
class Judged:
    """What a step's candidates are by the aims of the run.

    Attributes:
        loss: theirs [K]; nan where one failed or breaks a limit.
        told: the losses [K] or [K, M] of the optimizer.
        violation: of the limits [K]; None without any.
        hypervolume: of the front after the step; None with one objective.
    """

    loss: Array
    told: Array
    violation: Array | None = None
    hypervolume: float | None = None


class Aims:
    """The objectives and limits of a run, and what came of them so far.

    Args:
        objectives: those of an optimizer of several; none for one.
        limits: on numbers that evaluations have.
        d: the dimensions of points.
        measuring: who says what points measure without the model; None if nobody does.
        differ: whether losses of different steps are of different rows.

    Attributes:
        front: the candidates that none other beats and that keep to the limits; None for one objective.
        nearest: the candidate [d] with the smallest violation, while none keeps to the limits; None before.
        least: its violation.
    """

    def __init__(
        self,
        objectives: tuple[Metric, ...],
        limits: Sequence[Limit],
        d: int,
        measuring: Measuring | None = None,
        differ: bool = False,
    ) -> None:
        self.objectives, self.limits = objectives, tuple(limits)
        self.front = Front.empty(objectives, d, anew=differ) if objectives else None
        self.nearest: Array | None = None
        self.least = np.inf
        self._worst: Array | None = None
        self._measuring = measuring

    @classmethod
    def of(cls, optimizer: Optimizer, evaluator: Evaluator, limits: Mapping[str, float]) -> Aims | None:
        """Those of a run; None where there is one objective and no limit.

        Raises:
            GfoError: for one objective that is not the loss, or a limit that is no finite number.
        """
        metrics = metrics_of(evaluator)
        names = _objectives(optimizer)
        if not names and not limits:
            return None
        found = [Limit.of(name, value, metrics) for name, value in limits.items()]
        objectives = tuple(named(name, metrics) for name in names)
        measuring = evaluator if isinstance(evaluator, Measuring) else None
        differ = bool(getattr(evaluator, "batches_differ", False))
        return cls(objectives, found, optimizer.domain.d, measuring, differ)

    def describe(self, history: History, selection: DevSelection | None) -> str:
        """How the limits came out, in words; empty without limits."""
        if not self.limits:
            return ""
        total, kept = sum(len(step.loss) for step in history), sum(step.kept for step in history)
        said = f"{', '.join(map(str, self.limits))}: kept by {kept or 'none'} of {total:,} candidates"
        if not kept:
            return f"{said}; the result is the nearest, {self.least:.2g} of the limit beyond"
        if selection is not None and selection.best is None:
            return f"{said}, but by no point scored on dev; the result keeps to them in the search"
        return said

    def judge(self, optimizer: Optimizer, z: Array, found: Evaluation) -> Judged:
        """What the candidates z [K, d] of a step are.

        Raises:
            GfoError: for an objective or a limit that the evaluation does not have.
        """
        values = {"loss": found.loss, **found.values}
        violation = self._violation(values)
        loss = np.where(violation == 0, found.loss, np.nan)
        told, hypervolume = found.loss.copy(), None
        if self.front is not None:
            rows = self._rows(values)
            told = as_losses(self.objectives, rows)
            self.front.refer_to(told)
            self.front.add(z[violation == 0], rows[violation == 0])
            hypervolume = self.front.hypervolume
        if not self.limits:
            return Judged(loss, told, None, hypervolume)
        told[~np.isfinite(violation)] = np.nan
        self._keep_nearest(z, told, violation)
        if not isinstance(optimizer, Limited):
            told = self._penalised(told, violation)
        return Judged(loss, told, violation, hypervolume)

    def choose_on_dev(self, selection: DevSelection) -> None:
        """Have dev choose only of what keeps to the limits, and of the front."""
        if self.limits:
            selection.keeps = self.keeps
        if self.front is not None:
            self.front.dev = True

    def record(self) -> dict[str, Any]:
        """The aims as plain values."""
        limits = {limit.metric.name: limit.value for limit in self.limits}
        return {"objectives": [metric.name for metric in self.objectives], "limits": limits}

    def tell(self, optimizer: Optimizer, z: Array, judged: Judged) -> None:
        """Tell a step's points z [K, d] to the optimizer."""
        if judged.violation is not None and isinstance(optimizer, Limited):
            optimizer.tell_limited(z, judged.told, judged.violation)
        else:
            optimizer.tell(z, judged.told)

    def keeps(self, z: Array, scores: Mapping[str, float] | None = None) -> bool:
        """Whether a point [d] keeps to the limits, as far as scores of it, and else its measures, say."""
        known = {**(scores or {}), **self._measures(z)}
        limits = [limit for limit in self.limits if limit.metric.name in known]
        return all(limit.violation(np.array(known[limit.metric.name])) == 0 for limit in limits)

    def allowed(self, z: Array, incumbent: Array | None) -> Array:
        """A recommendation [d], or in its place the best candidate that is known to keep to the limits.

        Args:
            z: the recommendation.
            incumbent: the candidate with the lowest loss of those that keep to the limits; None without any.
        """
        if not self.limits or (self._measured(z) and self.keeps(z)):
            return z
        best = self.nearest if incumbent is None else incumbent
        return z if best is None else best

    def _measured(self, z: Array) -> bool:
        """Whether measures alone say if a point [d] keeps to all limits."""
        return set(self._measures(z)) >= {limit.metric.name for limit in self.limits}

    def _measures(self, z: Array) -> dict[str, float]:
        """What a point [d] measures without the model, where somebody says so."""
        if self._measuring is None:
            return {}
        return {name: float(value[0]) for name, value in self._measuring.measure(z[None]).items()}

    def _rows(self, values: Mapping[str, Array]) -> Array:
        """The objectives' values [K, M]; a candidate that failed in one has failed in all."""
        for metric in self.objectives:
            check_name("objective", metric.name, values)
        rows = np.column_stack([np.asarray(values[m.name], dtype=np.float64) for m in self.objectives])
        rows[~np.isfinite(rows).all(axis=1)] = np.nan
        return rows

    def _violation(self, values: Mapping[str, Array]) -> Array:
        """The violations of all limits, summed, [K]; nan where a number is missing."""
        for limit in self.limits:
            check_name("limit", limit.metric.name, values)
        beyond = [limit.violation(np.asarray(values[limit.metric.name])) for limit in self.limits]
        return np.asarray(np.sum([np.zeros(len(values["loss"])), *beyond], axis=0))

    def _keep_nearest(self, z: Array, told: Array, violation: Array) -> None:
        """Note the candidate with the smallest violation so far."""
        good = np.isfinite(told.reshape(len(z), -1)).all(axis=1)
        by = np.where(good, violation, np.inf)
        if len(z) and by.min() < self.least:
            self.least, self.nearest = float(by.min()), z[by.argmin()].copy()

    def _penalised(self, told: Array, violation: Array) -> Array:
        """Losses [K] or [K, M], where what breaks limits has the worst of what keeps to them and more."""
        rows = told.reshape(len(told), -1)
        good = np.isfinite(rows).all(axis=1)
        counts = rows[good if self._worst is None else good & (violation == 0)]
        if len(counts):
            worst = counts.max(axis=0)
            self._worst = worst if self._worst is None else np.maximum(worst, self._worst)
        if self._worst is not None:
            broken = good & np.greater(violation, 0)
            rows = np.where(broken[:, None], self._worst + violation[:, None], rows)
        return rows.reshape(told.shape)


def _objectives(optimizer: Optimizer) -> tuple[str, ...]:
    """The names of an optimizer's several objectives; none for the loss alone."""
    names = tuple(optimizer.objectives) if isinstance(optimizer, MultiObjective) else ()
    if len(names) == 1 and names != ("loss",):
        raise GfoError(f"objectives = {list(names)}: one alone must be 'loss'; give two or more names")
    return names if len(names) > 1 else ()
