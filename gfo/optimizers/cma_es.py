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
step; where a whole step fails, the distribution stays and new points are drawn from it. So it does where
all candidates score alike, and after some such steps it grows wider. pycma's criteria on losses that no
longer differ are off; a run ends by itself only where numbers can do no more. The
recommendation is the mean m, which for stochastic losses is better than the best point seen.

The state holds what pycma was told, not pycma's objects: loading it asks and tells it all again.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from gfo.core.checking import named
from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError, shown
from gfo.optimizers.base import WIDER, WIDEST, BaseOptimizer
from gfo.optimizers.fitness_shaping import worst_for_failed
from gfo.optimizers.options import mapping, start_point, within

MOST_D = 20_000
"""A covariance matrix of more coordinates takes over 3 GB, and its eigenvectors hours."""

# pycma's termination criteria that stay on, in words
_REASONS = {
    "conditioncov": "the covariance matrix is ill-conditioned",
    "ftarget": "the target loss is reached",
    "maxfevals": "pycma's maximum of evaluations is reached",
    "maxiter": "pycma's maximum of generations is reached",
    "noeffectaxis": "a step along an axis of the distribution no longer changes the mean",
    "noeffectcoord": "a step along a coordinate no longer changes the mean",
    "tolconditioncov": "the covariance matrix is ill-conditioned",
    "tolupsigma": "the step size grew while the distribution did not",
    "tolx": "the steps became too small to matter",
    "tolxstagnation": "the mean no longer moves",
}
_NEVER = {
    "maxiter": math.inf, "tolfacupx": math.inf, "tolflatfitness": math.inf, "tolfun": 0, "tolfunhist": 0,
    "tolfunrel": 0, "tolstagnation": 0,
}  # fmt: skip
_OURS = {
    "BoundaryHandler", "CMA_diagonal", "CMA_sampler", "CMA_stds", "bounds", "popsize", "randn", "seed",
    "signals_filename", "verb_disp", "verb_log", "verbose",
}  # fmt: skip


