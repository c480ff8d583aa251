"""FZOO: zeroth-order steps over the standard deviation of losses, with one-sided +-1 directions.

Dang et al. (2025), FZOO: Fast zeroth-order optimizer for fine-tuning large language models towards Adam-scale
speed, arXiv:2506.09034, algorithm 1.

    l_0 = f(theta),  l_i = f(theta + eps u_i),  u_i of entries +-1                       i = 1 ... N
    s^2 = 1 / (N - 1) sum_i (l_i - mean_j l_j)^2
    theta <- theta - eta / (N s) sum_i (l_i - l_0) u_i           the paper's step over eps

It is a normalised gradient step, and one more evaluation, that of theta, serves all N directions.
eta_t = eta / sqrt(1 + t / T), as for the other methods of fixed steps here (the paper keeps it constant or
lets it fall linearly). All losses are of one step. The recommendation is theta.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gfo.core.checking import named
from gfo.core.domain import Array, Domain
from gfo.optimizers.base import BaseOptimizer
from gfo.optimizers.options import number

RETURN = 0.98
"""What a step leaves of a perturbation that a flat stretch made wider."""


@named
class FZOO(BaseOptimizer):
    """One-sided differences on sign vectors, over their standard deviation.

    Args:
        domain: the box searched; perturbed points and theta are clipped into it.
        seed: of the method's own random generator.
        population: K = N + 1, directions and theta itself; 5 + floor(3 ln d) by default.
        scale: a typical change of a coordinate; 1 by default, within a box a fifth of its width.
        eps: size of the perturbation of each coordinate in z; 0.1 `scale` by default.
        eta: step; a coordinate changes by about eta / sqrt(N) in the first ones, in z; `scale` by default.
        T: steps after which eta_t begins to fall; a large number keeps it constant.
        x0: the first theta [d]; zero, moved into the domain, by default.
    """

    name = "fzoo"
    varies = True
    _state = ("theta", "t", "eps", "_u")

    def __init__(
        self,
        domain: Domain,
        seed: int,
        *,
        population: int | None = None,
        scale: float | Sequence[float] | None = None,
        eps: float | None = None,
        eta: float | None = None,
        T: float = 2.0,
        x0: Sequence[float] | Array | None = None,
    ) -> None:
        super().__init__(domain, seed)
        default = 5 + int(3 * np.log(domain.d))
        self._take(population=population, default=default, least=3, scale=scale, x0=x0)
        self.eps = self._eps0 = self._size("eps", eps, 0.1)
        self.eta = self._size("eta", eta, 1.0)
        self.T = number(self.name, "T", T, above=0)
        self.theta = self.x0.copy()
        self.t = 0
        self._u: Array = np.empty((0, domain.d))

    def _ask(self) -> Array:
        self._u = self.rng.integers(0, 2, (self.population - 1, self.domain.d)) * 2.0 - 1.0
        z = self.domain.clip(self.theta + self.eps * self._u)
        return np.concatenate([self.theta[None], z])

    def direction(self, loss: Array) -> Array:
        """1 / (N s) sum_i (l_i - l_0) u_i [d], of loss [1 + N]; failed directions are left out.

        Where theta itself failed the mean of the others stands for l_0; zero where s is.
        """
        known = np.isfinite(loss[1:])
        losses, u = loss[1:][known], self._u[known]
        spread = float(losses.std(ddof=1)) if len(losses) > 1 else 0.0
        if spread == 0:
            return np.zeros(self.domain.d)
        here = loss[0] if np.isfinite(loss[0]) else losses.mean()
        return np.asarray((losses - here) @ u / (len(losses) * spread))

    def _moved(self, z: Array) -> Array:
        """The directions [N, d] of z [N, d]; those of moved rows are no longer than u."""
        own = (z == self.domain.clip(self.theta + self.eps * self._u)).all(axis=1, keepdims=True)
        u = (z - self.theta) / self.eps
        length = np.sqrt((u**2).mean(axis=1, keepdims=True))
        return np.where(own, self._u, u / np.maximum(length, 1.0))

    def _tell(self, z: Array, loss: Array) -> None:
        self._u = self._moved(z[1:])
        if not self._flat_steps:  # the way back from a wider search
            self.eps = np.maximum(self._eps0, RETURN * self.eps)
        eta = self.eta / np.sqrt(1 + self.t / self.T)
        self.theta = self.domain.clip(self.theta - eta * self.direction(loss))
        self.t += 1

    def _widen(self) -> None:
        self.eps = self._wider(self.eps, self._eps0)

    def recommend(self) -> Array:
        """theta, [d]."""
        return self.theta.copy()
