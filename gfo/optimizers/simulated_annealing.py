"""SA: simulated annealing, a population of chains in parallel.

Kirkpatrick, Gelatt and Vecchi (1983), doi:10.1126/science.220.4598.671, with Metropolis' acceptance;
logarithmic cooling: Geman and Geman (1984), doi:10.1109/TPAMI.1984.4767596; chains that share what they
found by resampling: population annealing, Hukushima and Iba (2003), doi:10.1063/1.1632130; step sizes
that hold an acceptance rate: Corana et al. (1987), doi:10.1145/29380.29864, here by Robbins and Monro's
scheme, Andrieu and Thoms (2008), doi:10.1007/s11222-008-9110-y, with one step size for all chains.

    y ~ N(x, s^2 I)                                               proposal; integer genes: set anew
    accept y with probability min(1, exp(-(f(y) - f(x)) / T))     Metropolis
    T_k = T0 r^k  |  T0 (1 - k / n)  |  T0 / ln(e + k)            geometric, linear, logarithmic
    ln s <- ln s + (accepted share - target)                      step size
    copies of chain j ~ exp(-(1 / T_(k+1) - 1 / T_k) f(x_j))      resampling

T0 comes from the spread of the first losses: in a quadratic bowl a chain at temperature T has
the mean excess loss d T / 2 (equipartition), so T0 = 2 std(f) / d keeps it at the spread observed.
As long as all losses are equal there is no T0, and every proposal is accepted. A failed proposal is
refused. The recommendation is the incumbent.

Where batches differ or losses are noisy (the loop says so, or the chains, asked once more when the steps have
become small, score otherwise) there are half as many chains, and each step asks for the chains and their
proposals, which are compared within the step: a lucky loss does not stay (and the champion guards against
drift, champion.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gfo.core.checking import named
from gfo.core.domain import Array, Domain
from gfo.optimizers.base import WIDEST
from gfo.optimizers.champion import Championed
from gfo.optimizers.genetic_operators import change_one, mutate_integer
from gfo.optimizers.options import flag, number, one_of, whole
from gfo.optimizers.steady_state import SteadyState

SMALL, SMALLEST = 1e-2, 1e-3
"""Shares of the first step size at which losses are checked for noise, and at which it stays with noise."""
SMALLEST_T = 1e-300
"""A lower temperature counts as 0: its inverse is no number, or soon none."""


@named
class SimulatedAnnealing(Championed, SteadyState):
    """K annealed Metropolis chains, one proposal each a step.

    Args:
        domain: the box searched; proposals are clipped into it. Integer, binary and categorical
            genes are allowed.
        seed: of the method's own random generator.
        population: K, chains, half of it where losses are noisy; 4 + floor(3 ln d) by default.
        scale: a typical change of a coordinate; 1 by default, within a box a fifth of its width.
        sigma0: the first step size in z, half of `scale` by default; all chains start one step from x0, also
            within a box: points drawn all over it would set T0 by the box, and the cooling is lost.
        x0: the start of the first chain [d]; zero, moved into the domain, by default.
        T0: the first temperature, in units of the loss; from the first losses by default.
        cooling: "geometric", "linear" or "logarithmic".
        r: factor of geometric cooling (Kirkpatrick et al.: 0.9).
        n: steps of linear cooling, after which the chains only descend; those of the plan by default, 200
            without one.
        target: acceptance rate (0.234: Roberts, Gelman and Gilks 1997, doi:10.1214/aoap/1034625254).
        p_reset: chance that a proposal sets an integer gene anew, to any other value of its range; at least
            one gene of a genome of integers is; 1 / d by default.
        resample: whether chains are resampled when the temperature falls.
        patience: steps without a new incumbent after which all chains restart from it at T0; none
            by default.
    """

    name = "sa"
    integers = True
    _state = ("x", "loss", "s", "T0", "k", "idle", "record", "n", "_again", "_checked")

    def __init__(
        self,
        domain: Domain,
        seed: int,
        *,
        population: int | None = None,
        scale: float | Sequence[float] | None = None,
        sigma0: float | None = None,
        x0: Sequence[float] | Array | None = None,
        T0: float | None = None,
        cooling: str = "geometric",
        r: float = 0.9,
        n: int | None = None,
        target: float = 0.234,
        p_reset: float | None = None,
        resample: bool = True,
        patience: int | None = None,
    ) -> None:
        super().__init__(domain, seed)
        self._take(population=population, least=1, scale=scale, x0=x0)
        steps = self._size("sigma0", sigma0, 0.5)
        self.s = self._s0 = float(steps.max())
        self._width = np.where(domain.integer, 0.0, steps / self._s0)
        self.T0 = None if T0 is None else number(self.name, "T0", T0, above=0)
        self.cooling = one_of(self.name, "cooling", cooling, ("geometric", "linear", "logarithmic"))
        self.r = number(self.name, "r", r, above=0, most=1)
        self.n = 200 if n is None else whole(self.name, "n", n)
        self._n_given = n is not None
        self.target = number(self.name, "target", target, above=0, below=1)
        p_reset = 1 / domain.d if p_reset is None else p_reset
        self.p_reset = number(self.name, "p_reset", p_reset, above=0, most=1)
        self.resample = flag(self.name, "resample", resample)
        self.patience = None if patience is None else whole(self.name, "patience", patience)
        self.x = self._about(self.x0)
        self.loss = np.full(self.population, np.inf)
        self.k, self.idle, self.record = 0, 0, np.inf
        self._again = 0  # how many rows of the step are chains asked again
        self._checked, self._told, self._moved = False, 0, False  # the latter since T fell, of parts

    def plan(self, evaluations: int | None = None, *, batches_differ: bool = False) -> None:
        super().plan(evaluations, batches_differ=batches_differ)
        if evaluations is not None and not self._n_given and not self.k:
            self.n = max(1, evaluations // max(self.population, 2))

    def temperature(self, k: int) -> float:
        """T_k, in units of the loss; 0 where linear cooling has ended."""
        T0 = self.T0 or 0.0
        if self.cooling == "geometric":
            return T0 * self.r**k
        if self.cooling == "linear":
            return T0 * max(0.0, 1 - k / self.n)
        return T0 / math.log(math.e + k)

    def _about(self, x: Array) -> Array:
        """x [d] and a first proposal from it for each other chain, [K, d]."""
        z = self._proposals(np.repeat(x[None], self.population, axis=0))
        z[0] = x
        return z

    def _proposals(self, x: Array) -> Array:
        """A point near each of x [K, d]."""
        z = self.rng.standard_normal(x.shape)
        z *= self.s * self._width
        z += x
        z = self._inside(z)
        if not self.domain.integer.any():
            return z
        z = mutate_integer(self.rng, z, domain=self.domain, rate=self.p_reset)
        if self.domain.integer.all():  # a proposal that stays would be accepted for nothing
            stays = (z == x).all(axis=1)
            z[stays] = change_one(self.rng, z[stays], domain=self.domain)
        return z

    def _ask(self) -> Array:
        self._again = 0
        if self.noisy and len(self.x) > (chains := max(1, self.population // 2)):
            best = np.sort(np.argsort(self.loss, kind="stable")[:chains])
            self.x, self.loss = self.x[best], self.loss[best]
        if np.isinf(self.loss).all():  # nothing evaluated yet, or all failed
            if self._failed_steps:
                self.x = self._about(self.best_z)[: len(self.x)]
            return self.x
        z = self._proposals(self.x)
        if self.noisy or self._doubtful():
            self._again = len(self.x)
            z = np.concatenate([self.x, z])
        return z

    def _doubtful(self) -> bool:
        """Whether steps are so small for the first time that it is worth knowing if losses are noisy."""
        return self.s < SMALL * self._s0 and not self._checked and not self.domain.integer.all()

    def _tell(self, z: Array, loss: Array) -> None:
        loss = np.where(np.isnan(loss), np.inf, loss)
        if np.isinf(self.loss).all():
            self.x, self.loss = z, loss
            self._begin(loss)
            self.record = self.best_loss
            return
        if n := self._again:
            if not self.noisy:
                self._checked = True
                self._noise_seen = self._another(self.loss, loss[:n])
                self.s = self._s0 if self._noise_seen else self.s
            self.x, self.loss, z, loss = z[:n], loss[:n], z[n:], loss[n:]
        self._begin(np.concatenate([self.loss, loss]))
        accepted = self._metropolis(loss, self.temperature(self.k))
        self.x = np.where(accepted[:, None], z, self.x)
        self.loss = np.where(accepted, loss, self.loss)
        self.s = min(self.s * math.exp(accepted.mean() - self.target), WIDEST * self._s0)
        if self.noisy:
            self.s = min(max(self.s, SMALLEST * self._s0), self._s0)
        self._cool(bool(accepted.any()))

    def _begin(self, loss: Array) -> None:
        """Fix T0 by losses [n], if they are the first that differ."""
        spread = float(loss[np.isfinite(loss)].std())
        if self.T0 is None and spread > 0:
            self.T0 = 2 * spread / self.domain.d

    def _metropolis(self, loss: Array, T: float, before: Array | None = None) -> Array:
        """bool [K]: which proposals with losses [K] are accepted at T; `before` are those of their chains."""
        before = self.loss if before is None else before
        u = self.rng.random(len(loss))
        known = np.isfinite(before)
        rise = np.where(known, loss - np.where(known, before, 0.0), -np.inf)
        uphill = np.exp(-np.maximum(rise, 0.0) / T) if T > SMALLEST_T else np.zeros(len(loss))
        return np.isfinite(loss) & ((rise <= 0) | (u < uphill))

    def _ask_some(self, n: int) -> tuple[Array, Any]:
        """Of each chain in turn its first point, then proposals from where it is."""
        chains = self._in_turn(n, len(self.x))
        first = self._given + np.arange(n) < len(self.x)
        return np.where(first[:, None], self.x[chains], self._proposals(self.x[chains])), chains

    def _tell_some(self, z: Array, loss: Array, known: Any) -> None:
        K, chains, before = len(self.x), known, self.loss[known]
        if np.isfinite(loss).any():
            self._begin(np.concatenate([self.loss, loss]))
        accepted = self._metropolis(loss, self.temperature(self.k), before)
        self.x[chains[accepted]], self.loss[chains[accepted]] = z[accepted], loss[accepted]
        rises = accepted[np.isfinite(before)] - self.target  # of proposals, not of first points
        self.s = min(self.s * math.exp(float(rises.sum()) / K), WIDEST * self._s0)
        self._moved = self._moved or bool(accepted.any())
        self._told += len(z)
        if self._told >= K:
            self._told -= K
            moved, self._moved = self._moved, False
            self._cool(moved)

    def _cool(self, moved: bool) -> None:
        if self.T0 is None:
            return
        T, self.k = self.temperature(self.k), self.k + 1
        new = self.temperature(self.k)
        progress = moved if self.noisy else self.best_loss < self.record
        self.idle = 0 if progress else self.idle + 1
        self.record = self.best_loss
        if self.patience is not None and self.idle >= self.patience:
            self.x = np.repeat(self.best_z[None], len(self.x), axis=0)
            self.loss = np.full(len(self.x), self.best_loss)
            self.s, self.k, self.idle = self._s0, 0, 0
        elif self.resample and new > SMALLEST_T:
            self._resample(1 / new - 1 / T)

    def _resample(self, rise: float) -> None:
        """Draw K chains with weights exp(-rise f), systematically (one random number)."""
        weight = np.exp(-rise * (self.loss - self.loss.min()))
        edges = np.cumsum(weight / weight.sum())
        n = len(self.loss)
        chosen = np.searchsorted(edges, (np.arange(n) + self.rng.random()) / n)
        chosen = np.minimum(chosen, n - 1)
        self.x, self.loss = self.x[chosen], self.loss[chosen]

    def _go_back(self, z: Array) -> None:
        self.x = np.repeat(z[None], len(self.x), axis=0)
        self.s /= 2

    def should_stop(self) -> str | None:
        if self.s < 1e-12 * self._s0 and not self.domain.integer.all():
            return "the step size fell below 1e-12 of the first one"
        return super().should_stop()
