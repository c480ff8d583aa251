"""Methods that learn of each part as it comes, and need not wait for the others of a population.

Whitley (1989), The GENITOR algorithm and selection pressure, has a genetic algorithm without generations;
Koh, George, Haftka and Fregly (2006), doi:10.1002/nme.1646, a particle swarm without steps. A part is told
when it has been evaluated: what its points were made of may have changed meanwhile.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np

from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError
from gfo.optimizers.base import BaseOptimizer, flat_stretch


class SteadyState(BaseOptimizer):
    """Ask and tell by parts: a method adds `_ask_some` and `_tell_some`. A run has steps, or parts."""

    def __init__(self, domain: Domain, seed: int) -> None:
        super().__init__(domain, seed)
        self._under_way: dict[int, tuple[Array, Any]] = {}
        self._given = 0  # points asked in all

    @abstractmethod
    def _ask_some(self, n: int) -> tuple[Array, Any]:
        """n new points [n, d], and what is to be known of them when they are told."""

    @abstractmethod
    def _tell_some(self, z: Array, loss: Array, known: Any) -> None:
        """Learn of points [n, d] and losses [n], inf where one failed, and what was known of them."""

    def ask_part(self, part: int, n: int) -> Array:
        """n new points [n, d], whatever was asked and not told yet."""
        z, known = self._ask_some(n)
        self._under_way[part] = z.copy(), known
        self._given += n
        return z.copy()

    def tell_part(self, part: int, z: Array, loss: Array) -> None:
        """The losses [n] of the points [n, d] of a part, nan where one failed; rows may have been moved.

        Raises:
            GfoError: for a part that was not asked, or has been told, or has not as many points.
        """
        asked, known = self._under_way.pop(part, (None, None))
        if asked is None or np.shape(z) != asked.shape or np.shape(loss) != (len(asked),):
            raise GfoError(
                f"optimizer '{self.name}': tell_part got part {part} with z {np.shape(z)} and loss "
                f"{np.shape(loss)}; tell each part that was asked once, with its points"
            )
        z, loss = np.array(z, dtype=np.float64), np.array(loss, dtype=np.float64)
        loss[~np.isfinite(loss)] = np.nan
        failed = bool(np.isnan(loss).all())
        self._failed_steps = self._failed_steps + 1 if failed else 0
        if not failed:
            self._book(z, loss)
        self._tell_some(z, np.where(np.isnan(loss), np.inf, loss), known)
        if not failed and self._flat_steps >= flat_stretch(len(z)):
            self._widen()

    def _in_turn(self, n: int, of: int) -> Array:
        """n numbers below `of`, each as often as the others: int [n]."""
        return (self._given + np.arange(n)) % of
