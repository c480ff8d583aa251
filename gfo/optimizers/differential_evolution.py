"""DE: differential evolution as L-SHADE, with parameters from success and a population that shrinks.

Storn and Price (1997), doi:10.1023/A:1008202821328; current-to-pbest and the archive: Zhang and Sanderson
(2009), JADE, doi:10.1109/TEVC.2009.2014613; Tanabe and Fukunaga (2014), Improving the search performance of
SHADE using linear population size reduction, doi:10.1109/CEC.2014.6900380, whose constants are the defaults.

    CR_i ~ N(M_CR,r, 0.1) cut to [0, 1], 0 where M_CR,r is terminal                      eq. 1
    F_i ~ Cauchy(M_F,r, 0.1), drawn again where <= 0, cut to 1                           eq. 2
    v_i = x_i + F_i (x_pbest - x_i) + F_i (x_r1 - x_r2)                                  eq. 4
    u_i,j = v_i,j where rand <= CR_i or j = j_rand, else x_i,j                           eq. 6
    x_i <- u_i where f(u_i) <= f(x_i); parents that were beaten go into the archive
    M_F,k, M_CR,k <- weighted Lehmer means of those F and CR that won                    eq. 7 to 9
    N <- round(N_init + (N_min - N_init) used / planned)                                 eq. 10

x_r1 is of the population, x_r2 of the population or the archive, x_pbest one of the best p N. Beyond a
bound v is half-way from x_i to it. Without a plan of evaluations N stays N_init.

Where batches differ or losses are noisy a generation mutates half of N, asks for it beside its trial points
and compares within the step (and the champion guards against drift, champion.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gfo.core.checking import named
from gfo.core.domain import Array, Domain
from gfo.optimizers.champion import Championed
from gfo.optimizers.drawing import first_population
from gfo.optimizers.options import number, whole
from gfo.optimizers.steady_state import SteadyState

N_MIN = 4
TERMINAL = -1.0
"""Stands in M_CR for a crossover rate of 0 for good."""


@named
class DifferentialEvolution(Championed, SteadyState):
    """L-SHADE.

    Args:
        domain: the box searched.
        seed: of the method's own random generator.
        population: N_init; by default 18 d as in the paper, but from 20 to 60: budgets here are smaller than
            its 10,000 d.
        scale: a typical change of a coordinate; 1 by default, within a box a fifth of its width.
        sigma0: spread of the first population in z; half of `scale` by default, and uniform within a box.
        x0: a member of the first population [d]; zero, moved into the domain, by default.
        memory: H, entries of M_F and M_CR.
        archive: size of the archive as a multiple of N.
        p: share of the population that counts as best.
    """

    name = "de"
    rank_based = False  # the weights of the means are differences of losses
    _state = (
        "x", "loss", "archive", "M_F", "M_CR", "k", "used", "_F", "_CR", "_which", "_planned",
    )  # fmt: skip

    def __init__(
        self,
        domain: Domain,
        seed: int,
        *,
        population: int | None = None,
        scale: float | Sequence[float] | None = None,
        sigma0: float | None = None,
        x0: Sequence[float] | Array | None = None,
        memory: int = 6,
        archive: float = 2.6,
        p: float = 0.11,
    ) -> None:
        super().__init__(domain, seed)
        default = min(max(18 * domain.d, 20), 60)
        self._take(population=population, default=default, least=N_MIN, scale=scale, x0=x0)
        H = whole(self.name, "memory", memory)
        self.most_archived = number(self.name, "archive", archive, least=0)
        self.p = number(self.name, "p", p, above=0, most=1)
        sigma = self._size("sigma0", sigma0, 0.5)
        self._sigma0 = sigma
        self.x = first_population(domain, self.rng, self.population, sigma, self.x0, boxes=sigma0 is None)
        self.loss = np.full(self.population, np.inf)
        self.archive = np.empty((0, domain.d))
        self.M_F, self.M_CR = np.full(H, 0.5), np.full(H, 0.5)
        self.k = 0
        self.used = 0
        self._F, self._CR = np.empty(0), np.empty(0)
        self._which = np.empty(0, dtype=np.int64)  # members that have a trial point in this step
        self._planned: int | None = None

    def plan(self, evaluations: int | None = None, *, batches_differ: bool = False) -> None:
        super().plan(evaluations, batches_differ=batches_differ)
        if not self.used:
            self._planned = self.evaluations

    def _ask(self) -> Array:
        if np.isinf(self.loss).all():
            self._which = np.empty(0, dtype=np.int64)
            if self._failed_steps:
                spread = self._sigma0 * self.rng.standard_normal(self.x.shape)
                self.x = self.domain.clip(self.x0 + spread)
            return self.x
        N = len(self.x)
        some = self.rng.choice(N, max(1, N // 2), replace=False) if self.noisy else np.arange(N)
        self._which = np.sort(some)
        trials = self._trials(self._which)
        return np.concatenate([self.x[self._which], trials]) if self.noisy else trials

    def _trials(self, which: Array) -> Array:
        """Mutation and crossover of the members of these indices [n]: [n, d]."""
        n, N, d = len(which), len(self.x), self.domain.d
        r = self.rng.integers(0, len(self.M_F), n)
        CR = np.clip(self.rng.normal(self.M_CR[r], 0.1), 0.0, 1.0)
        self._CR = np.where(self.M_CR[r] == TERMINAL, 0.0, CR)
        F = self.M_F[r] + 0.1 * self.rng.standard_cauchy(n)
        while (low := F <= 0).any():
            F[low] = self.M_F[r][low] + 0.1 * self.rng.standard_cauchy(int(low.sum()))
        self._F = np.minimum(F, 1.0)
        best = np.argsort(self.loss, kind="stable")[: max(2, round(self.p * N))]
        x, pbest = self.x[which], self.x[self.rng.choice(best, n)]
        r1 = (which + self.rng.integers(1, N, n)) % N  # not i
        both = np.concatenate([self.x, self.archive])
        r2 = self.rng.integers(0, len(both) - 2, n)  # neither i nor r1
        for taken in (np.minimum(which, r1), np.maximum(which, r1)):
            r2 += r2 >= taken
        v = x + self._F[:, None] * (pbest - x + self.x[r1] - both[r2])
        v = np.where(v < self.domain.low, (self.domain.low + x) / 2, v)
        v = np.where(v > self.domain.high, (self.domain.high + x) / 2, v)
        crossed = self.rng.random((n, d)) <= self._CR[:, None]
        crossed[np.arange(n), self.rng.integers(0, d, n)] = True
        return self.domain.clip(np.where(crossed, v, x))

    def _tell(self, z: Array, loss: Array) -> None:
        loss = np.where(np.isnan(loss), np.inf, loss)
        self.used += len(z)
        if not len(self._which):
            self.x, self.loss = z, loss
            return
        which = self._which
        if len(z) == 2 * len(which):
            self.x[which], self.loss[which] = z[: len(which)], loss[: len(which)]
            z, loss = z[len(which) :], loss[len(which) :]
        with np.errstate(invalid="ignore"):  # inf - inf, where both failed, is no gain
            gain = self.loss[which] - loss
        won, stays = gain > 0, (gain >= 0) & np.isfinite(loss)
        self.archive = np.concatenate([self.archive, self.x[which][won]])
        self._learn(won, gain)
        self.x[which[stays]], self.loss[which[stays]] = z[stays], loss[stays]
        self._shrink()

    def _ask_some(self, n: int) -> tuple[Array, Any]:
        """Of each member in turn its first point, then trial points; known are their parents, F and CR."""
        which = self._in_turn(n, len(self.x))
        first = self._given + np.arange(n) < self.population
        trials, parents = self._trials(which), self.x[which]
        return np.where(first[:, None], parents, trials), (parents, self._F, self._CR)

    def _tell_some(self, z: Array, loss: Array, known: Any) -> None:
        """Selection against the parent; a member that another trial replaced stands for the worst by now."""
        parents, self._F, self._CR = known
        self.used += len(z)
        gain = np.zeros(len(z))
        for i, parent in enumerate(parents):
            same = np.flatnonzero((self.x == parent).all(axis=1))
            member = same[0] if len(same) else np.argmax(self.loss)
            before = self.loss[member]
            if loss[i] <= before and np.isfinite(loss[i]):
                gain[i] = before - loss[i] if np.isfinite(before) else 0.0
                self.archive = (
                    np.concatenate([self.archive, self.x[member][None]]) if gain[i] else self.archive
                )
                self.x[member], self.loss[member] = z[i], loss[i]
        self._learn(gain > 0, gain)
        self._shrink()

    def _learn(self, won: Array, gain: Array) -> None:
        """Put the means of the winners' F and CR, weighted by gain [n], into the memory."""
        if not won.any():
            return
        w = np.where(np.isfinite(gain[won]), gain[won], gain[won][np.isfinite(gain[won])].max(initial=1.0))
        F, CR = self._F[won], self._CR[won]
        self.M_F[self.k] = (w @ F**2) / (w @ F)
        ended = self.M_CR[self.k] == TERMINAL or CR.max() == 0
        self.M_CR[self.k] = TERMINAL if ended else (w @ CR**2) / (w @ CR)
        self.k = (self.k + 1) % len(self.M_F)

    def _shrink(self) -> None:
        """The population of eq. 10, and an archive of its size at most."""
        if self._planned:
            share = min(self.used / self._planned, 1.0)
            N = max(N_MIN, round(self.population + (N_MIN - self.population) * share))
            best = np.sort(np.argsort(self.loss, kind="stable")[:N])
            self.x, self.loss = self.x[best], self.loss[best]
        most = round(self.most_archived * len(self.x))
        if len(self.archive) > most:
            kept = self.rng.choice(len(self.archive), most, replace=False)
            self.archive = self.archive[np.sort(kept)]

    def _go_back(self, z: Array) -> None:
        self.x[np.argmax(self.loss)] = z

    def _widen(self) -> None:
        """Fresh points about the best for all others: members that score alike may lie close together."""
        self.x = self._scattered(len(self.x), self._sigma0)
