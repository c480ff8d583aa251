"""Which of a run's recommendations becomes its result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gfo.core.domain import Array
from gfo.core.protocols import Cost, Scores

ScoreOnDev = Callable[[Array], Scores]


@dataclass(frozen=True)
class Snapshot:
    """A point [d] and its scores on dev."""

    z: Array
    step: int
    scores: dict[str, float]


class DevSelection:
    """Keeps the recommendation with the lowest dev loss.

    The recommendation is the method's own (the distribution's mean or the incumbent), not the
    luckiest candidate; dev is read once for each snapshot, which is counted.

    Args:
        score: scores points [K, d] on dev.
    """

    def __init__(self, score: ScoreOnDev) -> None:
        self._score = score
        self.best: Snapshot | None = None
        self.reads = 0
        self.cost = Cost()

    def consider(self, z: Array, step: int) -> dict[str, float]:
        """Score z [d] on dev after a step; its scores."""
        scores = self._score(z[None])
        self.reads += 1
        self.cost += scores.cost
        values = {name: float(value[0]) for name, value in scores.metrics.items()}
        loss = values["loss"]
        if np.isfinite(loss) and (self.best is None or loss < self.best.scores["loss"]):
            self.best = Snapshot(z.copy(), step, values)
        return values

    def describe(self) -> str:
        """How the result was chosen, in words."""
        return f"the recommendation with the lowest dev loss of {self.reads} snapshots"
