"""SNES: separable natural evolution strategy.

Schaul, Glasmachers and Schmidhuber (2011), High dimensions and heavy tails for natural evolution
strategies, doi:10.1145/2001576.2001692; defaults and utilities as Wierstra, Schaul, Glasmachers, Sun,
Peters and Schmidhuber (2014), Natural evolution strategies, JMLR 15:949-980, table 1.

    z_k = mu + sigma s_k,  s_k ~ N(0, I)                          (1)
    grad_mu = sum_k u_k s_k                                       (2)
    grad_sigma = sum_k u_k (s_k^2 - 1)                            (3)
    mu <- mu + eta_mu sigma grad_mu                               (4)
    sigma <- sigma exp(eta_sigma / 2 grad_sigma)                  (5)

all products by coordinate, u_k the utility of the rank of z_k. O(d) memory and time. The
recommendation is the mean mu.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gfo.core.checking import named
from gfo.core.domain import Array, Domain
from gfo.optimizers.base import BaseOptimizer
from gfo.optimizers.fitness_shaping import nes_utilities
from gfo.optimizers.matching import shortened
from gfo.optimizers.options import number

SMALLEST_STEP = 1e-12
HIGH_D = 100


@named
class SNES(BaseOptimizer):
    """Separable natural evolution strategy.

    Args:
        domain: the box searched; samples are clipped into it.
        seed: of the method's own random generator.
        population: lambda; 4 + floor(3 ln d) by default (table 1).
        scale: a typical change of a coordinate; 1 by default, within a box a fifth of its width.
        sigma0: the first step size of every coordinate in z; half of `scale` by default.
        x0: the first mean [d]; zero, moved into the domain, by default.
        eta_mu: learning rate of the mean; 1 by default as in table 1, and from d = 100 on 0.3: the step
            sizes learn so slowly there that full steps of the mean wander.
        eta_sigma: learning rate of the step sizes; (3 + ln d) / (5 sqrt d) by default (table 1).
    """

    name = "snes"
    rank_based = True
    varies = True
    _state = ("mu", "sigma")

    def __init__(
        self,
        domain: Domain,
        seed: int,
        *,
        population: int | None = None,
        scale: float | Sequence[float] | None = None,
        sigma0: float | None = None,
        x0: Sequence[float] | Array | None = None,
        eta_mu: float | None = None,
        eta_sigma: float | None = None,
    ) -> None:
        super().__init__(domain, seed)
        d = domain.d
        self._take(population=population, scale=scale, x0=x0)
        self.mu = self.x0.copy()
        self.sigma0 = self.sigma = self._size("sigma0", sigma0, 0.5)
        usual = 1.0 if d < HIGH_D else 0.3
        self.eta_mu = number(self.name, "eta_mu", usual if eta_mu is None else eta_mu, above=0)
        default = (3 + math.log(d)) / (5 * math.sqrt(d))
        self.eta_sigma = number(self.name, "eta_sigma", default if eta_sigma is None else eta_sigma, above=0)

    def _ask(self) -> Array:
        s = self.rng.standard_normal((self.population, self.domain.d))
        s *= self.sigma
        s += self.mu  # (1)
        return self._inside(s)

    def _tell(self, z: Array, loss: Array) -> None:
        u = nes_utilities(loss)
        s = z - self.mu
        s /= self.sigma
        if self._others:
            s = shortened(s)
        grad_mu = u @ s  # (2)
        s *= s
        grad_sigma = u @ s  # (3), as sum_k u_k = 0
        self.mu = self.domain.clip(self.mu + self.eta_mu * self.sigma * grad_mu)  # (4)
        self.sigma = self.sigma * np.exp(self.eta_sigma / 2 * grad_sigma)  # (5)

    def _widen(self) -> None:
        self.sigma = self._wider(self.sigma, self.sigma0)

    def recommend(self) -> Array:
        """The mean of the distribution, [d]."""
        return self.mu.copy()

    @property
    def standard_deviations(self) -> Array:
        return self.sigma.copy()

    def should_stop(self) -> str | None:
        if (self.sigma < SMALLEST_STEP).all():
            return f"all step sizes fell below {SMALLEST_STEP:g}"
        return super().should_stop()
