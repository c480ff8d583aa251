"""One or two updates of each method against a calculation by hand, written with plain loops from the paper.

The functions are shifted, the step sizes are not 1, and a second update starts from the first one.
"""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest

from gfo.core.domain import Domain
from gfo.core.errors import GfoError
from gfo.optimizers.genetic import GeneticAlgorithm
from gfo.optimizers.openai_es import OpenAIES
from gfo.optimizers.particle_swarm import ParticleSwarm
from gfo.optimizers.simulated_annealing import SimulatedAnnealing
from gfo.optimizers.snes import SNES
from gfo.optimizers.spsa import SPSA
from gfo.testing import Ellipsoid

X0 = [0.7, -0.2, 1.1]


def shifted(z):
    return ((z - np.array([2.0, -1.0, 0.5])) ** 2 * np.array([1.0, 10.0, 0.1])).sum(axis=1)


def test_snes_is_that_of_wierstra_et_al():
    optimizer = SNES(Domain.unbounded(3), 1, population=6, sigma0=0.3, x0=X0)
    mu, sigma = list(X0), [0.3] * 3
    eta_sigma = (3 + math.log(3)) / (5 * math.sqrt(3))
    raw = [max(0.0, math.log(6 / 2 + 1) - math.log(k)) for k in range(1, 7)]
    for _ in range(2):
        z = optimizer.ask()
        loss = shifted(z)
        order = sorted(range(6), key=lambda k, loss=loss: loss[k])
        utility = dict(zip(order, [u / sum(raw) - 1 / 6 for u in raw], strict=True))
        new_mu, new_sigma = [], []
        for i in range(3):
            s = [(z[k, i] - mu[i]) / sigma[i] for k in range(6)]
            grad_mu = sum(utility[k] * s[k] for k in range(6))
            grad_sigma = sum(utility[k] * (s[k] ** 2 - 1) for k in range(6))
            new_mu.append(mu[i] + sigma[i] * grad_mu)
            new_sigma.append(sigma[i] * math.exp(eta_sigma / 2 * grad_sigma))
        mu, sigma = new_mu, new_sigma
        optimizer.tell(z, loss)
        np.testing.assert_allclose(optimizer.mu, mu, rtol=1e-12)
        np.testing.assert_allclose(optimizer.sigma, sigma, rtol=1e-12)


def test_openai_es_estimates_by_ranks_and_pairs():
    optimizer = OpenAIES(Domain.unbounded(3), 1, population=4, sigma=0.2, x0=X0, l2coeff=0.1)
    z = optimizer.ask()
    np.testing.assert_allclose(z[:2] - X0, -(z[2:] - X0), atol=1e-15)
    e = (z - X0) / 0.2
    rank = np.array([0.5, -1 / 6, -0.5, 1 / 6])  # of losses that are best, third, worst, second
    expected = [sum(rank[k] * e[k, i] for k in range(4)) / (4 * 0.2) - 0.1 * X0[i] for i in range(3)]
    np.testing.assert_allclose(optimizer.gradient(z, np.array([1.0, 8.0, 9.0, 2.0])), expected, rtol=1e-12)


def test_openai_es_with_z_scores():
    optimizer = OpenAIES(Domain.unbounded(3), 1, population=4, sigma=0.2, x0=X0, shaping="z-scores")
    z = optimizer.ask()
    loss = np.array([1.0, 8.0, 9.0, 2.0])  # mean 5, standard deviation sqrt(12.5)
    expected = ((5 - loss) / math.sqrt(12.5)) @ ((z - X0) / 0.2) / (4 * 0.2)
    np.testing.assert_allclose(optimizer.gradient(z, loss), expected, rtol=1e-12)
    assert not optimizer.rank_based


