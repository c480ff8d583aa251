"""LM-MA-ES: limited-memory matrix adaptation evolution strategy, for high dimensions.

Loshchilov, Glasmachers and Beyer (2017), Limited-memory matrix adaptation for large scale black-box
optimization, arXiv:1705.06693, algorithm 3 and its constants.

    z_i ~ N(0, I),  d_i = z_i, then for j = 1 ... min(t, m):                             lines 5 to 9
        d_i <- (1 - c_d,j) d_i + c_d,j m_j (m_j . d_i)
    x_i = y + sigma d_i                                                                  line 10
    y <- y + sigma sum_i w_i d_i:lambda                                                  line 11
    p_sigma <- (1 - c_sigma) p_sigma + sqrt(mu_w c_sigma (2 - c_sigma)) sum_i w_i z_i    line 12
    m_j <- (1 - c_c,j) m_j + sqrt(mu_w c_c,j (2 - c_c,j)) sum_i w_i z_i                  line 14
    sigma <- sigma exp(c_sigma / 2 (|p_sigma|^2 / d - 1))                                line 16

O(m d) memory and time a point, m = 4 + floor(3 ln d) directions. Points beyond a bound are evaluated on it.
Only the order of the losses counts. The recommendation is the mean y.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gfo.core.checking import named
from gfo.core.domain import Array, Domain
from gfo.optimizers.base import WIDER, WIDEST, BaseOptimizer
from gfo.optimizers.options import default_population, whole


@named
class LMMAES(BaseOptimizer):
    """Limited-memory MA-ES.

    Args:
        domain: the box searched; samples are clipped into it.
        seed: of the method's own random generator.
        population: lambda; 4 + floor(3 ln d) by default.
        scale: a typical change of a coordinate; 1 by default, within a box a fifth of its width.
        sigma0: the first step size in z; half of `scale` by default.
        x0: the first mean [d]; zero, moved into the domain, by default.
        directions: m; 4 + floor(3 ln d) by default.
    """

    name = "lm-ma-es"
    rank_based = True
    _state = ("y", "sigma", "p_sigma", "M", "t", "_z")

    def __init__(
        self,
        domain: Domain,
        seed: int,
        *,
        population: int | None = None,
        scale: float | Sequence[float] | None = None,
        sigma0: float | None = None,
        x0: Sequence[float] | Array | None = None,
        directions: int | None = None,
    ) -> None:
        super().__init__(domain, seed)
        d = domain.d
        self._take(population=population, scale=scale, x0=x0)
        sizes = self._size("sigma0", sigma0, 0.5)
        self.sigma = self._sigma0 = float(sizes.max())
        self._unit = sizes / self._sigma0
        m = default_population(d) if directions is None else whole(self.name, "directions", directions)
        lam = self.population
        self.mu = lam // 2
        w = np.log(lam / 2 + 0.5) - np.log(np.arange(1, self.mu + 1))
        self.w = w / w.sum()
        self.mu_w = 1 / float((self.w**2).sum())
        self.c_sigma = min(1.0, 2 * lam / d)
        j = np.arange(m)
        self.c_d = 1 / (1.5**j * d) if d > 1 else np.full(m, 0.5)
        self.c_c = np.minimum(1.0, lam / (4.0**j * d))
        self.y = self.x0.copy()
        self.p_sigma = np.zeros(d)
        self.M = np.zeros((m, d))
        self.t = 0
        self._z = np.empty((0, d))

    def _bent(self, z: Array) -> Array:
        """d_i of z_i [K, d]: stretched along the directions."""
        for j in range(min(self.t, len(self.M))):
            z = (1 - self.c_d[j]) * z + self.c_d[j] * (z @ self.M[j])[:, None] * self.M[j]
        return z

    def _ask(self) -> Array:
        self._z = self.rng.standard_normal((self.population, self.domain.d))
        return self.domain.clip(self.y + self.sigma * self._unit * self._bent(self._z))

    def _tell(self, z: Array, loss: Array) -> None:
        if self._flat_steps:
            return  # an order of equal losses would be that of the rows
        best = np.argsort(np.where(np.isnan(loss), np.inf, loss), kind="stable")[: self.mu]
        mean_z = self.w @ self._z[best]
        self.y = self.domain.clip(self.y + self.w @ (z[best] - self.y))  # sigma d_i, where it was evaluated
        a = self.c_sigma
        self.p_sigma = (1 - a) * self.p_sigma + np.sqrt(self.mu_w * a * (2 - a)) * mean_z
        c = self.c_c[:, None]
        self.M = (1 - c) * self.M + np.sqrt(self.mu_w * c * (2 - c)) * mean_z
        self.sigma *= float(np.exp(a / 2 * (self.p_sigma @ self.p_sigma / self.domain.d - 1)))
        self.t += 1

    def _widen(self) -> None:
        self.sigma = max(self.sigma, min(WIDER * self.sigma, WIDEST * self._sigma0))

    def recommend(self) -> Array:
        """The mean of the distribution, [d]."""
        return self.y.copy()

    @property
    def standard_deviations(self) -> Array:
        return self.sigma * self._unit

    def should_stop(self) -> str | None:
        if self.sigma < 1e-12 * self._sigma0:
            return "the step size fell below 1e-12 of the first one"
        return super().should_stop()
