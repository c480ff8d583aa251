"""Controls: each broken optimizer must fail the check that is there for it."""

from __future__ import annotations

import numpy as np
import pytest

from gfo.core.errors import GfoError
from gfo.optimizers.fitness_shaping import nes_utilities
from gfo.optimizers.random_search import RandomSearch
from gfo.optimizers.snes import SNES
from gfo.testing import OPTIMIZER_CHECKS, check_optimizer
from gfo.testing.optimizer_contract import check_convergence


class ReadsGlobalGenerator(SNES):
    def _ask(self):
        return self.domain.clip(self.mu + self.sigma * np.random.standard_normal((6, self.domain.d)))  # noqa: NPY002


class SeedsGlobalGenerator(SNES):
    def _ask(self):
        np.random.seed(1)  # noqa: NPY002
        return super()._ask()


class ChangesLoss(SNES):
    def tell(self, z, loss):
        loss -= loss.min()
        super().tell(z, loss)


class KeepsPoints(SNES):
    def tell(self, z, loss):
        super().tell(z, loss)
        self.best_z = z[np.argmin(loss)]

    def recommend(self):
        return np.array(self.best_z)


class GivesItsOwnArray(SNES):
    def recommend(self):
        return self.mu


class ForgetsGenerator(SNES):
    def state_dict(self):
        return {key: value for key, value in super().state_dict().items() if key != "rng"}

    def load_state_dict(self, state):
        super().load_state_dict({**state, "rng": self.rng.bit_generator.state})


class ForgetsStepSize(SNES):
    _state = ("mu",)


class StateIsAView(SNES):
    def state_dict(self):
        return {**super().state_dict(), "mu": self.mu}

    def _tell(self, z, loss):
        mu = self.mu
        super()._tell(z, loss)
        mu[:] = self.mu
        self.mu = mu


class StateIsAnObject(SNES):
    def state_dict(self):
        return {**super().state_dict(), "rng": self.rng}


class LeavesDomain(SNES):
    def _ask(self):
        return self.mu + self.sigma * self.rng.standard_normal((self.population, self.domain.d))


class GivesSinglePrecision(SNES):
    def ask(self):
        return super().ask().astype(np.float32)


class IgnoresSeed(SNES):
    def __init__(self, domain, seed, **options):
        super().__init__(domain, 0, **options)


class PoisonedByNan(SNES):
    def _tell(self, z, loss):
        s = (z - self.mu) / self.sigma
        self.mu = self.mu + 0.1 * self.sigma * ((loss.mean() - loss) @ s)


class StuckAfterFailure(SNES):
    def _ask(self):
        if self._failed_steps:
            return self.last
        self.last = super()._ask()
        return self.last


class FalselyRankBased(SNES):
    def _tell(self, z, loss):
        super()._tell(z, np.where(loss > np.nanmean(loss), np.nanmax(loss), loss))


class AcceptsAnyShape(SNES):
    def tell(self, z, loss):
        if self._asked is not None and np.shape(loss) == (len(z),) and np.shape(z) == self._asked.shape:
            super().tell(z, loss)


class ChangedByRefusedTell(SNES):
    def tell(self, z, loss):
        try:
            super().tell(z, loss)
        except GfoError:
            self.mu = self.mu + 1
            raise


class StopsOnEqualLosses(SNES):
    def should_stop(self):
        return "the losses no longer differ" if self._flat_steps > 3 else None


class ShrinksOnEqualLosses(SNES):
    def _tell(self, z, loss):
        super()._tell(z, loss)
        if self._flat_steps:
            self.sigma = self.sigma * 0.5


class KeepsTheLowestLossEver(RandomSearch):
    """(1 + K): draws about the best point ever told, in steps that shrink when it is not beaten."""

    _state = ("sigma",)

    def __init__(self, domain, seed):
        super().__init__(domain, seed)
        self.sigma, self.best, self.centre = 0.5, np.inf, self.x0

    def _ask(self):
        return self.domain.clip(self.centre + self.sigma * self.rng.standard_normal((8, self.domain.d)))

    def _tell(self, z, loss):
        better = np.nanmin(loss) < self.best
        self.sigma *= 1.2 if better else 0.85
        if better:
            self.best, self.centre = np.nanmin(loss), z[np.nanargmin(loss)]

    def recommend(self):
        return self.centre.copy()

    def should_stop(self):
        return "the step fell below 1e-12" if self.sigma < 1e-12 else None


class IgnoresTheBox(KeepsTheLowestLossEver):
    def _tell(self, z, loss):
        super()._tell(z, loss)
        self.sigma = 0.5


