"""GA: genetic algorithm for real, integer, binary and mixed genomes.

Holland (1975), Adaptation in natural and artificial systems; Goldberg (1989); real genes as
Eshelman and Schaffer (1993) and Deb and Agrawal (1995); strength of the mutation by the 1/5 rule:
Rechenberg (1973), Evolutionsstrategie, in the form of Kern et al. (2004),
doi:10.1023/B:NACO.0000023416.59689.4e.

    parents    the best `elites` of all points so far and the K offspring told last
    offspring  crossover of two selected parents with chance p_c, else a copy of the first; then mutation
    ln sigma <- ln sigma + (share better than their first parent - 1/5)           adaptive strength

The recommendation is the incumbent. For stochastic losses `reevaluate=True` asks for the elites
again in each generation, so that a lucky loss does not stay, and the recommendation is the first elite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gfo.core.domain import Array, Domain
from gfo.optimizers import genetic_operators as op
from gfo.optimizers.base import (
    BaseOptimizer,
    first_population,
    number,
    one_of,
    option_error,
    population_option,
    scale,
    start_option,
    whole,
)

SELECTIONS = ("tournament", "roulette", "rank", "truncation")
CROSSOVERS = ("one-point", "multi-point", "uniform", "blend", "sbx")


class GeneticAlgorithm(BaseOptimizer):
    """Genetic algorithm with a choice of operators.

    Args:
        domain: the box searched; integer and binary genes are allowed.
        seed: of the method's own random generator.
        population: K; 4 + floor(3 ln d) by default.
        elites: points that stay, up to K.
        reevaluate: whether the elites are evaluated anew in each generation, as part of K.
        selection: "tournament", "roulette", "rank" or "truncation".
        tournament_size: parents drawn for a tournament.
        truncation_share: share of the parents that truncation leaves.
        crossover: "one-point", "multi-point", "uniform", "blend" or "sbx"; with the last two,
            integer genes are crossed uniformly.
        p_c: chance of a crossover.
        points: places of a multi-point crossover.
        alpha: of the blend (Eshelman and Schaffer: 0.5).
        eta: of the simulated binary crossover (Deb and Agrawal: 2 to 20).
        sigma0: spread of the first population and first strength of the mutation of real genes.
        strength: "adaptive", "scheduled" (sigma0 decay^generation) or "constant".
        decay: of the scheduled strength.
        p_m: chance that a real gene mutates.
        p_reset: chance that an integer gene is set anew; 1 / d by default.
        x0: a member of the first population [d]; zero, moved into the domain, by default.
    """

    name = "ga"
    integers = True
    _state = ("parents", "parents_loss", "first_parent_loss", "sigma", "generation")

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
        sigma0: float = 0.5,
        strength: str = "adaptive",
        decay: float = 0.99,
        p_m: float = 1.0,
        p_reset: float | None = None,
        x0: Sequence[float] | Array | None = None,
    ) -> None:
        super().__init__(domain, seed)
        self.population = population_option(self.name, domain, population)
        self.elites = whole(self.name, "elites", elites, least=0)
        self.reevaluate = bool(reevaluate)
        if self.elites > self.population - self.reevaluate:
            most = self.population - self.reevaluate
            raise option_error(
                self.name, "elites", elites, f"at most {most} with population = {self.population}"
            )
        self.selection = one_of(self.name, "selection", selection, SELECTIONS)
        self.rank_based = self.selection != "roulette"
        self.tournament_size = whole(self.name, "tournament_size", tournament_size)
        self.truncation_share = number(self.name, "truncation_share", truncation_share, above=0, most=1)
        self.crossover = one_of(self.name, "crossover", crossover, CROSSOVERS)
        self.p_c = number(self.name, "p_c", p_c, least=0, most=1)
        self.points = 1 if self.crossover == "one-point" else whole(self.name, "points", points)
        self.alpha = number(self.name, "alpha", alpha, least=0)
        self.eta = number(self.name, "eta", eta, least=0)
        self.sigma0 = self.sigma = number(self.name, "sigma0", sigma0, above=0)
        self.strength = one_of(self.name, "strength", strength, ("adaptive", "scheduled", "constant"))
        self.decay = number(self.name, "decay", decay, above=0, most=1)
        self.p_m = number(self.name, "p_m", p_m, least=0, most=1)
        self.p_reset = number(
            self.name, "p_reset", 1 / domain.d if p_reset is None else p_reset, least=0, most=1
        )
        self._x0 = start_option(self.name, domain, x0)
        self._width = scale(domain, 1.0)
        self.parents = np.empty((0, domain.d))
        self.parents_loss = np.empty(0)
        self.first_parent_loss = np.empty(0)
        self.generation = 0

    def _ask(self) -> Array:
        if not len(self.parents):
            return first_population(self.domain, self.rng, self.population, self.sigma0, self._x0)
        kept = self._elites() if self.reevaluate else np.empty(0, dtype=int)
        n = self.population - len(kept)
        first, second = self._select(2 * n).reshape(2, n)
        self.first_parent_loss = self.parents_loss[first]
        children = self._cross(self.parents[first], self.parents[second])
        return np.concatenate([self.parents[kept], self._mutate(children)])

    def _elites(self) -> Array:
        """Indices of the best `elites` parents that did not fail."""
        best = np.argsort(self.parents_loss, kind="stable")[: self.elites]
        return np.asarray(best[np.isfinite(self.parents_loss[best])])

    def _select(self, n: int) -> Array:
        if self.selection == "tournament":
            return op.tournament(self.rng, self.parents_loss, n, size=self.tournament_size)
        if self.selection == "roulette":
            return op.roulette(self.rng, self.parents_loss, n)
        if self.selection == "rank":
            return op.linear_rank(self.rng, self.parents_loss, n)
        return op.truncation(self.rng, self.parents_loss, n, share=self.truncation_share)

    def _cross(self, a: Array, b: Array) -> Array:
        """Children of a and b, [n, d]."""
        real = ~self.domain.integer
        if self.crossover in ("one-point", "multi-point"):
            child = op.multi_point(self.rng, a, b, points=self.points)
        else:
            child = op.uniform(self.rng, a, b)
        if self.crossover == "blend" and real.any():
            child = np.where(real, op.blend(self.rng, a, b, alpha=self.alpha), child)
        if self.crossover == "sbx" and real.any():
            child = np.where(real, op.simulated_binary(self.rng, a, b, eta=self.eta), child)
        return np.where(self.rng.random((len(a), 1)) < self.p_c, child, a)

    def _mutate(self, z: Array) -> Array:
        if not self.domain.integer.all():
            step = np.where(self.domain.integer, 0.0, self.sigma * self._width)
            z = op.mutate_real(self.rng, z, step=step, rate=self.p_m)
        if self.domain.integer.any():
            z = op.mutate_integer(self.rng, z, domain=self.domain, rate=self.p_reset)
        return self.domain.clip(z)

    def _tell(self, z: Array, loss: Array) -> None:
        loss = np.where(np.isnan(loss), np.inf, loss)
        if len(self.parents):
            children = loss[len(loss) - len(self.first_parent_loss) :]
            self._adapt(float((children < self.first_parent_loss).mean()))
        if self.reevaluate or not len(self.parents):
            self.parents, self.parents_loss = z, loss
        else:
            kept = self._elites()
            self.parents = np.concatenate([self.parents[kept], z])
            self.parents_loss = np.concatenate([self.parents_loss[kept], loss])

    def _adapt(self, share_better: float) -> None:
        self.generation += 1
        if self.strength == "adaptive":
            self.sigma *= math.exp(share_better - 0.2)
        elif self.strength == "scheduled":
            self.sigma = self.sigma0 * self.decay**self.generation

    def recommend(self) -> Array:
        """The incumbent; with re-evaluation, the best of the points told last: [d]."""
        if self.reevaluate and len(self.parents):
            return np.array(self.parents[np.argmin(self.parents_loss)])
        return super().recommend()

    def should_stop(self) -> str | None:
        if self.sigma < 1e-12 and not self.domain.integer.all():
            return "the strength of the mutation fell below 1e-12"
        return super().should_stop()
