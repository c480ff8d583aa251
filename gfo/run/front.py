"""The front of a search: the candidates that none other beats in several objectives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gfo.core.domain import Array
from gfo.core.metric import Metric

MOST_OBJECTIVES = 4
"""Beyond so many objectives the hypervolume of a large front takes longer than a step."""


@dataclass
class Front:
    """Points that none other beats: one is beaten by another that is nowhere worse, and somewhere better.

    Attributes:
        objectives: the M numbers, each to be as good as can be.
        z: the points, [F, d], in the order in which they were found; of points with equal values the first.
        values: theirs, [F, M].
        reference: losses [M] from which hypervolumes count: the worst of each objective among the candidates
            of the first step that did not fail; None before it.
        dev: whether the points are to be scored on dev, and chosen there.
        anew: whether each step has rows of its own, so that only candidates of the newest step are compared.
    """

    objectives: tuple[Metric, ...]
    z: Array
    values: Array
    reference: Array | None = None
    dev: bool = False
    anew: bool = False

    @classmethod
    def empty(cls, objectives: tuple[Metric, ...], d: int, *, anew: bool = False) -> Front:
        """The front before the first step."""
        return cls(objectives, np.empty((0, d)), np.empty((0, len(objectives))), anew=anew)

    def __len__(self) -> int:
        return len(self.z)

    @property
    def losses(self) -> Array:
        """The values [F, M] as losses, all to be low."""
        return as_losses(self.objectives, self.values)

    def add(self, z: Array, values: Array) -> None:
        """Take in points [K, d] with values [K, M]; failed ones, whose values are nan, are left out."""
        from gfo.optimizers.dominance import not_beaten

        good = np.isfinite(values).all(axis=1)
        if not good.any():
            return
        z, values, before = z[good], values[good], 0 if self.anew else len(self.z)
        self.z, self.values = (
            np.concatenate([self.z[:before], z]),
            np.concatenate([self.values[:before], values]),
        )
        kept = not_beaten(self.losses)
        self.z, self.values = self.z[kept], self.values[kept]

    def refer_to(self, losses: Array) -> None:
        """Count hypervolumes from the worst of these losses [K, M], unless there is a reference already."""
        good = np.isfinite(losses).all(axis=1)
        if self.reference is None and good.any():
            self.reference = losses[good].max(axis=0)

    @property
    def hypervolume(self) -> float | None:
        """What the points beat of the box below the reference; None before it, and of many objectives."""
        from gfo.optimizers.dominance import hypervolume

        if self.reference is None or len(self.objectives) > MOST_OBJECTIVES:
            return None
        return hypervolume(self.losses, self.reference)


def as_losses(objectives: tuple[Metric, ...], values: Array) -> Array:
    """Values [F, M] of objectives as losses, all to be low."""
    return np.column_stack([metric.as_loss(values[:, m]) for m, metric in enumerate(objectives)])
