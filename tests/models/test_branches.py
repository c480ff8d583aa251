"""Masks and positions against tables written by hand; contexts are shared, never copied or changed."""

from __future__ import annotations

import os

import pytest
import torch

from gfo.models.branches import FORCE_GROUPS, Context, branch_mask, branch_positions, unrepeated_keys

LOWEST = torch.finfo(torch.float32).min


def context(lengths, size):
    """Contexts of the lengths given, padded to `size`, in the shape of one layer, one head, width 2."""
    length = torch.tensor(lengths)
    place = torch.arange(size)
    layer = torch.randn(len(lengths), 1, size, 2), torch.randn(len(lengths), 1, size, 2)
    visible = place[None] < length[:, None]
    return Context((layer,), visible, place.expand(len(lengths), -1), length)


def table(text):
    """1 where a token sees another, row by row; blanks in a row are for reading."""
    return torch.tensor([[int(c) for c in line if c in "01"] for line in text.split("\n") if line.strip()])


def seen(mask):
    """The 0/1 table [C, q, k] of an additive mask; each place must be 0 or the lowest number."""
    assert bool(((mask == 0) | (mask == torch.finfo(mask.dtype).min)).all())
    assert mask.shape[1] == 1
    return (mask[:, 0] == 0).int()


def test_positions():
    found = branch_positions(context([3, 1], size=4), (2, 3, 2), "cpu")
    assert found.tolist() == [[3, 4, 3, 4, 3, 4], [1, 2, 1, 2, 1, 2]]
    assert branch_positions(None, (1, 2, 3), "cpu").tolist() == [[0, 1, 2, 0, 1, 2]]


def test_mask_of_two_branches_behind_two_contexts():
    shared = context([3, 1], size=3)
    position = branch_positions(shared, (2, 2, 2), "cpu")
    mask = branch_mask(shared, position, 2, None, torch.float32)
    full = table("""
        111 10 00
        111 11 00
        111 00 10
        111 00 11""")
    padded = table("""
        100 10 00
        100 11 00
        100 00 10
        100 00 11""")
    assert torch.equal(seen(mask), torch.stack([full, padded]))


def test_mask_without_a_context():
    mask = branch_mask(None, branch_positions(None, (1, 2, 3), "cpu"), 3, None, torch.float32)
    expected = table("""
        100 000
        110 000
        111 000
        000 100
        000 110
        000 111""")
    assert torch.equal(seen(mask)[0], expected)


def test_mask_of_one_branch_is_causal():
    mask = branch_mask(None, branch_positions(None, (1, 1, 5), "cpu"), 5, None, torch.float32)
    assert torch.equal(seen(mask)[0], torch.ones(5, 5).tril().int())