@named
class CMAES(BaseOptimizer):
    """CMA-ES with the full covariance matrix: O(d^2) memory, invariant to rotations.

    Args:
        domain: the box searched. Points beyond it are evaluated where the box is nearest; the distribution
            learns from where they were, and its mean stays within one step of the box. (pycma's own smooth
            transformation of the border slows runs whose optimum lies on it.)
        seed: of the method's own random generator.
        population: lambda, points a generation; 4 + floor(3 ln d) by default (tutorial, eq. 48).
        scale: a typical change of a coordinate; 1 by default, within a box a fifth of its width.
        sigma0: the first step size in z; half of `scale` by default; at most a quarter of a box's width.
        x0: the first mean [d]; zero, moved into the domain, by default.
        options: further pycma options by their pycma names, `{"tolfun": 1e-6, "CMA_active": False}`; none by
            default.
    """

    name = "cma"
    rank_based = True
    diagonal: ClassVar[bool] = False
    most_d: ClassVar[int | None] = MOST_D

    def __init__(
        self,
        domain: Domain,
        seed: int,
        *,
        population: int | None = None,
        scale: float | Sequence[float] | None = None,
        sigma0: float | None = None,
        x0: Sequence[float] | Array | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(domain, seed)
        if self.most_d is not None and domain.d > self.most_d:
            raise GfoError(
                f"optimizer '{self.name}': d = {domain.d} is above {self.most_d}, too many for its "
                "covariance matrix; use 'sep-cma'"
            )
        self._take(population=population, scale=scale, x0=x0)
        self.sigma0 = self._size("sigma0", sigma0, 0.5)
        self.options = mapping(self.name, "options", options)
        self._correlation: Array | None = None
        self._es = self._start()
        self._losses: list[Array] = []
        self._moved: dict[int, Array] = {}
        self._points = np.empty((0, 0))
        self._directions: list[Array] = []
        self._own = np.empty((0, domain.d))  # what pycma drew for this step, where it is evaluated

    def _start(self) -> Any:
        """pycma's object; in one dimension, which pycma does not support, beside one that does nothing."""
        cma = _pycma()
        allowed = set(cma.CMAOptions.defaults()) - _OURS
        for option, value in self.options.items():
            if option not in allowed:
                why = "is set by gfo" if option in _OURS else "is not a pycma option"
                known = ", ".join(sorted(allowed))
                raise GfoError(
                    f"optimizer '{self.name}': options['{option}'] = {shown(value)} {why}; known are {known}"
                )
        hidden = max(0, 2 - self.domain.d)
        sigma = np.pad(self.sigma0, (0, hidden), mode="edge")
        options = self._options(cma, sigma)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings(
                    "error", message=".*is not a safe string"
                )  # a text that is no option value
                x0 = np.pad(self.x0, (0, hidden))
                es = cma.CMAEvolutionStrategy(x0, float(sigma.max()), {**options, **self.options})
        except (ValueError, TypeError, AssertionError, UserWarning) as error:
            raise GfoError(
                f"optimizer '{self.name}': pycma refuses options {self.options}: {error}"
            ) from error
        if self._correlation is not None:
            es.sm.C = self._correlation.copy()
            es.sm.update_now(-1)
        return es

    def correlate(self, covariance: Array) -> None:
        """Begin with the correlations of a covariance matrix [d, d]; the step sizes are those of the options.

        Called before the first `ask`; a diagonal matrix cannot hold them, and leaves them out.
        """
        if self.diagonal or self.domain.d == 1:
            return
        std = np.sqrt(np.diag(covariance))
        self._correlation = covariance / np.outer(std, std)
        self._es = self._start()

    @property
    def standard_deviations(self) -> Array:
        return np.array(self._es.stds[: self.domain.d])

    @property
    def covariance(self) -> Array | None:
        """That of what it draws [d, d]; None for a method that does not learn it whole."""
        if self.diagonal or self.domain.d == 1:
            return None
        scaled = self._es.sigma * self._es.sigma_vec.scaling
        return np.asarray(np.outer(scaled, scaled) * self._es.sm.covariance_matrix)

    def _options(self, cma: Any, sigma: Array) -> dict[str, Any]:
        """pycma's options, given the first step sizes [d]."""
        unit = min(1.0, 2 * float(sigma.max()))
        options: dict[str, Any] = {
            **_NEVER,
            "tolx": 1e-11 * unit,
            "tolxstagnation": [1e-9 * unit, 20, 0.1],
            "popsize": self.population,
            "CMA_diagonal": self.diagonal,
            "seed": math.nan,  # with any other seed pycma seeds numpy's global generator
            "randn": np.random.RandomState(self.seed).randn,  # pycma calls randn(rows, columns)
            "signals_filename": "",
            "verbose": -9,
            "verb_disp": 0,
            "verb_log": 0,
        }
        if np.ptp(sigma) > 0:
            options["CMA_stds"] = sigma / sigma.max()
        return options

    def _ask(self) -> Array:
        self._directions = list(map(np.copy, self._es.pop_injection_directions))
        self._points = np.array(self._es.ask())
        self._own = self.domain.clip(self._points[:, : self.domain.d])
        return self._own

    def _tell(self, z: Array, loss: Array) -> None:
        self._record(z, loss)
        if self._flat_steps:
            self._learn_nothing()
            return
        d, points = self.domain.d, self._points
        moved = (z != self._own).any(axis=1)
        points[moved, :d] = z[moved]
        self._es.tell(list(points), list(worst_for_failed(loss)))
        if self.domain.bounded:
            step = self._es.stds[:d]
            self._es.mean[:d] = np.clip(self._es.mean[:d], self.domain.low - step, self.domain.high + step)

    def _skip(self, z: Array) -> None:
        self._record(z, np.full(len(z), np.nan))
        self._learn_nothing()

    def _learn_nothing(self) -> None:
        """Give back the last step's direction and its mirror, which pycma's ask uses up (from d = 300)."""
        self._es.pop_injection_directions = self._directions

    def _widen(self) -> None:
        """A larger step size, up to `WIDEST` times the first one."""
        if (self._es.stds[: self.domain.d] * WIDER <= within(self.domain, WIDEST * self.sigma0)).all():
            self._es.sigma *= WIDER

    def _record(self, z: Array, loss: Array) -> None:
        if not np.array_equal(z, self._own):
            self._moved[len(self._losses)] = z
        self._losses.append(loss)

    def recommend(self) -> Array:
        """The mean of the distribution, [d]."""
        mean = np.asarray(self._es.result.xfavorite, dtype=np.float64)
        return self.domain.clip(mean[: self.domain.d])

    def should_stop(self) -> str | None:
        if reason := super().should_stop():
            return reason
        if reasons := self._es.stop():
            return "; ".join(f"{_REASONS.get(k, k)} ({k} = {v})" for k, v in reasons.items())
        return None

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimizer": self.name,
            "seed": self.seed,
            "d": self.domain.d,
            "population": self.population,
            "losses": [loss.copy() for loss in self._losses],
            "moved": {str(step): z.copy() for step, z in self._moved.items()},
            "asked": self._asked is not None,
            "injected": self._waiting(),
        }

    def _waiting(self) -> Array:
        """Points of others [n, d] that are asked for now or wait for a place."""
        if self._asked is None:
            return self._injected.copy()
        return np.concatenate([self._asked[(self._asked != self._own).any(axis=1)], self._injected])

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._check_state(state)
        for key, ours in (("d", self.domain.d), ("population", self.population)):
            if state[key] != ours:
                raise GfoError(
                    f"optimizer '{self.name}' with {key} = {ours} cannot load a state with {state[key]}"
                )
        self.seed = int(state["seed"])
        self._es = self._start()
        self._losses, self._moved, self._asked = [], {}, None
        self._failed_steps, self._flat_steps, self._last_loss, self._said = 0, 0, np.inf, True
        self.best_z, self.best_loss = start_point(self.domain), np.inf
        self._injected = np.empty((0, self.domain.d))
        for step, loss in enumerate(state["losses"]):
            z = self.ask()
            self.tell(state["moved"].get(str(step), z), loss)
        self._said = False
        self._injected = np.array(state.get("injected", self._injected))
        if state["asked"]:
            self.ask()


