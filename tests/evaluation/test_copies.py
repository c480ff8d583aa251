"""Evaluators, bound tasks, models and results are copied, sent to processes, and shared by threads."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest

import gfo
from gfo.testing import tiny_model

D = 6
Z = np.random.default_rng(0).standard_normal((4, D))
ROWS = [
    {"text": f"the film was {word}", "label": label}
    for word, label in (("dull", "bad"), ("fine", "good")) * 3
]
LABELS = {"bad": " bad", "good": " good"}
COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda x: pickle.loads(pickle.dumps(x))}
SPACES = {
    "prompt": lambda model: gfo.SoftPrompt(model, tokens=3, dim=D),
    "lora": lambda model: gfo.LoRASubspace(model, dim=D),
    "last layer": lambda model: gfo.Scaling(model, dim=D, layers="last"),
}


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def task(template="{text}{soft} It was"):
    return gfo.Classification(ROWS, template=template, labels=LABELS)


def generation():
    rows = [{"text": row["text"], "target": "good"} for row in ROWS]
    return gfo.Generation(rows, template="{text}{soft} It was", max_tokens=3, metric="rougeL")


def evaluate(evaluator):
    """In another process."""
    found = evaluator(Z, 0)
    return found.loss, found.cost.forward_tokens


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("space", SPACES)
def test_a_copy_has_the_same_losses(model, how, used, space):
    evaluator = gfo.LocalEvaluator(model, task(), SPACES[space](model))
    if used:
        evaluator(Z[:2], 0)
    settled = evaluator.settings()  # by the memory that is free now
    other = COPIES[how](evaluator)
    assert other.model is not model
    np.testing.assert_array_equal(
        other(Z, 0).loss, gfo.LocalEvaluator(model, task(), SPACES[space](model))(Z, 0).loss
    )
    assert other.settings() == settled
    other.model.module.get_input_embeddings().weight.data.zero_()  # control: it has weights of its own
    fresh = gfo.LocalEvaluator(other.model, task(), evaluator.space)
    assert not np.allclose(fresh(Z, 0).loss, evaluator(Z, 0).loss)


@pytest.mark.parametrize("how", COPIES)
def test_parts_are_copied(model, how):
    bound = gfo.LocalEvaluator(model, task(), SPACES["prompt"](model)).task
    again = COPIES[how](bound)
    then, now = bound.all_rows("train"), again.all_rows("train")
    assert (now.key, now.before, now.after) == (then.key, then.before, then.after)
    assert again.metrics == bound.metrics
    twin = COPIES[how](model)
    np.testing.assert_array_equal(
        gfo.LocalEvaluator(twin, task(), SPACES["prompt"](twin))(Z, 0).loss,
        gfo.LocalEvaluator(model, task(), SPACES["prompt"](model))(Z, 0).loss,
    )


@pytest.mark.parametrize("how", COPIES)
def test_a_result_is_copied(model, how, tmp_path):
    space = SPACES["prompt"](model)
    budget = gfo.Budget(evaluations=24)
    result = gfo.tune(
        model, task(), space, optimizer="ga", budget=budget, out=tmp_path / "run", progress=False
    )
    other = COPIES[how](result)
    assert str(other) == str(result)
    np.testing.assert_array_equal(other.z, result.z)
    assert other.score("train") == result.score("train")
    assert other.history.trajectory() == result.history.trajectory()


def test_another_process_has_the_same_losses(model):
    evaluators = [gfo.LocalEvaluator(model, each, SPACES["prompt"](model)) for each in (task(), generation())]
    here = [evaluate(evaluator) for evaluator in evaluators]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        there = list(pool.map(evaluate, evaluators))
    for (loss, tokens), (now, spent) in zip(here, there, strict=True):
        np.testing.assert_array_equal(loss, now)
        assert tokens == spent


@pytest.mark.parametrize("twice", [False, True])
def test_threads_share_a_model(model, twice):
    """Hooks on the shared module are one caller's at a time, whoever froze it."""
    models = [model, gfo.freeze(model.module, model.tokenizer) if twice else model]
    evaluators = [
        gfo.LocalEvaluator(models[i % 2], task(), space(models[i % 2]))
        for i, space in enumerate([*SPACES.values()] * 2)
    ]
    right = [evaluator(Z, 0).loss for evaluator in evaluators]

    def call(n):
        i = n % len(evaluators)
        return i, evaluators[i](Z, 0).loss

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(call, range(120)))
    for i, loss in found:
        np.testing.assert_allclose(loss, right[i], rtol=1e-5)
    assert not np.allclose(right[0], right[1])  # control
