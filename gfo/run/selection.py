"""Which of a run's recommendations becomes its result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gfo.core.domain import Array
from gfo.core.errors import unknown_name
from gfo.core.protocols import Cost, Scores

ScoreOnDev = Callable[[Array], Scores]
POINTS = ("recommendation", "incumbent")


@dataclass(frozen=True)
class Selection:
    """Which of the points scored on dev becomes the result.

    Attributes:
        metric: what decides: "loss", the lowest, or another metric of the task, the highest; the earliest of
            equals.
        point: what is scored: the method's own "recommendation" (a distribution's mean, or the incumbent), or
            the "incumbent", the candidate with the lowest training loss so far (as Black-Box Tuning has it).

    Raises:
        GfoError: for an unknown point.
    """

    metric: str = "loss"
    point: str = "recommendation"

    def __post_init__(self) -> None:
        if self.point not in POINTS:
            raise unknown_name("selection point", self.point, POINTS)


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
    """

    def __init__(self, score: ScoreOnDev, options: Selection | None = None) -> None:
        self._score = score
        self.options = options or Selection()
        self.best: Snapshot | None = None
        self.reads = 0
        self.cost = Cost()
        self.metrics: tuple[str, ...] = ()

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
        self.metrics = self.metrics or tuple(scores)
        merit = self._merit(scores)
        if np.isfinite(merit) and (self.best is None or merit > self._merit(self.best.scores)):
            self.best = Snapshot(z.copy(), step, scores)

    def _merit(self, scores: dict[str, float]) -> float:
        """What is to be highest."""
        metric = self.options.metric
        if metric not in scores:
            raise unknown_name("selection metric", metric, scores)
        return -scores[metric] if metric == "loss" else scores[metric]

    def describe(self) -> str:
        """How the result was chosen, in words."""
        best = f"{'lowest' if self.options.metric == 'loss' else 'highest'} dev {self.options.metric}"
        return f"the {self.options.point} with the {best} of {self.reads} snapshots"
