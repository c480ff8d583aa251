"""Hyperparameters: values there and back on every kind of scale, conditions, equal points, and bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfo import GfoError, Hyperparameters, Int, Log, When

SPACE = {
    "lr": Log(1e-5, 1e-1),
    "dropout": (0.0, 0.3),
    "rank": Int(1, 16),
    "width": Int(8, 4096, log=True),
    "batch": [4, 8, 16],
    "decay": [0.0, 0.01, 0.1],
    "optimizer": ["sgd", "adam", "lion"],
    "momentum": When("optimizer", "sgd", (0.0, 0.99)),
    "nesterov": When("optimizer", ["sgd", "lion"], [True, False]),
}
KINDS = [Hyperparameters(SPACE), Hyperparameters(SPACE, continuous=True)]


def refused(call, *parts):
    with pytest.raises(GfoError) as error:
        call()
    assert "\n" not in str(error.value)
    assert [part for part in parts if part not in str(error.value)] == [], str(error.value)


def draws(hyperparameters, n=400, seed=0):
    domain = hyperparameters.domain
    z = np.random.default_rng(seed).uniform(domain.low - 0.49, domain.high + 0.49, (n, domain.d))
    return hyperparameters.repair(z)


def test_the_domain():
    genes, real = (kind.domain for kind in KINDS)
    assert genes.names == real.names == tuple(SPACE)
    assert genes.integer.tolist() == [False, False, True, False, True, True, True, False, True]
    assert genes.categorical.tolist() == [False] * 6 + [True, False, True]
    assert genes.high.tolist() == [1, 1, 16, 1, 2, 2, 2, 1, 1]
    assert not real.integer.any()
    assert (real.low.tolist(), real.high.tolist()) == ([0.0] * 9, [1.0] * 9)


@pytest.mark.parametrize("hyperparameters", KINDS, ids=["genes", "continuous"])
def test_there_and_back(hyperparameters):
    for z in draws(hyperparameters):
        values = hyperparameters.values(z)
        np.testing.assert_allclose(hyperparameters.point(values), z, rtol=0, atol=1e-12)
        again = hyperparameters.values(hyperparameters.point(values))
        assert {k: v for k, v in again.items() if not isinstance(v, float)} == {
            k: v for k, v in values.items() if not isinstance(v, float)
        }
        assert all(type(values[name]) is int for name in ("rank", "width", "batch"))


@pytest.mark.parametrize("hyperparameters", KINDS, ids=["genes", "continuous"])
def test_scales(hyperparameters):
    """Half of the draws of a logarithmic scale are below its geometric mean, each choice has its share."""
    found = [hyperparameters.values(z) for z in draws(hyperparameters, 4000)]
    assert np.mean([v["lr"] < 1e-3 for v in found]) == pytest.approx(0.5, abs=0.2)
    uniform = [
        hyperparameters.values(z)
        for z in np.random.default_rng(1).uniform(
            hyperparameters.domain.low - 0.5 * hyperparameters.domain.integer,
            hyperparameters.domain.high + 0.5 * hyperparameters.domain.integer,
            (4000, 9),
        )
    ]
    assert np.mean([v["lr"] < 1e-3 for v in uniform]) == pytest.approx(0.5, abs=0.04)
    assert np.mean([v["width"] < math.sqrt(8 * 4096) for v in uniform]) == pytest.approx(0.5, abs=0.04)
    assert np.mean([v["rank"] <= 8 for v in uniform]) == pytest.approx(0.5, abs=0.04)
    for choice in SPACE["batch"]:
        assert np.mean([v["batch"] == choice for v in uniform]) == pytest.approx(1 / 3, abs=0.04)
    assert {v["width"] for v in found} >= {8, 4096}


@pytest.mark.parametrize("hyperparameters", KINDS, ids=["genes", "continuous"])
def test_conditions(hyperparameters):
    found = [hyperparameters.values(z) for z in draws(hyperparameters)]
    assert {"sgd", "adam", "lion"} == {v["optimizer"] for v in found}
    for values in found:
        assert ("momentum" in values) == (values["optimizer"] == "sgd")
        assert ("nesterov" in values) == (values["optimizer"] != "adam")


@pytest.mark.parametrize("hyperparameters", KINDS, ids=["genes", "continuous"])
@pytest.mark.parametrize(("optimizer", "equal"), [("adam", True), ("sgd", False)])
def test_equal_values_are_equal_points(hyperparameters, optimizer, equal):
    """Whatever the gene of a momentum that is not there; where there is one, it counts."""
    values = {
        "lr": 1e-3,
        "dropout": 0.1,
        "rank": 2,
        "width": 9,
        "batch": 4,
        "decay": 0.1,
        "optimizer": optimizer,
    }
    if optimizer == "sgd":
        values |= {"momentum": 0.5, "nesterov": True}
    two = np.stack([hyperparameters.point(values)] * 2)
    two[1, hyperparameters.names.index("momentum")] = 0.123
    assert (two[0] != two[1]).any()
    found = hyperparameters.repair(two)
    assert np.array_equal(found[0], found[1]) == equal
    np.testing.assert_array_equal(hyperparameters.repair(found), found)


@given(st.integers(-50, 50), st.integers(1, 60), st.booleans())
def test_every_whole_number_comes_back(low, width, log):
    low = abs(low) + 1 if log else low
    for continuous in (False, True):
        one = Hyperparameters({"n": Int(low, low + width, log=log)}, continuous=continuous)
        for n in range(low, low + width + 1):
            assert one.values(one.point({"n": n})) == {"n": n}


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({}, ["there are none"]),
        ({"lr": Log(0.0, 0.1)}, ["'lr'", "low = 0.0", "logarithmic", "above 0"]),
        ({"lr": Log(0.1, 1e-5)}, ["'lr'", "low = 0.1 must be below high = 1e-05"]),
        ({"x": (0.3, 0.3)}, ["'x'", "must be below"]),
        ({"x": (0.0, math.inf)}, ["'x'", "finite"]),
        ({"n": Int(5, 1)}, ["'n'", "low = 5"]),
        ({"n": Int(0, 9, log=True)}, ["'n'", "logarithmic"]),
        ({"c": [4]}, ["'c'", "two choices"]),
        ({"c": ["a", "b", "a"]}, ["'c'", "twice"]),
        ({"x": 0.3}, ["'x' = 0.3", "gfo.Log"]),
        ({"x": (1, 2, 3)}, ["'x'", "(low, high)"]),
        ({"m": When("optimiser", 1, (0.0, 1.0)), "optimizer": [1, 2]}, ["did you mean 'optimizer'"]),
        ({"m": When("o", "c", (0.0, 1.0)), "o": ["a", "b"]}, ["'o' is never 'c'", "'a', 'b'"]),
        ({"m": When("o", 1, (0.0, 1.0)), "o": (0.0, 1.0)}, ["never 1", "it is a range"]),
        ({"a": When("b", 1, [1, 2]), "b": When("a", 1, [1, 2])}, ["circle"]),
    ],
)  # fmt: skip
def test_bad_spaces(space, words):
    refused(lambda: Hyperparameters(space), *words)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"lr": 1e-3}, ["'dropout' has no value"]),
        ({"learning_rate": 1e-3}, ["unknown hyperparameter 'learning_rate'"]),
        ({"lr": 1.0}, ["'lr' = 1.0", "from 1e-05 to 0.1"]),
        ({"lr": "1e-3"}, ["'lr'", "number"]),
        ({"lr": 1e-3, "dropout": 0.1, "rank": 2.5}, ["'rank' = 2.5", "whole number"]),
        ({"lr": 1e-3, "dropout": 0.1, "rank": 2, "width": 9, "batch": 5}, ["'batch' = 5", "4, 8, 16"]),
    ],
)
def test_bad_values(values, words):
    refused(lambda: KINDS[0].point(values), *words)
