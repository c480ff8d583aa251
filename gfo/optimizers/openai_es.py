"""OpenAI-ES: an evolution strategy of fixed step size with antithetic pairs, ranks and Adam.

Salimans, Ho, Chen, Sidor and Sutskever (2017), Evolution strategies as a scalable alternative to
reinforcement learning, arXiv:1703.03864, algorithm 1; pairs as Brockhoff et al. (2010),
doi:10.1007/978-3-642-15844-5_2; Adam: Kingma and Ba (2015), arXiv:1412.6980, algorithm 1.

    z_k = theta + sigma e_k,  e_k ~ N(0, I),  e_(k + K/2) = -e_k
    g = 1 / (K sigma) sum_k F_k e_k - l2coeff theta               F_k the fitness of z_k
    m <- beta1 m + (1 - beta1) g,  v <- beta2 v + (1 - beta2) g^2
    theta <- theta + alpha_t m^ / (sqrt(v^) + epsilon)            m^, v^ corrected for their start at 0

alpha_t = alpha / sqrt(1 + t / T): almost constant for T steps, then the 1 / sqrt(t) under which Adam
converges (Kingma and Ba, section 4).
F_k is the centred rank, or the z-scored loss with the sign turned (Qiu et al. 2025, Evolution strategies
at scale, arXiv:2509.24372). The recommendation is theta, the mean of the distribution.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gfo.core.checking import named
from gfo.core.domain import Array, Domain
from gfo.optimizers.base import BaseOptimizer
from gfo.optimizers.fitness_shaping import centred_ranks, z_scores
from gfo.optimizers.matching import shortened
from gfo.optimizers.options import number, one_of

SHAPINGS = {"ranks": centred_ranks, "z-scores": z_scores}

RETURN = 0.98
"""What a step leaves of a perturbation that a flat stretch made wider."""


@named
class OpenAIES(BaseOptimizer):
    """Antithetic evolution strategy with centred ranks and Adam.

    Args:
        domain: the box searched; samples are clipped into it.
        seed: of the method's own random generator.
        population: K, even; 4 + floor(3 ln d) by default, made even.
        scale: a typical change of a coordinate; 1 by default, within a box a fifth of its width.
        sigma: the standard deviation of the perturbations in z; 0.35 `scale` by default. A narrow one, 0.1,
            gets nearer to a sharp optimum; on a soft prompt's rugged loss it went less deep, and held less on
            other rows (benchmarks/README.md, "Leaderboard").
        alpha: Adam's step, about the largest change of a coordinate in one of the first steps; 0.4 `scale` by
            default.
        T: steps after which alpha_t begins to fall; a large number keeps it constant.
        beta1: of Adam's first moment. 0.5, as Radford et al. (2016), arXiv:1511.06434, have it where
            gradients change quickly: with the 0.9 of Adam's paper a run of some tens of steps overshoots.
        beta2, epsilon: Adam's constants, as in its paper.
        shaping: "ranks" or "z-scores" (then the size of the losses counts too).
        l2coeff: weight decay towards 0, the starting point of every search space.
        x0: the first theta [d]; zero, moved into the domain, by default.
    """

    name = "openai-es"
    varies = True
    _state = ("theta", "m", "v", "t", "sigma")

    def __init__(
        self,
        domain: Domain,
        seed: int,
        *,
        population: int | None = None,
        scale: float | Sequence[float] | None = None,
        sigma: float | None = None,
        alpha: float | None = None,
        T: float = 2.0,
        beta1: float = 0.5,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        shaping: str = "ranks",
        l2coeff: float = 0.0,
        x0: Sequence[float] | Array | None = None,
    ) -> None:
        super().__init__(domain, seed)
        self._take(population=population, even=True, scale=scale, x0=x0)
        self._sigma0 = self.sigma = self._size("sigma", sigma, 0.35)
        self.alpha = self._size("alpha", alpha, 0.4)
        self.T = number(self.name, "T", T, above=0)
        self.beta1 = number(self.name, "beta1", beta1, least=0, below=1)
        self.beta2 = number(self.name, "beta2", beta2, least=0, below=1)
        self.epsilon = number(self.name, "epsilon", epsilon, above=0)
        self.shaping = one_of(self.name, "shaping", shaping, SHAPINGS)
        self.rank_based = self.shaping == "ranks"
        self.l2coeff = number(self.name, "l2coeff", l2coeff, least=0)
        self.theta = self.x0.copy()
        self.m, self.v = np.zeros(domain.d), np.zeros(domain.d)
        self.t = 0

    def _ask(self) -> Array:
        e = self.rng.standard_normal((self.population // 2, self.domain.d))
        e *= self.sigma
        return self._inside(np.concatenate([self.theta + e, self.theta - e]))

    def gradient(self, z: Array, loss: Array) -> Array:
        """The estimated direction of descent g [d] from z [K, d] and loss [K]."""
        F = SHAPINGS[self.shaping](loss)
        e = shortened((z - self.theta) / self.sigma) if self._others else None
        F_e = F @ z / self.sigma if e is None else F @ e  # sum_k F_k = 0
        return np.asarray(F_e / (len(z) * self.sigma) - self.l2coeff * self.theta)

    def _tell(self, z: Array, loss: Array) -> None:
        g = self.gradient(z, loss)
        if not self._flat_steps:  # the way back from a wider search
            self.sigma = np.maximum(self._sigma0, RETURN * self.sigma)
        alpha = self.alpha / np.sqrt(1 + self.t / self.T)
        self.t += 1
        self.m = self.beta1 * self.m + (1 - self.beta1) * g
        self.v = self.beta2 * self.v + (1 - self.beta2) * g**2
        m = self.m / (1 - self.beta1**self.t)
        v = self.v / (1 - self.beta2**self.t)
        self.theta = self.domain.clip(self.theta + alpha * m / (np.sqrt(v) + self.epsilon))

    def _widen(self) -> None:
        self.sigma = self._wider(self.sigma, self._sigma0)

    def recommend(self) -> Array:
        """theta, the mean of the distribution, [d]."""
        return self.theta.copy()
