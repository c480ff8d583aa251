"""Methods told by parts, in any order, as they come."""

from __future__ import annotations

import numpy as np
import pytest

import gfo
from gfo.core.asynchronous import Asynchronous
from gfo.run.asynchronous import able

METHODS = ["de", "ga", "optuna:tpe", "pso", "random", "sa", "sobol"]
D = 4


def sphere(z):
    return ((z - 0.7) ** 2).sum(axis=1)


def searched(name, parts, *, n=3, under_way=5, seed=0, domain=None, order=0, f=sphere, **options):
    """The optimizer after so many parts, of which the next to be told is drawn at random, and all points."""
    domain = gfo.Domain.unbounded(D) if domain is None else domain
    optimizer = gfo.optimizers.make(name, domain=domain, seed=seed, **options)
    optimizer.plan(parts * n)
    rng, waiting, points = np.random.default_rng(order), {}, []
    for part in range(parts):
        waiting[part] = optimizer.ask_part(part, n)
        points.append(waiting[part])
        if len(waiting) == under_way:
            _tell(optimizer, waiting, rng, f)
    while waiting:
        _tell(optimizer, waiting, rng, f)
    return optimizer, np.concatenate(points)


def _tell(optimizer, waiting, rng, f):
    part = int(rng.choice(sorted(waiting)))
    z = waiting.pop(part)
    optimizer.tell_part(part, z, f(z))


def test_which_can():
    can = [name for name in able() if not name.startswith("optuna")]
    assert [*can[:2], "optuna:<name>", *can[2:]] == sorted({*can, "optuna:<name>"})
    assert set(METHODS) - {"optuna:tpe"} == set(can)
    domain = gfo.Domain.unbounded(D)
    for name in ("cma", "1+1-ea"):
        assert not isinstance(gfo.optimizers.make(name, domain=domain, seed=0), Asynchronous)


@pytest.mark.parametrize("name", METHODS)
def test_points_come_again_and_differ_by_order(name):
    parts = 12 if name.startswith("optuna") else 40
    first, points = searched(name, parts)
    again, same = searched(name, parts)
    np.testing.assert_array_equal(points, same)
    np.testing.assert_array_equal(first.recommend(), again.recommend())
    assert first.domain.contains(points).all()
    assert len(np.unique(points.round(12), axis=0)) > 0.8 * len(points)  # de crosses parents
    _, other = searched(name, parts, order=1)
    assert np.array_equal(points, other) == (name in ("random", "sobol"))


@pytest.mark.parametrize("name", ["de", "ga", "pso", "sa"])
def test_they_learn(name):
    """Better than random search by far, in the median of seeds."""
    found = [searched(name, 150, seed=seed)[0].best_loss for seed in range(5)]
    drawn = [searched("random", 150, seed=seed)[0].best_loss for seed in range(5)]
    assert np.median(found) < np.median(drawn) / 5


@pytest.mark.parametrize("name", METHODS)
def test_failed_parts_are_borne(name):
    def often_failing(z):
        loss = sphere(z)
        loss[np.floor(100 * z[:, 0]) % 3 == 0] = np.nan
        return np.where(z[:, 1] > 0.5, np.nan, loss)

    parts = 12 if name.startswith("optuna") else 60
    optimizer, points = searched(name, parts, n=2, f=often_failing)
    assert np.isfinite(points).all()
    assert optimizer.best_loss == np.nanmin(often_failing(points))
    searched(name, 6, f=lambda z: np.full(len(z), np.nan))


@pytest.mark.parametrize("name", ["ga", "sa", "random", "optuna:tpe"])
def test_genes(name):
    domain = gfo.Domain.box(0, 3, D, integer=True)
    optimizer, points = searched(name, 15, domain=domain, f=lambda z: ((z - 2) ** 2).sum(axis=1))
    assert domain.contains(points).all()
    assert optimizer.best_loss <= 2


def test_parts_are_told_once_with_their_points():
    optimizer = gfo.optimizers.make("pso", domain=gfo.Domain.unbounded(D), seed=0)
    z = optimizer.ask_part(0, 3)
    with pytest.raises(gfo.GfoError, match="tell_part got part 1 with z"):
        optimizer.tell_part(1, z, sphere(z))
    optimizer.tell_part(0, z, sphere(z))
    with pytest.raises(gfo.GfoError, match="tell_part got part 0 with z"):
        optimizer.tell_part(0, z, sphere(z))
