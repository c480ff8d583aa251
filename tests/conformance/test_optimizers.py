"""The whole contract on every optimizer of the registry, with a step size that is not 1."""

from __future__ import annotations

import pytest

from gfo import optimizers
from gfo.testing import OPTIMIZER_CHECKS
from gfo.testing.optimizer_contract import check_convergence

# name -> options beside the defaults
OPTIONS: dict[str, dict[str, float]] = {"cma": {"sigma0": 0.3}, "sep-cma": {"sigma0": 0.3}}
# name -> loss ratio reached in 10,000 evaluations of the rotated quadratic, where 1e-4 is not for it
TARGET = {"openai-es": 1e-3, "random": 0.5, "sobol": 0.5}


def factory(name):
    return lambda domain, seed: optimizers.make(name, domain=domain, seed=seed, **OPTIONS.get(name, {}))


@pytest.mark.parametrize("check", OPTIMIZER_CHECKS)
@pytest.mark.parametrize("name", optimizers.names())
def test_contract(name, check):
    OPTIMIZER_CHECKS[check](factory(name))


@pytest.mark.parametrize("name", optimizers.names())
def test_convergence(name):
    check_convergence(factory(name), reduction=TARGET.get(name, 1e-4))
