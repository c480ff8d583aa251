"""Weighted sums and penalties by hand, prefixes of metrics, splits, and bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from plain import Words, refused

from gfo import (
    Classification,
    Constraint,
    LanguageModeling,
    LocalEvaluator,
    MultipleChoice,
    SoftPrompt,
    Weighted,
)
from gfo.core.protocols import Batches, BoundTask, Task

LABELS = {"bad": " terrible", "good": " great"}
ROWS = [
    {"text": f"the food was {word}", "label": label} for word, label in (("good", "good"), ("bad", "bad"))
]
OTHERS = [{"text": f"it was {word}", "label": label} for word, label in (("good", "good"), ("bad", "bad"))]
Z = np.random.default_rng(0).standard_normal((4, 8))


def sentiment(rows=ROWS, dev=None, **options):
    return Classification(rows, dev, template="{text}{soft} It was", labels=LABELS, **options)


def documents(**options):
    return LanguageModeling([{"text": "a terrible waste of time, and not even a short one!"}], **options)


def evaluator_of(model, task):
    return LocalEvaluator(model, task, SoftPrompt(model, 2, 8))


def test_the_sum_is_that_of_the_tasks_alone(tiny):
    model = tiny("llama")
    one, two = sentiment(), documents(window=6)
    evaluator = evaluator_of(model, Weighted([(one, 2.0), (two, 0.5)], names=["food", "text"]))
    alone = [evaluator_of(model, task) for task in (one, two)]
    each = [e(Z, 0).loss for e in alone]
    found = evaluator(Z, 0)
    np.testing.assert_allclose(found.loss, 2 * each[0] + 0.5 * each[1], rtol=1e-5)
    needed = sum(e(Z, 1).cost.tokens_needed for e in alone)
    assert evaluator(Z, 1).cost.tokens_needed == needed
    metrics = evaluator.score(Z, "train").metrics
    assert set(metrics) == {
        "loss",
        "food.loss",
        "food.accuracy",
        "food.macro_f1",
        "text.loss",
        "text.perplexity",
    }
    np.testing.assert_allclose(metrics["loss"], found.loss, rtol=1e-6)
    for name, e in zip(("food", "text"), alone, strict=True):
        for metric, values in e.score(Z, "train").metrics.items():
            np.testing.assert_allclose(metrics[f"{name}.{metric}"], values, rtol=1e-5)


@pytest.mark.parametrize("bound", ["most", "least"])
def test_penalties_by_hand(tiny, bound):
    model = tiny("llama")
    one, two = sentiment(), documents(window=6)
    alone = [evaluator_of(model, task)(Z, 0).loss for task in (one, two)]
    at = float(np.median(alone[1]))  # so that the bound holds for some
    constraint = Constraint(two, penalty=10.0, **{bound: at})
    found = evaluator_of(model, Weighted([(one, 1.0), (two, 1.0)], constraints=[constraint]))(Z, 0).loss
    excess = np.maximum(0, alone[1] - at if bound == "most" else at - alone[1])
    assert 0 < (excess > 0).sum() < len(Z)
    np.testing.assert_allclose(found, alone[0] + alone[1] + 10 * excess, rtol=1e-5)


def test_a_task_in_a_constraint_alone(tiny):
    """It adds its penalty, not its loss; its metrics are told."""
    model = tiny("llama")
    one, two = sentiment(), sentiment(OTHERS, loss="accuracy")
    weighted = Weighted(
        [(one, 1.0)], constraints=[Constraint(two, metric="accuracy", least=1.0, penalty=3.0)]
    )
    evaluator = evaluator_of(model, weighted)
    metrics, alone = evaluator.score(Z, "train").metrics, evaluator_of(model, one)(Z, 0).loss
    expected = alone + 3 * (1 - metrics["constraint1.accuracy"])
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(evaluator(Z, 0).loss, expected, rtol=1e-5)
    assert (metrics["constraint1.accuracy"] < 1).any()


def test_gradients_go_through_where_all_terms_have_one():
    one, two = sentiment(), sentiment(OTHERS, loss="hinge")
    task = Weighted([(one, 1.0), (two, 2.0)], constraints=[Constraint(two, most=0.1, penalty=5.0)]).bind(
        Words()
    )
    batch = task.batch("train", 0)
    assert isinstance(batch, Batches)
    generator = torch.Generator().manual_seed(0)
    answers = tuple(torch.randn(3, 2, 2, generator=generator, requires_grad=True) for _ in range(2))
    assert (task.parts[1].loss(answers[1], batch.parts[1]) > 0.1).all()  # the constraint is broken
    gradients = torch.autograd.grad(task.loss(answers, batch).sum(), answers)
    alone = torch.autograd.grad(task.parts[1].loss(answers[1], batch.parts[1]).sum(), answers[1])[0]
    torch.testing.assert_close(gradients[1], (2 + 5) * alone)
    coarse = Weighted([(one, 1.0), (sentiment(loss="accuracy"), 1.0)]).bind(Words())
    assert isinstance(coarse.loss(answers, coarse.batch("train", 0)), np.ndarray)


def test_a_candidate_that_fails_in_one_task_fails():
    task = Weighted([(sentiment(), 1.0), (sentiment(OTHERS), 1.0)]).bind(Words())
    batch = task.all_rows("train")
    answers = [torch.randn(3, 2, 2) for _ in range(2)]
    answers[1][2, 0, 0] = torch.nan
    assert np.isnan(np.asarray(task.loss(answers, batch))).tolist() == [False, False, True]
    metrics = task.score(answers, batch)
    assert np.isnan(metrics["loss"]).tolist() == [False, False, True]
    assert np.isfinite(metrics["task1.loss"]).all()


def test_weighted_tasks_of_weighted_tasks(tiny):
    model = tiny("llama")
    inner = Weighted([(sentiment(), 1.0), (sentiment(OTHERS), 1.0)])
    outer = Weighted([(inner, 2.0), (documents(window=6), 1.0)])
    evaluator = evaluator_of(model, outer)
    metrics = evaluator.score(Z, "train").metrics
    parts = metrics["task1.task1.loss"] + metrics["task1.task2.loss"]
    np.testing.assert_allclose(metrics["loss"], 2 * parts + metrics["task2.loss"], rtol=1e-5)
    assert isinstance(evaluator.task, BoundTask)
    assert isinstance(outer, Task)


def test_splits_are_those_that_all_have():
    task = Weighted([(sentiment(dev=OTHERS), 1.0), (sentiment(OTHERS), 1.0)]).bind(Words())
    assert task.splits == ("train",)
    refused(lambda: task.all_rows("dev"), "split 'dev'", "task2 has none", "give it rows")
    both = Weighted([(sentiment(dev=OTHERS), 1.0)]).bind(Words())
    assert both.splits == ("train", "dev")


@pytest.mark.parametrize("weight", [0, -1.0, np.inf])
def test_weights_that_are_not_positive(weight):
    refused(lambda: Weighted([(sentiment(), weight)]), f"weight = {weight} of task1", "above 0")
    refused(lambda: Weighted([(sentiment(), np.nan)]), "tasks[0][1] = nan", "give a number")


def test_bad_arguments():
    one = sentiment()
    refused(lambda: Weighted([]), "tasks", "none", "at least one")
    refused(lambda: Weighted([(one, 1.0), (one, 1.0)]), "one is there twice")
    refused(lambda: Weighted([(one, 1.0)], names=["a", "b"]), "names = ['a', 'b']", "give 1")
    refused(lambda: Weighted([(one, 1.0), (sentiment(), 1.0)], names=["a", "a"]), "different names")
    refused(lambda: Constraint(one), "either `most` or `least`")
    refused(lambda: Constraint(one, most=1.0, least=0.0), "either `most` or `least`")
    refused(lambda: Constraint(one, most=1.0, penalty=0.0), "penalty = 0.0", "above 0")
    bad = Weighted([(one, 1.0)], constraints=[Constraint(one, metric="acuracy", least=0.5)]).bind(Words())
    answers = [torch.randn(3, 2, 2)]
    refused(
        lambda: bad.loss(answers, bad.batch("train", 0)),
        "metric of task1 'acuracy'",
        "did you mean 'accuracy'",
    )


def test_a_part_that_does_not_fit_the_model():
    rows = [{"text": "a", "options": ["b", "c"], "label": 0}]
    choice = MultipleChoice(rows, template="{text}{soft}")
    masked = Classification(ROWS, template="{text}{soft}{mask}", labels=LABELS)
    refused(lambda: Weighted([(masked, 1.0), (choice, 1.0)]).bind(Words("mask")), "MultipleChoice", "mask")