def test_openai_es_moves_by_adam():
    optimizer = OpenAIES(Domain.unbounded(3), 1, population=6, sigma=0.2, alpha=0.3, T=2.0, beta1=0.9, x0=X0)
    theta, m, v = list(X0), [0.0] * 3, [0.0] * 3
    for t in (1, 2, 3):
        z = optimizer.ask()
        loss = shifted(z)
        g = optimizer.gradient(z, loss)
        for i in range(3):  # Kingma and Ba, algorithm 1
            m[i] = 0.9 * m[i] + 0.1 * g[i]
            v[i] = 0.999 * v[i] + 0.001 * g[i] ** 2
            m_hat, v_hat = m[i] / (1 - 0.9**t), v[i] / (1 - 0.999**t)
            theta[i] += 0.3 / math.sqrt(1 + (t - 1) / 2.0) * m_hat / (math.sqrt(v_hat) + 1e-8)
        optimizer.tell(z, loss)
        np.testing.assert_allclose(optimizer.recommend(), theta, rtol=1e-12)


def test_spsa_is_spalls_recursion():
    optimizer = SPSA(Domain.unbounded(3), 1, population=4, a=0.05, c=0.2, A=3.0, x0=X0)
    theta = np.array(X0)
    for k in range(3):
        z = optimizer.ask()
        loss = shifted(z)
        c = 0.2 / (k + 1) ** 0.101
        g = np.zeros(3)
        for j in range(2):
            D = (z[j] - theta) / c
            np.testing.assert_allclose(np.abs(D), 1.0, rtol=1e-12)
            g += (loss[j] - loss[j + 2]) / (2 * c) / D / 2
        theta = theta - 0.05 / (3 + k + 1) ** 0.602 * g
        optimizer.tell(z, loss)
        np.testing.assert_allclose(optimizer.recommend(), theta, rtol=1e-10)


def test_spsa_with_one_gaussian_direction_is_mezo():
    optimizer = SPSA(
        Domain.unbounded(3),
        1,
        population=2,
        a=1e-2,
        c=1e-3,
        A=0,
        alpha=0,
        gamma=0,
        directions="gaussian",
        x0=X0,
    )
    theta = np.array(X0)
    for _ in range(2):
        plus, minus = optimizer.ask()
        direction = (plus - theta) / 1e-3  # MeZO: z with theta + eps z
        loss = shifted(np.array([plus, minus]))
        projected_grad = (loss[0] - loss[1]) / (2 * 1e-3)
        theta = theta - 1e-2 * projected_grad * direction
        optimizer.tell(np.array([plus, minus]), loss)
        np.testing.assert_allclose(optimizer.recommend(), theta, rtol=1e-9)


def test_spsa_fixes_its_gain_by_the_first_step_and_leaves_failed_pairs_out():
    optimizer = SPSA(Domain.unbounded(3), 1, population=6, step=0.3, x0=X0)
    z = optimizer.ask()
    loss = shifted(z)
    failed = loss.copy()
    failed[4] = np.nan  # the far side of direction 1
    np.testing.assert_allclose(
        optimizer.gradient(z, failed), optimizer.gradient(z[[0, 2, 3, 5]], loss[[0, 2, 3, 5]]), rtol=1e-12
    )
    optimizer.tell(z, failed)
    moved = optimizer.recommend() - X0
    assert np.sqrt(np.mean(moved**2)) == pytest.approx(0.3)
    assert moved @ [2 * (X0[0] - 2.0), 20 * (X0[1] + 1.0), 0.2 * (X0[2] - 0.5)] < 0  # against the gradient


def test_spsa_takes_no_longer_step_than_the_first_would_be_by_now_unless_its_gain_is_given():
    def second_move(**options):
        optimizer = SPSA(Domain.unbounded(3), 1, population=6, x0=X0, **options)
        z = optimizer.ask()
        optimizer.tell(z, shifted(z))
        before = optimizer.recommend()
        z = optimizer.ask()
        optimizer.tell(z, 100 * shifted(z))  # a hundred times steeper
        return np.sqrt(np.mean((optimizer.recommend() - before) ** 2)), optimizer.a

    length, a = second_move(step=0.3)
    assert length == pytest.approx(0.3 * (21 / 22) ** 0.602)
    assert second_move(a=a)[0] > 3.0


