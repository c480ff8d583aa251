"""GA: genetic algorithm for real, integer, binary and mixed genomes.

Holland (1975), Adaptation in natural and artificial systems; Goldberg (1989); real genes as
Eshelman and Schaffer (1993) and Deb and Agrawal (1995); strength of the mutation by the 1/5 rule:
Rechenberg (1973), Evolutionsstrategie, in the form of Kern et al. (2004),
doi:10.1023/B:NACO.0000023416.59689.4e.

    parents    the best `elites` of all points so far and the K offspring told last
    offspring  crossover of two selected parents with chance p_c, else a copy of the first; then mutation
    ln sigma <- ln sigma + (share better than their first parent - 1/5)           adaptive strength

Offspring that score as their first parent count as neither. In a domain of whole numbers no point is
evaluated twice, as long as one is left near: an offspring that was evaluated before is mutated again.

The recommendation is the incumbent. Where batches differ or losses are noisy (the loop says so, or
`reevaluate=True` does, or the elites, asked once more when the steps have become small, score otherwise),
each generation asks for its parents again, the best of the generation before, and offspring are compared
with them within the step: a lucky loss does not stay (and the champion guards against drift, champion.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gfo.core.checking import named
from gfo.core.domain import Array, Domain
from gfo.optimizers import genetic_operators as op
from gfo.optimizers.base import WIDEST
from gfo.optimizers.champion import Championed
from gfo.optimizers.drawing import first_population
from gfo.optimizers.options import flag, number, one_of, option_error, whole
from gfo.optimizers.steady_state import SteadyState

SELECTIONS = ("tournament", "roulette", "rank", "truncation")
CROSSOVERS = ("one-point", "multi-point", "uniform", "blend", "sbx")
SMALL, SMALLEST = 1e-2, 1e-3
"""Shares of the first strength at which losses are checked for noise, and at which it stays with noise."""
TARGET = 1 / 5


@named
class GeneticAlgorithm(Championed, SteadyState):
    """Genetic algorithm with a choice of operators.

    Args:
        domain: the box searched; integer, binary and categorical genes are allowed.
        seed: of the method's own random generator.
        population: K; 4 + floor(3 ln d) by default.
        elites: points that stay, up to K.
        reevaluate: whether parents are evaluated anew in each generation, as part of K; done anyway where
            batches differ.
        selection: "tournament", "roulette", "rank" or "truncation".
        tournament_size: parents drawn for a tournament.
        truncation_share: share of the parents that truncation leaves.
        crossover: "one-point", "multi-point", "uniform", "blend" or "sbx"; with the last two,
            integer genes are crossed uniformly.
        p_c: chance of a crossover.
        points: places of a multi-point crossover.
        alpha: of the blend (Eshelman and Schaffer: 0.5).
        eta: of the simulated binary crossover (Deb and Agrawal: 2 to 20).
        scale: a typical change of a coordinate; 1 by default, within a box a fifth of its width.
        sigma0: first strength of the mutation of real genes, and spread of the first population, in z; by
            default half of `scale`, and the first population uniform within a box.
        strength: "adaptive", "scheduled" (sigma0 decay^generation) or "constant".
        decay: of the scheduled strength.
        p_m: chance that a real gene mutates.
        p_reset: chance that an integer gene is set anew; 1 / d by default.
        x0: a member of the first population [d]; zero, moved into the domain, by default.
    """

    name = "ga"
    integers = True
    _state = (
        "parents", "parents_loss", "first_parent_loss", "sigma", "generation", "_first", "_again", "_checked",
        "_seen",
    )  # fmt: skip

    def __init__(
        self,
        domain: Domain,
        seed: int,
        *,
        population: int | None = None,
        elites: int = 2,
        reevaluate: bool = False,
        selection: str = "truncation",
        tournament_size: int = 3,
        truncation_share: float = 0.25,
        crossover: str = "uniform",
        p_c: float = 0.9,
        points: int = 2,
        alpha: float = 0.5,
        eta: float = 15.0,
        scale: float | Sequence[float] | None = None,
        sigma0: float | None = None,
        strength: str = "adaptive",
        decay: float = 0.99,
        p_m: float = 1.0,
        p_reset: float | None = None,
        x0: Sequence[float] | Array | None = None,
    ) -> None:
        super().__init__(domain, seed)
        self._take(population=population, scale=scale, x0=x0)
        self.elites = whole(self.name, "elites", elites, least=0)
        self.reevaluate = flag(self.name, "reevaluate", reevaluate)
        if self.elites > (most := self.population - self.reevaluate):
            wanted = f"at most {most} with population = {self.population}"
            raise option_error(self.name, "elites", elites, wanted)
        self.selection = one_of(self.name, "selection", selection, SELECTIONS)
        self.rank_based = self.selection != "roulette"
        self.tournament_size = whole(self.name, "tournament_size", tournament_size)
        self.truncation_share = number(self.name, "truncation_share", truncation_share, above=0, most=1)
        self.crossover = one_of(self.name, "crossover", crossover, CROSSOVERS)
        self.p_c = number(self.name, "p_c", p_c, least=0, most=1)
        self.points = 1 if self.crossover == "one-point" else whole(self.name, "points", points)
        self.alpha = number(self.name, "alpha", alpha, least=0)
        self.eta = number(self.name, "eta", eta, least=0)
        steps = self._size("sigma0", sigma0, 0.5)
        self.sigma0 = self.sigma = float(steps.max())
        self._width = np.where(domain.integer, 0.0, steps / self.sigma0)
        self._uniform = sigma0 is None
        self.strength = one_of(self.name, "strength", strength, ("adaptive", "scheduled", "constant"))
        self.decay = number(self.name, "decay", decay, above=0, most=1)
        self.p_m = number(self.name, "p_m", p_m, least=0, most=1)
        p_reset = 1 / domain.d if p_reset is None else p_reset
        self.p_reset = number(self.name, "p_reset", p_reset, least=0, most=1)
        self.parents = np.empty((0, domain.d))
        self.parents_loss = np.empty(0)
        self.first_parent_loss = np.empty(0)
        self.generation = 0.0
        self._first = np.empty(0, dtype=np.int64)  # the first parents, as rows of what is asked again
        self._again = 0  # how many rows of the step are parents asked again
        self._checked = False
        self._seen = np.empty(0, dtype=np.uint64)  # hashes of the points of whole numbers told so far

    @property
    def noisy(self) -> bool:
        return self.reevaluate or super().noisy

    def _ask(self) -> Array:
        self._again = 0
        if not len(self.parents):
            return self._first_points(self.population)
        if self.noisy:
            return self._beside(self._best(self._survivors()))
        if self._doubtful() and self.elites and len(elites := self._best(self.elites)):
            return self._beside(elites)
        first, second = self._select(self.parents_loss, 2 * self.population).reshape(2, self.population)
        self.first_parent_loss = self.parents_loss[first]
        return self._offspring(self.parents[first], self.parents[second])

    def _first_points(self, n: int) -> Array:
        """x0 and points about it, [n, d]."""
        first = first_population(self.domain, self.rng, n, self._steps(), self.x0, boxes=self._uniform)
        return op.exchange(self.rng, first, domain=self.domain)

    def _ask_some(self, n: int) -> tuple[Array, Any]:
        """The first population, then offspring of those that are parents by now; known are their losses."""
        if self._given < self.population or not len(self.parents):
            z = self._first_points(n + 1)
            return z[:n] if not self._given else z[1:], None
        first, second = self._select(self.parents_loss, 2 * n).reshape(2, n)
        return self._offspring(self.parents[first], self.parents[second]), self.parents_loss[first]

    def _tell_some(self, z: Array, loss: Array, known: Any) -> None:
        """The best K of parents and offspring stay (GENITOR)."""
        if self.domain.integer.all():
            self._seen = np.union1d(self._seen, op.hashes(z))
        if known is not None:
            self._adapt(loss, known, len(z) / self.population)
        good = np.isfinite(loss)
        both = np.concatenate([self.parents, z[good]])
        losses = np.concatenate([self.parents_loss, loss[good]])
        best = np.sort(np.argsort(losses, kind="stable")[: self.population])
        self.parents, self.parents_loss = both[best], losses[best]

    def _beside(self, kept: Array) -> Array:
        """The parents of these indices again, and offspring of them: [K, d]."""
        self._again, n = len(kept), self.population - len(kept)
        parents = self.parents[kept]
        self._first, second = self._select(self.parents_loss[kept], 2 * n).reshape(2, n)
        return np.concatenate([parents, self._offspring(parents[self._first], parents[second])])

    def _survivors(self) -> int:
        """How many parents are asked again, of K points a step."""
        most = max(self.elites, round(self.truncation_share * self.population), 1)
        return min(most, self.population - 1)

    def _doubtful(self) -> bool:
        """Whether steps are so small for the first time that it is worth knowing if losses are noisy."""
        small = self.sigma < SMALL * self.sigma0 and self.strength == "adaptive"
        return small and not self._checked and not self.domain.integer.all()

    def _best(self, n: int) -> Array:
        """Indices of the best n parents, those that failed left out if there are others."""
        best = np.argsort(self.parents_loss, kind="stable")[:n]
        known = best[np.isfinite(self.parents_loss[best])]
        return np.asarray(known if len(known) else best[:1])

    def _steps(self) -> Array:
        return self.sigma * self._width

    def _select(self, loss: Array, n: int) -> Array:
        """n parents by their losses: indices [n]."""
        if self.selection == "tournament":
            return op.tournament(self.rng, loss, n, size=self.tournament_size)
        if self.selection == "roulette":
            return op.roulette(self.rng, loss, n)
        if self.selection == "rank":
            return op.linear_rank(self.rng, loss, n)
        share = (
            1.0 if self._again and self.noisy else self.truncation_share
        )  # survivors are truncated already
        return op.truncation(self.rng, loss, n, share=share)

    def _cross(self, a: Array, b: Array) -> Array:
        """Children of a and b, [n, d]."""
        real = ~self.domain.integer
        if self.crossover in ("one-point", "multi-point"):
            child = op.multi_point(self.rng, a, b, points=self.points)
        else:
            child = op.uniform(self.rng, a, b if self.crossover == "uniform" else b.copy())
        if self.crossover == "blend" and real.any():
            child = np.where(real, op.blend(self.rng, a, b, alpha=self.alpha), child)
        if self.crossover == "sbx" and real.any():
            child = np.where(
                real, op.simulated_binary(self.rng, a, b, eta=self.eta, domain=self.domain), child
            )
        copied = self.rng.random(len(a)) >= self.p_c
        child[copied] = a[copied]
        return child

    def _offspring(self, a: Array, b: Array) -> Array:
        """Children of a and b [n, d], new ones where the domain is one of whole numbers: [n, d]."""
        z = self._mutate(self._cross(a, b))
        return op.unseen(self.rng, z, self._seen, domain=self.domain) if self.domain.integer.all() else z

    def _mutate(self, z: Array) -> Array:
        if not self.domain.integer.all():
            z = op.mutate_real(self.rng, z, step=self._steps(), rate=self.p_m)
        if self.domain.integer.any():
            z = op.mutate_integer(self.rng, z, domain=self.domain, rate=self.p_reset)
        return op.exchange(self.rng, self._inside(z), domain=self.domain)

    def _tell(self, z: Array, loss: Array) -> None:
        loss = np.where(np.isnan(loss), np.inf, loss)
        if self.domain.integer.all():
            self._seen = np.union1d(self._seen, op.hashes(z))
        if not len(self.parents):
            self.parents, self.parents_loss = z, loss
            return
        n = self._again
        if n and not self.noisy:
            self._check(loss[:n])
        parents_loss = loss[:n][self._first] if n else self.first_parent_loss
        self._adapt(loss[n:], parents_loss)
        if self.noisy:
            self.parents, self.parents_loss = z, loss
        else:
            kept = self._best(self.elites) if self.elites else np.empty(0, dtype=np.int64)
            z, loss = z[n:], loss[n:]
            self.parents = np.concatenate([self.parents[kept], z])
            self.parents_loss = np.concatenate([self.parents_loss[kept], loss])

    def _check(self, loss: Array) -> None:
        """Compare the losses [n] of elites asked again with those they had."""
        self._checked = True
        if self._another(self.parents_loss[self._best(self.elites)], loss):
            self._noise_seen, self.sigma = True, self.sigma0

    def _adapt(self, loss: Array, parents_loss: Array, share: float = 1) -> None:
        """Count a share of a generation; learn from losses of offspring and of their first parents, [n]."""
        self.generation += share
        if self.strength == "adaptive":
            better, alike = loss < parents_loss, loss == parents_loss
            self.sigma *= math.exp(share * (float((better + TARGET * alike).mean()) - TARGET))
            if self.noisy:
                self.sigma = min(max(self.sigma, SMALLEST * self.sigma0), self.sigma0)
        elif self.strength == "scheduled":
            self.sigma = self.sigma0 * self.decay**self.generation

    def _go_back(self, z: Array) -> None:
        self.parents, self.parents_loss = z[None].copy(), np.zeros(1)
        self.sigma /= 2

    def _widen(self) -> None:
        if self.strength == "adaptive":
            wide = self._wider(self._steps(), self.sigma0 * self._width)
            self.sigma = min(float(wide.max()), WIDEST * self.sigma0)

    def should_stop(self) -> str | None:
        if self.sigma < 1e-12 * self.sigma0 and not self.domain.integer.all():
            return "the strength of the mutation fell below 1e-12 of the first one"
        return super().should_stop()
