"""Metrics of the user's and built-in ones to ask for: values against the libraries, losses, bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import torch
from plain import Words, refused

import gfo
from gfo.tasks.parts.metrics import LABEL_METRICS, matthews, own_metric, pearson, spearman

STARS = {"1": " one", "2": " two", "4": " four"}  # whose values are no ranks
RNG = np.random.default_rng(0)
TARGET = RNG.integers(0, 3, 30)
SCORES = torch.tensor(RNG.standard_normal((4, 30, 3)) + 2 * np.eye(3)[TARGET], dtype=torch.float32)
SAID = SCORES.argmax(-1).numpy()
VALUES = np.array([1.0, 2.0, 4.0])


def bound(labels=STARS, **options):
    names = list(labels)
    rows = [{"text": f"x{i}", "label": names[label]} for i, label in enumerate(TARGET)]
    task = gfo.Classification(rows, template="{text}{soft}", labels=labels, **options).bind(Words())
    return task, task.all_rows("train")


def test_correlations_are_the_libraries():
    task, batch = bound(metrics=["mcc", "spearman", "pearson"])
    found = task.score(SCORES, batch)
    target, said = VALUES[TARGET], VALUES[SAID]
    for name, each in (
        ("mcc", lambda k: sklearn.metrics.matthews_corrcoef(TARGET, SAID[k])),
        ("spearman", lambda k: scipy.stats.spearmanr(target, said[k]).statistic),
        ("pearson", lambda k: scipy.stats.pearsonr(target, said[k]).statistic),
    ):
        np.testing.assert_allclose(found[name], [each(k) for k in range(4)], rtol=1e-12)
    ranks = bound({"1": " a", "2": " b", "3": " c"}, metrics=["pearson", "spearman"])
    other = ranks[0].score(SCORES, ranks[1])
    assert abs(other["pearson"] - found["pearson"]).min() > 1e-4  # control: the values count, not the order
    np.testing.assert_allclose(other["spearman"], found["spearman"])


def test_predictions_of_one_label():
    task, batch = bound(metrics=["mcc", "spearman"], loss="pearson")
    scores = torch.zeros(2, 30, 3)
    scores[0, :, 1] = 1.0
    scores[1] = torch.tensor(np.eye(3)[TARGET])
    found = task.score(scores, batch)
    assert np.isnan(found["spearman"]).tolist() == [True, False]
    assert found["mcc"].tolist() == [0.0, 1.0]
    np.testing.assert_allclose(found["loss"], [0.0, -1.0], atol=1e-12)  # no correlation is none
    scores[0, 0, 0] = torch.nan
    assert np.isnan(task.loss(scores, batch)).tolist() == [True, False]
    for of in (spearman, pearson):
        assert math.isnan(of(np.ones(3), np.arange(3.0)))
    assert matthews(np.ones(3), np.arange(3.0)) == 0


def test_a_function_of_the_users():
    def weighted_kappa(target, predicted):
        assert target.dtype.kind == predicted.dtype.kind == "f"
        return sklearn.metrics.mean_absolute_error(target, predicted)

    metric = gfo.Metric("mae", lower_is_better=True, function=weighted_kappa)
    task, batch = bound(metrics=[metric])
    by_hand = abs(VALUES[TARGET] - VALUES[SAID]).mean(1)
    np.testing.assert_allclose(task.score(SCORES, batch)["mae"], by_hand)
    assert task.metrics[-1].lower_is_better
    recall = gfo.Metric(
        "recall",
        form="share",
        function=lambda t, p: sklearn.metrics.recall_score(t, p, labels=["good"], average="micro"),
    )
    named, batch = bound({"good": " a", "bad": " b", "none": " c"}, metrics=[recall], loss="recall")
    found = named.score(SCORES, batch)
    np.testing.assert_allclose(found["recall"], (SAID[:, TARGET == 0] == 0).mean(1))
    np.testing.assert_allclose(found["loss"], 1 - found["recall"])


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("mcc", lambda found: -found["mcc"]),
        ("macro_f1", lambda found: 1 - found["macro_f1"]),
        ("error", lambda found: found["error"]),
        ("spearman", lambda found: -found["spearman"]),
    ],
)
def test_metrics_as_losses(loss, expected):
    """In the direction that the metric has; the better candidate has the lower loss."""
    error = gfo.Metric("error", lower_is_better=True, form="share", function=lambda t, p: np.mean(t != p))
    task, batch = bound(metrics=[error], loss=loss)
    scores = torch.cat([SCORES, torch.tensor(np.eye(3)[TARGET], dtype=torch.float32)[None]])
    found = task.score(scores, batch)
    np.testing.assert_allclose(found["loss"], expected(found))
    np.testing.assert_array_equal(task.loss(scores, batch), found["loss"])
    assert found["loss"].argmin() == 4
    assert loss in [metric.name for metric in task.metrics]


def test_options_have_numbers():
    rows = [{"text": "t", "options": ["x", "y", "z"][: 2 + i], "label": i} for i in range(2)]
    seen = []
    metric = gfo.Metric("last", function=lambda t, p: seen.append((t.tolist(), p.tolist())) or 0.5)
    task = gfo.MultipleChoice(rows, template="{text}", metrics=[metric], loss="last").bind(Words())
    scores = torch.tensor([[[0.0, 1.0, -torch.inf], [0.0, 1.0, 2.0]]])
    found = task.score(scores, task.all_rows("train"))
    assert found["last"].tolist() == [0.5]
    assert found["loss"].tolist() == [-0.5]
    assert seen[0] == ([0, 1], [1, 2])
    refused(lambda: gfo.MultipleChoice(rows, template="{text}", metrics=["mcc"]), "unknown metric 'mcc'")


ROWS = [{"text": "a", "target": "x y"}, {"text": "b", "target": "z"}]


class Texts(Words):
    """Whose tokens are known as texts."""

    end_tokens = frozenset()
    token_texts = ()

    def decode(self, rows):
        return [" ".join("xyz"[i] for i in row) for row in rows]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"form": "share"}, lambda v: 1 - v),
        ({}, lambda v: -v),
        ({"lower_is_better": True}, lambda v: v),
        ({"lower_is_better": True, "form": "share"}, lambda v: v),
    ],
)
def test_metrics_of_generated_text(options, expected):
    metric = gfo.Metric("words", function=lambda outputs, rows: [len(o.split()) for o in outputs], **options)
    task = gfo.Generation(ROWS, template="{text}{soft}", metric=metric).bind(Texts())
    answers = [[(0, 1), (2,)], None, [(0,), ()]]
    batch = task.all_rows("train")
    found, rows = task.score(answers, batch), task.row_scores(answers, batch)
    np.testing.assert_array_equal(found["words"], [1.5, np.nan, 0.5])
    np.testing.assert_array_equal(found["loss"], expected(found["words"]))
    np.testing.assert_array_equal(rows["loss"], expected(np.array([[2.0, 1.0], [np.nan] * 2, [1.0, 0.0]])))
    assert [m.name for m in task.metrics] == ["loss", "words", "answer_tokens"]
    assert task.metrics[1].lower_is_better == options.get("lower_is_better", False)
    plain = gfo.Generation(ROWS, template="{text}{soft}", metric=metric.function).bind(Texts())
    np.testing.assert_array_equal(plain.score(answers, batch)["loss"], [-0.5, np.nan, 0.5])  # 1 - score


def test_scored_once():
    calls = []

    def score(outputs, rows):
        calls.append(outputs)
        return [0.5] * len(rows)

    task = gfo.Generation(ROWS, template="{text}{soft}", metric=score).bind(Texts())
    answers, batch = [[(0, 1), (2,)], [(0,), (1,)]], task.all_rows("train")
    for ask in (task.loss, task.row_scores, task.score):
        ask(answers, batch)
    assert len(calls) == 2  # a candidate each
    task.loss([*answers], batch)
    assert len(calls) == 4  # control: other answers


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        (["f2"], ("unknown metric 'f2'", "macro_f1")),
        (["spearman"], ("'spearman' needs labels that are numbers", "mcc")),
        ("mcc", ("metrics = 'mcc'", "give a list")),
        ([gfo.Metric("mine")], ("no gfo.Metric with a function",)),
        ([3], ("metrics[0] = 3", "give a text or a Metric")),
        ([gfo.Metric("accuracy", function=len)], ("'accuracy' is there already",)),
        ([gfo.Metric("loss", function=len)], ("'loss' is there already",)),
    ],
)
def test_metrics_that_cannot_be(metrics, words):
    labels = {"good": " a", "bad": " b", "none": " c"}
    refused(lambda: bound(labels, metrics=metrics), *words)
    bound(labels, metrics=["mcc", "accuracy"])  # control


def test_bad_metrics_of_generation():
    refused(lambda: gfo.Generation(ROWS, template="{text}", metric="blue"), "unknown metric 'blue'", "'bleu'")
    refused(lambda: gfo.Generation(ROWS, template="{text}", metric=gfo.Metric("mine")), "gfo.Metric with one")
    same = gfo.Metric("answer_tokens", function=len)
    refused(lambda: gfo.Generation(ROWS, template="{text}", metric=same), "'answer_tokens' is there already")


def test_names_of_old_folders():
    assert all(own_metric(name) is metric for name, metric in LABEL_METRICS.items())
    assert own_metric("task1.perplexity") == gfo.Metric("task1.perplexity", lower_is_better=True)
    assert own_metric("a.b.ce").lower_is_better
    assert not own_metric("whatever").lower_is_better
