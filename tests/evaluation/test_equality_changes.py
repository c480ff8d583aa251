"""The evaluator's promise for changes of every kind: the logits are those of the slow way, in changes.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from changes import DIM, Changes, changed_module, hook_prompts, layer_names, past

from gfo import Classification, LocalEvaluator

K = 3
TOLERANCE = 5e-5
LABELS = {"bad": " terrible", "good": " great"}
TEXTS = [
    "a",
    "a great joy from the first minute to the last",
    "bad!",
    "the food was good",
    "I would say that the service was not good, and the food neither: a terrible waste.",
]
ROWS = [{"text": t, "label": v} for t, v in zip(TEXTS, ["good", "good", "bad", "good", "bad"], strict=True)]
TEXT_FIRST = "Review: {text}\n{soft}Sentiment:"
PROMPT_FIRST = "{soft}Review: {text}\nSentiment:"
PLAIN = "Review: {text}\nSentiment:"
ALIKE = "{text} It was"  # rows without a common beginning
# name -> (slots, lowest layer changed, template)
WORKLOADS = {
    "lora": (["lora"], 0, PLAIN),
    "lora, nothing in common": (["lora"], 0, ALIKE),
    "lora-upper": (["lora"], 1, PLAIN),
    "lora in the last layer": (["lora"], 2, ALIKE),
    "bank": (["bank"], 0, PLAIN),
    "bank, nothing in common": (["bank"], 0, ALIKE),
    "bank-upper": (["bank"], 1, PLAIN),
    "bank in the last layer": (["bank"], 2, ALIKE),
    "prompt, bank, lora and scale": (["prompt", "bank", "lora", "scale"], 0, TEXT_FIRST),
    "scale": (["scale"], 0, PLAIN),
    "scale in the last layer": (["scale"], 2, PLAIN),
    "scale and adapter in the last layer": (["scale", "adapter"], 2, ALIKE),
    "prompt, scale in the last layer": (["prompt", "scale"], 2, TEXT_FIRST),
    "queries' biases in the last layer": (["bias"], 2, ALIKE),
    "bias-upper": (["bias"], 1, PLAIN),
    "adapter": (["adapter"], 0, PLAIN),
    "adapter and lora, upper": (["adapter", "lora"], 1, ALIKE),
    "deep prompt": (["prompt", "layer_prompt"], 0, TEXT_FIRST),
    "deep-prompt-upper, text first": (["layer_prompt"], 1, TEXT_FIRST),
    "deep-prompt-upper, prompt first": (["layer_prompt"], 1, PROMPT_FIRST),
    "prefix": (["prefix"], 0, PLAIN),
    "prompt and lora": (["prompt", "lora", "scale"], 0, TEXT_FIRST),
    "deep prompt and lora, upper": (["layer_prompt", "lora", "bias"], 1, TEXT_FIRST),
    "prefix and prompt": (["prefix", "prompt"], 0, PROMPT_FIRST),
}


def points(seed=0):
    return np.random.default_rng(seed).standard_normal((K, DIM))


def evaluator_of(model, space, template, rows=ROWS, **options):
    return LocalEvaluator(model, Classification(rows, template=template, labels=LABELS), space, **options)


def all_logits(*args, z, **options):
    evaluator = evaluator_of(*args, **options)
    return evaluator.answers(z, evaluator.task.all_rows("train"))


@torch.no_grad()
def slow_logits(model, space, template, z, rows=ROWS):
    """[K, B, V'], one candidate and one row at a time."""
    words = [model.encode(word)[0] for word in LABELS.values()]
    before, _, after = template.partition("{soft}")
    out = torch.empty(len(z), len(rows), len(words))
    for k in range(len(z)):
        delta = space.decode(torch.from_numpy(z[k : k + 1]))
        for b, row in enumerate(rows):
            module = changed_module(model, delta)
            left, right = model.encode(before.format(**row), start=True), model.encode(after.format(**row))
            hook_prompts(module, layer_names(model), delta, len(left))
            embeds = [model.embed(torch.tensor(left, dtype=torch.long))]
            embeds += [delta.prompt[0]] if delta.prompt is not None else []
            embeds += [model.embed(torch.tensor(right, dtype=torch.long))]
            cache, offset = past(model, delta)
            embeds = torch.cat(embeds)[None]
            position = torch.arange(embeds.shape[1])[None] + offset
            out[k, b] = module(
                inputs_embeds=embeds,
                position_ids=position,
                past_key_values=cache,
                use_cache=cache is not None,
            ).logits[0, -1, words]
    return out


def difference(a, b):
    assert a.shape == b.shape
    return float((a - b).abs().max())


@pytest.mark.parametrize("workload", WORKLOADS)
def test_all_ways_equal_the_slow_way(tiny, family, workload, record_property):
    slots, first, template = WORKLOADS[workload]
    model = tiny(family)
    space, z = Changes(model, slots, first=first), points()
    expected = slow_logits(model, space, template, z)
    ways = {
        "at once": all_logits(model, space, template, z=z),
        "one by one": torch.cat([all_logits(model, space, template, z=z[k : k + 1]) for k in range(K)]),
        "no reuse": all_logits(model, space, template, z=z, reuse=False),
        **{f"chunks of {n}": all_logits(model, space, template, z=z, chunk_tokens=n) for n in (16, 50)},
    }
    for name, logits in ways.items():
        assert difference(logits, expected) < TOLERANCE, name
        assert difference(logits, expected.roll(1, 0)) > 1e-3, name  # controls
        assert difference(logits, expected.roll(1, 1)) > 0.05, name
    record_property("worst", max(difference(logits, expected) for logits in ways.values()))
    other = Changes(model, slots, first=first, seed=1)
    assert difference(all_logits(model, other, template, z=z), expected) > 1e-3  # control: other changes