@pytest.mark.parametrize("topology", ["global", "ring"])
def test_pso_moves_by_constriction(topology):
    optimizer = ParticleSwarm(
        Domain.unbounded(3), 1, population=5, sigma0=0.3, x0=X0, topology=topology, v_max=100
    )
    chi = 0.7298437881283576  # Clerc and Kennedy: c1 + c2 = 4.1
    x, v = optimizer.x.copy(), optimizer.v.copy()
    p, p_loss = x.copy(), np.full(5, np.inf)
    for _ in range(3):
        draws = copy.deepcopy(optimizer.rng).random((2, 5, 3), dtype=np.float32).astype(float)
        z = optimizer.ask()
        np.testing.assert_allclose(z, x, rtol=1e-5)  # of the draws' 24 bits
        x = z
        loss = shifted(z)
        for k in range(5):
            if loss[k] < p_loss[k]:
                p[k], p_loss[k] = x[k], loss[k]
        for k in range(5):
            around = range(5) if topology == "global" else [(k - 1) % 5, k, (k + 1) % 5]
            g = p[min(around, key=lambda j: p_loss[j])]
            for i in range(3):
                own, others = (
                    2.05 * draws[0, k, i] * (p[k, i] - x[k, i]),
                    2.05 * draws[1, k, i] * (g[i] - x[k, i]),
                )
                v[k, i] = chi * (v[k, i] + own + others)
        x = x + v
        optimizer.tell(z, loss)
        np.testing.assert_allclose(optimizer.x, x, rtol=1e-5)
        v = optimizer.v.copy()


def test_pso_inertia_falls_linearly_and_velocities_are_clamped():
    optimizer = ParticleSwarm(Domain.unbounded(3), 1, inertia="linear", c1=2.0, c2=2.0, w_steps=10, v_max=0.1)
    weights = []
    for _ in range(12):
        weights.append(optimizer.coefficients()[0])
        z = optimizer.ask()
        optimizer.tell(z, shifted(z))
        assert np.abs(optimizer.v).max() <= 0.1
    np.testing.assert_allclose(weights, [*np.linspace(0.9, 0.4, 11), 0.4])


@pytest.mark.parametrize(("bounds", "velocity"), [("absorb", 0.0), ("reflect", -0.5)])
def test_pso_at_a_bound(bounds, velocity):
    optimizer = ParticleSwarm(Domain.box(-1, 1, 2), 1, population=2, bounds=bounds)
    optimizer.ask()
    optimizer.x = np.array([[0.9, 0.0], [0.9, 0.0]])
    optimizer.p, optimizer.p_loss = optimizer.x.copy(), np.zeros(2)  # no pull
    chi = optimizer.coefficients()[0]
    optimizer.v = np.array([[0.5, 0.1], [0.5, 0.1]]) / chi
    optimizer.tell(optimizer.x, np.ones(2))
    np.testing.assert_allclose(optimizer.v, [[velocity, 0.1]] * 2)
    np.testing.assert_allclose(optimizer.x, [[1.0 if bounds == "absorb" else 0.6, 0.1]] * 2)


def test_sa_starts_at_the_temperature_of_the_spread():
    optimizer = SimulatedAnnealing(Domain.unbounded(3), 1, population=8, sigma0=0.3, x0=X0)
    z = optimizer.ask()
    np.testing.assert_array_equal(z[0], X0)
    optimizer.tell(z, shifted(z))
    assert optimizer.temperature(0) == pytest.approx(2 * shifted(z).std() / 3)


