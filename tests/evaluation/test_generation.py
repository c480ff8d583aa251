"""Generated text: many at once are what transformers' `generate` gives one by one, token for token."""

from __future__ import annotations

import numpy as np
import pytest
from changes import DIM, Changes
from generating import Writing, cut, decoding, generated, one_by_one, stops_in

K = 3
TEXT_FIRST = "Review: {text}\n{soft}Sentiment:"
PROMPT_FIRST = "{soft}Review: {text}\nSentiment:"
PLAIN = "Review: {text}\nSentiment:"
ALIKE = "{text} It was"  # rows without a common beginning
# name -> (slots, lowest layer changed, template)
WORKLOADS = {
    "prompt, text first": (["prompt"], 0, TEXT_FIRST),
    "prompt first": (["prompt"], 0, PROMPT_FIRST),
    "prompt, nothing behind": (["prompt"], 0, "{text}{soft}"),
    "lora": (["lora"], 0, PLAIN),
    "bank": (["bank"], 0, PLAIN),
    "lora-upper, nothing in common": (["lora"], 1, ALIKE),
    "scale and bias": (["scale", "bias"], 0, PLAIN),
    "scale in the last layer": (["scale"], 2, PLAIN),
    "deep prompt": (["prompt", "layer_prompt"], 0, TEXT_FIRST),
    "deep-prompt-upper, prompt first": (["layer_prompt"], 1, PROMPT_FIRST),
    "prefix": (["prefix"], 0, PLAIN),
    "prefix and prompt": (["prefix", "prompt"], 0, PROMPT_FIRST),
    "prompt and lora": (["prompt", "lora", "scale"], 0, TEXT_FIRST),
    "prefix, deep prompt and lora": (["prefix", "layer_prompt", "prompt", "lora"], 0, TEXT_FIRST),
}


def points(seed=1, candidates=K):
    return np.random.default_rng(seed).standard_normal((candidates, DIM))


@pytest.mark.parametrize("workload", WORKLOADS)
def test_all_ways_equal_generate(tiny, family, workload):
    slots, first, template = WORKLOADS[workload]
    size = 6 if slots == ["layer_prompt"] else 2  # which moves the texts less
    model, z = tiny(family, tie_word_embeddings=False), size * points()  # tied, many repeat their last token
    space = Changes(model, slots, first=first)
    free = one_by_one(model, space, Writing(template, decoding()), z)
    stop = stops_in(free)
    task, expected = Writing(template, decoding(stop=stop)), cut(free, stop)
    ways = {
        "at once": generated(model, space, task, z),
        "one by one": [generated(model, space, task, z[k : k + 1])[0] for k in range(K)],
        "no reuse": generated(model, space, task, z, reuse=False),
        **{f"chunks of {n}": generated(model, space, task, z, chunk_tokens=n) for n in (1, 50)},
        "little memory": generated(model, space, task, z, memory=30_000),
    }
    for name, answers in ways.items():
        assert answers == expected, name
    assert generated(model, space, Writing(template, decoding()), z) == free  # nothing stops
    # controls: candidates and examples have answers of their own, some of them stopped early
    assert len({tuple(candidate) for candidate in free}) > 1
    assert len(set(free[0])) > 1
    assert len({len(text) for candidate in expected for text in candidate}) > 1
    other = Changes(model, slots, first=first, seed=1)
    assert generated(model, other, task, z) != expected
