"""Log-likelihoods of endings by decoders: those of plain forward passes over whole sequences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from changes import DIM, Changes
from continuations import check_all_ways, difference, found_by, slow, tokenized
from test_equality_changes import WORKLOADS

K = 3
TOLERANCE = 2e-5
TEXTS = ["a", "a great joy from the first minute to the last", "bad!"]
WORDS = [
    (" very good", " very bad", " great", " very good indeed"),  # common first tokens; one begins another
    (" great", " great"),  # the same twice
    (" I would say that the service was not good", "", " t"),
]


def points(seed=0, candidates=K):
    return np.random.default_rng(seed).standard_normal((candidates, DIM))


def rows_of(model, template):
    endings = [[model.encode(word) for word in words if word] for words in WORDS]
    return tokenized(model, template, list(zip(TEXTS, endings, strict=True)))


@pytest.mark.parametrize("workload", WORKLOADS)
def test_all_ways_equal_plain_forward_passes(tiny, family, workload, record_property):
    slots, first, template = WORKLOADS[workload]
    model = tiny(family)
    space, z, soft = Changes(model, slots, first=first), points(), "{soft}" in template
    rows = rows_of(model, template)
    assert len(set(map(len, rows[0][2]))) > 2
    expected = slow(model, space, rows, soft, z)
    found = check_all_ways(model, space, rows, soft, z, expected, TOLERANCE)
    assert found.shape == (K, 3, 4)
    assert found[:, 1:].isinf().sum() == K * (2 + 2)
    assert torch.equal(found[:, 1, 0], found[:, 1, 1])
    other = Changes(model, slots, first=first, seed=1)
    assert difference(found_by(model, other, rows, soft, z), expected) > 1e-3  # control: other changes
    turned = [(left, right, endings[::-1]) for left, right, endings in rows]
    assert difference(found_by(model, space, turned, soft, z)[:, 0], expected[:, 0]) > 1e-2  # control
    record_property("worst", difference(found, expected))
