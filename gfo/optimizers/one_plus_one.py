"""(1 + lambda) EA for genes: the best of lambda mutants replaces its parent if it is no worse.

Muehlenbein (1992), How genetic algorithms really work; Jansen, De Jong and Wegener (2005), On the choice of
the offspring population size, doi:10.1162/106365605774666921. Rates from a power law, so that none need be
known: Doerr, Le, Makhmara and Nguyen (2017), Fast genetic algorithms,
doi:10.1145/3071178.3071301. No mutant equals its parent (Carvalho Pinto and Doerr 2018, arXiv:1812.00493).

    alpha ~ power law of exponent beta on 1 ... d / 2
    each gene is set anew with chance alpha / d, at least one
    x <- the best mutant y where f(y) <= f(x)

Integer, binary and categorical genes alike are set to another value of their range. Real genes move by
N(0, sigma0^2). Where batches differ or losses are noisy the parent is asked again beside its mutants.
The recommendation is the parent.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gfo.core.checking import named
from gfo.core.domain import Array, Domain
from gfo.optimizers.champion import Championed
from gfo.optimizers.genetic_operators import mutate_integer
from gfo.optimizers.options import number

TARGET = 1 / 5


@named
class OnePlusOneEA(Championed):
    """(1 + lambda) evolutionary algorithm with heavy-tailed mutation.

    Args:
        domain: the box searched; for genes of whole numbers, binary and categorical ones.
        seed: of the method's own random generator.
        population: lambda, mutants a step; 4 + floor(3 ln d) by default. 1 is the (1 + 1) EA, the best use of
            evaluations one by one.
        scale: a typical change of a real coordinate; 1 by default, within a box a fifth of its width.
        sigma0: step of real genes in z; half of `scale` by default.
        x0: the first parent [d]; zero, moved into the domain, by default.
        beta: exponent of the power law (Doerr et al.: 1.5).
    """

    name = "1+1-ea"
    rank_based = True
    integers = True
    varies = True
    _state = ("x", "loss", "sigma")

    def __init__(
        self,
        domain: Domain,
        seed: int,
        *,
        population: int | None = None,
        scale: float | Sequence[float] | None = None,
        sigma0: float | None = None,
        x0: Sequence[float] | Array | None = None,
        beta: float = 1.5,
    ) -> None:
        super().__init__(domain, seed)
        self._take(population=population, least=1, scale=scale, x0=x0)
        self.sigma = self._sigma0 = self._size("sigma0", sigma0, 0.5)
        self.beta = number(self.name, "beta", beta, above=1)
        rates = np.arange(1, max(1, domain.d // 2) + 1)
        self._rates = rates / domain.d
        self._chances = rates**-self.beta / (rates**-self.beta).sum()
        self.x = self.x0.copy()
        self.loss = np.inf

    def _ask(self) -> Array:
        first = np.isinf(self.loss)
        n = max(1, self.population - 1) if first or self.noisy else self.population
        mutants = self._mutants(n)
        if (first and not self._failed_steps) or (self.noisy and not first):
            return np.concatenate([self.x[None], mutants])
        return mutants

    def _mutants(self, n: int) -> Array:
        """n points that differ from the parent, [n, d]."""
        d, integer = self.domain.d, self.domain.integer
        rate = self._rates[self.rng.choice(len(self._rates), n, p=self._chances)]
        changed = self.rng.random((n, d)) < rate[:, None]
        changed[np.arange(n), self.rng.integers(0, d, n)] |= ~changed.any(axis=1)
        parents = np.repeat(self.x[None], n, axis=0)
        other = parents + self.sigma * self.rng.standard_normal((n, d))
        if integer.any():
            new = mutate_integer(self.rng, parents, domain=self.domain, rate=1.0)
            other = np.where(integer, new, other)
        return self.domain.clip(np.where(changed, other, parents))

    def _tell(self, z: Array, loss: Array) -> None:
        loss = np.where(np.isnan(loss), np.inf, loss)
        again = self.noisy and np.isfinite(self.loss)
        here = loss[0] if again else self.loss
        rest = loss[1:] if again else loss
        i = int(np.argmin(rest)) + again
        better = float(((rest < here) + TARGET * (rest == here)).mean())
        first = np.isinf(self.loss)
        if loss[i] <= here:
            self.x, self.loss = z[i].copy(), float(loss[i])
        else:
            self.loss = float(here)
        if not self.domain.integer.all() and not first:  # the 1/5 rule for the step of real genes
            grown = self.sigma * np.exp((better - TARGET) / 3)
            self.sigma = np.clip(grown, 1e-12 * self._sigma0, 10 * self._sigma0)

    def _widen(self) -> None:
        self.sigma = self._wider(self.sigma, self._sigma0)

    def _go_back(self, z: Array) -> None:
        self.x = z.copy()

    def recommend(self) -> Array:
        """The parent, where losses are noisy the champion: [d]."""
        return super().recommend() if self.noisy or np.isinf(self.loss) else self.x.copy()
