"""Several answers to a row: the draws of as many rows of its text, which is computed once for all of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import transformers
from changes import DIM, Changes
from conftest import VOCABULARY, make_tokenizer
from generating import TEXTS, Writing, decoding, generated

import gfo
from gfo import Generation, LocalEvaluator
from gfo.testing.tiny import draw_weights

K, N, SAMPLES = 2, 5, 3
WORKLOADS = {
    "text first": ("llama", ["prompt"], "Review: {text}\n{soft}Sentiment:"),
    "prompt first": ("llama", ["prompt"], "{soft}Review: {text}\nSentiment:"),
    "prefix and lora": ("llama", ["prefix", "lora"], "Review: {text}\nSentiment:"),
    "lora in whole rows": ("gpt_neo", ["lora"], "Review: {text}\nSentiment:"),
    "encoder-decoder": ("t5", ["prompt", "lora"], "Review: {text}\n{soft}Sentiment:"),
}


def whole_rows():
    """A model without branches: every row is run whole."""
    sizes = {
        "vocab_size": VOCABULARY + 8,
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "window_size": 6,
    }
    module = transformers.GPTNeoForCausalLM(
        transformers.GPTNeoConfig(**sizes, attention_types=[[["global", "local"], 1]])
    ).eval()
    draw_weights(module, 0)
    with pytest.warns(gfo.GfoWarning):
        return gfo.freeze(module, make_tokenizer(start=True), "gpt_neo")


@pytest.mark.parametrize("workload", WORKLOADS)
def test_samples_are_the_answers_to_repeated_rows(tiny, workload):
    family, slots, template = WORKLOADS[workload]
    model = whole_rows() if family == "gpt_neo" else tiny(family)
    space, z = Changes(model, slots), np.random.default_rng(0).standard_normal((K, DIM))
    how = decoding(N, temperature=1.0, seed=3)
    again = Writing(template, how, texts=[text for text in TEXTS for _ in range(SAMPLES)])
    expected = generated(model, space, again, z)
    task = Writing(template, replace(how, samples=SAMPLES))
    for options in ({}, {"chunk_tokens": 1}, {"reuse": False}):
        assert generated(model, space, task, z, **options) == expected, options
    # controls: samples differ, and so does another seed
    assert len(set(expected[0][:SAMPLES])) > 1
    other = Writing(template, replace(how, samples=SAMPLES, seed=4))
    assert generated(model, space, other, z) != expected


def test_text_and_prompt_are_computed_once_for_all_samples(tiny):
    """Tokens by hand: what stands in front of the answers once, and the answers' own."""
    model, (_, slots, template) = tiny("llama"), WORKLOADS["prompt first"]
    space, z = Changes(model, slots), np.random.default_rng(0).standard_normal((K, DIM))
    needed = {}
    for n in (1, SAMPLES):
        rows = [{"text": text, "target": "good"} for text in TEXTS]
        task = Generation(
            rows, template=template, max_tokens=N, stop=[], temperature=1.0, samples=n, metric=longest
        )
        evaluator = LocalEvaluator(model, task, space)
        found = evaluator(z, 0)
        assert found.rows.shape == (K, len(TEXTS))
        answers = evaluator.answers(z, evaluator.task.all_rows("train"))
        own = sum(max(0, min(len(a) + 1, N) - 1) for candidate in answers for a in candidate)
        needed[n] = found.cost.tokens_needed - own
    assert needed[1] == needed[SAMPLES] > 0


def longest(outputs, rows):
    return [float(len(text)) for text in outputs]
