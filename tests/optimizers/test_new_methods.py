"""One update of the newer methods by hand, genes of every kind, plans, and what restarts count."""

from __future__ import annotations

import copy
import math
import warnings

import numpy as np
import pytest

from gfo import optimizers
from gfo.core.domain import Domain
from gfo.core.errors import GfoError, GfoWarning
from gfo.optimizers.differential_evolution import DifferentialEvolution
from gfo.optimizers.fzoo import FZOO
from gfo.optimizers.lm_ma_es import LMMAES
from gfo.optimizers.one_plus_one import OnePlusOneEA
from gfo.optimizers.restarts import BIPOP
from gfo.testing import Ellipsoid, IntegerSphere, OneMax
from gfo.testing.functions import Words

X0 = [0.7, -0.2, 1.1]


def shifted(z):
    return ((z - np.array([2.0, -1.0, 0.5])) ** 2 * np.array([1.0, 10.0, 0.1])).sum(axis=1)


def search(optimizer, f, evaluations):
    points = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GfoWarning)
        while len(points) < evaluations and optimizer.should_stop() is None:
            z = optimizer.ask()
            points += list(z)
            optimizer.tell(z, f(z))
    return np.array(points)


def test_fzoo_steps_by_one_sided_differences_over_their_deviation():
    optimizer = FZOO(Domain.unbounded(3), 1, population=5, eps=0.2, eta=0.3, T=4.0, x0=X0)
    theta = np.array(X0)
    for t in range(3):
        z = optimizer.ask()
        np.testing.assert_allclose(z[0], theta, rtol=1e-12)
        np.testing.assert_allclose(np.abs(z[1:] - theta), 0.2, rtol=1e-9)
        loss = shifted(z)
        mean = sum(loss[1:]) / 4
        s = math.sqrt(sum((x - mean) ** 2 for x in loss[1:]) / 3)
        g = sum((loss[i] - loss[0]) * (z[i] - theta) / 0.2 for i in range(1, 5)) / (4 * 0.2)  # the paper's
        theta = theta - 0.3 / math.sqrt(1 + t / 4) * 0.2 * g / s
        optimizer.tell(z, loss)
        np.testing.assert_allclose(optimizer.recommend(), theta, rtol=1e-10)


def test_lm_ma_es_is_algorithm_3_of_its_paper():
    d, lam, mu = 3, 6, 3
    optimizer = LMMAES(Domain.unbounded(d), 1, population=lam, sigma0=0.3, x0=X0, directions=2)
    raw = [math.log(lam / 2 + 0.5) - math.log(i) for i in range(1, mu + 1)]
    w = [x / sum(raw) for x in raw]
    mu_w = 1 / sum(x**2 for x in w)
    c_sigma = min(1.0, 2 * lam / d)
    c_d, c_c = [1 / (1.5**j * d) for j in range(2)], [min(1.0, lam / (4.0**j * d)) for j in range(2)]
    y, sigma, p, M = np.array(X0), 0.3, np.zeros(d), [np.zeros(d), np.zeros(d)]
    for t in range(4):
        draws = copy.deepcopy(optimizer.rng).standard_normal((lam, d))
        bent = []
        for draw in draws:
            direction = draw
            for j in range(min(t, 2)):
                direction = (1 - c_d[j]) * direction + c_d[j] * M[j] * (M[j] @ direction)
            bent.append(direction)
        z = optimizer.ask()
        np.testing.assert_allclose(z, y + sigma * np.array(bent), rtol=1e-9)
        loss = shifted(z)
        order = np.argsort(loss)
        mean_z = sum(w[i] * draws[order[i]] for i in range(mu))
        y = y + sigma * sum(w[i] * bent[order[i]] for i in range(mu))
        p = (1 - c_sigma) * p + math.sqrt(mu_w * c_sigma * (2 - c_sigma)) * mean_z
        M = [(1 - c) * m + math.sqrt(mu_w * c * (2 - c)) * mean_z for c, m in zip(c_c, M, strict=True)]
        sigma *= math.exp(c_sigma / 2 * (p @ p / d - 1))
        optimizer.tell(z, loss)
        np.testing.assert_allclose(optimizer.recommend(), y, rtol=1e-9)
        assert optimizer.sigma == pytest.approx(sigma)


