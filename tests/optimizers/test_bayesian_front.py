"""Bayesian optimization with several objectives: its acquisition against a closed form, genes, going on."""

from __future__ import annotations

import numpy as np
import pytest

from gfo import optimizers
from gfo.core.domain import Domain
from gfo.core.errors import GfoError
from gfo.optimizers.dominance import hypervolume, not_beaten
from gfo.optimizers.front_acquisition import best_batch, front_acquisition
from gfo.optimizers.surrogates import working

pytest.importorskip("botorch")
GENES = Domain.box(0, 2, 6, integer=True)
REFERENCE = np.array([10.0, 12.0])


def sizes(z):
    """Two objectives of genes that pull apart."""
    return np.column_stack([9 - z @ np.arange(1, 7) / 4 + 0.03 * z.sum(axis=1) ** 2, z.sum(axis=1)])


def made(domain=GENES, seed=0, **options):
    options = {"population": 2, "initial": 8, "ard": False} | options
    return optimizers.make("bo", domain=domain, seed=seed, objectives=["a", "b"], **options)


def run(optimizer, f, steps):
    told = []
    for _ in range(steps):
        z = optimizer.ask()
        assert optimizer.domain.contains(z).all()
        optimizer.tell(z, f(z))
        told.append((z, f(z)))
    return (np.concatenate(some) for some in zip(*told, strict=True))


def test_the_acquisition_is_largest_where_the_front_would_grow_most():
    """Two lines in x: near the told points nothing is gained, in the widest gap between them most."""
    x = np.array([[0.0], [0.1], [0.2], [0.8], [0.9], [1.0]])
    losses = np.column_stack([x[:, 0] ** 2, (1 - x[:, 0]) ** 2])
    grid = np.linspace(0, 1, 41)[:, None]
    with working(0):
        f = front_acquisition(x, losses, kernel="matern", ard=False, seed=0)
        assert best_batch(f, grid, 1, climb=False)[0, 0] == pytest.approx(0.5, abs=0.2)
        assert best_batch(f, grid, 1, climb=True)[0, 0] == pytest.approx(0.5, abs=0.2)
        two = best_batch(f, grid, 2, climb=False)
    assert abs(two[0, 0] - two[1, 0]) > 0.01  # the second knows of the first


def test_genes_are_whole_and_the_front_grows_more_than_by_chance():
    z, losses = run(made(), sizes, 14)
    assert len(np.unique(z, axis=0)) == len(z)  # 28 points, none of them twice
    chance = [
        hypervolume(sizes(np.random.default_rng(seed).integers(0, 3, (28, 6)).astype(float)), REFERENCE)
        for seed in range(20)
    ]
    assert hypervolume(losses, REFERENCE) > max(chance)
    assert not_beaten(losses).sum() > 4


def test_failures_and_a_state_that_goes_on():
    def f(z):
        losses = sizes(z)
        losses[0, 1] = np.nan
        return losses

    optimizer = made(seed=1)
    run(optimizer, f, 6)
    fresh = made(seed=2)
    fresh.load_state_dict(optimizer.state_dict())
    np.testing.assert_array_equal(fresh.ask(), optimizer.ask())
    assert GENES.contains(optimizer.recommend())
    told = sizes(optimizer._z)[np.isfinite(optimizer._loss).all(axis=1)]
    assert sizes(optimizer.recommend()[None])[0, 0] == told[:, 0].min()


def test_bad_input():
    with pytest.raises(GfoError, match="must be names, each of them once"):
        optimizers.make("bo", domain=GENES, seed=0, objectives=["a", "a"])
    with pytest.raises(GfoError, match="trust region or a forest"):
        made(trust_region=True)
    with pytest.raises(GfoError, match="cannot take integer genes"):
        optimizers.make("bo", domain=GENES, seed=0)
    optimizer = made()
    with pytest.raises(GfoError, match="tell got z"):
        optimizer.tell(optimizer.ask(), np.zeros(2))
