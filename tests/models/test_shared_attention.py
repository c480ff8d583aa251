"""Attention to shared and own keys against one attention over all of them, by transformers and by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward

from gfo.models.shared_attention import Grid, NotSharedError, Shared, attend, shared_attention

H_KV, G, SIZE, S = 2, 3, 8, 5


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("owner", [[0, 0, 1, 1], [0, 0, 0, 1], [1, 2, 2], [2], [0, 2, 2, 2, 3]], ids=str)
def test_a_grid_there_and_back(owner):
    owner = torch.tensor(owner)
    grid, x = Grid.of(owner.numpy(), "cpu"), draw(len(owner), 3)
    spread = grid.spread(x)
    assert spread.shape == (grid.contexts, grid.places, 3)
    assert torch.equal(grid.gather(spread), x)
    assert torch.isclose(spread.sum(), x.sum())
    for n, c in enumerate(owner.tolist()):
        assert (spread[c - grid.first] == x[n]).all(-1).any()
    assert (grid.place is None) == (len(set(torch.bincount(owner - owner[0]).tolist())) == 1)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("T", [1, 4])
@pytest.mark.parametrize("owner", [[0, 0, 1, 1], [0, 0, 0, 1], [1, 2, 2]], ids=str)
@pytest.mark.parametrize("shares", [True, False])
def test_equal_to_attention_over_all_keys(owner, T, softcap, shares):
    owner = torch.tensor(owner)
    N, n = len(owner), 6
    query, key, value = (
        draw(N, heads, t, SIZE, seed=i) for i, (heads, t) in enumerate([(H_KV * G, T), (H_KV, n), (H_KV, n)])
    )
    pair = (draw(3, H_KV, S, SIZE, seed=3), draw(3, H_KV, S, SIZE, seed=4)) if shares else None
    mask = torch.zeros(N, 1, T, S + n, dtype=torch.float64)
    mask.masked_fill_(draw(N, 1, T, S + n, seed=5) > 0.5, torch.finfo(torch.float64).min)
    config = SimpleNamespace(_attn_implementation="sdpa")
    shared = Shared(Grid.of(owner.numpy(), "cpu"), pair)
    with shared_attention(config, shared):
        assert config._attn_implementation != "sdpa"
        found, _ = attend(None, query, key, value, mask, scaling=0.7, softcap=softcap)
    assert (config._attn_implementation, shared.used) == ("sdpa", 1)
    keys, values = key, value
    if shares:
        keys, values = torch.cat([pair[0][owner], key], 2), torch.cat([pair[1][owner], value], 2)
    module = SimpleNamespace(num_key_value_groups=G, training=False)
    cut = mask[..., mask.shape[-1] - keys.shape[2] :]
    expected, _ = eager_attention_forward(module, query, keys, values, cut, scaling=0.7, softcap=softcap)
    assert torch.allclose(found, expected, rtol=0, atol=1e-6)  # weights are rounded to float32 in both
    assert not torch.allclose(found, expected.roll(1, 0), atol=1e-2)  # control
    if shares:
        with shared_attention(config, Shared(Grid.of(owner.numpy(), "cpu"), (pair[0].roll(1, 0), pair[1]))):
            other, _ = attend(None, query, key, value, mask, scaling=0.7, softcap=softcap)
        assert not torch.allclose(found, other, atol=1e-2)


def test_what_it_does_not_compute_is_refused():
    arguments = draw(1, 2, 1, 4), draw(1, 2, 1, 4), draw(1, 2, 1, 4), draw(1, 1, 1, 1)
    with pytest.raises(NotSharedError):
        attend(None, *arguments)
    config = SimpleNamespace(_attn_implementation="eager")
    with shared_attention(config, Shared(Grid.of(np.zeros(1, dtype=int), "cpu"))):
        attend(None, *arguments)
        with pytest.raises(NotSharedError):
            attend(None, *arguments, s_aux=draw(2))
    assert config._attn_implementation == "eager"