def test_mask_with_a_window():
    """A window of 3: a token sees itself and the two positions before it, of the context too."""
    shared = context([4, 2], size=4)
    position = branch_positions(shared, (2, 2, 2), "cpu")
    mask = branch_mask(shared, position, 2, 3, torch.float32)
    four = table("""
        0011 10 00
        0001 11 00
        0011 00 10
        0001 00 11""")
    two = table("""
        1100 10 00
        0100 11 00
        1100 00 10
        0100 00 11""")
    assert torch.equal(seen(mask), torch.stack([four, two]))
    wide = branch_mask(shared, position, 2, 6, torch.float32)
    assert torch.equal(wide, branch_mask(shared, position, 2, None, torch.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_mask_dtype(dtype):
    mask = branch_mask(None, branch_positions(None, (1, 2, 1), "cpu"), 1, None, dtype)
    assert mask.dtype == dtype
    assert seen(mask)[0].tolist() == [[1, 0], [0, 1]]


@torch.no_grad()
def make_context(model, lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    embeds = torch.randn(len(lengths), max(lengths), model.hidden_size, generator=generator)
    return model.context(embeds, torch.tensor(lengths))


def test_rows_and_expand_share_storage(tiny):
    shared = make_context(tiny("llama"), [3, 5, 2])
    part = shared.rows(slice(1, 3))
    assert part.length.tolist() == [5, 2]
    single = shared.rows(slice(2, 3)).expand(4)
    assert single.length.tolist() == [2] * 4
    for (k, v), (k1, v1), (k2, v2) in zip(shared.layers, part.layers, single.layers, strict=True):
        assert k1.shape[0] == 2
        assert k2.shape[0] == 4
        assert k1.data_ptr() == k[1].data_ptr()
        assert v1.data_ptr() == v[1].data_ptr()
        assert k2.data_ptr() == k[2].data_ptr()
        assert v2.data_ptr() == v[2].data_ptr()
        assert k2.stride(0) == v2.stride(0) == 0
        assert torch.equal(k2[3], k[2])
    assert torch.equal(single.visible, shared.visible[2:].expand(4, -1))


def test_bytes(tiny):
    # 3 layers, keys and values, 3 rows, 2 heads of keys, 5 tokens, width 8, float32
    assert make_context(tiny("llama"), [3, 5, 2]).bytes == 3 * 2 * 3 * 2 * 5 * 8 * 4


def test_branches_leave_the_context_as_it_was(tiny):
    model = tiny("llama")
    shared = make_context(model, [3, 5])
    copies = [(k.clone(), v.clone()) for k, v in shared.layers]
    embeds = torch.randn(2, 3, 4, model.hidden_size, generator=torch.Generator().manual_seed(1))
    length = torch.full((2, 3), 4)
    with torch.no_grad():
        first = model.branches(shared, embeds, length)
        model.branches(shared, -embeds, length)
        again = model.branches(shared, embeds, length)
    assert torch.equal(first, again)
    for (k, v), (k0, v0) in zip(shared.layers, copies, strict=True):
        assert torch.equal(k, k0)
        assert torch.equal(v, v0)


def test_a_context_continued_equals_one_context(tiny, family):
    """parent + new tokens has the keys, values and branches of all tokens at once."""
    model = tiny(family)
    generator = torch.Generator().manual_seed(2)
    whole = torch.randn(2, 7, model.hidden_size, generator=generator)
    whole[1, :4] = whole[0, :4]
    embeds = torch.randn(2, 2, 3, model.hidden_size, generator=generator)
    seven, three = torch.full((2,), 7), torch.full((2, 2), 3)
    with torch.no_grad():
        parent = model.context(whole[:1, :4], torch.tensor([4]))
        pieces = model.context(whole[:, 4:], torch.tensor([3, 3]), parent)
        expected = model.branches(model.context(whole, seven), embeds, three)
        found = model.branches(pieces, embeds, three)
        other = model.branches(model.context(whole[:, 4:], torch.tensor([3, 3])), embeds, three)
    assert pieces.length.tolist() == [7, 7]
    assert pieces.position.tolist() == [list(range(7))] * 2
    assert float((found - expected).abs().max()) < 1e-5
    assert float((other - expected).abs().max()) > 1e-2  # control: without the parent
    assert len(parent.length) == 1
    assert parent.layers[0][0].shape[2] == 4


@pytest.mark.parametrize("first", [True, False], ids=["through the context", "through the branch"])
def test_gradients_flow_to_the_embeddings(tiny, first):
    """Against central differences in float64, for the sum of squares of all branches' hidden states."""
    model = tiny("gpt2", dtype=torch.float64)
    generator = torch.Generator().manual_seed(3)
    text = torch.randn(1, 4, model.hidden_size, dtype=torch.float64, generator=generator)
    branch = torch.randn(1, 2, 3, model.hidden_size, dtype=torch.float64, generator=generator)
    weight = torch.randn(1, 2, model.hidden_size, dtype=torch.float64, generator=generator)

    def value(text, branch):
        shared = model.context(text, torch.tensor([4]))
        return (weight * model.branches(shared, branch, torch.tensor([[3, 2]]))).sum()

    moved = text if first else branch
    moved.requires_grad_()
    (gradient,) = torch.autograd.grad(value(text, branch), moved)
    moved.requires_grad_(False)
    for _ in range(3):
        direction = torch.randn(moved.shape, dtype=torch.float64, generator=generator)
        step = 1e-6 * direction
        ends = [value(*((text + s, branch) if first else (text, branch + s))) for s in (step, -step)]
        numeric = float(ends[0] - ends[1]) / 2e-6
        analytic = float((gradient * direction).sum())
        assert abs(analytic) > 0.01
        assert numeric == pytest.approx(analytic, rel=1e-6)
    if not first:  # the padding of a branch has no influence
        assert float(gradient[0, 1, 2].abs().max()) == 0
        assert float(gradient[0, 1, 1].abs().max()) > 0


@pytest.mark.parametrize("given", [None, "0"])
def test_unrepeated_keys_leaves_the_environment_as_it_was(given, monkeypatch):
    monkeypatch.delenv(FORCE_GROUPS, raising=False)
    if given is not None:
        monkeypatch.setenv(FORCE_GROUPS, given)
    with unrepeated_keys(torch.device("cpu")):
        assert os.environ.get(FORCE_GROUPS) == (given or "1")
    assert os.environ.get(FORCE_GROUPS) == given
    with unrepeated_keys(torch.device("cuda")):  # its kernels want the copies
        assert os.environ.get(FORCE_GROUPS) == given
