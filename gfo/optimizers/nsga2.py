"""NSGA-II: a genetic algorithm for several objectives by rank and crowding, limits by feasibility first.

Deb, Pratap, Agarwal and Meyarivan (2002), A fast and elitist multiobjective genetic algorithm: NSGA-II,
doi:10.1109/4235.996017. Limits: its section VI, after Deb (2000), doi:10.1016/S0045-7825(99)00389-8.

    R_t = P_t and Q_t         parents and the offspring told last
    i <_n j                   rank_i < rank_j, or equal ranks and crowding_i > crowding_j     section III-B
    P_t+1                     the first N of R_t in this order
    Q_t+1                     binary tournaments by <_n, simulated binary crossover, polynomial mutation

Under limits a point that keeps to them beats one that does not, and of two that do not the one of the
smaller violation is better. Whole and categorical genes are crossed uniformly and set anew with chance 1 / d;
in a domain of whole numbers no point is evaluated twice, as long as one is left near. Without bounds the
width of a gene is five times its scale.

The recommendation is the point of the lowest first objective, of equals that of the lowest second, and so on.
Where batches differ a generation asks for half of N parents again, beside their offspring, and compares
within the step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gfo.core.checking import named
from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError
from gfo.optimizers import genetic_operators as op
from gfo.optimizers.base import BaseOptimizer
from gfo.optimizers.dominance import standing
from gfo.optimizers.drawing import first_population
from gfo.optimizers.options import SHARE_OF_A_BOX, check_objectives, number

POPULATION, FEWEST, GENERATIONS = 100, 12, 20
"""N, as in the paper; of small budgets a 20th, but 12 at least."""


@named
class NSGA2(BaseOptimizer):
    """NSGA-II.

    Args:
        domain: the box searched; integer, binary and categorical genes are allowed.
        seed: of the method's own random generator.
        objectives: the names of the M numbers that are to be low; of one it is an elitist genetic algorithm.
        population: N; by default 100 as in the paper, of small budgets a 20th of them, but 12 at least.
        p_c: chance of a crossover.
        eta_c: of the simulated binary crossover: the larger, the nearer children are to their parents.
        p_m: chance that a gene mutates; 1 / d by default.
        eta_m: of the polynomial mutation: the larger, the smaller its changes.
        scale: a typical change of a coordinate; 1 by default, within a box a fifth of its width.
        sigma0: spread of the first population in z; half of `scale` by default, and uniform within a box.
        x0: a member of the first population [d]; zero, moved into the domain, by default.
    """

    name = "nsga2"
    integers = True
    varies = True
    _state = ("parents", "parents_told", "_best", "_again", "_seen")

    def __init__(
        self,
        domain: Domain,
        seed: int,
        *,
        objectives: Sequence[str] = ("loss",),
        population: int | None = None,
        p_c: float = 0.9,
        eta_c: float = 20.0,
        p_m: float | None = None,
        eta_m: float = 20.0,
        scale: float | Sequence[float] | None = None,
        sigma0: float | None = None,
        x0: Sequence[float] | Array | None = None,
    ) -> None:
        super().__init__(domain, seed)
        self.objectives = tuple(objectives)
        check_objectives(self.name, self.objectives)
        self.rank_based = len(self.objectives) == 1  # crowding is a difference of losses
        self._several = (len(self.objectives) + 1,)  # and the violation of limits
        self._take(population=population, default=POPULATION, scale=scale, x0=x0)
        self._as_paper = population is None
        self.p_c = number(self.name, "p_c", p_c, least=0, most=1)
        self.eta_c = number(self.name, "eta_c", eta_c, least=0)
        self.p_m = number(self.name, "p_m", 1 / domain.d if p_m is None else p_m, least=0, most=1)
        self.eta_m = number(self.name, "eta_m", eta_m, least=0)
        self.sigma0 = self._size("sigma0", sigma0, 0.5)
        self._uniform = sigma0 is None
        self.width = SHARE_OF_A_BOX * self.scale
        self.parents = np.empty((0, domain.d))
        self.parents_told = np.empty((0, *self._several))
        self._best = np.full(self._several, np.inf)  # violation and objectives of the incumbent
        self._again = 0  # how many rows of the step are parents asked again
        self._seen = np.empty(0, dtype=np.uint64)  # hashes of the points of whole numbers told so far

    def plan(self, evaluations: int | None = None, *, batches_differ: bool = False) -> None:
        super().plan(evaluations, batches_differ=batches_differ)
        if self._as_paper and self.evaluations is not None:
            self.population = min(POPULATION, max(FEWEST, self.evaluations // GENERATIONS))

    def tell(self, z: Array, loss: Array) -> None:
        """The losses [K, M] (of one objective [K]) of the points [K, d] asked, or of a part of them."""
        self.tell_limited(z, loss, np.zeros(len(loss)))

    def tell_limited(self, z: Array, loss: Array, violation: Array) -> None:
        """`tell` with the violations [K] of limits; a candidate that failed in one objective has failed."""
        loss, M = np.asarray(loss, dtype=np.float64), len(self.objectives)
        if loss.shape != ((len(z), M) if M > 1 else (len(z),)):
            wanted = f"[K, {M}], a column for each of {', '.join(self.objectives)}" if M > 1 else "[K]"
            raise GfoError(
                f"optimizer '{self.name}': tell got loss {loss.shape} for z {np.shape(z)}; give {wanted}"
            )
        super().tell(z, np.column_stack([loss, violation]))

    def _ask(self) -> Array:
        self._again = 0
        if not len(self.parents):
            K = self.population
            first = first_population(self.domain, self.rng, K, self.sigma0, self.x0, boxes=self._uniform)
            return op.exchange(self.rng, first, domain=self.domain)
        parents, told, n = self.parents, self.parents_told, self.population
        if self.noisy:
            self._again = min(max(n // 2, 1), len(parents))
            parents, told, n = parents[: self._again], told[: self._again], max(n - self._again, 1)
        places = standing(told[:, :-1], told[:, -1])
        first, second = op.tournament(self.rng, places, 2 * n, size=2).reshape(2, n)
        return np.concatenate([parents[: self._again], self._offspring(parents[first], parents[second])])

    def _offspring(self, a: Array, b: Array) -> Array:
        """Children of a and b, mutated: [n, d]."""
        whole = self.domain.integer
        crossed = (self.rng.random(len(a)) < self.p_c)[:, None] & (self.rng.random(a.shape) < 0.5)
        z = np.where(crossed, b, a)
        if not whole.all():
            sbx = op.simulated_binary(self.rng, a, b, eta=self.eta_c, domain=self.domain)
            z = np.where(whole, z, np.where(crossed, sbx, a))
            z = np.where(whole, z, self._mutated(z))
        if whole.any():
            z = op.mutate_integer(self.rng, z, domain=self.domain, rate=self.p_m)
        z = op.exchange(self.rng, self._inside(z), domain=self.domain)
        return op.unseen(self.rng, z, self._seen, domain=self.domain) if whole.all() else z

    def _mutated(self, z: Array) -> Array:
        """z [n, d] as if all its genes were real ones, some of them moved."""
        return op.polynomial(self.rng, z, width=self.width, domain=self.domain, eta=self.eta_m, rate=self.p_m)

    def _split(self, z: Array, loss: Array) -> tuple[Array, Array]:
        loss[np.isnan(loss).any(axis=1)] = np.nan  # failed in one, failed in all
        return z, loss

    def _book(self, z: Array, loss: Array) -> None:
        """Keep the incumbent, first by its violation and then by one objective after the other."""
        before = self.best_z, self.best_loss
        super()._book(
            z, loss @ np.pi ** np.arange(len(loss[0]))
        )  # equal for equal candidates: counts flat steps
        self.best_z, self.best_loss = before
        ordered = np.roll(loss, 1, axis=1)  # [K, 1 + M], the violation in front
        i = int(np.lexsort(ordered.T[::-1])[0])  # nan is last
        if self.noisy or tuple(ordered[i]) < tuple(self._best):
            self.best_z, self.best_loss, self._best = z[i].copy(), float(loss[i, 0]), ordered[i].copy()

    def _tell(self, z: Array, loss: Array) -> None:
        if self.domain.integer.all():
            self._seen = np.union1d(self._seen, op.hashes(z))
        told, n = loss, self.population
        if self.noisy:
            n = max(n // 2, 1)
        else:
            z, told = np.concatenate([self.parents, z]), np.concatenate([self.parents_told, loss])
        best = np.argsort(standing(told[:, :-1], told[:, -1]), kind="stable")[:n]
        self.parents, self.parents_told = z[best], told[best]
