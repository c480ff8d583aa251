"""Distance: KL to the unchanged model at every token, against two plain forward passes; what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import gfo
from gfo import Distance, GfoError, LocalEvaluator
from gfo.testing import check_task

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation"))
from changes import DIM, Changes, changed_module
from removed import closed_of, without_sub_blocks

TEXTS = [
    "I would say that the service was not good, and the food neither: a terrible waste of time.",
    "a great joy",
]
ROWS = [{"text": text} for text in TEXTS]
WINDOW = 20


@torch.no_grad()
def by_hand(model, module):
    """KL of a copy's next tokens to the model's, the mean over all tokens, and the sum over each window's."""
    sums, tokens = [], 0
    for text in TEXTS:
        ids = model.encode(text)
        start = model.encode("", start=True)
        for begin in range(0, len(ids), WINDOW):
            row = torch.tensor([[*start, *ids[max(0, begin - 1) : begin + WINDOW]]])
            scored = len(ids[begin : begin + WINDOW]) - (not (begin or start))
            p, q = (
                each(input_ids=row).logits[0, -1 - scored : -1].double().log_softmax(-1)
                for each in (model.module, module)
            )
            sums.append(float((p.exp() * (p - q)).sum()))
            tokens += scored
    return sum(sums) / tokens, sums


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("start", [True, False])
def test_it_is_that_of_plain_forward_passes(tiny, name, start):
    model = tiny(name, start=start)
    space = gfo.ProductSpace(gfo.Structure(model), Changes(model, ["lora"]))
    rng = np.random.default_rng(0)
    z = np.hstack([rng.integers(0, 2, (4, 6)), rng.standard_normal((4, DIM))])
    z[0] = 0
    delta = space.decode(torch.from_numpy(z))
    for kwargs in ({}, {"chunk_tokens": 30}, {"reuse": False}):
        evaluator = LocalEvaluator(model, Distance(ROWS, window=WINDOW), space, **kwargs)
        found = evaluator(z, 0)
        for k in range(4):
            one = delta.select(slice(k, k + 1))
            module = without_sub_blocks(model, closed_of(one, 0), changed_module(model, one))
            assert found.loss[k] == pytest.approx(by_hand(model, module)[0], abs=2e-5)
        assert abs(found.loss[0]) < 1e-6
        assert (found.loss[1:] > 0.05).all()
        np.testing.assert_allclose(evaluator.score(z, "train").metrics["loss"], found.loss, atol=1e-6)


@pytest.mark.parametrize("slots", [["lora"], ["prefix"], ["scale"], ["bias"]])
@pytest.mark.parametrize("first", [0, 2])
def test_changes_of_all_kinds(tiny, slots, first):
    """In the last layer, or where contexts are kept, layouts differ."""
    model = tiny("llama", start=True)
    if slots == ["prefix"] and first:
        return
    space = Changes(model, slots, first=first)
    z = np.random.default_rng(0).standard_normal((3, DIM))
    loss = [
        LocalEvaluator(model, Distance(ROWS, window=WINDOW), space, reuse=reuse)(z, 0).loss
        for reuse in (True, False)
    ]
    np.testing.assert_allclose(*loss, atol=2e-5)
    if slots != ["prefix"]:
        for k in range(3):
            module = changed_module(model, space.decode(torch.from_numpy(z[k : k + 1])))
            assert loss[0][k] == pytest.approx(by_hand(model, module)[0], abs=2e-5)


def test_rows_batches_and_racing(tiny):
    model = tiny("llama", start=True)
    space = gfo.Structure(model)
    z = np.eye(6)
    found = LocalEvaluator(model, Distance(ROWS, window=WINDOW), space)(z, 0)
    np.testing.assert_allclose(found.rows.mean(axis=1), found.loss, rtol=1e-6)
    racing = gfo.Racing(block=1, first=1, survivors=2)
    raced = LocalEvaluator(model, Distance(ROWS, window=WINDOW), space, racing=racing)(z, 0)
    np.testing.assert_allclose(raced.rows, found.rows, rtol=1e-4, atol=1e-6)
    result = gfo.tune(
        model,
        Distance(ROWS, [{"text": "the movie is a joy"}], window=WINDOW, batch_size=2),
        gfo.Structure(model, closed=2),
        optimizer="ga",
        budget=gfo.Budget(evaluations=40),
        progress=False,
    )
    assert result.z.sum() == 2


def test_it_keeps_the_contract(tiny):
    check_task(Distance(ROWS, window=WINDOW), tiny("llama", start=True))


def test_a_gradient_leads_downwards(tiny):
    model = tiny("llama", start=True)
    evaluator = LocalEvaluator(model, Distance(ROWS, window=WINDOW), Changes(model, ["lora"]))
    z = torch.ones(1, DIM, dtype=torch.float64, requires_grad=True)
    loss, _ = evaluator.loss_tensor(z, 0)
    loss.sum().backward()
    step = 1e-3
    moved = (z - step * z.grad).detach().numpy()
    change = evaluator(moved, 0).loss - evaluator(z.detach().numpy(), 0).loss
    assert change[0] == pytest.approx(-step * float(z.grad.square().sum()), rel=0.2)


def test_what_cannot_be_compared(tiny):
    for name in ("bert", "t5"):
        model = tiny(name)
        with pytest.raises(GfoError, match="Distance compares the next tokens of running text"):
            Distance(ROWS).bind(model)
    model = tiny("llama")
    with pytest.raises(GfoError, match=r"it has no \{soft\}"):
        LocalEvaluator(model, Distance(ROWS), gfo.SoftPrompt(model, tokens=2, dim=4))
    with pytest.raises(GfoError, match="Distance compares with the unchanged model, whose weights"):
        gfo.baselines.run("full", model, Distance(ROWS), budget=gfo.Budget(evaluations=8))