class IgnoresOrder(SNES):
    def tell(self, z, loss):
        super().tell(self._asked if self._asked is not None and np.shape(z) == self._asked.shape else z, loss)


class NeverChangesCategories(RandomSearch):
    def _ask(self):
        z = super()._ask()
        return np.where(self.domain.integer, self.x0, z)


class TakesTiesForFailures(KeepsTheLowestLossEver):
    def _tell(self, z, loss):
        super()._tell(z, loss)
        self.sigma *= 0.8 if np.nanmin(loss) >= self.best else 1.0


class GivesFractions(RandomSearch):
    def _ask(self):
        return super()._ask() * 0.99


@pytest.mark.parametrize(
    ("broken", "check", "sentence"),
    [
        (ReadsGlobalGenerator, "global_generators", "changes numpy's global"),
        (SeedsGlobalGenerator, "global_generators", "changes numpy's global"),
        (ChangesLoss, "inputs", "writes into its arguments"),
        (KeepsPoints, "inputs", "kept an array"),
        (GivesItsOwnArray, "inputs", "points are not finite|kept an array"),
        (ForgetsGenerator, "resume", "differs"),
        (ForgetsStepSize, "resume", "differs"),
        (StateIsAView, "resume", "state_dict must copy"),
        (StateIsAnObject, "resume", "found a Generator"),
        (LeavesDomain, "shapes_and_bounds", "left the domain"),
        (GivesSinglePrecision, "shapes_and_bounds", "float64"),
        (IgnoresSeed, "seed", "the seed is not used"),
        (PoisonedByNan, "failed_candidates", "not finite"),
        (StuckAfterFailure, "failed_candidates", "must draw new points"),
        (FalselyRankBased, "ranks", "increasing transform"),
        (AcceptsAnyShape, "errors", "tell before ask must raise"),
        (ChangedByRefusedTell, "errors", "a refused tell changed"),
        (GivesFractions, "integer_genes", "fraction"),
        (StopsOnEqualLosses, "flat_losses", "equal losses end the run after 4 steps"),
        (ShrinksOnEqualLosses, "flat_losses", "losses that are equal say nothing"),
        (KeepsTheLowestLossEver, "offsets", "losses of different steps are compared|stops after"),
        (KeepsTheLowestLossEver, "noise", "stops after .* the step fell below"),
        (IgnoresOrder, "shuffled_rows", "another order"),
        (IgnoresTheBox, "scales", "steps must be shares of the box"),
        (NeverChangesCategories, "genes", "the loss falls to 1"),
        (TakesTiesForFailures, "ties", "taken for failures|stops after"),
    ],
)
def test_broken_optimizer_is_caught(broken, check, sentence):
    with pytest.raises(AssertionError, match=sentence):
        OPTIMIZER_CHECKS[check](broken)


def _snes_with(step, sign=1.0):
    """SNES with its update changed: s from `step(z, mu, sigma)`, mean moved with `sign`."""

    class Wrong(SNES):
        def _tell(self, z, loss):
            u, s = nes_utilities(loss), step(z, self.mu, self.sigma)
            self.mu = self.mu + sign * self.sigma * (u @ s)
            self.sigma = self.sigma * np.exp(self.eta_sigma / 2 * (u @ (s**2 - 1)))

    return lambda domain, seed: Wrong(domain, seed, sigma0=0.3)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    "wrong",
    [
        _snes_with(lambda z, mu, sigma: z - mu),  # 1 / sigma is missing
        _snes_with(lambda z, mu, sigma: (z - mu) / sigma**2),  # sigma is squared
        _snes_with(lambda z, mu, sigma: z / sigma),  # the mean is missing
        _snes_with(lambda z, mu, sigma: (z - mu) / sigma, sign=-1.0),  # uphill
    ],
    ids=["missing 1/sigma", "squared sigma", "missing mean", "uphill"],
)
def test_wrong_update_is_caught(wrong):
    with pytest.raises(AssertionError, match="the update or a default is wrong"):
        check_convergence(wrong)


def test_the_right_update_passes():
    check_convergence(_snes_with(lambda z, mu, sigma: (z - mu) / sigma))
    check_optimizer(lambda domain, seed: SNES(domain, seed, sigma0=0.3))


def test_check_optimizer_runs_convergence_too():
    with pytest.raises(AssertionError, match="rotated quadratic"):
        check_optimizer(lambda domain, seed: RandomSearch(domain, seed), evaluations=500)