def test_l_shade_selects_learns_and_shrinks():
    optimizer = DifferentialEvolution(Domain.unbounded(3), 1, population=8, sigma0=0.3, x0=X0)
    optimizer.plan(80)
    z = optimizer.ask()
    optimizer.tell(z, shifted(z))
    for _ in range(4):
        x, loss = optimizer.x.copy(), optimizer.loss.copy()
        k, M_F = optimizer.k, optimizer.M_F.copy()
        z = optimizer.ask()
        F, CR, new = optimizer._F, optimizer._CR, shifted(z)
        assert 0.2 < (z != x).mean() <= 1
        assert ((F > 0) & (F <= 1) & (CR >= 0) & (CR <= 1)).all()
        optimizer.tell(z, new)
        won = new < loss
        if won.any():  # eq. 7 to 9: the Lehmer mean with the gains as weights
            gain = loss[won] - new[won]
            M_F[k] = sum(gain * F[won] ** 2) / sum(gain * F[won])
        np.testing.assert_allclose(optimizer.M_F, M_F)
        N = max(4, round(8 + (4 - 8) * optimizer.used / 80))  # eq. 10
        assert len(optimizer.x) == N
        kept = np.where(won[:, None], z, x)
        assert all((row == kept).all(axis=1).any() for row in optimizer.x)


def test_a_trial_point_of_de_is_current_to_pbest():
    """With a crossover rate of 1 each trial point solves eq. 4 for some members of the population."""
    optimizer = DifferentialEvolution(Domain.unbounded(4), 3, population=5, archive=0.0)
    optimizer.M_CR[:] = 2.0  # cut to 1
    z = optimizer.ask()
    optimizer.tell(z, (z**2).sum(axis=1) + 1)
    x, loss = optimizer.x.copy(), optimizer.loss.copy()
    trials = optimizer.ask()
    best = np.argsort(loss)[:2]
    for i, v in enumerate(trials):
        sources = [
            (p, a, b)
            for p in best
            for a in range(5)
            for b in range(5)
            if len({i, a, b}) == 3 and np.allclose(v, x[i] + optimizer._F[i] * (x[p] - x[i] + x[a] - x[b]))
        ]
        assert sources


def test_the_parent_of_the_ea_is_replaced_by_mutants_that_are_no_worse():
    f = OneMax(20, seed=1)
    optimizer = OnePlusOneEA(f.domain, 1, population=1)
    optimizer.tell(optimizer.ask(), f(optimizer.ask()))
    for _ in range(200):
        x, loss = optimizer.x.copy(), optimizer.loss
        y = optimizer.ask()
        assert (y[0] != x).any()  # a mutant never equals its parent
        optimizer.tell(y, f(y))
        np.testing.assert_array_equal(optimizer.x, y[0] if f(y)[0] <= loss else x)
    rates = optimizer._chances
    assert rates[1] / rates[0] == pytest.approx(2**-1.5)  # Doerr et al.: a power law of exponent 1.5


@pytest.mark.parametrize(("name", "options", "least"), [
    ("1+1-ea", {"population": 1}, 49), ("ga", {}, 47), ("sa", {}, 40), ("random", {}, 0),
    ("nevergrad:DiscreteOnePlusOne", {"population": 1}, 40), ("nevergrad:DE", {}, 38),
])  # fmt: skip
def test_one_max_of_50_bits_in_600_evaluations(name, options, least):
    """0.1.0: DiscreteOnePlusOne 5 to 7 bits right after 1,500."""
    f = OneMax(50, seed=1)
    optimizer = optimizers.make(name, domain=f.domain, seed=0, **options)
    optimizer.plan(600)
    points = search(optimizer, f, 600)
    assert 50 - f(points).min() >= least
    if name == "random":
        assert 50 - f(points).min() < 40  # a control


@pytest.mark.parametrize(
    "name", ["ga", "sa", "1+1-ea", "random", "sobol", "nevergrad:DE", "nevergrad:OnePlusOne"]
)
def test_mixed_and_categorical_genes(name):
    low, high = [-1.0, 0, 0, 2, -np.inf, 0], [1.0, 1, 30, 6, np.inf, 500]
    domain = Domain(low, high, [0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 0, 1], ("a", "b", "c", "d", "e", "f"))
    x0 = [0.5, 1, 7, 3, -2.0, 450]
    with_x0 = {} if name in ("random", "sobol") else {"x0": x0}
    optimizer = optimizers.make(name, domain=domain, seed=1, **with_x0)
    points = search(optimizer, lambda z: np.abs(z - x0) @ [1, 1, 0.1, 1, 1, 0.01], 200)
    assert domain.contains(points).all()
    assert set(points[:, 3]) <= {2.0, 3.0, 4.0, 5.0, 6.0}
    assert len(set(points[:, 3])) > 2


