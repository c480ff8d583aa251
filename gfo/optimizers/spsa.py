"""SPSA: simultaneous perturbation stochastic approximation.

Spall (1992), doi:10.1109/9.119632; gains and their constants: Spall (1998), Implementation of the
simultaneous perturbation algorithm for stochastic optimization, doi:10.1109/7.705889, section III.

    a_k = a / (A + k + 1)^alpha,  c_k = c / (k + 1)^gamma                                 k = 0, 1, ...
    g = mean_j (f(theta + c_k D_j) - f(theta - c_k D_j)) / (2 c_k) D_j^-1                 n directions D_j
    theta <- theta - a_k g

D_j has entries +-1 (`directions="rademacher"`) or N(0, I) (`"gaussian"`, then D_j in place of
D_j^-1). With gaussian directions, population 2 and alpha = gamma = 0 this is the estimator of MeZO
(Malladi et al. 2023, arXiv:2305.17333). Without a given `a`, the first estimate fixes it
so that the first step moves the coordinates by `step` in root mean square, Spall's own rule. No step k is
longer than `step` (A + 1)^alpha / (A + k + 1)^alpha: a first estimate that is small by chance would make all
others too long, and where the noise grows with the loss, theta would walk away at full pace.

The size of the losses counts, not only their order. A direction with a failed side is left out.
The recommendation is theta.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gfo.core.checking import named
from gfo.core.domain import Array, Domain
from gfo.optimizers.base import BaseOptimizer
from gfo.optimizers.options import even_population, number, one_of

HIGH_D = 100
RETURN = 0.98
"""What a step leaves of a perturbation that a flat stretch made wider."""


@named
class SPSA(BaseOptimizer):
    """Stochastic approximation with two evaluations a direction.

    Args:
        domain: the box searched; perturbed points and theta are clipped into it.
        seed: of the method's own random generator.
        population: K = 2 n, twice the number of directions a step; by default that of the other methods, made
            even, and at most 2 ceil(d / 4): on few dimensions more directions gain less than they cost.
        scale: a typical change of a coordinate; 1 by default, within a box a fifth of its width.
        step: the first step's change of a coordinate in root mean square, in z; fixes `a`, and no step is
            longer. 0.3 `scale` by default, and 0.2 from d = 100 on, where noise moves more coordinates.
        a: the gain, where it is to be given instead; the recursion is then Spall's to the letter.
        c: half the distance of the two points along a coordinate, in z; 0.1 `scale` by default, and 0.35
            from d = 100 on, where narrower differences drown in the noise of many coordinates.
        A: stability constant, in steps (about a tenth of the steps expected; Spall 1998), here of 200.
        alpha: decay of a_k (Spall 1998: 0.602; 0 for a fixed step).
        gamma: decay of c_k (Spall 1998: 0.101; 0 for a fixed width).
        directions: "rademacher" or "gaussian".
        x0: the first theta [d]; zero, moved into the domain, by default.
    """

    name = "spsa"
    varies = True
    _state = ("theta", "k", "a", "c")

    def __init__(
        self,
        domain: Domain,
        seed: int,
        *,
        population: int | None = None,
        scale: float | Sequence[float] | None = None,
        step: float | None = None,
        a: float | None = None,
        c: float | None = None,
        A: float = 20.0,
        alpha: float = 0.602,
        gamma: float = 0.101,
        directions: str = "rademacher",
        x0: Sequence[float] | Array | None = None,
    ) -> None:
        super().__init__(domain, seed)
        default = min(even_population(self.name, domain, None), 2 * math.ceil(domain.d / 4))
        self._take(population=population, default=default, even=True, scale=scale, x0=x0)
        self.step = self._size("step", step, 0.2 if domain.d >= HIGH_D else 0.3)
        self.a = None if a is None else number(self.name, "a", a, above=0)
        self._longest = float(self.step.max()) if a is None else np.inf
        self._unit = self.step / self._longest if a is None else np.ones(domain.d)
        self._c0 = self.c = self._size("c", c, 0.35 if domain.d >= HIGH_D else 0.1)
        self.A = number(self.name, "A", A, least=0)
        self.alpha = number(self.name, "alpha", alpha, least=0)
        self.gamma = number(self.name, "gamma", gamma, least=0)
        self.directions = one_of(self.name, "directions", directions, ("rademacher", "gaussian"))
        self.theta = self.x0.copy()
        self.k = 0

    def _ask(self) -> Array:
        shape = (self.population // 2, self.domain.d)
        if self.directions == "rademacher":
            D = self.rng.integers(0, 2, shape) * 2.0 - 1.0
        else:
            D = self.rng.standard_normal(shape)
        D *= self.c / (self.k + 1) ** self.gamma
        return self._inside(np.concatenate([self.theta + D, self.theta - D]))

    def gradient(self, z: Array, loss: Array) -> Array:
        """The estimate of the gradient g [d] from z [2 n, d] and loss [2 n]; zero if every pair failed."""
        n = len(z) // 2
        difference = loss[:n] - loss[n:]
        if self._others:
            difference[-self._others :] = np.nan  # a point of others: its pair says nothing
        whole_pairs = np.isfinite(difference)
        if not whole_pairs.any():
            return np.zeros(self.domain.d)
        width = z[:n] - z[n:]  # (n, d), 2 c D where nothing was clipped
        if not whole_pairs.all():
            width, difference = width[whole_pairs], difference[whole_pairs]
        difference = difference[:, None]
        if self.directions == "rademacher":
            if self.domain.free:
                np.divide(difference, width, out=width)
            else:
                width = np.divide(difference, width, out=np.zeros_like(width), where=width != 0)
            return np.asarray(width.mean(axis=0))
        c = self.c / (self.k + 1) ** self.gamma
        return np.asarray((difference * width / (2 * c) ** 2).mean(axis=0))

    def _tell(self, z: Array, loss: Array) -> None:
        g = self.gradient(z, loss) * self._unit  # with z / unit as the coordinates
        size = float(np.sqrt(np.mean(g**2)))
        if not self._flat_steps:  # the way back from a wider search
            self.c = np.maximum(self._c0, RETURN * self.c)
        if self.a is None and size > 0:
            self.a = self._longest * (self.A + 1 + self.k) ** self.alpha / size
        a = (self.a or 0.0) / (self.A + self.k + 1) ** self.alpha
        longest = self._longest * ((self.A + 1) / (self.A + self.k + 1)) ** self.alpha
        if a * size > longest:
            a = longest / size
        self.theta = self.domain.clip(self.theta - a * self._unit * g)
        self.k += 1

    def _widen(self) -> None:
        self.c = self._wider(self.c, self._c0)

    def recommend(self) -> Array:
        """theta, [d]."""
        return self.theta.copy()
