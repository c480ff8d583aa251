"""Low-rank subspaces: against weights changed in a copy, norms, oddness, patterns, and bad input."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from gfo import Classification, LocalEvaluator
from gfo.spaces.lora_subspace import KINDS, LoRASubspace

TEXTS = ["a great joy from the first minute", "bad!", "the food was good, but the service was bad."]
ROWS = [{"text": text, "label": label} for text, label in zip(TEXTS, ["b", "a", "a"], strict=True)]
LABELS = {"a": " terrible", "b": " great"}
DIM = 12


def make_space(model, **options):
    return LoRASubspace(model, **{"dim": DIM, "rank": 3, "seed": 1, "alpha": 0.5} | options)


def points(K=3, d=DIM, seed=0):
    return np.random.default_rng(seed).standard_normal((K, d))


def logits(model, space, z):
    task = Classification(ROWS, template="Review: {text} It was", labels=LABELS)
    evaluator = LocalEvaluator(model, task, space)
    return evaluator.logits(z, evaluator.task.all_rows("train"))


@torch.no_grad()
def merged_logits(model, delta):
    """[K, B, V'] of stock forward passes with W + B A written into a copy of the model."""
    tokenizer, out = model.tokenizer, []
    words = [tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in LABELS.values()]
    for k in range(delta.candidates):
        module = copy.deepcopy(model.module)
        for name, (A, B) in delta.lora.items():
            part = module.get_submodule(name)
            part.weight += (B[k] @ A[k]).T if type(part).__name__ == "Conv1D" else B[k] @ A[k]
        for row in ROWS:
            ids = torch.tensor(tokenizer(f"Review: {row['text']} It was")["input_ids"])[None]
            out.append(module(ids).logits[0, -1, words])
    return torch.stack(out).view(delta.candidates, len(ROWS), -1)


@pytest.mark.parametrize("kind", KINDS)
def test_equals_merged_weights(tiny, family, kind):
    model, z = tiny(family), points()
    space = make_space(model, kind=kind)
    expected = merged_logits(model, space.decode(torch.from_numpy(z)))
    found = logits(model, space, z)
    assert float((found - expected).abs().max()) < 2e-5
    # controls: each candidate, and no change at all
    assert float((found - expected.roll(1, 0)).abs().amax((1, 2)).min()) > 1e-3
    start = logits(model, space, np.zeros((1, DIM)))
    assert float((found - start).abs().amax((1, 2)).min()) > 1e-3
    other = logits(model, make_space(model, kind=kind, seed=2), z)
    assert float((found - other).abs().max()) > 1e-3
