"""Scaling and BiasSpace: against weights changed in a copy, defaults by family, spreads, and bad input."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from gfo import Classification, GfoError, LocalEvaluator
from gfo.spaces.scaling import BiasSpace, Scaling

TEXTS = ["a great joy from the first minute", "bad!", "the food was good, but the service was bad."]
ROWS = [{"text": text, "label": label} for text, label in zip(TEXTS, ["b", "a", "a"], strict=True)]
LABELS = {"a": " terrible", "b": " great"}
DIM = 12
SPACES = {
    "ia3": lambda model, **options: Scaling(model, DIM, **{"alpha": 0.4} | options),
    "norm": lambda model, **options: Scaling(model, DIM, **{"alpha": 0.4, "method": "norm"} | options),
    "bias": lambda model, **options: BiasSpace(model, DIM, **{"alpha": 0.4} | options),
}


def points(K=3, d=DIM, seed=0):
    return np.random.default_rng(seed).standard_normal((K, d))


def logits(model, space, z):
    task = Classification(ROWS, template="Review: {text} It was", labels=LABELS)
    evaluator = LocalEvaluator(model, task, space)
    return evaluator.answers(z, evaluator.task.all_rows("train"))


class Changed(torch.nn.Module):
    """A module whose outputs are changed."""

    def __init__(self, part, scale, bias):
        super().__init__()
        self.part, self.scale, self.bias = part, scale, bias
        self.weight = getattr(part, "weight", None)

    def forward(self, *args, **kwargs):
        return self.part(*args, **kwargs) * self.scale + self.bias


@torch.no_grad()
def changed_logits(model, delta):
    """[K, B, V'] of stock forward passes of a copy of the model with changed modules in it."""
    tokenizer, out = model.tokenizer, []
    words = [tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in LABELS.values()]
    for k in range(delta.candidates):
        module = copy.deepcopy(model.module)
        for name in delta.modules:
            scale = delta.scale[name][k] if name in delta.scale else 1.0
            bias = delta.bias[name][k] if name in delta.bias else 0.0
            holder, _, end = name.rpartition(".")
            setattr(module.get_submodule(holder), end, Changed(module.get_submodule(name), scale, bias))
        for row in ROWS:
            ids = torch.tensor(tokenizer(f"Review: {row['text']} It was")["input_ids"])[None]
            out.append(module(ids).logits[0, -1, words])
    return torch.stack(out).view(delta.candidates, len(ROWS), -1)


@pytest.mark.parametrize("kind", SPACES)
def test_equals_changed_modules(tiny, family, kind):
    model, z = tiny(family), points()
    space = SPACES[kind](model)
    expected = changed_logits(model, space.decode(torch.from_numpy(z)))
    found = logits(model, space, z)
    assert float((found - expected).abs().max()) < 5e-5
    assert float((found - expected.roll(1, 0)).abs().amax((1, 2)).min()) > 1e-3
    start = logits(model, space, 0 * z)
    assert float((found - start).abs().amax((1, 2)).min()) > 1e-3


def test_the_norm_behind_the_layers(tiny, family):
    """It is exact, and what it costs is a last layer."""
    model, z = tiny(family), points()
    parts = [(name, type(part).__name__) for name, part in model.module.named_modules()]
    (name,) = (name for name, kind in parts if "Norm" in kind and model.layer_of(name) is None)
    space = Scaling(model, DIM, method="norm", targets=name, alpha=0.4)
    assert (space.names, space.first_layer) == ((name,), model.layers - 1)
    expected = changed_logits(model, space.decode(torch.from_numpy(z)))
    found = logits(model, space, z)
    assert float((found - expected).abs().max()) < 5e-5
    assert float((found - expected.roll(1, 0)).abs().amax((1, 2)).min()) > 1e-3


@pytest.mark.parametrize(
    ("name", "ia3", "bias", "norms"),
    [
        ("llama", {"k_proj", "v_proj", "up_proj"}, {"q_proj", "up_proj"}, 2),
        ("gpt2", {"c_attn", "c_proj"}, {"c_attn", "c_fc"}, 2),
        ("opt", {"k_proj", "v_proj", "fc2"}, {"q_proj", "fc1"}, 2),
        ("gpt_neox", {"query_key_value", "dense_4h_to_h"}, {"query_key_value", "dense_h_to_4h"}, 2),
        ("phi", {"k_proj", "v_proj", "fc2"}, {"q_proj", "fc1"}, 1),
        ("qwen3", {"k_proj", "v_proj", "up_proj"}, {"q_proj", "up_proj"}, 4),
        ("gemma2", {"k_proj", "v_proj", "up_proj"}, {"q_proj", "up_proj"}, 4),
    ],
)
def test_usual_modules(tiny, name, ia3, bias, norms):
    model = tiny(name)
    found = {kind: [n.rsplit(".", 1)[-1] for n in make(model).names] for kind, make in SPACES.items()}
    assert set(found["ia3"]) == ia3
    assert len(found["ia3"]) == model.layers * len(ia3)
    assert set(found["bias"]) == bias
    assert len(found["norm"]) == model.layers * norms
    assert not any("attn.c_proj" in n for n in SPACES["ia3"](model).names)


@pytest.mark.parametrize(("layers", "numbers"), [("upper", {1, 2}), ("last", {2}), ("lower", {0, 1})])
@pytest.mark.parametrize("kind", SPACES)
def test_zero_is_exact_and_layers_are_kept_to(tiny, kind, layers, numbers):
    model = tiny("llama")
    space = SPACES[kind](model, layers=layers)
    assert space.first_layer == min(numbers)
    assert {model.layer_of(name) for name in space.names} == numbers
    delta = space.decode(torch.zeros(2, DIM))
    for slot, value in ((delta.scale, 1.0), (delta.bias, 0.0)):
        assert all(torch.equal(part, torch.full_like(part, value)) for part in slot.values())
    assert delta.modules == set(space.names)


def test_a_named_norm_of_the_last_layer_costs_what_biases_cost(tiny):
    """The norm in front of its attention changes the keys that others see, the one behind them none."""
    model = tiny("llama")
    task = Classification(ROWS, template="Review: {text} It was", labels=LABELS)

    def needed(space):
        return LocalEvaluator(model, task, space)(points(), 1).cost.tokens_needed

    bias = needed(BiasSpace(model, DIM, layers="last"))
    for targets in ("post_attention_layernorm", "norm", ["post_attention_layernorm", "norm"]):
        assert needed(Scaling(model, DIM, method="norm", targets=targets, layers="last")) == bias
    assert needed(Scaling(model, DIM, method="norm", layers="last")) > bias


def test_spread_of_factors_and_additions(tiny):
    model = tiny("llama")
    z = torch.from_numpy(points(3000, DIM))
    factors = torch.cat(list(SPACES["ia3"](model).decode(z).scale.values()), 1)
    assert float((factors - 1).std()) == pytest.approx(0.4, rel=0.05)
    assert float(factors.mean()) == pytest.approx(1, abs=0.02)
    space = SPACES["bias"](model)
    seen = {}
    name = space.names[0]
    handle = model.module.get_submodule(name).register_forward_hook(
        lambda module, args, output: seen.update(output=output)
    )
    model.module(torch.arange(3, 120)[None])
    handle.remove()
    own = float(seen["output"].std())
    assert float(space.decode(z).bias[name].std()) == pytest.approx(0.4 * own, rel=0.25)


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda m: Scaling(m, 0), ["dim = 0", "1 to"]),
        (lambda m: Scaling(m, 5, method="ia4"), ["unknown method of Scaling 'ia4'", "did you mean 'ia3'"]),
        (
            lambda m: Scaling(m, 5, method="norm", targets="x"),
            ["'x' matches nothing", "input_layernorm, norm"],
        ),
        (
            lambda m: Scaling(m, 5, method="norm", targets="norm", layers="lower"),
            ["'norm' matches nothing in these layers"],
        ),
        (lambda m: Scaling(m, 5, targets="k_porj"), ["'k_porj' matches nothing", "k_proj", "up_proj"]),
        (lambda m: Scaling(m, 5, alpha=0), ["alpha = 0", "positive"]),
        (lambda m: Scaling(m, 5, layers=[7]), ["layer 7", "0 to 2"]),
        (lambda m: BiasSpace(m, 5, targets=[]), ["targets = []", "k_proj"]),
        (lambda m: BiasSpace(m, 241), ["dim = 241", "1 to 240", "6 modules"]),
        (lambda m: BiasSpace(m, 5, alpha=float("nan")), ["alpha = nan"]),
    ],
)
def test_bad_options(tiny, make, parts):
    with pytest.raises(GfoError) as error:
        make(tiny("llama"))
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in parts), str(error.value)
