"""The problems of others: BBOB and PBO (package `ioh`), and a noisy, high-dimensional suite.

- bbob: 24 real functions in [-5, 5]^d (Hansen et al. 2009), 100 d evaluations; a method's figure is the area
  under its ECDF of runtimes to 51 targets from 10^2 to 10^-8 above the optimum, over the logarithm of
  evaluations (Hansen et al. 2021, COCO, doi:10.1080/10556788.2020.1808977).
- pbo: functions of 64 bits (Doerr et al. 2020, doi:10.1016/j.asoc.2019.106027), 2,000 evaluations; a method's
  figure is the best value.
- noisy: d = 200, 500 and 1,000, 8,000 evaluations; a method's figure is the noiseless loss of what it
  recommends over the start's, the median of instances.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from gfo.core.domain import Array, Domain
from gfo.testing import BenchmarkFunction

BITS = 64
BIT_FUNCTIONS = {"OneMax": 1, "LeadingOnes": 2, "LABS": 18, "NKLandscapes": 25}  # name -> number in PBO
TARGETS = np.logspace(2, -8, 51)  # above the optimum


class Ioh(BenchmarkFunction):
    """A problem of ioh as a function to be minimised; what ioh maximises is negated.

    Instances of PBO above 1 are its first one with bits turned at random. (PBO's own have their values scaled
    and shifted, too, so that means over them say little.) Its NK landscapes, below 0, are raised by 1.

    Args:
        suite: "BBOB" or "PBO".
        number: of the function in it.
        instance: its shift and rotation, or the bits turned, from 1 on.
        d: its dimension.
    """

    def __init__(self, suite: str, number: int, instance: int, d: int) -> None:
        import ioh

        bits = suite == "PBO"
        self._problem = ioh.get_problem(number, 1 if bits else instance, d, getattr(ioh.ProblemClass, suite))
        self._turned = np.random.default_rng(instance).integers(0, 2, d) * (bits and instance > 1)
        self._raised = float(bits and number == BIT_FUNCTIONS["NKLandscapes"])
        domain = (
            Domain(np.zeros(d), np.ones(d), integer=np.ones(d, bool)) if bits else Domain.box(-5.0, 5.0, d)
        )
        self._sign = -1.0 if bits else 1.0
        self._whole = int if bits else float
        best = self._sign * float(self._problem.optimum.y)
        best = best if np.isfinite(best) else 0.0  # unknown: LABS, NK landscapes
        super().__init__(domain, np.full(d, np.nan), best)

    def _loss(self, z: Array) -> Array:
        z = np.where(self._turned, 1 - z, z)
        return self._sign * (np.array(self._problem(z.astype(self._whole).tolist())) + self._raised)


class LowEffectiveDimension(BenchmarkFunction):
    """||A (z - optimum)||^2 of a random A [10, d] with orthonormal rows: all but 10 directions are flat."""

    def __init__(self, d: int, *, seed: int, effective: int = 10) -> None:
        rng = np.random.default_rng([seed, d, 3])
        super().__init__(Domain.unbounded(d), rng.standard_normal(d))
        self._rows = np.linalg.qr(rng.standard_normal((d, effective)))[0].T

    def _loss(self, z: Array) -> Array:
        return np.asarray((((z - self.optimum) @ self._rows.T) ** 2).sum(axis=1))


class NarrowValley(BenchmarkFunction):
    """1000 (|y|^2 - (v y)^2) + (v y)^2 over d, y = z - optimum: steep in all directions but one, v."""

    def __init__(self, d: int, *, seed: int) -> None:
        rng = np.random.default_rng([seed, d, 4])
        super().__init__(Domain.unbounded(d), rng.standard_normal(d))
        v = rng.standard_normal(d)
        self._v = v / np.linalg.norm(v)

    def _loss(self, z: Array) -> Array:
        y = z - self.optimum
        along = (y @ self._v) ** 2
        return np.asarray((1000 * ((y**2).sum(axis=1) - along) + along) / len(self._v))


class MultiplicativeNoise(BenchmarkFunction):
    """|z - optimum|^2 (1 + 0.1 n), n of N(0, 1) for each candidate; `exact` is without n."""

    batches_differ = True  # as a task says whose losses are noisy

    def __init__(self, d: int, *, seed: int) -> None:
        rng = np.random.default_rng([seed, d, 5])
        super().__init__(Domain.unbounded(d), rng.standard_normal(d))
        self._rng = rng

    def exact(self, z: Array) -> Array:
        """Without noise [K] of z [K, d]."""
        return np.asarray(((z - self.optimum) ** 2).sum(axis=1))

    def _loss(self, z: Array) -> Array:
        return self.exact(z) * (1 + 0.1 * self._rng.standard_normal(len(z)))


class Minibatches(BenchmarkFunction):
    """Logistic regression on 4 d rows of noisy labels; a call sees 64 rows, all its candidates the same.

    mean_i ln(1 + exp(-y_i x_i z)) + |z|^2 / (2 n), less its minimum. Rows x_i are normal with variances
    9 / j^2 along a rotated axis j = 1 ... d, as those of features fall; y_i = 1 with the chance
    1 / (1 + exp(-x_i w)) and else -1, w of N(0, I): the optimum is the mode of w given the rows.
    """

    batches_differ = True

    def __init__(self, d: int, *, seed: int, batch: int = 64) -> None:
        self._rng, self._n, self._batch = np.random.default_rng([seed, d, 6]), max(256, 4 * d), batch
        axes = np.linalg.qr(self._rng.standard_normal((d, d)))[0]
        x = 3 * self._rng.standard_normal((self._n, d)) / np.arange(1, d + 1) @ axes
        w = self._rng.standard_normal(d)
        self._x = np.where(self._rng.random(self._n) < expit(x @ w), 1.0, -1.0)[:, None] * x
        self._least = 0.0
        found = minimize(
            lambda z: self._of(z[None], self._x)[0],
            np.zeros(d),
            jac=lambda z: (z - expit(-self._x @ z) @ self._x) / self._n,
            hess=self._hessian,
            method="trust-exact",
            options={"gtol": 1e-9},
        )
        super().__init__(Domain.unbounded(d), found.x)
        self._least = float(found.fun)

    def _hessian(self, z: Array) -> Array:
        chance = expit(self._x @ z)
        weight = (chance * (1 - chance))[:, None]
        return np.asarray((np.eye(len(z)) + self._x.T @ (weight * self._x)) / self._n)

    def _of(self, z: Array, x: Array) -> Array:
        prior = (z**2).sum(axis=1) / (2 * self._n)
        return np.asarray(np.logaddexp(0.0, -z @ x.T).mean(axis=1) + prior - self._least)

    def exact(self, z: Array) -> Array:
        """The loss on all rows [K] of z [K, d]."""
        return self._of(z, self._x)

    def _loss(self, z: Array) -> Array:
        return self._of(z, self._x[self._rng.choice(self._n, self._batch, replace=False)])


NOISY: dict[str, Callable[..., BenchmarkFunction]] = {
    "low effective dimension": LowEffectiveDimension,
    "narrow valley": NarrowValley,
    "minibatches": Minibatches,
    "multiplicative noise": MultiplicativeNoise,
}


@dataclass(frozen=True)
class Suite:
    """A set of problems with its own budget.

    Attributes:
        name: on the command line.
        functions: their names.
        dimensions: where they are searched.
        instances: how many of each, where the command line does not say.
        budget: evaluations of a run of d dimensions.
        make: (function, d, instance) -> the problem.
        package: that has the problems.
    """

    name: str
    functions: tuple[str, ...]
    dimensions: tuple[int, ...]
    instances: int
    budget: Callable[[int], int]
    make: Callable[[str, int, int], BenchmarkFunction]
    package: str = "ioh"

    def precisions(self, gap: float) -> Any:
        """The targets of a run as shares of the gap at its start."""
        return (TARGETS / gap).tolist() if self.name == "bbob" else []


SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            "bbob",
            tuple(f"f{number}" for number in range(1, 25)),
            (5, 20, 40),
            3,
            lambda d: 100 * d,
            lambda name, d, instance: Ioh("BBOB", int(name[1:]), instance, d),
        ),
        Suite(
            "pbo",
            tuple(BIT_FUNCTIONS),
            (BITS,),
            15,
            lambda d: 2_000,
            lambda name, d, instance: Ioh("PBO", BIT_FUNCTIONS[name], instance, d),
        ),
        Suite(
            "noisy",
            tuple(NOISY),
            (200, 500, 1_000),
            5,
            lambda d: 8_000,
            lambda name, d, instance: NOISY[name](d, seed=instance),
            package="numpy",
        ),
    )
}
