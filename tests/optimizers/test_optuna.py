"""Optuna's samplers: the library's own points, genes, what has no bounds, and errors in a line."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import optuna
import pytest
from scipy.stats import kstest

from gfo import optimizers
from gfo.core.domain import Domain
from gfo.core.errors import GfoError


def asked(optimizer, f, steps):
    points = []
    for _ in range(steps):
        points.append(optimizer.ask())
        optimizer.tell(points[-1], f(points[-1]))
    return np.concatenate(points)


def by_optuna(sampler, f, steps, K, ranges, first):
    study = optuna.create_study(sampler=sampler)
    study.enqueue_trial(first)
    points = []
    for _ in range(steps):
        trials = [study.ask(ranges) for _ in range(K)]
        points += [[trial.params[name] for name in ranges] for trial in trials]
        for trial, value in zip(trials, f(np.array(points[-K:])), strict=True):
            study.tell(trial, value)
    return np.array(points)


@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        ("tpe", optuna.samplers.TPESampler),
        ("cmaes", optuna.samplers.CmaEsSampler),
        ("nsgaii", optuna.samplers.NSGAIISampler),
        ("qmc", optuna.samplers.QMCSampler),
    ],
)
def test_the_points_are_those_of_optuna_itself(name, sampler):
    def f(z):
        return ((z - 0.3) ** 2).sum(axis=1)

    ranges = {f"z{i}": optuna.distributions.FloatDistribution(-1.0, 2.0) for i in range(3)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        theirs = by_optuna(sampler(seed=4), f, 12, 5, ranges, dict.fromkeys(ranges, 0.0))
    ours = optimizers.make(f"optuna:{name}", domain=Domain.box(-1.0, 2.0, 3), seed=4, population=5)
    points = asked(ours, f, 12)
    np.testing.assert_array_equal(points, theirs)
    other = optimizers.make(f"optuna:{name}", domain=Domain.box(-1.0, 2.0, 3), seed=5, population=5)
    assert not np.array_equal(asked(other, f, 12), theirs) or name == "qmc"  # not scrambled: no seed in it
    assert len(np.unique(points, axis=0)) > 50


def test_without_bounds_the_random_sampler_is_random_search():
    optimizer = optimizers.make("optuna:random", domain=Domain.unbounded(4), seed=0, scale=2.0, x0=np.ones(4))
    z = asked(optimizer, lambda z: z.sum(axis=1), 60)
    np.testing.assert_array_equal(z[0], np.ones(4))
    share = kstest((z[1:] - 1).ravel() / 2, "norm").pvalue
    assert share > 1e-3
    assert kstest(z[1:].ravel(), "norm").pvalue < 1e-9  # control: not N(0, 1)


def test_genes_are_optunas_own():
    domain = Domain.box(
        [0, -3, 0, -np.inf], [1, 5, 3, np.inf], integer=[1, 1, 1, 0], categorical=[0, 0, 1, 0]
    )
    optimizer = optimizers.make("optuna:tpe", domain=domain, seed=0)
    z = asked(optimizer, lambda z: ((z - [1, 4, 2, 0.5]) ** 2).sum(axis=1), 25)
    assert domain.contains(z).all()
    for i, values in enumerate((2, 9, 4)):
        assert len(np.unique(z[:, i])) == values
    np.testing.assert_array_equal(optimizer.recommend()[:3], [1, 4, 2])


def test_a_failed_candidate_is_a_failed_trial():
    optimizer = optimizers.make("optuna:tpe", domain=Domain.box(0.0, 1.0, 2), seed=0, population=4)
    z = optimizer.ask()
    optimizer.tell(z, np.array([0.5, np.nan, 0.2, np.inf]))
    states = [trial.state.name for trial in optimizer._study.trials]
    assert states == ["COMPLETE", "FAIL", "COMPLETE", "FAIL"]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("optuna:tpee", {}, "did you mean 'optuna:tpe'"),
        ("optuna:grid", {}, "known are optuna:bruteforce, optuna:cmaes"),
        (
            "optuna:bruteforce",
            {},
            "'optuna:bruteforce': Optuna raises ValueError: FloatDistribution",
        ),
        ("optuna:tpe", {"population": 0}, "population = 0 must be a whole number of at least 1"),
        ("optuna:tpe", {"sigma0": 1.0}, "has no option 'sigma0'"),
    ],
)
def test_errors_are_one_line(name, options, words):
    with pytest.raises(GfoError, match=words) as caught:
        optimizers.make(name, domain=Domain.box(0.0, 1.0, 2), seed=0, **options).ask()
    assert "\n" not in str(caught.value)


def test_it_leaves_optunas_log_level_alone():
    optuna.logging.set_verbosity(optuna.logging.DEBUG)
    asked(optimizers.make("optuna:tpe", domain=Domain.box(0.0, 1.0, 2), seed=0), lambda z: z[:, 0], 2)
    assert optuna.logging.get_verbosity() == optuna.logging.DEBUG
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def test_without_optuna_it_says_how_to_install_it():
    code = (
        "import sys; sys.modules['optuna'] = None\n"
        "from gfo import optimizers; from gfo.core.domain import Domain\n"
        "try: optimizers.make('optuna:tpe', domain=Domain.box(0., 1., 2), seed=0)\n"
        "except Exception as error: print(error)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert (
        out == "optimizer 'optuna:tpe' needs Optuna, which is not installed; pip install 'gfo-llm[optuna]'\n"
    )
