"""Gradients through each space's decode and the evaluator agree with finite differences of its losses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gfo import (
    Adapter,
    BiasSpace,
    Classification,
    DeepPrompt,
    LocalEvaluator,
    LoRASubspace,
    Prefix,
    ProductSpace,
    Scaling,
    SoftPrompt,
)

DIM, K = 5, 2
STEP = 0.02  # of the differences: below it float32 losses round, above it the third derivative shows
LABELS = {"bad": " terrible", "good": " great"}
TEXTS = ["a", "a great joy from the first minute to the last", "bad!", "the food was good"]
ROWS = [
    {"text": text, "label": label} for text, label in zip(TEXTS, ["good", "good", "bad", "good"], strict=True)
]
TEXT_FIRST, PROMPT_FIRST = "Review: {text}\n{soft}Sentiment:", "{soft}Review: {text}\nSentiment:"
SPACES = {
    "soft prompt": lambda m: SoftPrompt(m, 3, dim=DIM, alpha=0.5),
    "soft prompt, fastfood": lambda m: SoftPrompt(m, 3, dim=DIM, alpha=0.5, projection="fastfood"),
    "soft prompt, sparse": lambda m: SoftPrompt(m, 3, dim=DIM, alpha=0.5, projection="sparse"),
    "deep prompt": lambda m: DeepPrompt(m, 3, dim=DIM),
    "deep prompt, upper": lambda m: DeepPrompt(m, 3, dim=DIM, layers="upper"),
    "prefix": lambda m: Prefix(m, 3, dim=DIM),
    "lora-fa": lambda m: LoRASubspace(m, dim=DIM, kind="lora-fa"),
    "lora-fa, upper": lambda m: LoRASubspace(m, dim=DIM, kind="lora-fa", layers="upper"),
    "lora-xs": lambda m: LoRASubspace(m, dim=DIM, kind="lora-xs"),
    "vera": lambda m: LoRASubspace(m, dim=DIM, kind="vera"),
    "tiny": lambda m: LoRASubspace(m, dim=DIM, kind="tiny"),
    "ia3": lambda m: Scaling(m, dim=DIM),
    "norm": lambda m: Scaling(m, dim=DIM, kind="norm"),
    "bias": lambda m: BiasSpace(m, dim=DIM),
    "adapter": lambda m: Adapter(m, dim=DIM),
    "product": lambda m: ProductSpace(SoftPrompt(m, 3, dim=3, alpha=0.5), LoRASubspace(m, dim=2)),
}
CASES = [(f, s, t) for f in ("llama", "bert", "bart") for s in SPACES for t in (TEXT_FIRST, PROMPT_FIRST)]


def evaluator_of(model, space, template):
    if model.mask:
        template += " {mask}"
    return LocalEvaluator(model, Classification(ROWS, template=template, labels=LABELS), space)


def gradient(evaluator, z):
    """[K, d] of the sum of the losses, which is each candidate's own."""
    z = torch.from_numpy(z).requires_grad_()
    loss, _ = evaluator.loss_tensor(z, 0)
    loss.sum().backward()
    return loss.detach().numpy(), z.grad.numpy()


def differences(evaluator, z):
    """[K, d]: central differences of the losses that the forward-only evaluator gives."""
    found = np.empty_like(z)
    for i, e in enumerate(np.eye(z.shape[1])):
        ahead, behind = (evaluator(z + sign * STEP * e, 0).loss for sign in (1, -1))
        found[:, i] = (ahead - behind) / (2 * STEP)
    return found


@pytest.mark.parametrize(
    ("family", "name", "template"),
    [c for c in CASES if c[:2] not in [("bert", "prefix"), ("bart", "prefix")]],
)
def test_gradients_are_those_of_finite_differences(tiny, family, name, template):
    model = tiny(family, dtype=torch.float64)
    evaluator = evaluator_of(model, SPACES[name](model), template)
    z = np.random.default_rng(0).standard_normal((K, DIM))
    loss, found = gradient(evaluator, z)
    np.testing.assert_allclose(loss, evaluator(z, 0).loss, atol=1e-6)
    expected = differences(evaluator, z)
    scale = np.abs(expected).max()
    print(name, scale, np.abs(found - expected).max() / scale)
    assert scale > 1e-3
    assert np.abs(found - expected).max() < 0.005 * scale
    assert np.abs(found[::-1] - expected).max() > 0.05 * scale  # controls: the other candidate's
    assert np.abs(np.roll(found, 1, 1) - expected).max() > 0.05 * scale  # and other dimensions