@named
class SepCMAES(CMAES):
    """CMA-ES with a diagonal covariance matrix: O(d) memory, learns the scale of each coordinate."""

    name = "sep-cma"
    diagonal = True
    most_d = None


@named
class VkDCMAES(CMAES):
    """CMA-ES with a diagonal matrix and a few directions, as many as it finds of use: O(k d) memory.

    C = D (I + V V^T) D with V of k columns. Akimoto and Hansen (2016), Projection-based restricted
    covariance matrix adaptation for high dimension, doi:10.1145/2908812.2908863; Online model selection
    for restricted covariance matrix adaptation, doi:10.1007/978-3-319-45823-6_1. The step size is
    adapted by the sampler's two-point scheme.
    """

    name = "vkd-cma"
    most_d = None

    def correlate(self, covariance: Array) -> None:
        """Left out: it is learned from the step sizes on."""

    @property
    def covariance(self) -> None:
        return None

    def _options(self, cma: Any, sigma: Array) -> dict[str, Any]:
        if self.domain.d == 1:
            return super()._options(cma, sigma)
        from cma.restricted_gaussian_sampler import GaussVkDSampler

        options = super()._options(cma, sigma)
        options["CMA_sampler_options"] = {"randn": options["randn"]}  # by default numpy's global one
        return dict(GaussVkDSampler.extend_cma_options(options))


def _pycma() -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Mm]atplotlib.*")
        import cma
    return cma
