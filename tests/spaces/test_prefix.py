"""Prefixes: against stock forward passes with past keys and values, real starts, scales, and bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from gfo import Classification, GfoError, LocalEvaluator
from gfo.spaces.prefix import Prefix

TEXTS = ["a great joy", "bad!", "the food was good"]
ROWS = [{"text": text, "label": label} for text, label in zip(TEXTS, ["b", "a", "a"], strict=True)]
LABELS = {"a": " terrible", "b": " great"}
P, DIM = 3, 12
NO_WINDOW = ("llama", "gpt2", "qwen2", "qwen3", "gemma", "opt", "gpt_neox", "granite", "phi")


def make_space(model, **options):
    return Prefix(model, **{"tokens": P, "dim": DIM, "seed": 1} | options)


def points(K=3, d=DIM, seed=0):
    return np.random.default_rng(seed).standard_normal((K, d))


def logits(model, space, z):
    task = Classification(ROWS, template="Review: {text} It was", labels=LABELS)
    evaluator = LocalEvaluator(model, task, space)
    return evaluator.answers(z, evaluator.task.all_rows("train"))


@torch.no_grad()
def plain_logits(model, delta):
    """[K, B, V'] by stock forward passes, the prefix given as past keys and values."""
    tokenizer, module = model.tokenizer, model.module
    words = [tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in LABELS.values()]
    out = torch.empty(delta.candidates, len(ROWS), len(words))
    for b, row in enumerate(ROWS):
        ids = torch.tensor(tokenizer(f"Review: {row['text']} It was")["input_ids"])[None]
        for k in range(delta.candidates):
            cache = DynamicCache()
            for layer in range(model.layers):
                key, value = delta.prefix[layer]
                cache.update(key[k : k + 1], value[k : k + 1], layer)
            position = torch.arange(P, P + ids.shape[1])[None]
            out[k, b] = module(ids, past_key_values=cache, position_ids=position).logits[0, -1, words]
    return out


@pytest.mark.parametrize("name", NO_WINDOW)
def test_equals_past_keys_and_values(tiny, name):
    model, z = tiny(name), points()
    space = make_space(model)
    expected = plain_logits(model, space.decode(torch.from_numpy(z)))
    found = logits(model, space, z)
    assert float((found - expected).abs().max()) < 5e-5
    assert float((found - expected.roll(1, 0)).abs().amax((1, 2)).min()) > 1e-3
    assert float((found - logits(model, space, 0 * z)).abs().amax((1, 2)).min()) > 1e-3


def test_zero_is_the_text_in_front(tiny, family):
    """Keys and values of a text at z = 0: as if the text were written there."""
    model = tiny(family)
    ids = model.encode("the food was good")
    space = make_space(model, init="the food was good", tokens=len(ids))
    found = logits(model, space, np.zeros((1, DIM)))
    task = Classification(ROWS, template="the food was goodReview: {text} It was{soft}", labels=LABELS)
    words = [model.encode(word)[0] for word in LABELS.values()]
    with torch.no_grad():
        for b, row in enumerate(task.data.rows["train"]):
            whole = torch.tensor([*ids, *model.encode(f"Review: {row['text']} It was")])[None]
            expected = model.module(whole).logits[0, -1, words]
            assert float((found[0, b] - expected).abs().max()) < 5e-5
    other = logits(model, make_space(model, tokens=len(ids)), np.zeros((1, DIM)))
    assert float((other - found).abs().max()) > 1e-3


@pytest.mark.parametrize("layers", [[2], "upper", [0, 2]])
def test_some_layers(tiny, layers):
    """Fewer layers are another model; with and without what is computed once they are the same."""
    model, z = tiny("llama"), points()
    space = make_space(model, layers=layers)
    task = Classification(ROWS, template="Review: {text} It was", labels=LABELS)
    fast, slow = (LocalEvaluator(model, task, space, reuse=reuse) for reuse in (True, False))
    batch = fast.task.all_rows("train")
    assert float((fast.answers(z, batch) - slow.answers(z, batch)).abs().max()) < 5e-5
    assert float((fast.answers(z, batch) - logits(model, make_space(model), z)).abs().max()) > 1e-3
    assert space.first_layer == min(space.decode(torch.zeros(1, DIM)).prefix)


def test_scale_is_that_of_words(tiny):
    """z ~ N(0, 1) moves each key and value coordinate by alpha times its spread between words."""
    model = tiny("qwen2")
    space = make_space(model, dim=200, alpha=0.5)
    z = torch.from_numpy(points(2000, 200))
    change = space.decode(z).prefix[1][0] - space.start[1][0]  # keys (K, H, P, D_h)
    ids = torch.arange(3, 120)[None]
    context, _ = model.context(model.embed(ids), torch.tensor([117]))
    spread = context.layers[1][0][0, :, 1:].std(1)  # (H, D_h), of other words
    ratio = change.std(0) / spread[:, None]
    assert 0.4 < float(ratio.median()) < 0.6
    assert float(ratio.min()) > 0.25
    assert float(ratio.max()) < 1.0


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"tokens": 0}, ["tokens = 0", "at least 1"]),
        ({"dim": 0}, ["dim = 0", "1 to 288", "3 tokens in 3 layers"]),
        ({"dim": 289}, ["dim = 289", "1 to 288", "raise tokens"]),
        ({"layers": [3]}, ["layer 3", "0 to 2"]),
        ({"layers": []}, ["no layer", "0 to 2"]),
        ({"layers": "top"}, ["layers = 'top'", "'upper'"]),
        ({"alpha": -1}, ["alpha = -1", "positive"]),
        ({"init": ""}, ["init = ''", "no tokens"]),
        ({"projection": "gauss"}, ["projection 'gauss'", "did you mean 'gaussian'?"]),
    ],
)
def test_bad_options(tiny, options, parts):
    with pytest.raises(GfoError) as error:
        make_space(tiny("llama"), **options)
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in parts), str(error.value)


def test_no_decoder(tiny):
    model = tiny("llama")

    class Encoder:
        name, contexts = "roberta", False

    with pytest.raises(GfoError, match="'roberta' is none, or runs in whole rows: take SoftPrompt"):
        make_space(Encoder())
    assert make_space(model).dim == DIM
