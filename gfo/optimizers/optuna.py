"""Any sampler of Optuna that needs no more than a seed, as `optuna:tpe`, `optuna:gp` or `optuna:cmaes`.

Akiba, Sano, Yanase, Ohta and Koyama (2019), Optuna: a next-generation hyperparameter optimization framework,
doi:10.1145/3292500.3330701. K trials are asked before any is told. The state holds what the sampler was
told: loading it asks and tells it all again, as some samplers count what they gave.

Optuna's ranges are finite. A real coordinate with two bounds is searched between them; of one without, the
sampler sees u in [0, 1], and z is the u-quantile of N(x0, scale^2): what Optuna calls uniform is then random
search's distribution about the start. A failed candidate is a failed trial.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from inspect import Parameter, signature
from typing import Any, ClassVar

import numpy as np
from scipy.special import ndtri

from gfo.core.checking import named
from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError, unknown_name
from gfo.optimizers.options import within
from gfo.optimizers.replayed import ReplayedOptimizer
from gfo.optimizers.steady_state import SteadyState

EDGE = 1e-9  # a quantile's least distance from 0 and 1: six standard deviations


@named
class Optuna(ReplayedOptimizer, SteadyState):
    """A sampler of Optuna. Its first point is x0.

    Args:
        domain: the box searched. Integer and categorical genes are Optuna's own.
        seed: of the sampler.
        population: K, trials that are asked before one is told; 4 + floor(3 ln d) by default.
        scale: a typical change of a coordinate without bounds; 1 by default.
        x0: where it starts [d]; zero, moved into the domain, by default.
    """

    sampler: ClassVar[str]

    def __init__(
        self,
        domain: Domain,
        seed: int,
        *,
        population: int | None = None,
        scale: float | Sequence[float] | None = None,
        x0: Sequence[float] | Array | None = None,
    ) -> None:
        super().__init__(domain, seed)
        self._take(population=population, least=1, scale=scale, x0=x0)
        self._boxed = np.isfinite(domain.high - domain.low)
        self._spread = within(domain, self.scale)
        self._make = _sampler(self.name, self.sampler)
        self._begin()

    def _begin(self) -> None:
        with self._working() as optuna:
            self._trials: list[Any] = []
            self._ranges = {f"z{i}": self._range(optuna, i) for i in range(self.domain.d)}
            self._study = optuna.create_study(sampler=self._make(seed=self.seed))
            self._study.enqueue_trial(self._values(self.x0))

    def _range(self, optuna: Any, i: int) -> Any:
        low, high, of = float(self.domain.low[i]), float(self.domain.high[i]), optuna.distributions
        if self.domain.categorical[i]:
            return of.CategoricalDistribution(list(range(int(low), int(high) + 1)))
        if self.domain.integer[i]:
            return of.IntDistribution(int(low), int(high))
        return of.FloatDistribution(low, high) if self._boxed[i] else of.FloatDistribution(0.0, 1.0)

    def _values(self, z: Array) -> dict[str, Any]:
        """The start [d] as Optuna has it, which is in the middle of what has no bounds."""
        u = np.where(self._boxed, z, 0.5)
        return {
            name: int(x) if whole else float(x)
            for name, x, whole in zip(self._ranges, u, self.domain.integer, strict=True)
        }

    @contextlib.contextmanager
    def _working(self) -> Iterator[Any]:
        """Optuna, quiet, and with errors of one line."""
        optuna = _optuna(self.name)
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield optuna
        except GfoError:
            raise
        except Exception as error:
            words = ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
            raise GfoError(f"optimizer '{self.name}': Optuna raises {words}") from error
        finally:
            optuna.logging.set_verbosity(verbosity)

    def _ask(self) -> Array:
        z, self._trials = self._ask_some(self.population)
        return z

    def _ask_some(self, n: int) -> tuple[Array, Any]:
        with self._working():
            trials = [self._study.ask(self._ranges) for _ in range(n)]
            u = np.array([[trial.params[name] for name in self._ranges] for trial in trials], float)
        normal = self.x0 + self._spread * ndtri(np.clip(u, EDGE, 1 - EDGE))
        return self.domain.clip(np.where(self._boxed, u, normal)), trials

    def _learn(self, z: Array, loss: Array) -> None:
        self._tell_some(z, loss, self._trials)

    def _tell_some(self, z: Array, loss: Array, known: Any) -> None:
        with self._working() as optuna:
            for trial, value in zip(known, loss, strict=True):
                if not np.isfinite(value):
                    self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
                else:
                    self._study.tell(trial, float(value))

    def _skip(self, z: Array) -> None:
        self._learn(z, np.full(len(z), np.nan))
        super()._skip(z)


def _optuna(method: str) -> Any:
    """The library, or how to install it."""
    try:
        import optuna
    except ImportError as error:
        raise GfoError(
            f"optimizer '{method}' needs Optuna, which is not installed; pip install 'gfo-llm[optuna]'"
        ) from error
    return optuna


def _sampler(method: str, sampler: str) -> Callable[..., Any]:
    """The class of a sampler that can be made of a seed alone, by its name without "Sampler"."""
    samplers = vars(_optuna(method).samplers)
    known = {
        name.removesuffix("Sampler").lower(): value
        for name, value in samplers.items()
        if name.endswith("Sampler") and _of_a_seed(value)
    }
    if sampler.lower() not in known:
        raise unknown_name("optimizer", method, [f"optuna:{name}" for name in sorted(known)])
    return known[sampler.lower()]  # type: ignore[no-any-return]


def _of_a_seed(sampler: Any) -> bool:
    parameters = signature(sampler.__init__).parameters
    needed = [p for p in parameters.values() if p.default is Parameter.empty and p.kind not in _COLLECTING]
    return "seed" in parameters and len(needed) == 1  # self


_COLLECTING = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


def optuna_method(sampler: str) -> type[Optuna]:
    """The optimizer class for one sampler."""
    return type("Optuna", (Optuna,), {"sampler": sampler, "name": f"optuna:{sampler}"})
