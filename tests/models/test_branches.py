"""Masks and positions against tables written by hand; contexts are shared, never copied or changed."""

from __future__ import annotations

import pytest
import torch

from gfo.models.attention import NAME, attention_of_branches
from gfo.models.branches import Context, RowLayout

LOWEST = torch.finfo(torch.float32).min


def context(lengths, size):
    """Contexts of the lengths given, padded to `size`, in the shape of one layer, one head, width 2."""
    length = torch.tensor(lengths)
    place = torch.arange(size)
    layer = torch.randn(len(lengths), 1, size, 2), torch.randn(len(lengths), 1, size, 2)
    visible = place[None] < length[:, None]
    return Context((layer,), visible, place.expand(len(lengths), -1), length)


def rows(R, m, n):
    """R rows of m branches of n tokens, each read at its end."""
    column = torch.arange(m * n).expand(R, -1)
    return RowLayout(column // n, column % n, torch.arange(R * m)[None] * n + n - 1)


def table(text):
    """1 where a token sees another, row by row; blanks in a row are for reading."""
    return torch.tensor([[int(c) for c in line if c in "01"] for line in text.split("\n") if line.strip()])


def seen(mask):
    """The 0/1 table [C, q, k] of an additive mask; each place must be 0 or the lowest number."""
    assert bool(((mask == 0) | (mask == torch.finfo(mask.dtype).min)).all())
    assert mask.shape[1] == 1
    return (mask[:, 0] == 0).int()


def test_positions():
    found = rows(1, 3, 2).positions(context([3, 1], size=4), 2)
    assert found.tolist() == [[3, 4, 3, 4, 3, 4], [1, 2, 1, 2, 1, 2]]
    assert rows(1, 2, 3).positions(None, 1).tolist() == [[0, 1, 2, 0, 1, 2]]
    found = rows(2, 1, 2).positions(context([3, 1], size=4), 2)
    assert found.tolist() == [[3, 4], [3, 4], [1, 2], [1, 2]]
    assert rows(1, 1, 2).positions(None, 2).tolist() == [[0, 1], [0, 1]]


def test_mask_of_two_branches_behind_two_contexts():
    shared = context([3, 1], size=3)
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
    mask = rows(1, 2, 2).mask(shared, 2, None, torch.float32)
    assert torch.equal(seen(mask), torch.stack([full, padded]))
    apart = rows(2, 1, 2).mask(shared, 2, None, torch.float32)  # each branch in a row of its own
    assert torch.equal(seen(apart), torch.stack([full[:2, :5], full[:2, :5], padded[:2, :5], padded[:2, :5]]))


def test_mask_of_packed_branches():
    """Branches of 1 and 2 tokens and one place of padding, which sees itself alone."""
    packed = RowLayout(torch.tensor([[0, 1, 1, -1]]), torch.tensor([[0, 0, 1, 0]]), torch.tensor([[0, 2]]))
    expected = table("""
        11 1000
        11 0100
        11 0110
        11 0001""")
    assert torch.equal(seen(packed.mask(context([2], size=2), 1, None, torch.float32))[0], expected)
    hidden = torch.arange(8.0).view(1, 4, 2)
    assert packed.reading(hidden).tolist() == [[[0, 1], [4, 5]]]


def test_mask_without_a_context():
    mask = rows(1, 2, 3).mask(None, 2, None, torch.float32)
    expected = table("""
        100 000
        110 000
        111 000
        000 100
        000 110
        000 111""")
    assert torch.equal(seen(mask), torch.stack([expected, expected]))


def test_mask_of_one_branch_is_causal():
    mask = rows(1, 1, 5).mask(None, 1, None, torch.float32)
    assert torch.equal(seen(mask)[0], torch.ones(5, 5).tril().int())


def test_mask_with_a_window():
    """A window of 3: a token sees itself and the two positions before it, of the context too."""
    shared = context([4, 2], size=4)
    mask = rows(1, 2, 2).mask(shared, 2, 3, torch.float32)
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
    wide = rows(1, 2, 2).mask(shared, 2, 6, torch.float32)
    assert torch.equal(wide, rows(1, 2, 2).mask(shared, 2, None, torch.float32))


def test_mask_of_a_branch_that_forks():
    """A trunk of 2 tokens, two ways of 2 and 1 behind it, a branch of 1, and one place of padding."""
    branch, position = torch.tensor([[0, 0, 0, 0, 0, 1, -1]]), torch.tensor([[0, 1, 2, 3, 2, 0, 0]])
    end = torch.tensor([[5, 5, 4, 4, 5, 6, 7]])
    tree = RowLayout(branch, position, torch.tensor([[1, 3, 4, 5]]), end)
    expected = table("""
        11 1000000
        11 1100000
        11 1110000
        11 1111000
        11 1100100
        11 0000010
        11 0000001""")
    mask = tree.mask(context([2], size=2), 1, None, torch.float32)
    assert torch.equal(seen(mask)[0], expected)
    assert tree.positions(context([2], size=2), 1).tolist() == [[2, 3, 4, 5, 4, 2, 2]]
    near = table("""
        11 1000000
        01 1100000
        00 1110000
        00 0111000
        00 1100100
        11 0000010
        11 0000001""")
    assert torch.equal(seen(tree.mask(context([2], size=2), 1, 3, torch.float32))[0], near)
    alone = RowLayout(branch, position[None], tree.read, end[None])  # the same, given for each context
    both = context([2, 1], size=2)
    assert torch.equal(alone.mask(both, 2, 3, torch.float32), tree.mask(both, 2, 3, torch.float32))
    assert alone.positions(None, 2).tolist() == [[0, 1, 2, 3, 2, 0, 0]] * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_mask_dtype(dtype):
    mask = rows(1, 2, 1).mask(None, 1, None, dtype)
    assert mask.dtype == dtype
    assert seen(mask)[0].tolist() == [[1, 0], [0, 1]]


@torch.no_grad()
def make_context(model, lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    embeds = torch.randn(len(lengths), max(lengths), model.hidden_size, generator=generator)
    return model.context(embeds, torch.tensor(lengths))[0]


def test_expand_shares_storage_and_take_picks_rows(tiny):
    shared = make_context(tiny("llama"), [3, 5, 2])
    last = shared.take(torch.tensor([2, 0]))
    assert last.length.tolist() == [2, 3]
    assert torch.equal(last.visible, shared.visible[[2, 0]])
    single = make_context(tiny("llama"), [2])
    four = single.expand(4)
    assert four.length.tolist() == [2] * 4
    for (k, v), (k1, v1), (k2, v2), (k4, v4) in zip(
        shared.layers, last.layers, single.layers, four.layers, strict=True
    ):
        assert torch.equal(k1, k[[2, 0]])
        assert torch.equal(v1, v[[2, 0]])
        assert k4.shape[0] == v4.shape[0] == 4
        assert k4.data_ptr() == k2.data_ptr()
        assert v4.data_ptr() == v2.data_ptr()
        assert k4.stride(0) == v4.stride(0) == 0


def test_stacked_contexts_are_those_computed_together(tiny):
    model = tiny("llama")
    whole = make_context(model, [3, 5, 2])
    generator = torch.Generator().manual_seed(0)
    embeds = torch.randn(3, 5, model.hidden_size, generator=generator)
    with torch.no_grad():
        pieces = [model.context(embeds[i : i + 1, :n], torch.tensor([n]))[0] for i, n in enumerate((3, 5, 2))]
    found = Context.stack(pieces)
    assert found.length.tolist() == [3, 5, 2]
    assert torch.equal(found.visible, whole.visible)
    for pair, expected in zip(found.layers, whole.layers, strict=True):
        for a, b in zip(pair, expected, strict=True):
            real = found.visible[:, None, :, None]
            assert float(((a - b) * real).abs().max()) < 5e-5
            assert float((a * ~real).abs().max()) == 0
            assert float((a - b.roll(1, 0)).abs().max()) > 0.1  # control


def test_bytes(tiny):
    # 3 layers, keys and values, 3 rows, 2 heads of keys, 5 tokens, width 8, float32
    assert make_context(tiny("llama"), [3, 5, 2]).bytes == 3 * 2 * 3 * 2 * 5 * 8 * 4


def test_branches_leave_the_context_as_it_was(tiny):
    model = tiny("llama")
    shared = make_context(model, [3, 5])
    copies = [(k.clone(), v.clone()) for k, v in shared.layers]
    embeds = torch.randn(2, 3, 4, model.hidden_size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        first = model.branches(shared, embeds, rows(3, 1, 4))
        model.branches(shared, -embeds, rows(3, 1, 4))
        again = model.branches(shared, embeds, rows(3, 1, 4))
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
    embeds = torch.randn(2, 1, 6, model.hidden_size, generator=generator)
    two, seven, three = rows(1, 2, 3), torch.full((2,), 7), torch.full((2,), 3)
    with torch.no_grad():
        parent, _ = model.context(whole[:1, :4], torch.tensor([4]))
        pieces, _ = model.context(whole[:, 4:], three, parent)
        expected = model.branches(model.context(whole, seven)[0], embeds, two)
        found = model.branches(pieces, embeds, two)
        other = model.branches(model.context(whole[:, 4:], three)[0], embeds, two)
    assert pieces.length.tolist() == [7, 7]
    assert pieces.position.tolist() == [list(range(7))] * 2
    assert float((found - expected).abs().max()) < 5e-5
    assert float((other - expected).abs().max()) > 1e-2  # control: without the parent
    assert len(parent.length) == 1
    assert parent.layers[0][0].shape[2] == 4


@pytest.mark.parametrize("first", [True, False], ids=["through the context", "through the branch"])
def test_gradients_flow_to_the_embeddings(tiny, first):
    """Against central differences in float64, for the sum of squares of all branches' hidden states."""
    model = tiny("gpt2", dtype=torch.float64)
    generator = torch.Generator().manual_seed(3)
    text = torch.randn(1, 4, model.hidden_size, dtype=torch.float64, generator=generator)
    branch = torch.randn(1, 1, 6, model.hidden_size, dtype=torch.float64, generator=generator)
    lie = RowLayout(
        rows(1, 2, 3).branch, rows(1, 2, 3).position, torch.tensor([[2, 4]])
    )  # the last is padding
    weight = torch.randn(1, 2, model.hidden_size, dtype=torch.float64, generator=generator)

    def value(text, branch):
        shared, _ = model.context(text, torch.tensor([4]))
        return (weight * model.branches(shared, branch, lie)).sum()

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
        assert float(gradient[0, 0, 5].abs().max()) == 0
        assert float(gradient[0, 0, 4].abs().max()) > 0


def test_the_attention_is_set_for_branches_alone(tiny):
    config = tiny("llama").config
    before = config._attn_implementation
    assert before == "sdpa"
    with attention_of_branches(config):
        assert config._attn_implementation == NAME
    assert config._attn_implementation == before
