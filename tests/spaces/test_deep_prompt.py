"""Deep prompts: against stock forward passes, the layers' scale, the lowest layer, and bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gfo import Classification, LocalEvaluator
from gfo.spaces.deep_prompt import DeepPrompt

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
    return evaluator.logits(z, evaluator.task.all_rows("train"))


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
@pytest.mark.parametrize("layers", [None, [1], "upper"])
def test_equals_plain_forward_passes(tiny, family, template, layers):
    model, z = tiny(family), points()
    space = make_space(model, layers=layers)
    expected = plain_logits(model, template, space.decode(torch.from_numpy(z)))
    found = logits(model, space, z, template)
    assert float((found - expected).abs().max()) < 2e-5
    # controls: each candidate, no change, another layer
    assert float((found - expected.roll(1, 0)).abs().amax((1, 2)).min()) > 1e-3
    assert float((found - logits(model, space, 0 * z, template)).abs().amax((1, 2)).min()) > 1e-3
    assert float((found - logits(model, make_space(model, layers=[2]), z, template)).abs().max()) > 1e-3
