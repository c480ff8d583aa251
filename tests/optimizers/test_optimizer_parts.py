"""Sampling, fitness shaping and the genetic operators."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import kstest, qmc

from gfo.core.domain import Domain
from gfo.optimizers import genetic_operators as op
from gfo.optimizers import make
from gfo.optimizers.drawing import scatter
from gfo.optimizers.fitness_shaping import centred_ranks, nes_utilities, worst_for_failed, z_scores
from gfo.optimizers.options import within
from gfo.testing import IntegerSphere, MixedSphere, OneMax

NAN = math.nan


def test_scatter_follows_the_bounds():
    domain = Domain.box(
        [-np.inf, -2.0, 1.0, -np.inf, 0], [np.inf, 3.0, np.inf, 1.0, 2], integer=[0, 0, 0, 0, 1]
    )
    z = scatter(domain, np.random.default_rng(0).random((3000, 5)))
    assert kstest(z[:, 0], "norm").pvalue > 0.01
    assert kstest(z[:, 1], "uniform", (-2.0, 5.0)).pvalue > 0.01
    assert kstest(z[:, 2] - 1, "halfnorm").pvalue > 0.01
    assert kstest(1 - z[:, 3], "halfnorm").pvalue > 0.01
    np.testing.assert_allclose(np.bincount(z[:, 4].astype(int)) / 3000, [1 / 3] * 3, atol=0.03)
    edges = scatter(domain, np.array([[0.0] * 5, [1.0] * 5]))
    assert np.isfinite(edges).all()
    assert domain.contains(edges).all()


def test_random_and_sobol_draw_what_they_say():
    domain = Domain.unbounded(3)
    u = np.random.default_rng(5).random((16, 3))
    np.testing.assert_allclose(make("random", domain=domain, seed=5).ask(), ndtri(u), rtol=1e-12)
    reference = qmc.Sobol(3, scramble=True, seed=np.random.default_rng(5)).random(16)
    z = make("sobol", domain=domain, seed=5).ask()
    np.testing.assert_allclose(z, ndtri(reference + 2.0**-31), rtol=1e-9)
    box = make("sobol", domain=Domain.box(0, 1, 3), seed=1, population=64).ask()
    for i in range(3):
        assert (np.bincount((box[:, i] * 64).astype(int), minlength=64) == 1).all()  # one in every 64th


def test_steps_in_a_box_are_at_most_a_quarter_of_it():
    np.testing.assert_allclose(
        within(Domain.box([-1.0, -9.0, -np.inf], [1.0, 9.0, 0.0]), 0.7), [0.5, 0.7, 0.7]
    )


def test_failed_candidates_become_worse_than_the_worst():
    np.testing.assert_array_equal(worst_for_failed(np.array([1.0, NAN, 3.0])), [1.0, 5.0, 3.0])
    assert (worst_for_failed(np.array([-4.0, NAN, -4.0])) > -4.0).tolist() == [False, True, False]


def test_centred_ranks():
    np.testing.assert_allclose(centred_ranks(np.array([3.0, 1.0, 100.0])), [0.0, 0.5, -0.5])
    np.testing.assert_allclose(centred_ranks(np.array([1.0, 1.0, NAN, NAN])), [1 / 3, 1 / 3, -1 / 3, -1 / 3])
    np.testing.assert_array_equal(centred_ranks(np.array([7.0])), [0.0])


def test_nes_utilities():
    raw = np.array([math.log(3) - math.log(k) for k in (1, 2)])  # K = 4: ranks 3 and 4 get 0
    u1, u2 = raw / raw.sum() - 0.25
    np.testing.assert_allclose(nes_utilities(np.array([5.0, 1.0, 9.0, 2.0])), [-0.25, u1, -0.25, u2])
    np.testing.assert_allclose(
        nes_utilities(np.array([1.0, 1.0, 2.0, NAN])), [(u1 + u2) / 2] * 2 + [-0.25] * 2
    )
    np.testing.assert_allclose(nes_utilities(np.ones(5)), 0.0, atol=1e-15)


def test_z_scores():
    np.testing.assert_allclose(z_scores(np.array([1.0, 3.0])), [1.0, -1.0])
    np.testing.assert_allclose(z_scores(np.array([1.0, 3.0, NAN])), z_scores(np.array([1.0, 3.0, 3.0])))
    np.testing.assert_array_equal(z_scores(np.ones(3)), 0.0)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


LOSS = np.array([4.0, 1.0, 3.0, math.inf])


def share(chosen):
    return np.bincount(chosen, minlength=4) / len(chosen)


def test_selection_probabilities(rng):
    n = 20_000
    np.testing.assert_allclose(share(op.roulette(rng, LOSS, n)), [0.0, 0.75, 0.25, 0.0], atol=0.01)
    np.testing.assert_allclose(share(op.linear_rank(rng, LOSS, n)), [0.2, 0.4, 0.3, 0.1], atol=0.01)
    np.testing.assert_allclose(share(op.truncation(rng, LOSS, n, share=0.5)), [0.0, 0.5, 0.5, 0.0], atol=0.01)
    # the best of two: rank r of 4 wins with ((5 - r)^2 - (4 - r)^2) / 16
    expected = np.array([3, 7, 5, 1]) / 16
    np.testing.assert_allclose(share(op.tournament(rng, LOSS, n, size=2)), expected, atol=0.01)
    np.testing.assert_allclose(share(op.roulette(rng, np.ones(4), n)), 0.25, atol=0.01)


def test_crossover(rng):
    a, b = np.zeros((20_000, 6)), np.ones((20_000, 6))
    one = op.multi_point(rng, a, b, points=1)
    assert (np.diff(one, axis=1) >= 0).all()
    np.testing.assert_allclose(one.mean(axis=0), np.arange(6) / 5, atol=0.02)
    assert (np.abs(np.diff(op.multi_point(rng, a, b, points=3), axis=1)).sum(axis=1) <= 3).all()
    np.testing.assert_allclose(op.uniform(rng, a, b.copy()).mean(axis=0), 0.5, atol=0.02)
    blend = op.blend(rng, a, b, alpha=0.5)
    assert kstest(blend[:2000, 0], "uniform", (-0.5, 2.0)).pvalue > 0.01


def test_simulated_binary_crossover_spreads_as_deb_and_agrawal(rng):
    """p(beta) = (eta + 1) / 2 beta^eta up to 1 and (eta + 1) / 2 beta^-(eta + 2) above."""
    child = op.simulated_binary(
        rng, np.full((20_000, 1), -1.0), np.full((20_000, 1), 1.0), eta=2.0, domain=Domain.unbounded(1)
    )[:, 0]
    beta = np.abs(child)
    assert (beta <= 1).mean() == pytest.approx(0.5, abs=0.02)
    assert (beta <= 0.5).mean() == pytest.approx(0.5**3 / 2, abs=0.01)
    assert (beta > 2).mean() == pytest.approx(2.0**-3 / 2, abs=0.01)
    assert (child > 0).mean() == pytest.approx(0.5, abs=0.02)


def test_mutation(rng):
    z = op.mutate_real(rng, np.zeros((20_000, 2)), step=np.array([0.3, 0.0]), rate=0.25)
    assert (z[:, 0] != 0).mean() == pytest.approx(0.25, abs=0.02)
    assert z[z[:, 0] != 0, 0].std() == pytest.approx(0.3, rel=0.05)
    assert (z[:, 1] == 0).all()
    domain = Domain.box([0, -2, -np.inf], [1, 2, np.inf], integer=[True, True, False])
    z = op.mutate_integer(rng, np.tile([1.0, 0.0, 0.7], (20_000, 1)), domain=domain, rate=1.0)
    assert (z[:, 0] == 0).all()  # the flip of the bit
    np.testing.assert_allclose(np.unique(z[:, 1], return_counts=True)[1] / 20_000, [0.25] * 4, atol=0.02)
    assert 0.0 not in z[:, 1]
    assert (z[:, 2] == 0.7).all()


@pytest.mark.parametrize("selection", ["tournament", "roulette", "rank", "truncation"])
@pytest.mark.parametrize("crossover", ["one-point", "multi-point", "uniform", "blend", "sbx"])
def test_every_choice_of_the_ga_improves_every_kind_of_gene(selection, crossover):
    for f in (OneMax(20, seed=1), IntegerSphere(6, seed=1), MixedSphere(9, seed=1)):
        optimizer = make(
            "ga", domain=f.domain, seed=1, population=20, selection=selection, crossover=crossover
        )
        start = f(optimizer.recommend()[None])[0]
        for _ in range(60):
            z = optimizer.ask()
            assert f.domain.contains(z).all()
            optimizer.tell(z, f(z))
        assert f(optimizer.recommend()[None])[0] < 0.6 * start


def test_the_ga_solves_one_max():
    f = OneMax(50, seed=2)
    optimizer = make("ga", domain=f.domain, seed=1)
    used = 0
    while optimizer.best_loss > f.minimum:
        z = optimizer.ask()
        optimizer.tell(z, f(z))
        used += len(z)
        assert used < 4000
    np.testing.assert_array_equal(optimizer.recommend(), f.optimum)


def test_scheduled_and_constant_strength():
    for strength, expected in (("scheduled", 0.3 * 0.9**5), ("constant", 0.3)):
        optimizer = make("ga", domain=Domain.unbounded(2), seed=1, sigma0=0.3, strength=strength, decay=0.9)
        for _ in range(6):
            z = optimizer.ask()
            optimizer.tell(z, (z**2).sum(axis=1))
        assert optimizer.sigma == pytest.approx(expected)
