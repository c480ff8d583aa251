"""BO: Bayesian optimization with a Gaussian process or a random forest, in a trust region where d is large.

Jones, Schonlau and Welch (1998), doi:10.1023/A:1008306431147; Shahriari et al. (2016),
doi:10.1109/JPROC.2015.2494218. TuRBO-1: Eriksson et al. (2019), arXiv:1910.01833. The equations are in
surrogates.py, acquisition.py and trust_region.py, the library is BoTorch: Balandat et al. (2020),
arXiv:1910.06403.

    design    the start and scrambled Sobol' points, standard normal where a dimension has no bounds
    model     of the standardised losses told so far (in a trust region: since it began)
    ask       the K points that maximise the acquisition function in the box, or in the trust region

The box is the unit cube of all computations: the domain, and x0 +- radius where a bound is missing. A
failed candidate counts as the worst loss. Where batches differ, each batch has the best point so far as one
more, and its losses are moved by what that point's has moved. The state holds the points and losses, not the
model: it is a function of these, of the options and of the seed, and is fitted again (on the same machine
with the same number of threads, to the same bits).

Of several objectives the K points are those whose front would grow the most (qLogNEHVI: Daulton, Balandat and
Bakshy 2021, arXiv:2105.08195; front_acquisition.py), and whole and categorical genes are taken, too; without
a trust region, so it is for few dimensions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri

from gfo.core.checking import named
from gfo.core.domain import Array, Domain
from gfo.optimizers.acquisition import (
    batch_acquisition,
    best_of_groups,
    log_ei,
    maximise,
    starts,
    thompson,
    ucb,
)
from gfo.optimizers.base import BaseOptimizer
from gfo.optimizers.front_acquisition import best_batch, front_acquisition, front_candidates
from gfo.optimizers.genetic_operators import hashes, repeats
from gfo.optimizers.options import check_objectives, number, one_of, option_error, whole
from gfo.optimizers.surrogates import (
    GaussianProcess,
    RandomForest,
    Surrogate,
    check_botorch,
    failures,
    standardise,
    working,
)
from gfo.optimizers.trust_region import TrustRegion, perturbed, sobol

HUGE = 1e100
"""Losses beyond it count as it, so that their squares are numbers."""


@named
class BayesianOptimization(BaseOptimizer):
    """Bayesian optimization in batches.

    Args:
        domain: the box searched.
        seed: of the method's own random generator.
        objectives: the names of the numbers that are to be low.
        population: K, points a batch; 4 + floor(3 ln d) by default, as for the other methods.
        surrogate: "gp" or "random-forest".
        kernel: of the Gaussian process, "matern" (5/2) or "se".
        ard: a length scale for each dimension; by default up to d = 20, and one for all above.
        noise: the standard deviation of the loss's noise, 0 for none; inferred by default.
        acquisition: "log-ei", "ucb" or, for the Gaussian process, "thompson", which is TuRBO's. Climbed by
            its gradient, log-ei did better in the trust region in a few hundred evaluations.
        beta: of "ucb": 4, two standard deviations.
        trust_region: TuRBO-1's; by default above d = 20.
        initial: points of the design, rounded up to whole batches; by default 2 d as in TuRBO, but at most 12
            (budgets here are a few d, not its 50 d).
        scale: a typical change of a coordinate; 1 by default.
        radius: of the box where a bound is missing, in z; three times `scale` by default.
        x0: the first point [d], and the middle of the box; zero, moved into the domain, by default.
        max_points: points that the model is fitted on: the better half by loss, and the latest.
        repair: z [n, d] -> the points that are evaluated in their place, as of an evaluator. The acquisition
            function is then taken at those alone (Garrido-Merchan and Hernandez-Lobato 2020,
            arXiv:1805.03463), and none is asked twice.
    """

    name = "bo"
    saves_state = True
    _state = (
        "seed",
        "_anchor",
        "_anchor_loss",
        "_z",
        "_loss",
        "_design",
        "_modelled",
        "_trust",
        "_past_z",
        "_past_loss",
    )

    def __init__(
        self,
        domain: Domain,
        seed: int,
        *,
        objectives: Sequence[str] = ("loss",),
        population: int | None = None,
        surrogate: str = "gp",
        kernel: str = "matern",
        ard: bool | None = None,
        noise: float | None = None,
        acquisition: str = "log-ei",
        beta: float = 4.0,
        trust_region: bool | None = None,
        initial: int | None = None,
        scale: float | Sequence[float] | None = None,
        radius: float | None = None,
        x0: Sequence[float] | Array | None = None,
        max_points: int = 500,
        repair: Callable[[Array], Array] | None = None,
    ) -> None:
        self.objectives = tuple(objectives)
        self.integers = len(self.objectives) > 1  # type: ignore[misc] # of one it climbs gradients
        super().__init__(domain, seed)
        check_objectives(self.name, self.objectives)
        d = domain.d
        self._take(population=population, least=1, scale=scale, x0=x0)
        self._repair = repair
        self._take_model(surrogate, kernel, ard, noise)
        self._several = () if len(self.objectives) == 1 else (len(self.objectives),)
        self.trust_region = d > 20 and not self._several if trust_region is None else bool(trust_region)
        if self._several and (self.trust_region or surrogate != "gp"):
            raise option_error(
                self.name, "objectives", list(objectives), "one with a trust region or a forest"
            )
        known = ("log-ei", "ucb", "thompson") if surrogate == "gp" else ("log-ei", "ucb")
        self.acquisition = one_of(self.name, "acquisition", acquisition, known)
        self.beta = number(self.name, "beta", beta, least=0)
        n = min(2 * d, 12) if initial is None else whole(self.name, "initial", initial)
        self.initial = -(-n // self.population) * self.population
        self.radius = 3 * self.scale
        if radius is not None:
            self.radius = np.full(d, number(self.name, "radius", radius, above=0))
        self.max_points = whole(self.name, "max_points", max_points, least=10)
        if surrogate == "gp":
            check_botorch(self.name)
        self._boxed = np.isfinite(domain.low) & np.isfinite(domain.high)
        self._low = np.where(self._boxed, domain.low, np.maximum(domain.low, self.x0 - self.radius))
        self._high = np.where(self._boxed, domain.high, np.minimum(domain.high, self.x0 + self.radius))
        self.region = TrustRegion()
        self._z = np.empty((0, d))  # [n, d]
        self._loss = np.empty((0, *self._several))  # [n] or [n, M]: nan where a candidate failed
        self._anchor = np.empty((0, d))  # the point [1, d] asked once more, or none
        self._anchor_loss = np.nan
        self._design = np.empty((0, d))
        self._modelled = False
        self._past_z, self._past_loss = np.empty((0, d)), np.empty(0)  # the best of regions that collapsed
        self._model: _Model | None = None

    def _take_model(self, surrogate: str, kernel: str, ard: bool | None, noise: float | None) -> None:
        """Keep the options of the model, checked."""
        self.surrogate = one_of(self.name, "surrogate", surrogate, ("gp", "random-forest"))
        self.kernel = one_of(self.name, "kernel", kernel, ("matern", "se"))
        self.ard = self.domain.d <= 20 if ard is None else bool(ard)
        self.noise = None if noise is None else number(self.name, "noise", noise, least=0)

    @property
    def _trust(self) -> dict[str, Any]:
        """The trust region as plain values, for the state."""
        return self.region.as_dict()

    @_trust.setter
    def _trust(self, state: dict[str, Any]) -> None:
        self.region = TrustRegion(**state)

    def _ask(self) -> Array:
        z = self._batch()
        self._anchor = np.empty((0, self.domain.d))
        if self.noisy and not self._several and np.isfinite(self._loss).any():
            i = int(np.nanargmin(self._loss))
            self._anchor, self._anchor_loss = self._z[i : i + 1].copy(), float(self._loss[i])
        return np.concatenate([self._anchor, z])

    def _split(self, z: Array, loss: Array) -> tuple[Array, Array]:
        if self._several:
            loss[np.isnan(loss).any(axis=1)] = np.nan  # failed in one, failed in all
        n = len(self._anchor)
        if n and np.isfinite(loss[0]):
            loss = loss - (loss[0] - self._anchor_loss)
        return z[n:], loss[n:]

    def _batch(self) -> Array:
        if not len(self._loss) and not len(self._design):
            self._design = self._new_design()
        self._modelled = not len(self._design)
        if self._modelled:
            u = self._propose()
            return self.domain.clip(self._low + u * (self._high - self._low))
        z, self._design = np.split(self._design, [self.population])
        return np.asarray(z)

    def _new_design(self) -> Array:
        """Sobol' points [initial, d]: uniform between two bounds, else normal about x0 and cut at the box."""
        u = sobol(self.domain.d, self.initial, self.rng)
        sigma = self.radius / 3
        below, above = ndtr((self._low - self.x0) / sigma), ndtr((self._high - self.x0) / sigma)
        normal = self.x0 + sigma * ndtri(below + u * (above - below))
        z = np.where(self._boxed, self._low + u * (self._high - self._low), normal)
        if np.isinf(self.best_loss):
            z[0] = self.x0
        return self.domain.clip(np.clip(z, self._low, self._high))

    def _propose(self) -> Array:
        """The next batch in the unit cube, [K, d]."""
        seed = int(self.rng.integers(2**31))
        with working(seed) if self.surrogate == "gp" else contextlib.nullcontext():
            try:
                if self._several:
                    return self._propose_front(seed)
                model = self._fitted()
                low, high = self._corners(model.centre, model.surrogate.lengthscales)
                u = self._maximise(model, low, high, seed)
                again = np.setdiff1d(np.arange(len(u)), np.unique(u.round(9), axis=0, return_index=True)[1])
                if len(again):
                    u[again] = perturbed(model.centre, low, high, len(again), self.rng)
                return u
            except failures():
                centre = self._unit(self.best_z)
                low, high = self._corners(centre, np.ones(self.domain.d))
                return perturbed(centre, low, high, self.population, self.rng)

    def _propose_front(self, seed: int) -> Array:
        """The batch of the unit cube [K, d] whose front would grow the most."""
        domain = self.domain
        box = Domain(self._low, self._high, domain.integer, domain.categorical)
        good = np.isfinite(self._loss).all(axis=1)
        z, losses = self._z[good], np.clip(self._loss[good], -HUGE, HUGE)
        candidates = front_candidates(box, z, losses, self.rng)
        new = candidates[~repeats(candidates, hashes(self._z))]
        candidates = new if len(new) >= self.population else candidates
        f = front_acquisition(self._unit(z), losses, kernel=self.kernel, ard=self.ard, seed=seed)
        climb = not domain.integer.any()
        return best_batch(f, self._unit(candidates), self.population, climb=climb)

    def _book(self, z: Array, loss: Array) -> None:
        """Of several objectives, keep the lowest first one, of equals the lowest second, and so on."""
        if not self._several:
            super()._book(z, loss)
            return
        told = np.concatenate([self._loss, loss])
        points = np.concatenate([self._z, z])
        i = int(np.lexsort(told.T[::-1])[0])  # nan is last
        self.best_z, self.best_loss = points[i].copy(), float(told[i, 0])

    def _corners(self, centre: Array, lengthscales: Array) -> tuple[Array, Array]:
        """The lower and the upper corner [d] of where the acquisition function is maximised."""
        if self.trust_region:
            return self.region.box(centre, lengthscales)
        return np.zeros(self.domain.d), np.ones(self.domain.d)

    def _maximise(self, model: _Model, low: Array, high: Array, seed: int) -> Array:
        """The batch [K, d] in the box for which the acquisition function is largest."""
        K, gp, d = self.population, model.surrogate, self.domain.d
        f = None
        if isinstance(gp, GaussianProcess) and self.acquisition != "thompson":
            f = batch_acquisition(gp, K, name=self.acquisition, best=model.best, beta=self.beta, seed=seed)
            if self._repair is None:
                return maximise(f, starts(K, model.centre, low, high, self.rng), low, high)
        n = max(min(100 * d, 2000), 10 * K)
        if self.trust_region:
            candidates = perturbed(model.centre, low, high, n, self.rng)
        else:
            candidates = starts(-(-n // 64), model.centre, low, high, self.rng).reshape(-1, d)
        candidates = self._repaired(candidates)
        if f is not None and K > 1:
            return best_batch(f, candidates, K, climb=False)
        if f is None and isinstance(gp, GaussianProcess):
            return thompson(gp, K, candidates)
        mean, sd = model.surrogate.predict(candidates)
        value = ucb(mean, sd, self.beta) if self.acquisition == "ucb" else log_ei(mean, sd, model.best)
        return np.asarray(candidates[best_of_groups(value, K, self.rng)])

    def _repaired(self, u: Array) -> Array:
        """Points of the unit cube [n, d] as they are evaluated, each once; new ones, unless there are few."""
        if self._repair is None:
            return u
        z = np.unique(self._repair(self._low + u * (self._high - self._low)), axis=0)
        new = z[~repeats(z, hashes(self._z))]
        return self._unit(self.rng.permutation(new if len(new) >= self.population else z))

    def _unit(self, z: Array) -> Array:
        """Points of the unit cube [..., d]; those that were moved out of the box go to its border."""
        return np.asarray(np.clip((z - self._low) / (self._high - self._low), 0, 1))

    def _fitted(self) -> _Model:
        """The model of the points told so far; a function of these, the options and the seed."""
        if self._model is not None:
            return self._model
        loss = np.where(np.isnan(self._loss), np.nanmax(self._loss), self._loss)
        loss = np.clip(loss, -HUGE, HUGE)
        kept = _kept(loss, self.max_points)
        y, middle, scale = standardise(loss[kept])
        x = self._unit(self._z[kept])
        surrogate: Surrogate
        if self.surrogate == "gp":
            variance = None if self.noise is None else (self.noise / scale) ** 2
            surrogate = GaussianProcess(x, y, kernel=self.kernel, ard=self.ard, variance=variance)
            value = y if self.noise == 0 else surrogate.predict(x)[0]
        else:
            surrogate = RandomForest(x, y, seed=(self.seed + len(loss)) % 2**32)
            value = y
        i = int(np.argmin(np.where(np.isnan(self._loss[kept]), np.inf, value)))
        best = float(value[i])
        self._model = _Model(surrogate, x[i], best, self._z[kept][i], middle + scale * best)
        return self._model

    def _tell(self, z: Array, loss: Array) -> None:
        if self._modelled and self.trust_region:
            self.region.update(float(np.nanmin(loss)), float(np.nanmin(self._loss)), self.domain.d, len(z))
        self._z, self._loss = np.concatenate([self._z, z]), np.concatenate([self._loss, loss])
        self._model = None
        if self.region.collapsed:
            best_z, best_loss = self._best_of_region()
            self._past_z = np.concatenate([self._past_z, best_z[None]])
            self._past_loss = np.append(self._past_loss, best_loss)
            self._z, self._loss, self._model = self._z[:0], self._loss[:0], None
            self.region = TrustRegion()

    def _best_of_region(self) -> tuple[Array, float]:
        """The point told [d] with the lowest posterior mean, or loss, and that value."""
        i = int(np.nanargmin(self._loss))
        observed = self._z[i], float(self._loss[i])
        if self.noise == 0 or self.surrogate != "gp":
            return observed
        with working(0):
            try:
                model = self._fitted()
            except failures():
                return observed
        return model.best_z, model.best_loss

    def recommend(self) -> Array:
        """The point told that has the lowest posterior mean, [d].

        The incumbent in the first design, with noise = 0, with a random forest and of several objectives.
        """
        if self._several or self.noise == 0 or self.surrogate != "gp":
            return super().recommend()
        return self._best_by_mean() if self._modelled or len(self._past_z) else super().recommend()

    def _best_by_mean(self) -> Array:
        """The point told that has the lowest posterior mean, [d]."""
        z, loss = self._past_z, self._past_loss
        if self._modelled and len(self._loss):
            best_z, best_loss = self._best_of_region()
            z, loss = np.concatenate([z, best_z[None]]), np.append(loss, best_loss)
        return np.array(z[np.argmin(loss)])

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._model = None


class _Model(NamedTuple):
    """A fitted surrogate, and the point it was told that is best: by its mean, or by the loss."""

    surrogate: Surrogate
    centre: Array  # [d], that point in the unit cube
    best: float  # its standardised loss
    best_z: Array  # [d]
    best_loss: float


def _kept(loss: Array, most: int) -> Array:
    """Indices, in order, of at most `most` losses: the better half, and of the others the latest."""
    if len(loss) <= most:
        return np.arange(len(loss))
    order = np.argsort(loss, kind="stable")
    rest = np.sort(order[most // 2 :])
    return np.sort(np.concatenate([order[: most // 2], rest[len(rest) - (most - most // 2) :]]))
