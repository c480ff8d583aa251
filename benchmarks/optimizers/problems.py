"""Functions, precisions and budgets of the optimizer benchmark, and the count of evaluations to them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from gfo import testing
from gfo.core.domain import Array, Domain
from gfo.testing import BenchmarkFunction

REAL = ("sphere", "ellipsoid", "rosenbrock", "rastrigin", "noisy sphere")
INTEGER = ("one-max", "integer sphere", "mixed sphere")
_CLASSES: dict[str, Callable[..., BenchmarkFunction]] = {
    "sphere": testing.Sphere,
    "ellipsoid": testing.Ellipsoid,
    "rosenbrock": testing.Rosenbrock,
    "rastrigin": testing.Rastrigin,
    "noisy sphere": testing.NoisySphere,
    "one-max": testing.OneMax,
    "integer sphere": testing.IntegerSphere,
    "mixed sphere": testing.MixedSphere,
}
LOW_BUDGET = {"evaluations": 500, "d": 200}  # a short search for a soft prompt
LOW = ("sphere", "ellipsoid", "logistic")
DIMENSIONS = (2, 10, 40, 200)
SIGMA0 = 0.5  # the first step size of all that take one; the default of gfo's methods
BOX = 5.0  # methods that work in boxes get [-5, 5]^d; the optima are drawn from N(0, I)
PRECISIONS = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)  # of the gap at the start
MAIN = 1e-2  # the precision of the table
HOPELESS = 5  # where none of so many first seeds reaches it, the others are not run


def budget(d: int, most: int, *, slow: bool) -> int:
    """Evaluations a run may use; half for methods that need about a millisecond a candidate."""
    return min(400 * max(d, 5), most) // (2 if slow else 1)


def problem(name: str, d: int, seed: int, *, box: bool) -> BenchmarkFunction:
    """The instance `seed` of a function, in the box or without bounds."""
    if name in INTEGER:
        return _CLASSES[name](d, seed=seed)
    domain = Domain.box(-BOX, BOX, d) if box else Domain.unbounded(d)
    return _CLASSES[name](d, seed=seed, domain=domain)


class Finished(Exception):  # noqa: N818 (the regular end of a run, no error)
    """The budget is used, or the last precision is reached."""


class Recorder:
    """A function that counts its evaluations and notes when each precision is first reached.

    A precision p is reached at evaluation n when the n-th point, or a point that the method recommends
    after n evaluations, has f(z) - minimum <= p (f(start) - minimum), f without noise.

    Attributes:
        domain: where the function is searched.
        start: the start of all methods [d], zero moved into the domain.
        step: the first step size of all methods that take one: the default of gfo's, half of `scale`.
        batches_differ: whether losses of different calls are of different batches.
        budget: evaluations after which `Finished` is raised.
        hits: evaluations to each precision, None where it was not reached.
        seconds: CPU seconds of the method itself, to each precision.
        evaluations: done so far.
        lowest: loss without noise of the best point evaluated.
        recommended: loss without noise of the point that `look` saw last, or None.
    """

    def __init__(
        self,
        function: BenchmarkFunction,
        budget: int,
        precisions: Iterable[float] = PRECISIONS,
        step: float = SIGMA0,
    ) -> None:
        self.domain = function.domain
        self.start = function.domain.clip(np.zeros(function.domain.d))
        self.step = step
        self.batches_differ = bool(getattr(function, "batches_differ", False))
        self.budget = budget
        self.evaluations = 0
        self._function = function
        self._exact: Any = getattr(function, "exact", None)
        self._precisions = list(precisions)
        gap = float(self._gap(self.start[None])[0])
        self._targets = gap * np.array(self._precisions)
        self.hits: list[int | None] = [None] * len(self._precisions)
        self.seconds: list[float | None] = [None] * len(self._precisions)
        self._next = 0
        self._own = 0.0
        self.lowest = gap + function.minimum
        self.recommended: float | None = None
        self._begin = time.process_time()

    def _gap(self, z: Array) -> Array:
        """f(z) - minimum without noise [K] of z [K, d]."""
        loss = self._exact(z) if self._exact else self._function(z)
        return np.asarray(loss - self._function.minimum)

    def __call__(self, z: Array) -> Array:
        """The losses [K] of z [K, d]."""
        entered = time.process_time()
        loss = self._function(z)
        gap = self._gap(z) if self._exact else loss - self._function.minimum
        before, self.evaluations = self.evaluations, self.evaluations + len(z)
        self.lowest = min(self.lowest, float(gap[: self.budget - before].min()) + self._function.minimum)
        self._note(np.minimum.accumulate(gap), before + 1, entered)
        self._own += time.process_time() - entered
        if self.evaluations >= self.budget:
            raise Finished
        return loss

    def one(self, z: Array) -> float:
        """The loss of one point z [d]."""
        return float(self(np.asarray(z, dtype=np.float64)[None])[0])

    def look(self, z: Array) -> None:
        """Note what the method recommends now, z [d]; costs no evaluation."""
        entered = time.process_time()
        gap = self._gap(np.asarray(z)[None])
        self.recommended = float(gap[0]) + self._function.minimum
        self._note(gap, self.evaluations, entered)
        self._own += time.process_time() - entered

    def _note(self, lowest: Array, first: int, entered: float) -> None:
        """Lowest gaps so far [K], the first of them at evaluation `first`."""
        while self._next < len(self._targets) and lowest[-1] <= self._targets[self._next]:
            at = first + int(np.argmax(lowest <= self._targets[self._next]))
            if at <= self.budget:
                self.hits[self._next] = at
                self.seconds[self._next] = entered - self._begin - self._own
            self._next += 1
        if self._precisions and self._next == len(self._targets):
            raise Finished


class Logistic(BenchmarkFunction):
    """mean_i ln(1 + exp(-m_i)), m_i = b_i + (a + a_i) z / sqrt(2 d): a classifier's loss on 32 rows.

    Coordinates of a and a_i and the margins b_i at the start are drawn from N(0, 1), so unit-scale z
    changes a margin by about 1. The loss has the lower bound 0 and no minimum.
    """

    def __init__(self, d: int, *, seed: int = 0, rows: int = 32) -> None:
        rng = np.random.default_rng([seed, d, 2])
        super().__init__(Domain.unbounded(d), np.full(d, np.nan))
        self._slope = (rng.standard_normal(d) + rng.standard_normal((rows, d))) / np.sqrt(2 * d)
        self._margin = rng.standard_normal(rows)

    def of_rows(self, z: Array, rows: Array | slice) -> Array:
        """The mean loss on some rows [K] of z [K, d]."""
        margin = self._margin[rows] + z @ self._slope[rows].T
        return np.asarray(np.logaddexp(0.0, -margin).mean(axis=1))

    def _loss(self, z: Array) -> Array:
        return self.of_rows(z, slice(None))


def low_budget_function(name: str, seed: int) -> BenchmarkFunction:
    """A smooth function of unit scale without bounds, d = 200."""
    d = LOW_BUDGET["d"]
    if name == "logistic":
        return Logistic(d, seed=seed)
    return testing.Sphere(d, seed=seed) if name == "sphere" else testing.Ellipsoid(d, condition=10, seed=seed)
