"""Deep prompts: against stock forward passes, the layers' scale, the lowest layer, and bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gfo import Classification, GfoError, LocalEvaluator
from gfo.spaces.deep_prompt import DeepPrompt
from gfo.spaces.parts.measure import clipped_spread

TEXTS = ["a great joy from the first minute", "bad!", "the food was good, but the service was bad."]
ROWS = [{"text": text, "label": label} for text, label in zip(TEXTS, ["b", "a", "a"], strict=True)]
LABELS = {"a": " terrible", "b": " great"}
TEMPLATES = {"text first": "Review: {text}{soft} It was", "prompt first": "{soft}Review: {text} It was"}
P, D, DIM = 3, 32, 12


def make_space(model, **options):
    return DeepPrompt(model, **{"tokens": P, "dim": DIM, "seed": 1, "alpha": 0.7} | options)


def points(K=3, d=DIM, seed=0):
    return np.random.default_rng(seed).standard_normal((K, d))


def logits(model, space, z, template=TEMPLATES["text first"]):
    evaluator = LocalEvaluator(model, Classification(ROWS, template=template, labels=LABELS), space)
    return evaluator.answers(z, evaluator.task.all_rows("train"))


@torch.no_grad()
def plain_logits(model, template, delta):
    """[K, B, V'] by one stock forward pass per candidate and row, the layers' inputs changed by hooks."""
    tokenizer, module = model.tokenizer, model.module
    before, after = template.split("{soft}")
    words = [tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in LABELS.values()]
    out = torch.empty(delta.candidates, len(ROWS), len(words))
    for b, row in enumerate(ROWS):
        left, right = (
            torch.tensor(tokenizer(side.format(**row))["input_ids"], dtype=torch.long)
            for side in (before, after)
        )
        at = slice(len(left), len(left) + P)
        for k in range(delta.candidates):
            embeds = torch.cat([model.embed(left), delta.prompt[k], model.embed(right)])[None]

            def adding(extra, at=at):
                def hook(layer, args, kwargs):
                    given = args[0] if args else kwargs["hidden_states"]
                    given = given.clone()
                    given[:, at] += extra
                    return ((given, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": given})

                return hook

            layers = next(m for m in module.modules() if isinstance(m, torch.nn.ModuleList))
            handles = [
                layers[layer].register_forward_pre_hook(adding(extra[k]), with_kwargs=True)
                for layer, extra in delta.layer_prompt.items()
            ]
            out[k, b] = module(inputs_embeds=embeds, use_cache=False).logits[0, -1, words]
            for handle in handles:
                handle.remove()
    return out


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize("options", [{}, {"layers": [1]}, {"layers": "upper"}, {"joint": True}], ids=str)
def test_equals_plain_forward_passes(tiny, family, template, options):
    model, z = tiny(family), points()
    space = make_space(model, **options)
    expected = plain_logits(model, template, space.decode(torch.from_numpy(z)))
    found = logits(model, space, z, template)
    assert float((found - expected).abs().max()) < 5e-5
    # controls: each candidate, no change, another layer
    assert float((found - expected.roll(1, 0)).abs().amax((1, 2)).min()) > 1e-3
    assert float((found - logits(model, space, 0 * z, template)).abs().amax((1, 2)).min()) > 1e-3
    assert float((found - logits(model, make_space(model, layers=[2]), z, template)).abs().max()) > 1e-3


def test_scale_is_the_layers_own(tiny):
    """z ~ N(0, I) moves a layer's hidden states by alpha times their clipped spread."""
    model = tiny("llama")
    space = make_space(model, dim=150, alpha=0.7, scale_text="the food was good, but the service was bad.")
    change = space.decode(torch.from_numpy(points(2000, 150))).layer_prompt
    ids = torch.tensor([model.encode("the food was good, but the service was bad.")])
    hidden = model.module(ids, output_hidden_states=True).hidden_states
    for layer in range(3):
        spread = clipped_spread(hidden[layer])
        assert space.spread[layer] == pytest.approx(spread, rel=1e-4)
        assert float(change[layer].std()) == pytest.approx(0.7 * spread, rel=0.05)
    assert len({round(value, 4) for value in space.spread.values()}) == 3
    random_words = make_space(model, dim=150).spread
    assert random_words != space.spread
    assert all(0.5 < random_words[i] / space.spread[i] < 2 for i in range(3))


def test_outliers_are_clipped():
    values = torch.randn(200, 50, generator=torch.Generator().manual_seed(0))
    assert clipped_spread(values) == pytest.approx(0.98, abs=0.03)
    values[:, 7] += 300
    assert float(values.std()) > 30
    assert clipped_spread(values) < 5
    assert clipped_spread(10 * values) == pytest.approx(10 * clipped_spread(values), rel=1e-5)


def test_the_prompt_is_fixed_and_shared(tiny):
    model = tiny("llama")
    space = make_space(model, init="the food")
    delta = space.decode(torch.from_numpy(points()))
    ids = (model.encode("the food") * P)[:P]
    assert torch.equal(delta.prompt, model.embed(torch.tensor(ids)).expand(3, -1, -1))
    assert delta.prompt.stride(0) == 0
    assert space.blocks == (4, 4, 4)
    # each layer has a projection and dimensions of its own
    z = torch.zeros(1, DIM)
    z[0, 4:8] = 1
    moved = {layer: bool(extra.any()) for layer, extra in space.decode(z).layer_prompt.items()}
    assert moved == {0: False, 1: True, 2: False}
    first, second = (space.decode(torch.eye(DIM)[i : i + 1]).layer_prompt[i // 4] for i in (0, 4))
    assert not torch.allclose(first / space.spread[0], second / space.spread[1])
    # another choice of layers does not redraw a layer's projection
    alone = make_space(model, layers=[1], dim=4).decode(torch.ones(1, 4)).layer_prompt[1]
    assert torch.equal(alone, space.decode(z).layer_prompt[1])


def test_layers_of_an_encoder_decoder_are_the_encoders(tiny):
    assert make_space(tiny("t5")).layers == (0, 1, 2)
    assert make_space(tiny("t5"), layers="upper").layers == (1, 2)
    with pytest.raises(GfoError, match="layer 3"):
        make_space(tiny("t5"), layers=[3])


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"tokens": 0}, ["tokens = 0", "at least 1"]),
        ({"dim": 2}, ["dim = 2", "one a layer, of 3"]),
        ({"dim": 289}, ["dim = 289", "1 to 288", "96 numbers in 3 layers"]),
        ({"layers": [0, 4]}, ["layer 4", "0 to 2"]),
        ({"alpha": 0}, ["alpha = 0", "positive"]),
        ({"projection": "normal"}, ["unknown projection 'normal'"]),
        ({"init": ""}, ["init = ''", "no tokens"]),
        ({"init": torch.zeros(2, D)}, ["(2, 32)", "(3, 32)"]),
        ({"scale_text": ""}, ["scale_text = ''", "no tokens"]),
    ],
)
def test_bad_options(tiny, options, parts):
    with pytest.raises(GfoError) as error:
        make_space(tiny("llama"), **options)
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in parts), str(error.value)


def test_a_joint_projection_moves_every_layer_by_all_of_z(tiny):
    """By one coordinate all layers move; with a part of z for each one only."""
    model = tiny("llama")
    z = torch.zeros(1, DIM)
    z[0, 0] = 1.0

    def moved(space):
        added = space.decode(z[:, : space.dim]).layer_prompt
        return [layer for layer, part in added.items() if part.abs().max() > 0]

    joint = make_space(model, joint=True)
    assert joint.blocks == (DIM,)
    assert moved(joint) == list(joint.layers)
    assert moved(make_space(model)) == [0]  # control
    with_one = make_space(model, joint=True, dim=1)  # fewer than layers
    assert moved(with_one) == list(with_one.layers)
    many = torch.from_numpy(points(400)).float()
    for layer, added in joint.decode(many).layer_prompt.items():
        assert float(added.std()) == pytest.approx(0.7 * joint.spread[layer], rel=0.1)