@pytest.mark.parametrize("name", ["ga", "sa", "1+1-ea"])
def test_categories_are_found_whatever_their_numbers(name):
    f = Words(12, values=30, seed=2)
    optimizer = optimizers.make(name, domain=f.domain, seed=1)
    search(optimizer, f, 3000)
    assert f(optimizer.recommend()[None])[0] < 0.3 * f.weights.sum()


@pytest.mark.parametrize("f", [OneMax(64, seed=1), IntegerSphere(8, seed=1), Words(8, values=6, seed=1)])
def test_integer_ga_asks_for_no_point_twice(f):
    """0.1.0: 34 to 63 % of its evaluations were repeats."""
    points = search(optimizers.make("ga", domain=f.domain, seed=0), f, 1500)
    assert len(np.unique(points, axis=0)) >= 0.99 * len(points)


def test_a_domain_that_is_used_up_is_searched_again():
    f = OneMax(3, seed=1)
    points = search(optimizers.make("ga", domain=f.domain, seed=0), f, 60)
    assert len(np.unique(points, axis=0)) == 8


def test_small_runs_of_bipop_take_at_most_half_of_the_large_ones():
    """As in pycma: the first run counts as small, and no small one exceeds half of all large ones."""
    optimizer = BIPOP(Domain.unbounded(2), 1, tolfun=1e-3, options={"population": 6})
    spent, runs = {True: 0, False: 0}, []
    for _ in range(1500):
        z = optimizer.ask()
        if not runs or runs[-1][0] is not optimizer.run:
            runs.append([optimizer.run, 0, spent[False]])
        runs[-1][1] += len(z)
        spent[optimizer.run["small"] or len(runs) == 1] += len(z)
        optimizer.tell(z, ((z - 1.5) ** 2).sum(axis=1))
    small = [(used, large, run["population"]) for run, used, large in runs if run["small"]]
    assert len(small) > 3
    assert all(used < large / 2 + population for used, large, population in small)
    assert optimizer._spent == [spent[False], spent[True]]
    assert not runs[1][0]["small"]  # a large run follows the first one


@pytest.mark.parametrize("name", ["sa", "pso", "de", "nevergrad:NGOpt", "ga", "blockwise"])
@pytest.mark.parametrize("noisy", [False, True])
def test_a_planned_run_resumed_is_the_same(name, noisy):
    f = Ellipsoid(5, condition=10, seed=1)

    def new(seed):
        options = {"cooling": "linear"} if name == "sa" else {"inertia": "linear"} if name == "pso" else {}
        made = optimizers.make(name, domain=f.domain, seed=seed, **options)
        made.plan(400, batches_differ=noisy)
        return made

    first, again = new(1), new(2)
    search(first, f, 150)
    again.load_state_dict(first.state_dict())
    again.plan(800, batches_differ=noisy)  # a larger budget does not change what was begun
    for _ in range(6):
        z = first.ask()
        np.testing.assert_array_equal(again.ask(), z)
        for optimizer in (first, again):
            optimizer.tell(z, f(z))
    np.testing.assert_array_equal(first.recommend(), again.recommend())


def test_what_nevergrad_raises_is_one_line_with_the_method_and_the_reason():
    """0.1.0: a bare AssertionError."""
    domain = Domain.unbounded(4)
    with pytest.raises(GfoError, match=r"optimizer 'nevergrad:NgIohTuned': nevergrad raises .*budget"):
        optimizers.make("nevergrad:NgIohTuned", domain=domain, seed=0).ask()
    planned = optimizers.make("nevergrad:NgIohTuned", domain=domain, seed=0)
    planned.plan(100)
    assert planned.ask().shape[1] == 4


@pytest.mark.parametrize("evaluations", [0, -3, 2.5, True])
def test_bad_plans(evaluations):
    with pytest.raises(GfoError, match="plan's evaluations"):
        optimizers.make("snes", domain=Domain.unbounded(3), seed=0).plan(evaluations)


def slope(z):
    """Down to the corner of the box, where it goes on flat."""
    return (5.0 - np.clip(z, -5, 5)) @ 10.0 ** np.linspace(0, 1, z.shape[1])


def test_cma_finds_an_optimum_on_the_border_as_fast_as_without_bounds():
    """0.1.0: pycma's transformation took about twice the evaluations."""
    used = {}
    for domain in (Domain.unbounded(10), Domain.box(-5, 5, 10)):
        optimizer = optimizers.make("cma", domain=domain, seed=1, sigma0=1.0)
        used[domain.bounded] = 0
        while slope(optimizer.recommend()[None])[0] > 1e-8 and used[domain.bounded] < 5000:
            z = optimizer.ask()
            optimizer.tell(z, slope(z))
            used[domain.bounded] += len(z)
    assert used[True] < 1.3 * used[False]
