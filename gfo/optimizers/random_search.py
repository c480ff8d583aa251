"""Random and quasi-random search: points drawn without regard to the losses.

Bergstra and Bengio (2012), Random search for hyper-parameter optimization, JMLR 13:281-305.
Sobol' (1967), doi:10.1016/0041-5553(67)90144-9; scrambled as Owen (1998), doi:10.1006/jcom.1998.0487.

A coordinate is standard normal where it has no bounds (z is unit scale) and uniform between two
bounds, over the whole numbers for integer genes. The recommendation is the incumbent; where batches
differ, the best of a step is evaluated again in the next one, and the better one of that step stays.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import qmc

from gfo.core.checking import named
from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError
from gfo.optimizers.drawing import scatter
from gfo.optimizers.steady_state import SteadyState


@named
class RandomSearch(SteadyState):
    """Independent draws.

    Args:
        domain: the box searched; integer genes are allowed.
        seed: of the method's own random generator.
        population: K, points a step.
        scale: the standard deviation of a coordinate without bounds; 1 by default.
    """

    name = "random"
    rank_based = True
    integers = True
    varies = True

    def __init__(
        self,
        domain: Domain,
        seed: int,
        *,
        population: int = 16,
        scale: float | Sequence[float] | None = None,
    ) -> None:
        super().__init__(domain, seed)
        self._take(population=population, least=1, scale=scale)

    def _ask(self) -> Array:
        return self._beside_the_best(self._draw(self.population))

    def _draw(self, n: int) -> Array:
        """n points [n, d]."""
        return scatter(self.domain, self.rng.random((n, self.domain.d)), self.scale)

    def _beside_the_best(self, z: Array) -> Array:
        """z [K, d]; where losses of steps may not be compared, the last step's best takes the first place."""
        if self.noisy and np.isfinite(self.best_loss) and len(z) > 1:
            z[0] = self.best_z
        return z

    def _tell(self, z: Array, loss: Array) -> None:
        """Nothing to learn: the books keep the incumbent."""

    def _ask_some(self, n: int) -> tuple[Array, Any]:
        return self._draw(n), None

    def _tell_some(self, z: Array, loss: Array, known: Any) -> None:
        """Nothing, either."""


@named
class SobolSearch(RandomSearch):
    """Draws that fill the space evenly: a scrambled Sobol' sequence of [0, 1)^d, spread by quantiles.

    Args:
        domain: the box searched; integer genes are allowed; d at most 21,201.
        seed: of the scrambling.
        population: K, points a step; the sequence is most even in powers of two.
        scale: the standard deviation of a coordinate without bounds; 1 by default.
    """

    name = "sobol"
    _state = ("seed", "_drawn")

    def __init__(
        self,
        domain: Domain,
        seed: int,
        *,
        population: int = 16,
        scale: float | Sequence[float] | None = None,
    ) -> None:
        super().__init__(domain, seed, population=population, scale=scale)
        if domain.d > qmc.Sobol.MAXDIM:
            raise GfoError(f"optimizer 'sobol': d = {domain.d} is above {qmc.Sobol.MAXDIM}; use 'random'")
        self._sequence = self._start()
        self._drawn = 0

    def _start(self) -> qmc.Sobol:
        return qmc.Sobol(self.domain.d, scramble=True, seed=np.random.default_rng(self.seed))

    def _draw(self, n: int) -> Array:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The balance properties of Sobol' points")
            u = self._sequence.random(n)
        self._drawn += n
        u += 2.0**-31  # the middle of cells of width 2^-30: never 0
        return scatter(self.domain, u, self.scale)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._sequence = self._start()
        if self._drawn:
            self._sequence.fast_forward(self._drawn)
