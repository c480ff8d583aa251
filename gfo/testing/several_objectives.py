"""Optimizers of several objectives under the contract: told one loss as each of their objectives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gfo.core.domain import Array, Domain
from gfo.core.objectives import MultiObjective
from gfo.core.protocols import Optimizer

SEARCHED, D = 4000, 4


class ToldOne:
    """An optimizer of several objectives as one of a single loss, which is each of them.

    Args:
        optimizer: of M objectives.
    """

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._optimizer, name)

    def tell(self, z: Array, loss: Array) -> None:
        """loss [K] told as [K, M]."""
        M = len(self._optimizer.objectives)
        self._optimizer.tell(z, np.repeat(np.asarray(loss)[..., None], M, axis=-1))


def as_one(factory: Callable[[Domain, int], Optimizer]) -> Callable[[Domain, int], Any]:
    """A factory of optimizers that take losses [K], whatever the given ones take."""

    def made(domain: Domain, seed: int) -> Any:
        optimizer = factory(domain, seed)
        several = isinstance(optimizer, MultiObjective) and len(optimizer.objectives) > 1
        return ToldOne(optimizer) if several else optimizer

    return made


def check_front(factory: Callable[[Domain, int], Optimizer]) -> None:
    """With objectives that pull apart, what is asked spreads over the whole front; for several alone."""
    domain = Domain.box(-1.0, 2.0, D)
    optimizer = factory(domain, 1)
    if not isinstance(optimizer, MultiObjective) or (M := len(optimizer.objectives)) < 2:
        return
    ends = np.eye(M, D)
    used = 0
    while used < SEARCHED:
        z = optimizer.ask()
        optimizer.tell(z, ((z[:, None] - ends) ** 2).sum(axis=2))
        used += len(z)
    z = optimizer.ask()
    shares = z[:, :M].clip(0, 1)
    if np.median(((z - shares @ ends) ** 2).sum(axis=1)) > 0.1:
        raise AssertionError("told losses [K, M] it does not come near the points between their optima")
    if (shares.max(axis=0) < 0.8).any():
        raise AssertionError("it comes near one objective's optimum alone: it must keep the whole front")
