"""Several objectives: what an optimizer of them is told, and the points that none other beats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gfo.core.domain import Array
from gfo.core.errors import check_name
from gfo.core.protocols import MultiObjective, Optimizer


def told_losses(optimizer: Optimizer, loss: Array, values: Mapping[str, Array]) -> Array:
    """What an optimizer is told: losses [K], or [K, M] of one of several objectives, by their names.

    A candidate that failed in one objective has failed in all.

    Raises:
        GfoError: for an objective that the evaluation does not have.
    """
    if not isinstance(optimizer, MultiObjective):
        return loss
    known = {"loss": loss, **values}
    for name in optimizer.objectives:
        check_name("objective", name, known)
    losses = np.stack([np.asarray(known[name], dtype=np.float64) for name in optimizer.objectives], axis=1)
    losses[~np.isfinite(losses).all(axis=1)] = np.nan
    return losses


@dataclass
class Front:
    """Points that none other beats: one is beaten by another that is nowhere worse, and somewhere better.

    Attributes:
        objectives: the names of the M objectives, all to be low.
        z: the points, [F, d], in the order in which they were found; of points with equal losses the first.
        losses: theirs, [F, M].
    """

    objectives: tuple[str, ...]
    z: Array
    losses: Array

    @classmethod
    def of(cls, optimizer: Optimizer) -> Front | None:
        """An empty front; None for an optimizer of one objective."""
        if not isinstance(optimizer, MultiObjective):
            return None
        names = tuple(optimizer.objectives)
        return cls(names, np.empty((0, optimizer.domain.d)), np.empty((0, len(names))))

    def add(self, z: Array, losses: Array) -> None:
        """Take in points [K, d] with losses [K, M]; failed ones, whose losses are nan, are left out."""
        good = np.isfinite(losses).all(axis=1)
        z, losses = np.concatenate([self.z, z[good]]), np.concatenate([self.losses, losses[good]])
        no_worse = (losses[None] <= losses[:, None]).all(axis=2)  # [i, j]: j than i
        better = (losses[None] < losses[:, None]).any(axis=2)
        earlier = np.tri(len(z), k=-1, dtype=bool)
        kept = ~(no_worse & (better | earlier)).any(axis=1)
        self.z, self.losses = z[kept], losses[kept]
