"""Any optimizer of nevergrad's registry, as `nevergrad:<name>`.

Rapin and Teytaud (2018), Nevergrad: a gradient-free optimization platform,
https://github.com/facebookresearch/nevergrad. Its methods ask and tell one candidate at a time; K of
them are asked before any is told, which it calls K workers.

Some of its methods draw from the global generators of numpy and Python: while nevergrad works, these
are this optimizer's own, and the caller's are put back afterwards. The state holds what nevergrad was told,
not its objects: loading it asks and tells it all again. Integer genes are rounded numbers to nevergrad, in a
domain of integers by its own integer casting. A failed candidate gets a loss worse than the
worst of its step. The recommendation is nevergrad's, by method its mean or its best point. Its
methods do not say when they have converged, and some (CMA) wander off again afterwards.
"""

from __future__ import annotations

import contextlib
import difflib
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError
from gfo.optimizers.base import (
    BaseOptimizer,
    default_population,
    number,
    scale,
    start_option,
    start_point,
    whole,
    worst_for_failed,
)


class Nevergrad(BaseOptimizer):
    """A method of nevergrad's registry on an array of real numbers.

    Args:
        domain: the box searched. nevergrad knows of the bounds only if no dimension lacks one;
            otherwise its points are clipped. Integer genes are allowed.
        seed: of nevergrad's generator, and of what stands for the global ones.
        population: K, its workers; 4 + floor(3 ln d) by default, 1 for methods that cannot take more.
        sigma0: the standard deviation of nevergrad's mutations, in unit-scale z; of integer genes a sixth of
            their range, as nevergrad takes it for arrays with bounds.
        x0: where it starts [d]; zero, moved into the domain, by default.
        budget: evaluations planned, which some methods need and most use to choose their settings.
    """

    method: ClassVar[str]
    integers = True

    def __init__(
        self,
        domain: Domain,
        seed: int,
        *,
        population: int | None = None,
        sigma0: float = 0.5,
        x0: Sequence[float] | Array | None = None,
        budget: int | None = None,
    ) -> None:
        super().__init__(domain, seed)
        registry = _nevergrad().optimizers.registry
        if self.method not in registry:
            near = difflib.get_close_matches(self.method, sorted(registry), n=1, cutoff=0.4)
            hint = f"did you mean 'nevergrad:{near[0]}'? " if near else ""
            raise GfoError(
                f"unknown optimizer '{self.name}': {hint}nevergrad.optimizers.registry has all names"
            )
        serial = bool(registry[self.method].no_parallelization)
        if population is None:
            population = 1 if serial else default_population(domain.d)
        self.population = whole(self.name, "population", population)
        if serial and self.population > 1:
            raise GfoError(f"optimizer '{self.name}': population = {population} must be 1")
        self.sigma0 = number(self.name, "sigma0", sigma0, above=0)
        self.x0 = start_option(self.name, domain, x0)
        self.budget = None if budget is None else whole(self.name, "budget", budget)
        self._begin()

    def _begin(self) -> None:
        """A new nevergrad optimizer that was told nothing."""
        self._losses: list[Array] = []
        self._candidates: list[Any] = []
        self._global = (np.random.RandomState(self.seed).get_state(), random.Random(self.seed).getstate())
        with self._working() as ng:
            array = ng.p.Array(init=self.x0)
            array.set_mutation(sigma=self._sigma() if self.domain.bounded else self.sigma0)
            if np.isfinite(self.domain.high - self.domain.low).all():
                array.set_bounds(self.domain.low, self.domain.high)
            if self.domain.integer.all():
                array.set_integer_casting()
            array.random_state = np.random.RandomState(self.seed)
            method = ng.optimizers.registry[self.method]
            try:
                self._optimizer = method(array, budget=self.budget, num_workers=self.population)
            except (ValueError, TypeError, AssertionError) as error:
                raise GfoError(f"optimizer '{self.name}': nevergrad refuses its options: {error}") from error

    def _sigma(self) -> Array:
        """Standard deviations of the mutations, [d]."""
        real = scale(self.domain, self.sigma0)
        return np.where(self.domain.integer, (self.domain.high - self.domain.low) / 6, real)

    @contextlib.contextmanager
    def _working(self) -> Iterator[Any]:
        """nevergrad, with this optimizer's own stand-in for the global generators, and quiet."""
        ng = _nevergrad()
        callers = _global_generators()
        _set_global_generators(self._global)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ng.errors.NevergradWarning)
                yield ng
        finally:
            self._global = _global_generators()
            _set_global_generators(callers)

    def _ask(self) -> Array:
        with self._working():
            self._candidates = [self._optimizer.ask() for _ in range(self.population)]
        z = np.array([candidate.value for candidate in self._candidates])
        return self.domain.clip(np.where(np.isfinite(z), z, self.x0))

    def _tell(self, z: Array, loss: Array) -> None:
        with self._working():
            for candidate, value in zip(self._candidates, worst_for_failed(loss), strict=True):
                self._optimizer.tell(candidate, float(value))
        self._losses.append(loss)

    def _skip(self, z: Array) -> None:
        self._losses.append(np.full(len(z), np.nan))

    def recommend(self) -> Array:
        """What nevergrad recommends, [d]; before the first loss, the start."""
        if not np.isfinite(self.best_loss):
            return self.best_z.copy()
        kept = self._optimizer.parametrization.random_state.get_state()
        kept_global = self._global
        with self._working():
            value = np.array(self._optimizer.provide_recommendation().value, dtype=np.float64)
        self._optimizer.parametrization.random_state.set_state(kept)
        self._global = kept_global
        return self.domain.clip(np.where(np.isfinite(value), value, self.best_z))

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimizer": self.name,
            "seed": self.seed,
            "d": self.domain.d,
            "population": self.population,
            "losses": [loss.copy() for loss in self._losses],
            "best_z": self.best_z.copy(),
            "best_loss": self.best_loss,
            "asked": self._asked is not None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._check_state(state)
        if state["population"] != self.population:
            raise GfoError(
                f"optimizer '{self.name}' with population = {self.population} cannot load a state with "
                f"{state['population']}"
            )
        self.seed = int(state["seed"])
        self._asked, self._failed_steps = None, 0
        self.best_z, self.best_loss = start_point(self.domain), np.inf
        self._begin()
        for loss in state["losses"]:
            self.tell(self.ask(), loss)
        self.best_z, self.best_loss = np.array(state["best_z"]), float(state["best_loss"])
        if state["asked"]:
            self.ask()


def _global_generators() -> tuple[Any, Any]:
    """The states of numpy's and Python's global generators."""
    return np.random.get_state(), random.getstate()  # noqa: NPY002


def _set_global_generators(states: tuple[Any, Any]) -> None:
    np.random.set_state(states[0])  # noqa: NPY002
    random.setstate(states[1])


def _nevergrad() -> Any:
    """The library; importing it draws from the global generators, which are put back."""
    callers = _global_generators()
    import nevergrad

    _set_global_generators(callers)
    return nevergrad


def nevergrad_method(method: str) -> type[Nevergrad]:
    """The optimizer class for one name of the registry."""
    return type("Nevergrad", (Nevergrad,), {"method": method, "name": f"nevergrad:{method}"})
