"""`cma` and `sep-cma` do what pycma does, and nothing global."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from gfo.core.domain import Domain
from gfo.optimizers.cma_es import CMAES, SepCMAES
from gfo.testing import Ellipsoid

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=".*[Mm]atplotlib.*")
    import cma


@pytest.mark.parametrize(("wrapper", "diagonal"), [(CMAES, False), (SepCMAES, True)])
def test_the_run_is_pycmas(wrapper, diagonal):
    f = Ellipsoid(5, condition=100, seed=1)
    ours = wrapper(f.domain, 7, population=9, sigma0=0.3, options={"CMA_cmean": 0.8})
    options = {
        "popsize": 9, "CMA_diagonal": diagonal, "CMA_cmean": 0.8, "seed": math.nan, "verbose": -9,
        "randn": np.random.RandomState(7).randn, "signals_filename": "",
    }  # fmt: skip
    theirs = cma.CMAEvolutionStrategy(np.zeros(5), 0.3, options)
    for _ in range(40):
        z, points = ours.ask(), np.array(theirs.ask())
        np.testing.assert_array_equal(z, points)
        ours.tell(z, f(z))
        theirs.tell(list(points), list(f(points)))
    np.testing.assert_array_equal(ours.recommend(), theirs.mean)


def test_the_diagonal_variant_learns_no_rotation():
    """On a rotated ellipsoid the full matrix needs far fewer evaluations; on an unrotated one it does not."""
    f = Ellipsoid(8, condition=1e4, seed=1)
    used = {}
    for method in (CMAES, SepCMAES):
        optimizer = method(f.domain, 1)
        target = 1e-4 * f(np.zeros((1, 8)))[0]
        used[method] = 0
        while f(optimizer.recommend()[None])[0] > target and used[method] < 20_000:
            z = optimizer.ask()
            optimizer.tell(z, f(z))
            used[method] += len(z)
    assert 3 * used[CMAES] < used[SepCMAES]


def test_termination_in_words():
    optimizer = CMAES(Domain.unbounded(2), 1)
    while (reason := optimizer.should_stop()) is None:
        z = optimizer.ask()
        optimizer.tell(z, ((z - 1) ** 2).sum(axis=1))
    assert "too small to matter" in reason
    np.testing.assert_allclose(optimizer.recommend(), 1.0, atol=1e-4)


def test_small_boxes_get_small_first_steps():
    domain = Domain.box([-0.1, -5.0, -np.inf], [0.1, 5.0, np.inf])
    z = np.concatenate([CMAES(domain, seed, sigma0=0.5, population=20).ask() for seed in range(50)])
    np.testing.assert_allclose(z.std(axis=0), [0.05, 0.5, 0.5], rtol=0.15)


def test_moved_points_are_kept_in_the_state():
    """An evaluator that rounds: the resumed run must be told the rounded points again."""
    f = Ellipsoid(4, condition=10, seed=1)
    optimizer, fresh = CMAES(f.domain, 1), CMAES(f.domain, 2)
    for step in range(6):
        z = optimizer.ask()
        z = np.round(z, 1) if step % 2 else z
        optimizer.tell(z, f(z))
    fresh.load_state_dict(optimizer.state_dict())
    np.testing.assert_array_equal(fresh.ask(), optimizer.ask())
    np.testing.assert_array_equal(fresh.best_z, optimizer.best_z)


@pytest.mark.parametrize("method", [CMAES, SepCMAES])
@pytest.mark.parametrize("told", [0.0, np.nan])
@pytest.mark.filterwarnings("ignore:.*scored alike")
def test_a_step_that_says_nothing_leaves_pycmas_next_directions(method, told):
    """From d = 300 pycma adapts sigma by two points of each step, which it gives once for each tell."""
    f = Ellipsoid(300, condition=10, seed=1)
    silent, plain = method(f.domain, 1, population=6), method(f.domain, 1, population=6)
    assert isinstance(plain._es.adapt_sigma, cma.sigma_adaptation.CMAAdaptSigmaTPA)
    for step in range(12):
        for optimizer in (silent, plain):
            z = optimizer.ask()
            optimizer.tell(z, f(z))
        if step % 4 == 2:
            z = silent.ask()
            silent.tell(z, np.full(len(z), told))
    z = silent.ask()
    to_mean = z[:2] - silent._es.mean
    np.testing.assert_allclose(to_mean[0], -to_mean[1])  # the direction and its mirror
    assert not np.array_equal(z, plain.ask())  # control: new points were drawn in between
