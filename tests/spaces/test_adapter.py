"""Adapter: against modules in a copy of the model, usual places by family, its scale, and bad input."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from gfo import Adapter, Classification, GfoError, LocalEvaluator

ROWS = [{"text": "a great joy", "label": "b"}, {"text": "bad! I would not say so", "label": "a"}]
LABELS = {"a": " terrible", "b": " great"}
DIM = 12


def points(K=3, seed=0):
    return np.random.default_rng(seed).standard_normal((K, DIM))


class Bottleneck(torch.nn.Module):
    """Houlsby's adapter behind a module, with torch's own linear layers."""

    def __init__(self, part, A, B):
        super().__init__()
        self.part, self.weight = part, getattr(part, "weight", None)
        self.down = torch.nn.Linear(A.shape[1], A.shape[0], bias=False)
        self.up = torch.nn.Linear(A.shape[0], A.shape[1], bias=False)
        self.down.weight, self.up.weight = torch.nn.Parameter(A), torch.nn.Parameter(B)

    def forward(self, *args, **kwargs):
        y = self.part(*args, **kwargs)
        return y + self.up(torch.nn.functional.gelu(self.down(y)))


@torch.no_grad()
def slow_logits(model, delta):
    """[K, B, V'] of stock forward passes of a copy of the model with adapters in it."""
    words = [model.encode(word)[0] for word in LABELS.values()]
    out = []
    for k in range(delta.candidates):
        module = copy.deepcopy(model.module)
        for name, (A, B) in delta.adapter.items():
            holder, _, end = name.rpartition(".")
            part = Bottleneck(module.get_submodule(name), A[k], B[k])
            setattr(module.get_submodule(holder), end, part)
        for row in ROWS:
            ids = torch.tensor([model.encode(f"Review: {row['text']} It was", start=True)])
            out.append(module(ids).logits[0, -1, words])
    return torch.stack(out).view(delta.candidates, len(ROWS), -1)


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "gpt_neox"])
def test_equals_adapters_in_a_copy(tiny, name):
    model, z = tiny(name), points()
    space = Adapter(model, DIM, alpha=0.5)
    evaluator = LocalEvaluator(
        model, Classification(ROWS, template="Review: {text} It was", labels=LABELS), space
    )
    found = evaluator.answers(z, evaluator.task.all_rows("train"))
    expected = slow_logits(model, space.decode(torch.from_numpy(z)))
    assert float((found - expected).abs().max()) < 5e-5
    assert float((found - expected.roll(1, 0)).abs().amax((1, 2)).min()) > 1e-3
    start = evaluator.answers(0 * z, evaluator.task.all_rows("train"))
    assert float((found - start).abs().amax((1, 2)).min()) > 1e-3


@pytest.mark.parametrize(
    ("name", "end"),
    [("llama", "down_proj"), ("gpt2", "mlp.c_proj"), ("opt", "fc2"), ("bert", "output.dense"), ("t5", "wo")],
)
def test_usual_places(tiny, name, end):
    names = Adapter(tiny(name), DIM).names
    assert names
    assert all(n.endswith(end) and "attention" not in n for n in names)


def test_layers_rank_and_start(tiny):
    model = tiny("llama")
    space = Adapter(model, DIM, rank=3, layers=[1])
    delta = space.decode(torch.zeros(2, DIM))
    assert space.first_layer == delta.first_layer == 1
    assert {model.layer_of(name) for name in space.names} == {1}
    ((A, B),) = delta.adapter.values()
    assert A.shape == (2, 3, 32)
    assert B.shape == (2, 32, 3)
    assert not B.any()
    assert A.stride(0) == 0  # shared by all candidates


def test_a_typical_change_is_alpha_of_the_outputs_spread(tiny):
    model = tiny("llama")
    space = Adapter(model, DIM, alpha=0.3)
    name = space.names[0]
    seen = {}
    handle = model.module.get_submodule(name).register_forward_hook(lambda m, x, y: seen.update(y=y))
    with torch.no_grad():
        model.module(torch.arange(3, 120)[None])
    handle.remove()
    A, B = space.decode(torch.from_numpy(points(500))).adapter[name]
    change = torch.nn.functional.gelu(seen["y"][0] @ A[0].T) @ B.mT  # (K, T, out)
    assert float(change.std()) == pytest.approx(0.3 * float(seen["y"].std()), rel=0.25)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"dim": 0}, ["dim = 0", "1 to"]),
        ({"dim": 800}, ["dim = 800", "1 to 768", "3 adapters of 8 units", "raise rank"]),
        ({"rank": 0}, ["rank = 0"]),
        ({"alpha": -1}, ["alpha = -1", "positive"]),
        ({"targets": "down"}, ["'down' matches nothing", "down_proj"]),
        ({"layers": [3]}, ["layer 3", "0 to 2"]),
        ({"projection": "gauss"}, ["unknown projection 'gauss'", "gaussian"]),
    ],
)
def test_bad_options(tiny, options, parts):
    with pytest.raises(GfoError) as error:
        Adapter(tiny("llama"), **{"dim": DIM} | options)
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in parts), str(error.value)