@pytest.mark.parametrize(
    ("cooling", "expected"),
    [
        ("geometric", [2.0, 1.6, 1.28]),
        ("linear", [2.0, 1.5, 1.0]),
        ("logarithmic", [2.0, 2 / math.log(math.e + 1), 2 / math.log(math.e + 2)]),
    ],
)
def test_sa_cooling(cooling, expected):
    optimizer = SimulatedAnnealing(Domain.unbounded(3), 1, T0=2.0, r=0.8, n=4, cooling=cooling)
    np.testing.assert_allclose([optimizer.temperature(k) for k in range(3)], expected)
    assert optimizer.temperature(1000) < optimizer.temperature(2)


def test_sa_accepts_by_metropolis():
    optimizer = SimulatedAnnealing(Domain.unbounded(1), 1, population=4000, T0=0.5)
    optimizer.loss = np.full(4000, 1.0)
    assert optimizer._metropolis(np.full(4000, 0.9), 0.5).all()
    assert optimizer._metropolis(np.full(4000, 1.3), 0.5).mean() == pytest.approx(math.exp(-0.6), abs=0.03)
    assert not optimizer._metropolis(np.full(4000, np.inf), 0.5).any()
    assert not optimizer._metropolis(np.full(4000, 1.3), 0.0).any()


def test_sa_at_constant_temperature_samples_boltzmanns_distribution():
    """exp(-f / T) with f = (z - 2)^2 / 2 and T = 0.3 is N(2, 0.3)."""
    optimizer = SimulatedAnnealing(
        Domain.unbounded(1), 1, population=1000, T0=0.3, r=1.0, resample=False, target=0.44
    )
    for _ in range(200):
        z = optimizer.ask()
        optimizer.tell(z, ((z - 2) ** 2).sum(axis=1) / 2)
    assert optimizer.x.mean() == pytest.approx(2.0, abs=0.06)
    assert optimizer.x.var() == pytest.approx(0.3, abs=0.04)


def test_sa_resamples_by_boltzmanns_weights():
    optimizer = SimulatedAnnealing(Domain.unbounded(1), 1, population=1000)
    optimizer.x = np.repeat([[0.0], [1.0]], 500, axis=0)
    optimizer.loss = np.repeat([0.0, 1.0], 500)
    optimizer._resample(math.log(3))  # weights 1 and 1/3
    assert (optimizer.loss == 0).sum() == pytest.approx(750, abs=1)
    np.testing.assert_array_equal(optimizer.x[:, 0], optimizer.loss)


def test_sa_holds_its_acceptance_rate_and_restarts_from_the_incumbent():
    optimizer = SimulatedAnnealing(
        Domain.unbounded(3), 1, population=50, sigma0=0.3, r=1.0, T0=0.2, patience=15
    )
    accepted, restarted = [], 0
    for _ in range(120):
        z = optimizer.ask()
        before, size = optimizer.loss.copy(), optimizer.s
        optimizer.tell(z, shifted(z))
        if optimizer.k == 0 and np.isfinite(before).all():
            restarted += 1
            np.testing.assert_array_equal(optimizer.x, np.repeat(optimizer.recommend()[None], 50, axis=0))
            assert optimizer.s == 0.3
        elif np.isfinite(before).all():
            accepted.append(math.log(optimizer.s / size) + 0.234)
    assert restarted >= 1
    assert np.mean(accepted[20:]) == pytest.approx(0.234, abs=0.05)


