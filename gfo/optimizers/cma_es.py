"""CMA-ES: covariance matrix adaptation evolution strategy, by pycma.

Hansen and Ostermeier (2001), doi:10.1162/106365601750190398; defaults as Hansen (2016),
The CMA evolution strategy: a tutorial, arXiv:1604.00772. The diagonal variant: Ros and Hansen (2008),
doi:10.1007/978-3-540-87700-4_30. Implementation: Hansen, Akimoto and Baudis, pycma,
doi:10.5281/zenodo.2559634.

    z_k = m + sigma y_k,  y_k ~ N(0, C)                           eq. 40
    m <- m + c_m sum_i w_i (z_i:lambda - m)                       eq. 42
    sigma by the length of the evolution path                     eq. 44
    C by the rank-one and rank-mu updates                         eq. 47

Only the order of the losses counts. A failed candidate gets a loss worse than the worst of its
step; where a whole step fails, the distribution stays and new points are drawn from it. The
recommendation is the mean m, which for stochastic losses is better than the best point seen.

The state holds what pycma was told, not pycma's objects: loading it asks and tells it all again.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError
from gfo.optimizers.base import (
    BaseOptimizer,
    number,
    population_option,
    scale,
    start_option,
    start_point,
    worst_for_failed,
)

# pycma's termination criteria, in words
_REASONS = {
    "conditioncov": "the covariance matrix is ill-conditioned",
    "ftarget": "the target loss is reached",
    "maxfevals": "pycma's maximum of evaluations is reached",
    "maxiter": "pycma's maximum of generations is reached",
    "noeffectaxis": "a step along an axis of the distribution no longer changes the mean",
    "noeffectcoord": "a step along a coordinate no longer changes the mean",
    "tolconditioncov": "the covariance matrix is ill-conditioned",
    "tolfacupx": "the step size grew beyond reason; start with a larger sigma0",
    "tolflatfitness": "all candidates have the same loss",
    "tolfun": "the losses no longer differ",
    "tolfunhist": "the best losses of the last generations no longer differ",
    "tolfunrel": "the losses no longer differ, compared with the gain so far",
    "tolstagnation": "the median loss no longer improves",
    "tolupsigma": "the step size grew while the distribution did not",
    "tolx": "the steps became too small to matter",
    "tolxstagnation": "the mean no longer moves",
}
_OURS = {
    "BoundaryHandler", "CMA_diagonal", "CMA_stds", "bounds", "popsize", "randn", "seed", "signals_filename",
    "verb_disp", "verb_log", "verbose",
}  # fmt: skip


class CMAES(BaseOptimizer):
    """CMA-ES with the full covariance matrix: O(d^2) memory, invariant to rotations.

    Args:
        domain: the box searched; bounds are kept by pycma's smooth transformation of the border.
        seed: of the method's own random generator.
        population: lambda, points a generation; 4 + floor(3 ln d) by default (tutorial, eq. 48).
        sigma0: the first step size, in unit-scale z; within a box at most a quarter of its width.
        x0: the first mean [d]; zero, moved into the domain, by default.
        options: further pycma options by their pycma names, `{"tolfun": 1e-6, "CMA_active": False}`.
    """

    name = "cma"
    rank_based = True
    diagonal: ClassVar[bool] = False

    def __init__(
        self,
        domain: Domain,
        seed: int,
        *,
        population: int | None = None,
        sigma0: float = 0.5,
        x0: Sequence[float] | Array | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(domain, seed)
        if domain.d < 2:
            raise GfoError(f"optimizer '{self.name}' needs d of at least 2 (got 1); use 'random' or 'ga'")
        self.population = population_option(self.name, domain, population)
        self.sigma0 = number(self.name, "sigma0", sigma0, above=0)
        self.x0 = start_option(self.name, domain, x0)
        self.options = dict(options or {})
        self._es = self._start()
        self._losses: list[Array] = []
        self._moved: dict[int, Array] = {}

    def _start(self) -> Any:
        cma = _pycma()
        allowed = set(cma.CMAOptions.defaults()) - _OURS
        for option, value in self.options.items():
            if option not in allowed:
                why = "is set by gfo" if option in _OURS else "is not a pycma option"
                known = ", ".join(sorted(allowed))
                raise GfoError(
                    f"optimizer '{self.name}': options['{option}'] = {value!r} {why}; known are {known}"
                )
        options: dict[str, Any] = {
            "popsize": self.population,
            "CMA_diagonal": self.diagonal,
            "seed": math.nan,  # with any other seed pycma seeds numpy's global generator
            "randn": np.random.RandomState(self.seed).randn,  # pycma calls randn(rows, columns)
            "signals_filename": "",
            "verbose": -9,
            "verb_disp": 0,
            "verb_log": 0,
        }
        if self.domain.bounded:
            options["bounds"] = [list(self.domain.low), list(self.domain.high)]
            options["CMA_stds"] = scale(self.domain, self.sigma0) / self.sigma0
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings(
                    "error", message=".*is not a safe string"
                )  # a text that is no option value
                return cma.CMAEvolutionStrategy(self.x0, self.sigma0, {**options, **self.options})
        except (ValueError, TypeError, AssertionError, UserWarning) as error:
            raise GfoError(
                f"optimizer '{self.name}': pycma refuses options {self.options}: {error}"
            ) from error

    def _ask(self) -> Array:
        return self.domain.clip(np.array(self._es.ask()))

    def _tell(self, z: Array, loss: Array) -> None:
        self._record(z, loss)
        self._es.tell(list(z), list(worst_for_failed(loss)))

    def _skip(self, z: Array) -> None:
        self._record(z, np.full(len(z), np.nan))

    def _record(self, z: Array, loss: Array) -> None:
        if self._asked is not None and not np.array_equal(z, self._asked):
            self._moved[len(self._losses)] = z
        self._losses.append(loss)

    def recommend(self) -> Array:
        """The mean of the distribution, [d]."""
        return self.domain.clip(np.asarray(self._es.result.xfavorite, dtype=np.float64))

    def should_stop(self) -> str | None:
        if reason := super().should_stop():
            return reason
        return "; ".join(f"{_REASONS.get(k, k)} ({k} = {v})" for k, v in self._es.stop().items()) or None

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimizer": self.name,
            "seed": self.seed,
            "d": self.domain.d,
            "population": self.population,
            "losses": [loss.copy() for loss in self._losses],
            "moved": {str(step): z.copy() for step, z in self._moved.items()},
            "asked": self._asked is not None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._check_state(state)
        for key, ours in (("d", self.domain.d), ("population", self.population)):
            if state[key] != ours:
                raise GfoError(
                    f"optimizer '{self.name}' with {key} = {ours} cannot load a state with {state[key]}"
                )
        self.seed = int(state["seed"])
        self._es = self._start()
        self._losses, self._moved, self._asked, self._failed_steps = [], {}, None, 0
        self.best_z, self.best_loss = start_point(self.domain), np.inf
        for step, loss in enumerate(state["losses"]):
            z = self.ask()
            self.tell(state["moved"].get(str(step), z), loss)
        if state["asked"]:
            self.ask()


class SepCMAES(CMAES):
    """CMA-ES with a diagonal covariance matrix: O(d) memory, learns the scale of each coordinate."""

    name = "sep-cma"
    diagonal = True


def _pycma() -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Mm]atplotlib.*")
        import cma
    return cma
