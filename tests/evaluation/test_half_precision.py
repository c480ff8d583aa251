"""bfloat16 and float16 weights: float32 losses, the same whatever is shared, close to float32's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from changes import DIM, Changes

from gfo import Classification, LocalEvaluator

K = 4
LABELS = {"bad": " terrible", "good": " great"}
TEXTS = ["a", "a great joy from the first minute to the last", "bad!", "the food was good"]
ROWS = [
    {"text": text, "label": label} for text, label in zip(TEXTS, ["good", "good", "bad", "good"], strict=True)
]
RELATIVE = {torch.bfloat16: 0.15, torch.float16: 0.02}  # of the losses' spread between candidates
SLOTS = [["prompt"], ["lora", "scale", "bias"], ["prefix"], ["prompt", "layer_prompt"]]


def losses(model, slots, template="Review: {text}\n{soft}Sentiment:", z=None, **options):
    template = template + " {mask}" if model.mask else template
    task = Classification(ROWS, template=template, labels=LABELS)
    evaluator = LocalEvaluator(model, task, Changes(model, slots), **options)
    z = np.random.default_rng(0).standard_normal((K, DIM)) if z is None else z
    return evaluator(z, 0).loss


@pytest.mark.parametrize("slots", SLOTS, ids=str)
@pytest.mark.parametrize("dtype", RELATIVE, ids=str)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"], indirect=True)
def test_losses_are_close_to_float32s(tiny, family, dtype, slots):
    exact = losses(tiny(family), slots)
    spread = float(np.std(exact))
    for options in ({}, {"reuse": False}, {"chunk_tokens": 16}):
        found = losses(tiny(family, dtype=dtype), slots, **options)
        assert found.dtype == np.float64
        assert np.abs(found - exact).max() < RELATIVE[dtype] * max(spread, 0.5)
        assert np.abs(found - exact).max() > 0  # control: it is another precision
    assert np.abs(np.roll(exact, 1) - exact).max() > 2 * RELATIVE[dtype] * spread  # control


@pytest.mark.parametrize("dtype", RELATIVE, ids=str)
@pytest.mark.parametrize("encoder_family", ["bert", "t5", "bart"], indirect=True)
def test_encoders(tiny, encoder_family, dtype):
    exact = losses(tiny(encoder_family), ["prompt", "lora"])
    found = losses(tiny(encoder_family, dtype=dtype), ["prompt", "lora"])
    assert np.abs(found - exact).max() < RELATIVE[dtype] * max(float(np.std(exact)), 0.5)


def test_what_overflows_is_a_failed_candidate(tiny):
    """float16 ends at 65,504; a candidate beyond it is nan, and the others are as without it."""
    model = tiny("gpt2", dtype=torch.float16)
    z = np.random.default_rng(0).standard_normal((K, DIM))
    alone = losses(model, ["prompt"], z=z[[0, 1, 3]])
    z[2] = 1e6
    found = losses(model, ["prompt"], z=z)
    assert np.isnan(found[2])
    np.testing.assert_allclose(found[[0, 1, 3]], alone, atol=2e-2)
    assert np.isfinite(alone).all()
