"""The whole contract on every optimizer of the registry, with a step size that is not 1."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gfo import optimizers
from gfo.core.domain import Domain
from gfo.core.errors import GfoError
from gfo.testing import OPTIMIZER_CHECKS
from gfo.testing.optimizer_contract import check_convergence
from gfo.testing.optimizer_trials import TRIALS

# name -> options beside the defaults
OPTIONS: dict[str, dict[str, Any]] = {
    "blockwise": {"options": {"sigma0": 0.3}},
    "bipop": {"options": {"sigma0": 0.3}},
    "bo": {"population": 2, "initial": 22, "ard": False},  # few models, which are slow; all after the design
    "cma": {"sigma0": 0.3},
    "1+1-ea": {"sigma0": 0.3},
    "de": {"sigma0": 0.3},
    "fzoo": {"eps": 0.2},
    "ga": {"sigma0": 0.3},
    "lm-ma-es": {"sigma0": 0.3},
    "vkd-cma": {"sigma0": 0.3},
    "ipop": {"options": {"sigma0": 0.3}},
    "nevergrad:CMA": {"sigma0": 0.3},
    "nevergrad:DE": {"sigma0": 0.3},
    "nsga2": {"sigma0": 0.3},
    "openai-es": {"sigma": 0.2},
    "pso": {"sigma0": 0.3},
    "sa": {"sigma0": 0.3},
    "sep-cma": {"sigma0": 0.3},
    "snes": {"sigma0": 0.3},
    "spsa": {"c": 0.2},
}
# name -> median loss ratio of three seeds on the rotated quadratic, where 1e-4 is not for it. Its logarithm
# has a spread over seeds, and the last bits draw from that: bo reaches 10^(-2.8 ± 0.6),
# nsga2, whose crossover goes along the axes, 10^-2.7 in one run, random search 10^-0.8,
# openai-es 10^(-4.1 ± 0.6), snes 10^(-18 ± 6)
TARGET = {
    "bo": 0.05, "fzoo": 0.05, "nevergrad:DE": 0.05, "nsga2": 0.02, "openai-es": 3e-3, "optuna:tpe": 0.3,
    "random": 0.5, "sobol": 0.5,
}  # fmt: skip
# name -> the budget there, for the slow ones
EVALUATIONS = {"bo": 100, "nevergrad:DE": 1500, "optuna:tpe": 300, "openai-es": 20_000, "snes": 20_000}
# name -> options of the trials where they need others than those above
TRIAL_EVALUATIONS = {"bo": 60, "nevergrad:DE": 600, "optuna:tpe": 100}
# what families have is reached by name, not listed; they are slow, so one method of each stands for all
NAMES = [*optimizers.names(), "nevergrad:DE", "optuna:tpe"]


def factory(name):
    return lambda domain, seed: optimizers.make(name, domain=domain, seed=seed, **OPTIONS.get(name, {}))


@pytest.mark.parametrize("check", OPTIMIZER_CHECKS)
@pytest.mark.parametrize("name", NAMES)
def test_contract(name, check):
    evaluations = {"evaluations": TRIAL_EVALUATIONS[name]} if name in TRIAL_EVALUATIONS else {}
    plain = check == "scales" and name != "bo"  # a step given in z is not a share of the box
    made = (lambda domain, seed: optimizers.make(name, domain=domain, seed=seed)) if plain else factory(name)
    OPTIMIZER_CHECKS[check](made, **(evaluations if check in TRIALS else {}))


def told(name, domain, part):
    """The points of some steps, more than bo's design has, and the recommendation; `part` is what is told."""
    optimizer, rng, points = factory(name)(domain, 1), np.random.default_rng(0), []
    for _ in range(13):
        z = optimizer.ask()
        points.append(z)
        loss = np.sum((z - 0.3) ** 2, axis=1)
        optimizer.tell(*part(z, loss, rng.permutation(len(z))[: max(1, len(z) // 2)]))
    return [*points, optimizer.recommend()[None]]


@pytest.mark.parametrize("name", NAMES)
def test_a_part_told_is_the_rest_failed(name):
    """In any order: the same as all of them with nan for the others."""
    domain = Domain.box(-1.0, 1.0, 4)

    def failed(z, loss, kept):
        whole = np.full(len(z), np.nan)
        whole[kept] = loss[kept]
        return z, whole

    parts = told(name, domain, lambda z, loss, kept: (z[kept], loss[kept]))
    wholes, all_of_them = told(name, domain, failed), told(name, domain, lambda z, loss, _: (z, loss))
    assert all(np.array_equal(a, b) for a, b in zip(parts, wholes, strict=True))
    if name not in ("random", "sobol") and len(parts[0]) > 1:  # which learn nothing
        pairs = zip(parts, all_of_them, strict=True)
        assert any(a.shape != b.shape or not np.array_equal(a, b) for a, b in pairs)
    optimizer = factory(name)(domain, 1)
    z = optimizer.ask()
    if len(z) > 1:
        with pytest.raises(GfoError, match="row 0 is none of the others; tell a part as it was asked"):
            optimizer.tell(z[:1] / 2 + 0.001, np.zeros(1))
        with pytest.raises(GfoError, match="tell all K or a part of them with one loss each"):
            optimizer.tell(z[:, :1], np.zeros(len(z)))
    optimizer.tell(z[:0], np.zeros(0))  # nothing came back
    assert len(optimizer.ask())


@pytest.mark.parametrize("name", NAMES)
def test_convergence(name):
    evaluations = EVALUATIONS.get(name, 10_000)
    check_convergence(factory(name), evaluations=evaluations, reduction=TARGET.get(name, 1e-4))


def test_nevergrad_methods_that_use_the_global_generator_leave_it_alone():
    OPTIMIZER_CHECKS["global_generators"](factory("nevergrad:CMA"))
