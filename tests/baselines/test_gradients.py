"""Gradients through each space's decode and the evaluator agree with finite differences of its losses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from examples import LABELS, PROMPT_FIRST, ROWS, TEXT_FIRST, common_tokens, make_task, whole_rows

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
from gfo.core.errors import GfoError

DIM, K, P = 5, 2, 3
STEP = (
    0.02  # of the differences: with less the float32 logits' rounding shows, with more the third derivative
)
SPACES = {
    "soft prompt": lambda m: SoftPrompt(m, P, dim=DIM, alpha=0.5),
    "soft prompt, fastfood": lambda m: SoftPrompt(m, P, dim=DIM, alpha=0.5, projection="fastfood"),
    "soft prompt, sparse": lambda m: SoftPrompt(m, P, dim=DIM, alpha=0.5, projection="sparse"),
    "deep prompt": lambda m: DeepPrompt(m, P, dim=DIM),
    "deep prompt, upper": lambda m: DeepPrompt(m, P, dim=DIM, layers="upper"),
    "prefix": lambda m: Prefix(m, P, dim=DIM),
    "prefix, upper": lambda m: Prefix(m, P, dim=DIM, layers="upper"),
    "lora-fa": lambda m: LoRASubspace(m, dim=DIM, method="lora-fa"),
    "lora-fa, upper": lambda m: LoRASubspace(m, dim=DIM, method="lora-fa", layers="upper"),
    "lora-xs": lambda m: LoRASubspace(m, dim=DIM, method="lora-xs"),
    "vera": lambda m: LoRASubspace(m, dim=DIM, method="vera"),
    "tiny": lambda m: LoRASubspace(m, dim=DIM, method="tiny"),
    "ia3": lambda m: Scaling(m, dim=DIM),
    "norm": lambda m: Scaling(m, dim=DIM, method="norm"),
    "bias": lambda m: BiasSpace(m, dim=DIM),
    "adapter": lambda m: Adapter(m, dim=DIM),
    "product": lambda m: ProductSpace(SoftPrompt(m, P, dim=3, alpha=0.5), LoRASubspace(m, dim=2)),
}
WITH_PROMPT = ("soft", "deep", "product")  # for the others the template's place for it makes no difference
# T5's and OPT's ReLUs have kinks, where differences say nothing
CASES = [
    (family, name, template)
    for family in ("llama", "gemma2", "bert", "bart")
    for name in SPACES
    for template in (TEXT_FIRST, PROMPT_FIRST)
    if not (family in ("bert", "bart") and name.startswith("prefix"))
    and (template == TEXT_FIRST or name.startswith(WITH_PROMPT))
]


def evaluator_of(model, space, template=TEXT_FIRST, loss="ce"):
    template += " {mask}" if model.mask else ""
    return LocalEvaluator(model, make_task(template, loss=loss), space)


def points(k=K):
    return np.random.default_rng(0).standard_normal((k, DIM))


def gradient(evaluator, z):
    """Losses [K], and the gradient [K, d] of their sum, which is each candidate's own."""
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


@pytest.mark.parametrize(("family_name", "name", "template"), CASES)
def test_gradients_are_those_of_finite_differences(tiny, family_name, name, template):
    model = tiny(family_name, dtype=torch.float64)
    evaluator = evaluator_of(model, SPACES[name](model), template)
    z = points()
    loss, found = gradient(evaluator, z)
    np.testing.assert_allclose(loss, evaluator(z, 0).loss, atol=1e-6)
    expected = differences(evaluator, z)
    scale = np.abs(expected).max()
    assert scale > 1e-3
    assert np.abs(found - expected).max() < 0.005 * scale
    assert np.abs(found[::-1] - expected).max() > 0.05 * scale  # controls: the other candidate's
    assert np.abs(np.roll(found, 1, 1) - expected).max() > 0.05 * scale  # and other dimensions
    assert all(p.grad is None for p in model.module.parameters())


def test_gradients_of_another_loss_and_another_chunk(tiny):
    model = tiny("llama", dtype=torch.float64)
    space = SPACES["soft prompt"](model)
    task = make_task(loss="hinge")
    whole, parts = LocalEvaluator(model, task, space), LocalEvaluator(model, task, space, chunk_tokens=16)
    _, found = gradient(whole, points())
    np.testing.assert_allclose(found, gradient(parts, points())[1], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found, differences(whole, points()), atol=0.005 * np.abs(found).max())
    assert (
        np.abs(gradient(evaluator_of(model, space), points())[1] - found).max() > 0.05 * np.abs(found).max()
    )


def test_a_backward_pass_counts_as_two_forward_passes(tiny):
    """By hand: texts in front of the prompt once and without gradients, what depends on it three times."""
    model = tiny("llama", start=True)
    evaluator = evaluator_of(model, SPACES["soft prompt"](model))
    batch = evaluator.task.batch("train", 0)
    texts, own = sum(map(len, batch.before)), sum(P + len(after) for after in batch.after)
    z = torch.from_numpy(points(1)).requires_grad_()
    first, second = (evaluator.loss_tensor(z, step)[1] for step in range(2))
    assert (first.tokens_needed, second.tokens_needed) == (texts + 3 * own, 3 * own)
    assert second.forward_tokens == 3 * own
    assert evaluator(points(1), 2).cost.tokens_needed == own  # control: no gradients
    assert first.candidates == 1


def test_layers_below_the_change_have_no_backward_pass(tiny):
    """A third of a token for each of the two upper layers, there and back; the lower ones once."""
    model = tiny("llama", start=True)
    evaluator = evaluator_of(model, LoRASubspace(model, dim=DIM, layers=[1, 2]), "{text} It was")
    rows = whole_rows(make_task("{text} It was"), model)
    shared = common_tokens(rows)
    own = shared + sum(len(row) - shared for row in rows)
    z = torch.from_numpy(points(1)).requires_grad_()
    costs = [evaluator.loss_tensor(z, step)[1].tokens_needed for step in range(2)]
    assert costs[1] == -(-3 * own * 2 // 3)
    assert costs[0] == -(-(own + 3 * own * 2) // 3)


def test_a_loss_without_a_gradient(tiny):
    class Accuracy(Classification):
        def bind(self, tokenizer):
            bound = super().bind(tokenizer)
            bound.loss = lambda answers, batch: (answers.argmax(-1).numpy() != batch.target).mean(1)
            return bound

    model = tiny("llama")
    evaluator = LocalEvaluator(
        model, Accuracy(ROWS, template=TEXT_FIRST, labels=LABELS), SPACES["soft prompt"](model)
    )
    assert 0 <= evaluator(points(), 0).loss.min() <= 1
    with pytest.raises(GfoError, match=r"^task: its loss has no gradient; take a gradient-free optimizer"):
        evaluator.loss_tensor(torch.from_numpy(points()).requires_grad_(), 0)
