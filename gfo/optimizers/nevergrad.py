"""Any optimizer of nevergrad's registry, as `nevergrad:<name>`.

Rapin and Teytaud (2018), Nevergrad: a gradient-free optimization platform,
https://github.com/facebookresearch/nevergrad. Its methods ask and tell one candidate at a time; K of
them are asked before any is told, which it calls K workers.

Some of its methods draw from the global generators of numpy and Python: while nevergrad works, these
are this optimizer's own, and the caller's are put back afterwards. The state holds what nevergrad was told,
not its objects: loading it asks and tells it all again. Integer and categorical genes are nevergrad's own
choices (nevergrad_genes.py). A failed candidate gets a loss worse than the worst of its step. What nevergrad
raises is a `GfoError` that names the method and the reason. The recommendation is nevergrad's, by method its
mean or its best point. Its methods do not say when they have converged, and some (CMA) wander off again
afterwards.
"""

from __future__ import annotations

import contextlib
import difflib
import random
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from gfo.core.checking import named
from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError
from gfo.optimizers.fitness_shaping import worst_for_failed
from gfo.optimizers.nevergrad_genes import grouped, parameter, point
from gfo.optimizers.replayed import ReplayedOptimizer


@named
class Nevergrad(ReplayedOptimizer):
    """A method of nevergrad's registry.

    Args:
        domain: the box searched. nevergrad knows of bounds where a dimension has two; of others its points
            are clipped. Integer and categorical genes are allowed.
        seed: of nevergrad's generator, and of what stands for the global ones.
        population: K, its workers; 4 + floor(3 ln d) by default, 1 for methods that cannot take more.
        scale: a typical change of a coordinate; 1 by default, within a box a fifth of its width.
        sigma0: the standard deviation of nevergrad's mutations of real genes in z; by default half of
            `scale`.
        x0: where it starts [d]; zero, moved into the domain, by default.
        budget: evaluations planned, which some methods need and most use to choose their settings; the
            plan's by default.
    """

    method: ClassVar[str]

    def __init__(
        self,
        domain: Domain,
        seed: int,
        *,
        population: int | None = None,
        scale: float | Sequence[float] | None = None,
        sigma0: float | None = None,
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
        self._take(population=population, default=1 if serial else None, least=1, scale=scale, x0=x0)
        if serial and self.population > 1:
            raise GfoError(f"optimizer '{self.name}': population = {population} must be 1")
        self.sigma0 = self._size("sigma0", sigma0, 0.5)
        self._plan_for(budget)
        self._groups = grouped(domain)
        self._begin()

    def _begin(self) -> None:
        """Nothing told yet; nevergrad's optimizer is made at the first ask, as the plan comes before."""
        self._candidates: list[Any] = []
        self._global = (np.random.RandomState(self.seed).get_state(), random.Random(self.seed).getstate())
        self._optimizer: Any = None

    def _made(self) -> Any:
        """nevergrad's optimizer; called while working."""
        if self._optimizer is None:
            ng = _nevergrad()
            parts = [parameter(ng, self.domain, genes, self.sigma0, self.x0) for genes in self._groups]
            space = parts[0] if len(parts) == 1 else ng.p.Tuple(*parts)
            space.random_state = np.random.RandomState(self.seed)
            method = ng.optimizers.registry[self.method]
            self._optimizer = method(space, budget=self.budget, num_workers=self.population)
        return self._optimizer

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        """This optimizer's own stand-in for the global generators; quiet, and with errors of one line."""
        _nevergrad()
        callers = _global_generators()
        _set_global_generators(self._global)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except Exception as error:
            words = (str(error).splitlines() or [""])[0]
            hint = "" if self.budget else "; it may want a budget: give the run evaluations, or budget = 1000"
            raise GfoError(
                f"optimizer '{self.name}': nevergrad raises {type(error).__name__}"
                f"{': ' + words if words else ''}{hint}"
            ) from error
        finally:
            self._global = _global_generators()
            _set_global_generators(callers)

    def _ask(self) -> Array:
        with self._working():
            optimizer = self._made()
            self._candidates = [optimizer.ask() for _ in range(self.population)]
            z = np.array([point(self._groups, c.value, self.domain.d) for c in self._candidates])
        return self.domain.clip(np.where(np.isfinite(z), z, self.x0))

    def _learn(self, z: Array, loss: Array) -> None:
        with self._working():
            for candidate, value in zip(self._candidates, worst_for_failed(loss), strict=True):
                self._optimizer.tell(candidate, float(value))

    def recommend(self) -> Array:
        """What nevergrad recommends, [d]; before the first loss, the start; the incumbent if it fails to."""
        if not np.isfinite(self.best_loss):
            return self.best_z.copy()
        kept = self._optimizer.parametrization.random_state.get_state()
        kept_global = self._global
        try:
            with self._working():
                value = self._optimizer.provide_recommendation().value
                z = point(self._groups, value, self.domain.d)
        except GfoError:
            return self.best_z.copy()
        finally:
            self._optimizer.parametrization.random_state.set_state(kept)
            self._global = kept_global
        return self.domain.clip(np.where(np.isfinite(z), z, self.best_z))


def _global_generators() -> tuple[Any, Any]:
    """The states of numpy's and Python's global generators."""
    return np.random.get_state(), random.getstate()  # noqa: NPY002


def _set_global_generators(states: tuple[Any, Any]) -> None:
    np.random.set_state(states[0])  # noqa: NPY002
    random.setstate(states[1])


def _nevergrad() -> Any:
    """The library; importing it draws from the global generators, which are put back.

    Its metamodels call float on arrays of one number, which numpy refuses from 2.4 on (nevergrad 1.0.12).
    """
    callers = _global_generators()
    import nevergrad
    from nevergrad.optimization import metamodel

    metamodel.float = _number
    _set_global_generators(callers)
    return nevergrad


def _number(x: Any) -> float:
    """x as a float, also where it is an array of one number."""
    return float(np.asarray(x, dtype=np.float64).reshape(-1)[0])


def nevergrad_method(method: str) -> type[Nevergrad]:
    """The optimizer class for one name of the registry."""
    return type("Nevergrad", (Nevergrad,), {"method": method, "name": f"nevergrad:{method}"})