def test_ga_generation_by_hand():
    """Truncation, uniform crossover and mutation of one generation, with the draws repeated here."""
    options = {"population": 8, "elites": 2, "truncation_share": 0.5, "p_c": 0.7, "p_m": 0.6, "sigma0": 0.3}
    optimizer = GeneticAlgorithm(Domain.unbounded(3), 1, x0=X0, **options)
    parents = optimizer.ask()
    np.testing.assert_array_equal(parents[0], X0)
    loss = shifted(parents)
    optimizer.tell(parents, loss)
    rng = copy.deepcopy(optimizer.rng)
    best = np.argsort(loss)[:4]
    first, second = rng.choice(best, 16).reshape(2, 8)
    from_second = np.unpackbits(np.frombuffer(rng.bytes(8), dtype=np.uint8).reshape(8, 1), axis=1)
    crossed = rng.random((8, 1)) < 0.7
    draws = [(rng.standard_normal(3), rng.random(3) < 0.6) for _ in range(8)]
    noise, mutated = (np.stack(each) for each in zip(*draws, strict=True))
    children = optimizer.ask()
    for k in range(8):
        for i in range(3):
            gene = parents[second[k] if from_second[k, i] and crossed[k] else first[k], i]
            assert children[k, i] == pytest.approx(gene + mutated[k, i] * 0.3 * noise[k, i], rel=1e-12)
    optimizer.tell(children, shifted(children))
    share = np.mean([shifted(children)[k] < loss[first[k]] for k in range(8)])
    assert optimizer.sigma == pytest.approx(0.3 * math.exp(share - 0.2))
    np.testing.assert_array_equal(
        optimizer.parents, np.concatenate([parents[np.argsort(loss)[:2]], children])
    )


def test_ga_without_real_genes_does_not_stop_for_its_mutation_strength():
    optimizer = GeneticAlgorithm(Domain.box(0, 1, 8, integer=True), 1)
    for _ in range(200):
        z = optimizer.ask()
        optimizer.tell(z, z.sum(axis=1))
    assert optimizer.should_stop() is None


def test_ga_evaluates_elites_again():
    optimizer = GeneticAlgorithm(Domain.unbounded(3), 1, population=6, elites=2, reevaluate=True)
    z = optimizer.ask()
    optimizer.tell(z, np.array([-9.0, 1.0, 2.0, 3.0, 4.0, 5.0]))  # a lucky first
    again = optimizer.ask()
    np.testing.assert_array_equal(again[:2], [optimizer.x0, z[0]])  # the champion and its challenger
    np.testing.assert_array_equal(again[2:4], z[:2])
    optimizer.tell(again, np.array([0.0, 0.0, 6.0, 1.0, 2.0, 3.0, 4.0, 5.0]))
    np.testing.assert_array_equal(optimizer.best_z, again[3])


def test_wrong_shapes_teach_the_fix():
    optimizer = SNES(Domain.unbounded(3), 1, population=6)
    z = optimizer.ask()
    with pytest.raises(GfoError, match=r"z \(6, 3\) and loss \(5,\) where ask gave \(6, 3\).*nan for failed"):
        optimizer.tell(z, np.zeros(5))
    optimizer.tell(z, np.zeros(6))
    with pytest.raises(GfoError, match="tell without ask; call ask"):
        optimizer.tell(z, np.zeros(6))


def test_a_moved_point_is_used_where_it_is():
    """An evaluator that rounds its points says so in tell, and the incumbent is the rounded one."""
    optimizer = SNES(Domain.unbounded(3), 1, population=6)
    rounded = np.round(optimizer.ask(), 1)
    optimizer.tell(rounded, shifted(rounded))
    np.testing.assert_array_equal(optimizer.best_z, rounded[np.argmin(shifted(rounded))])


def test_the_mean_beats_the_incumbent_on_a_noisy_loss():
    """While the steps are still long, so that a point lies well above the mean: in 29 of 30 seeds."""
    rng = np.random.default_rng(0)
    better = 0
    for seed in range(10):
        f = Ellipsoid(30, condition=10, seed=seed)
        optimizer = SNES(f.domain, seed)
        for _ in range(60):
            z = optimizer.ask()
            optimizer.tell(z, f(z) + 5.0 * rng.standard_normal(len(z)))
        better += f(optimizer.recommend()[None])[0] < f(optimizer.best_z[None])[0]
    assert better >= 7  # 0 if it recommended the incumbent itself
