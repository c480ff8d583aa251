"""Products of spaces: slots merged, z cut, the lowest layer, blocks, and conflicts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gfo import Classification, GfoError, LocalEvaluator, SoftPrompt
from gfo.optimizers import make
from gfo.spaces.deep_prompt import DeepPrompt
from gfo.spaces.discrete_prompt import DiscretePrompt
from gfo.spaces.lora_subspace import LoRASubspace
from gfo.spaces.prefix import Prefix
from gfo.spaces.product import ProductSpace, blocks_of
from gfo.spaces.scaling import BiasSpace, Scaling

ROWS = [{"text": text, "label": "a"} for text in ("a great joy", "bad!")]


def evaluator(model, space, **options):
    task = Classification(
        ROWS, template="Review: {text}{soft} It was", labels={"a": " terrible", "b": " great"}
    )
    return LocalEvaluator(model, task, space, **options)


def logits(model, space, z, **options):
    found = evaluator(model, space, **options)
    return found.answers(z, found.task.all_rows("train"))


@pytest.fixture(scope="module")
def model(tiny):
    return tiny("llama")


@pytest.fixture(scope="module")
def parts(model):
    return [
        SoftPrompt(model, 2, 5),
        Prefix(model, 3, 6),
        LoRASubspace(model, 7, alpha=0.5),
        Scaling(model, 4),
        BiasSpace(model, 3),
    ]


def test_all_at_once(model, parts):
    space = ProductSpace(*parts)
    assert space.domain.d == space.dim == 25
    z = np.random.default_rng(0).standard_normal((3, 25))
    delta = space.decode(torch.from_numpy(z))
    ends = np.cumsum([0, 5, 6, 7, 4, 3])
    for part, start, end in zip(parts, ends[:-1], ends[1:], strict=True):
        own = part.decode(torch.from_numpy(z[:, start:end]))
        tensors, merged = list(own.tensors()), list(delta.tensors())
        assert all(any(torch.equal(t, m) for m in merged) for t in tensors)
    found = logits(model, space, z)
    assert float((found - logits(model, space, z, reuse=False)).abs().max()) < 5e-5
    for i in range(len(parts)):  # controls: every part matters
        other = z.copy()
        other[:, ends[i] : ends[i + 1]] = 0
        assert float((logits(model, space, other) - found).abs().amax((1, 2)).min()) > 1e-3


def test_first_layer_is_the_lowest(model, parts):
    def first(*spaces):
        space = ProductSpace(*spaces)
        return space.decode(torch.zeros(1, space.dim)).first_layer

    upper, top = LoRASubspace(model, 5, layers=[1, 2]), Scaling(model, 5, layers=[2])
    assert first(upper, top) == 1
    assert first(top, DeepPrompt(model, 2, 5, layers=[2])) == 2
    assert first(top, parts[0]) == 0
    deep = ProductSpace(top, DeepPrompt(model, 2, 5, layers=[2]))
    z = np.random.default_rng(0).standard_normal((3, 10))
    assert float((logits(model, deep, z) - logits(model, deep, z, reuse=False)).abs().max()) < 5e-5


def test_integer_genes_stay(model):
    space = ProductSpace(DiscretePrompt(model, 2, number=9), LoRASubspace(model, 3))
    assert space.domain.integer.tolist() == [True, True, False, False, False]
    assert np.isinf(space.domain.high).tolist() == [False, False, True, True, True]


def test_blocks(model, parts):
    deep = DeepPrompt(model, 2, 8)
    assert blocks_of(deep) == (3, 3, 2)
    assert blocks_of(parts[0]) == (5,)
    space = ProductSpace(deep, parts[2])
    assert blocks_of(space) == (3, 3, 2, 7)
    optimizer = make("blockwise", domain=space.domain, seed=0, blocks=list(space.blocks), optimizer="sep-cma")
    run = evaluator(model, space)
    moved = []
    for step in range(4):
        z = optimizer.ask()
        moved.append(np.flatnonzero((z != z[0]).any(0)).tolist())
        optimizer.tell(z, run(z, step).loss)
    assert moved == [[0, 1, 2], [3, 4, 5], [6, 7], list(range(8, 15))]
    # a layer's block moves that layer alone
    z = torch.zeros(1, 15)
    z[0, 3:6] = 1
    changed = [layer for layer, extra in space.decode(z).layer_prompt.items() if bool(extra.any())]
    assert changed == [1]


@pytest.mark.parametrize(
    ("make_spaces", "words"),
    [
        (lambda m: [SoftPrompt(m, 2, 5)], "1 spaces given; give two or more"),
        (
            lambda m: [SoftPrompt(m, 2, 5), DeepPrompt(m, 2, 5)],
            "two spaces change the prompt of",
        ),
        (
            lambda m: [LoRASubspace(m, 5), LoRASubspace(m, 5, targets="v_proj", layers=[2])],
            r"two spaces change the lora of 'model\.layers\.2\.self_attn\.v_proj'",
        ),
        (lambda m: [Prefix(m, 2, 5), Prefix(m, 2, 5, layers=[1])], "two spaces change the prefix of 1"),
        (lambda m: [Prefix(m, 2, 5, layers=[0]), Prefix(m, 3, 5, layers=[1])], r"prefix_tokens are \[2, 3\]"),
    ],
)
def test_conflicts(model, make_spaces, words):
    with pytest.raises(GfoError, match=words) as error:
        ProductSpace(*make_spaces(model))
    assert "\n" not in str(error.value)
