"""Which of a run's recommendations becomes its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gfo.core.checking import checked
from gfo.core.domain import Array
from gfo.core.errors import check_name
from gfo.core.metric import LOSS, Metric
from gfo.core.protocols import Cost, Scores
from gfo.report.scores import deciding_metric

ScoreOnDev = Callable[[Array], Scores]
Keeps = Callable[[Array, Mapping[str, float]], bool]
POINTS = ("recommendation", "incumbent")


@checked
@dataclass(frozen=True)
class Selection:
    """Which of the points scored on dev becomes the result.

    Attributes:
        metric: what decides: "loss" or another metric of the task, whose best value is taken: the lowest or
            the highest, as the metric says; the earliest of equals.
        point: what is scored: the method's own "recommendation" (a distribution's mean, or the incumbent), or
            the "incumbent", the candidate with the lowest training loss so far (as Black-Box Tuning has it).

    Raises:
        GfoError: for an unknown point.
    """

    metric: str = "loss"
    point: str = "recommendation"

    def __post_init__(self) -> None:
        check_name("selection point", self.point, POINTS)


@dataclass(frozen=True)
class Snapshot:
    """A point [d] and its scores on dev."""

    z: Array
    step: int
    scores: dict[str, float]


class DevSelection:
    """Keeps the best point of those considered, by their scores on dev.

    Dev is read once for each snapshot, which is counted.

    Args:
        score: scores points [K, d] on dev.
        options: what is considered, and what decides.
        metrics: what the scores are, and with it which way is better; see `metrics_of`.

    Attributes:
        names: of the scores.
        keeps: whether a point with these scores keeps to limits; one that does not is never the best. None
            without limits.
    """

    def __init__(
        self, score: ScoreOnDev, options: Selection | None = None, metrics: Sequence[Metric] = (LOSS,)
    ) -> None:
        self.keeps: Keeps | None = None
        self._score, self._metrics = score, tuple(metrics)
        self.options = options or Selection()
        self.best: Snapshot | None = None
        self.reads = 0
        self.cost = Cost()
        self.names: tuple[str, ...] = ()
        self._decides: Metric | None = None

    def consider(self, z: Array, step: int) -> dict[str, float]:
        """Score z [d] on dev after a step; its scores.

        Raises:
            GfoError: if the task does not have the metric that decides.
        """
        scores = self._score(z[None])
        values = {name: float(value[0]) for name, value in scores.metrics.items()}
        self.repeat(z, step, values, self.cost + scores.cost)
        return values

    def repeat(self, z: Array, step: int, scores: dict[str, float], cost: Cost) -> None:
        """Note the scores that z [d] got after a step; `cost` is that of all readings until then."""
        self.reads += 1
        self.cost = cost
        if self._decides is None:
            self.names = tuple(scores)
            self._decides = deciding_metric(self._metrics, self.options.metric, scores, "selection metric")
        name, merit = self.options.metric, self._decides.merit
        check_name("selection metric", name, scores)  # also of steps that were recorded
        better = self.best is None or merit(scores[name]) > merit(self.best.scores.get(name))
        if better and np.isfinite(scores[name]) and (self.keeps is None or self.keeps(z, scores)):
            self.best = Snapshot(z.copy(), step, scores)

    def describe(self) -> str:
        """How the result was chosen, in words."""
        best = LOSS.best_word if self._decides is None else self._decides.best_word
        kept = "" if self.keeps is None else " that keep to the limits"
        point, metric = self.options.point, self.options.metric
        return f"the {point} with the {best} dev {metric} of {self.reads} snapshots{kept}"
