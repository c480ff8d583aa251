"""Generated text of encoder-decoders: equal to transformers' `generate`, token for token."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from changes import DIM, Changes
from generating import Writing, cut, decoding, generated, one_by_one, stops_in

from gfo import LocalEvaluator, freeze

K = 3
PROMPT = "Review: {text}\n{soft}Sentiment:"
PLAIN = "Review: {text}\nSentiment:"
# name -> (slots, lowest layer changed, layer not changed any more, template)
WORKLOADS = {
    "prompt": (["prompt"], 0, None, PROMPT),
    "prompt and lora": (["prompt", "lora", "scale"], 0, None, PROMPT),
    "lora-upper": (["lora", "bias"], 1, None, PLAIN),
    "deep prompt": (["prompt", "layer_prompt"], 0, 3, PROMPT),
    "decoder, cross-attention too": (["lora"], 3, None, PLAIN),
    "decoder, outputs": (["scale"], 3, None, PLAIN),
    "decoder, upper": (["scale", "bias"], 4, None, PLAIN),
}


def points(seed=0):
    return np.random.default_rng(seed).standard_normal((K, DIM))


@pytest.fixture(params=["t5", "bart", "bart, forced"])
def two_stacks(request, tiny):
    if request.param != "bart, forced":
        return tiny(request.param)
    module = copy.deepcopy(tiny("bart").module)
    module.generation_config.forced_bos_token_id = 1
    return freeze(module, tiny("bart").tokenizer)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_all_ways_equal_generate(two_stacks, workload):
    slots, first, last, template = WORKLOADS[workload]
    model, z = two_stacks, points()
    space = Changes(model, slots, first=first, last=last)
    free = one_by_one(model, space, Writing(template, decoding()), z)
    stop = stops_in(free)
    task, expected = Writing(template, decoding(stop=stop)), cut(free, stop)
    ways = {
        "at once": generated(model, space, task, z),
        "one by one": [generated(model, space, task, z[k : k + 1])[0] for k in range(K)],
        "no reuse": generated(model, space, task, z, reuse=False),
        **{f"chunks of {n}": generated(model, space, task, z, chunk_tokens=n) for n in (1, 7, 50)},
        "little memory": generated(model, space, task, z, memory=30_000),
    }
    for name, answers in ways.items():
        assert answers == expected, name
    assert generated(model, space, Writing(template, decoding()), z) == free
    assert len({tuple(candidate) for candidate in free}) > 1  # controls
    assert len(set(free[0])) > 1
    assert len({len(text) for candidate in expected for text in candidate}) > 1
    other = Changes(model, slots, first=first, last=last, seed=1)
    assert generated(model, other, task, z) != expected


@pytest.mark.parametrize("family", ["t5", "bart"], indirect=False)
@pytest.mark.parametrize("first", [0, 3], ids=["encoder too", "decoder alone"])
def test_tokens_by_hand(tiny, family, first):
    """The encoder's tokens and the answers', each as the share of the layers that it goes through."""
    model, N, z = tiny(family), 6, points()
    task = Writing(PLAIN, decoding(N))
    evaluator = LocalEvaluator(model, task, Changes(model, ["scale"], first=first))
    texts = sum(len(before + after) for before, after in task.rows)
    answers = K * len(task.rows) * N  # the token that every answer begins with, and all but the last
    deep, upper = model.encoder_layers, model.layers - model.encoder_layers
    costs = [evaluator(z, step).cost for step in range(2)]
    shared = (
        len(task.rows) * upper if first else 0
    ) / model.layers  # the encoder's output as keys and values
    once, each = (texts, 0) if first else (0, K * texts)
    own = (each * deep + answers * upper) / model.layers + shared
    assert [cost.tokens_needed for cost in costs] == [
        -(-(own + once * deep / model.layers) // 1),
        -(-own // 1),
    ]
    if first == 0:
        padding = costs[1].forward_tokens - costs[1].tokens_needed
        assert 0 <= padding <= 0.05 * K * texts
