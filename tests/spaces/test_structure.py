"""Structure: measures against modules counted by hand, repairs, exchanges, brute force, bad input."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gfo
from gfo import Domain, GfoError, LanguageModeling, LocalEvaluator
from gfo.optimizers import make
from gfo.optimizers.genetic_operators import exchange
from gfo.spaces.structure import Structure
from gfo.testing import check_space

TEXTS = [
    "Review: the movie is a great joy from the first minute to the last. Sentiment: positive",
    "Is it good or bad? I would say that the food was good, but the service was bad.",
]


def test_it_keeps_the_contract(tiny):
    model = tiny("llama")
    check_space(Structure(model), model, same=Structure(model), other=None)
    check_space(Structure(model, closed=2), model)


def test_genes_have_names_and_order(tiny):
    model = tiny("llama")
    assert Structure(model).domain.names[:3] == ("attention 0", "feed-forward 0", "attention 1")
    upper = Structure(model, layers=[1, 2], attention=False)
    assert upper.domain.names == ("feed-forward 1", "feed-forward 2")
    assert upper.first_layer == 1
    assert upper.closed_of([0, 1]) == ["feed-forward 2"]
    gate = Structure(model).decode(torch.zeros(2, 6)).gate
    assert all(bool((runs == 1).all()) for runs in gate.values())


def test_measures_are_those_of_the_modules(tiny):
    model = tiny("llama")
    space = Structure(model)
    z = np.zeros((3, 6))
    z[1, [0, 3]] = 1
    z[2] = 1
    found = space.measure(z)
    attention = sum(p.numel() for p in model.all_layers[0].self_attn.parameters())
    network = sum(p.numel() for p in model.all_layers[0].mlp.parameters())
    whole = sum(p.numel() for p in model.module.parameters())
    left = [whole, whole - attention - network, whole - 3 * (attention + network)]
    np.testing.assert_array_equal(found["parameters"], left)
    np.testing.assert_array_equal(found["bytes"], 4 * np.array(left))
    head = model.module.lm_head.weight.numel()
    np.testing.assert_array_equal(found["multiply_adds"][[0, 2]], [head + 3 * (attention + network), head])
    each = 2 * 2 * 8  # keys and values of two heads
    np.testing.assert_array_equal(found["keys_and_values"], [3 * each, 2 * each, 0])
    tied = Structure(tiny("llama", tie_word_embeddings=True)).measure(z)
    np.testing.assert_array_equal(tied["multiply_adds"], found["multiply_adds"])


@pytest.mark.parametrize("closed", [1, 3, 5])
def test_repaired_points_have_so_many_closed(tiny, closed):
    space = Structure(tiny("llama"), closed=closed)
    rng = np.random.default_rng(0)
    for z in (
        rng.integers(0, 2, (200, 6)).astype(float),
        np.zeros((1, 6)),
        np.ones((1, 6)),
        rng.random((50, 6)),
    ):
        before = z.copy()
        fixed = space.repair(z)
        np.testing.assert_array_equal(z, before)
        assert (np.rint(fixed).sum(axis=1) == closed).all()
        assert np.isin(np.rint(fixed), (0, 1)).all()
        np.testing.assert_array_equal(space.repair(fixed), fixed)
        np.testing.assert_array_equal(space.repair(z), fixed)
        allowed = np.rint(z).sum(axis=1) == closed
        np.testing.assert_array_equal(fixed[allowed], z[allowed])
    order = space.repair(np.array([[0.1, 0.4, 0.2, 0.3, 0.45, 0.0]]))[0]
    assert set(np.flatnonzero(order)) == set(np.argsort([-0.1, -0.4, -0.2, -0.3, -0.45, 0])[:closed])
    ties = {tuple(space.repair(z[None])[0]) for z in rng.integers(0, 2, (64, 6)).astype(float)}
    assert len(ties) > 5  # not always the first ones


def test_all_evaluated_points_have_so_many_closed(tiny):
    model = tiny("llama")
    space = Structure(model, closed=2)
    evaluator = LocalEvaluator(
        model, LanguageModeling([{"text": t} for t in TEXTS], template="{text}"), space
    )
    for name in ("ga", "random", "1+1-ea"):
        optimizer = make(name, domain=space.domain, seed=0)
        for step in range(3):
            z = optimizer.ask()
            if name == "ga":
                np.testing.assert_array_equal(space.repair(z), z)  # it needs none
            z = space.repair(z)
            found = evaluator(z, step)
            assert (found.values["parameters"] == space.measure(z)["parameters"]).all()
            optimizer.tell(z, found.loss)


@given(st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_exchange_changes_no_more_than_it_must(number, seed):
    rng = np.random.default_rng(seed)
    domain = Domain.joined(
        [Domain.box(0, 1, 3, integer=True), Domain(*_binary(10), exactly=((0, 10, number),))]
    )
    assert domain.exactly == ((3, 13, number),)
    z = rng.integers(0, 2, (20, 13)).astype(float)
    found = exchange(rng, z, domain=domain)
    assert (found[:, 3:].sum(axis=1) == number).all()
    np.testing.assert_array_equal(found[:, :3], z[:, :3])
    surplus = np.abs(z[:, 3:].sum(axis=1) - number)
    np.testing.assert_array_equal((found != z).sum(axis=1), surplus)


def _binary(d):
    return np.zeros(d), np.ones(d), np.ones(d, bool)


def test_groups_of_genes():
    domain = Domain(*_binary(6), exactly=((1, 4, 2),))
    assert domain.part(slice(1, 6)).exactly == ((0, 3, 2),)
    assert domain.part(slice(2, 6)).exactly == ()
    assert Domain.joined([domain, domain]).exactly == ((1, 4, 2), (7, 10, 2))
    for wrong in ((0, 7, 2), (3, 3, 1), (0, 3, 4)):
        with pytest.raises(GfoError, match="Domain: exactly = "):
            Domain(*_binary(6), exactly=(wrong,))
    with pytest.raises(GfoError, match="Domain: exactly = "):
        Domain(np.zeros(3), np.full(3, 2.0), np.ones(3, bool), exactly=((0, 3, 7),))
    assert Domain(np.zeros(3), np.full(3, 2.0), np.ones(3, bool), exactly=((0, 3, 5),)).exactly


def first_hit(table, best, domain, seed):
    """After how many evaluations "ga" has asked for the best point; many if it has not."""
    optimizer, asked = make("ga", domain=domain, seed=seed), 0
    while asked < 160:
        z = optimizer.ask()
        hits = np.flatnonzero((z == best).all(axis=1))
        if len(hits):
            return asked + hits[0] + 1
        optimizer.tell(z, np.array([table[tuple(row)] for row in z]))
        asked += len(z)
    return 1000


def test_ga_finds_the_best_of_all_structures(tiny):
    """All C(10, 5) structures of a model of five layers, by brute force."""
    model = tiny("llama", num_hidden_layers=5, seed=2)
    space = Structure(model, closed=5)
    task = LanguageModeling([{"text": t} for t in TEXTS], template="{text}", window=64)
    every = np.zeros((252, 10))
    for row, closed in zip(every, combinations(range(10), 5), strict=True):
        row[list(closed)] = 1
    loss = LocalEvaluator(model, task, space)(every, 0).loss
    best = every[loss.argmin()]
    table = {tuple(row): value for row, value in zip(every, loss, strict=True)}
    hits = np.array([first_hit(table, best, space.domain, seed) for seed in range(20)])
    assert (hits <= 60).sum() >= 9  # drawn without replacement 60 of 252 have it 4.8 times
    assert (hits <= 160).sum() >= 18
    budget = gfo.Budget(evaluations=200)
    result = gfo.tune(model, task, space, optimizer="ga", budget=budget, progress=False)
    np.testing.assert_array_equal(result.z, best)


@pytest.mark.parametrize("closed", [0, 6, 7, -1])
def test_more_closed_than_there_are(tiny, closed):
    with pytest.raises(GfoError, match=f"closed = {closed} must be 1 to 5: there are 6 sub-blocks"):
        Structure(tiny("llama"), closed=closed)


def test_nothing_chosen(tiny):
    with pytest.raises(GfoError, match="no sub-block of model 'tiny-llama' is chosen; give attention or"):
        Structure(tiny("llama"), attention=False, feedforward=False)
    with pytest.raises(GfoError, match="layers: layer 3 given"):
        Structure(tiny("llama"), layers=[3])


@pytest.mark.parametrize("gene", [2.0, -1.0, 0.5001 + 1, np.nan])
def test_a_gene_out_of_range(tiny, gene):
    z = torch.zeros(2, 6)
    z[1, 3] = gene
    with pytest.raises(GfoError, match=r"gene 3 \(feed-forward 1\) of candidate 1 is .*; give 0, which runs"):
        Structure(tiny("llama")).decode(z)
