"""What the ask and tell of other libraries has: n points, points of others, the start of a former run."""

from __future__ import annotations

import json

import numpy as np
import pytest

import gfo
from gfo import optimizers
from gfo.core.domain import Domain
from gfo.core.errors import GfoError
from gfo.run.spread import spread_of
from gfo.testing import Ellipsoid

NAMES = [name for name in optimizers.names() if name not in ("bo", "blockwise")]
VARY = ["random", "sobol", "snes", "openai-es", "spsa", "fzoo", "1+1-ea", "nevergrad:DE"]


def made(name, d=6, seed=1, **options):
    return optimizers.make(name, domain=Domain.unbounded(d), seed=seed, **options)


@pytest.mark.parametrize("name", VARY)
def test_ask_gives_n_points_for_a_step(name):
    f = Ellipsoid(6, condition=10, seed=1)
    optimizer = made(name)
    usual = len(optimizer.ask())
    for n in (4, 12, None, 4):
        z = optimizer.ask() if not optimizer.best_loss < np.inf else optimizer.ask(n)
        assert optimizer.best_loss == np.inf or len(z) == (usual if n is None else n)
        optimizer.tell(z, f(z))
    z = optimizer.ask(10)
    with pytest.raises(GfoError, match=r"ask\(n = 4\) where 10 points were asked"):
        optimizer.ask(4)
    fresh = made(name, seed=2)
    fresh.load_state_dict(optimizer.state_dict())
    np.testing.assert_array_equal(fresh.ask(), z)


@pytest.mark.parametrize("name", ["pso", "cma", "de", "sa"])
def test_a_method_whose_steps_have_one_size_says_so(name):
    optimizer = made(name)
    with pytest.raises(GfoError, match=r"ask\(n = 3\), but its steps have"):
        optimizer.ask(3)
    K = len(optimizer.ask())
    assert len(made(name).ask(K)) == K


@pytest.mark.parametrize(("name", "n", "why"), [("openai-es", 5, "even"), ("fzoo", 2, "at least 3")])
def test_a_number_that_no_step_can_have_is_one_line(name, n, why):
    with pytest.raises(GfoError, match=why):
        made(name).ask(n)


@pytest.mark.parametrize("name", NAMES)
def test_points_of_others_take_the_last_places(name):
    f = Ellipsoid(6, condition=10, seed=1)
    optimizer, alone = made(name), made(name)
    others = np.stack([f.optimum, f.optimum + 50.0])
    optimizer.inject(others)
    asked = []
    for step in range(30):
        z = optimizer.ask()
        asked.append(z)
        if step == 0:
            fresh = made(name, seed=2)
            fresh.load_state_dict(json_round(optimizer.state_dict()))
            np.testing.assert_array_equal(fresh.ask(), z)
        optimizer.tell(z, f(z))
        own = alone.ask()
        alone.tell(own, f(own))
    first = np.concatenate(asked[:2])
    assert all((first == other).all(axis=1).any() for other in others)
    assert optimizer.best_loss == 0 < alone.best_loss  # control: without them it is not found
    assert all(np.isfinite(z).all() for z in asked)
    assert f(optimizer.recommend()[None])[0] < f(np.zeros((1, 6)))[0]  # the far one did no harm


def json_round(state):
    """A state with numpy's generator as JSON has it."""
    return {**state, "rng": json.loads(json.dumps(state["rng"]))} if "rng" in state else state


@pytest.mark.parametrize("name", ["cma", "snes", "ga"])
def test_a_run_with_points_of_others_goes_on_to_the_bit(name):
    f = Ellipsoid(6, condition=10, seed=1)
    optimizer = made(name)
    for step in range(9):
        if step in (2, 5):
            optimizer.inject(f.optimum + np.arange(12).reshape(2, 6) / 10)
        z = optimizer.ask()
        optimizer.tell(z, f(z))
    fresh = made(name, seed=2)
    fresh.load_state_dict(optimizer.state_dict())
    for _ in range(3):
        z = optimizer.ask()
        np.testing.assert_array_equal(fresh.ask(), z)
        optimizer.tell(z, f(z))
        fresh.tell(z, f(z))


@pytest.mark.parametrize(("z", "why"), [(np.zeros(5), "give points"), (np.full((2, 6), 9.0), "inside")])
def test_points_that_cannot_be_injected_are_one_line(z, why):
    optimizer = optimizers.make("snes", domain=Domain.box(-1, 1, 6), seed=1)
    with pytest.raises(GfoError, match=why):
        optimizer.inject(z)
    with pytest.raises(GfoError, match="cannot take points of others"):
        made("blockwise").inject(np.zeros(6))


def test_a_covariance_matrix_handed_on_saves_learning_it():
    """CMA-ES from 1 beside the optimum: with the matrix far fewer evaluations than with step sizes alone."""
    f = Ellipsoid(8, condition=1e4, seed=1)

    def evaluations(optimizer):
        used = 0
        while f(optimizer.recommend()[None])[0] > 1e-4 and used < 20_000:
            z = optimizer.ask()
            optimizer.tell(z, f(z))
            used += len(z)
        return used

    first = made("cma", d=8)
    evaluations(first)
    spread = spread_of(first)
    shape = spread["std"] / spread["std"].max()
    used = {}
    for given in (True, False):
        later = made("cma", d=8, seed=2, x0=f.optimum + 1, scale=(2 * shape).tolist())
        if given:
            later.correlate(spread["covariance"])
        used[given] = evaluations(later)
    assert 1.5 * used[True] < used[False]
    np.testing.assert_allclose(spread["std"] ** 2, np.diag(spread["covariance"]))


@pytest.mark.parametrize("name", ["openai-es", "pso"])
def test_methods_that_adapt_no_step_hand_none_on(name):
    assert spread_of(made(name)) == {}
    assert set(spread_of(made("sep-cma"))) == {"std"}  # control


def test_gfo_has_it_all():
    assert callable(gfo.optimizers.make("snes", domain=Domain.unbounded(2), seed=0).inject)
