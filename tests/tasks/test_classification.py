"""Losses and metrics by hand and by scikit-learn, batches, and every input that cannot be used."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain import Words, refused

from gfo import Classification
from gfo.core.protocols import BoundTask, Task
from gfo.tasks.parts.metrics import accuracy, macro_f1

TEMPLATE = "Review: {text}\n{soft}Sentiment:"
LABELS = {"bad": " terrible", "good": " great"}
ROWS = [{"text": f"the food was {label}", "label": label} for label in ("good", "bad", "bad")]


def bound(rows=ROWS, **options):
    return Classification(rows, **{"template": TEMPLATE, "labels": LABELS} | options).bind(Words())


def test_score():
    labels = {"a": " a", "b": " b", "c": " c"}
    task = bound([{"text": f"x{label}", "label": label} for label in ("a", "c")], labels=labels)
    batch = task.all_rows("train")
    logits = torch.tensor([[[2.0, 0.0, 1.0], [0.0, 3.0, 1.0]], [[-1.0, 5.0, 0.5], [0.0, 0.0, 9.0]]])
    scores = task.score(logits, batch)
    assert scores["accuracy"].tolist() == [0.5, 0.5]
    # first candidate says a, b: F1 of a, b, c is 1, 0, 0; second says b, c: 0, 0, 1
    np.testing.assert_allclose(scores["macro_f1"], [1 / 3, 1 / 3])
    np.testing.assert_allclose(scores["loss"], task.loss(logits, batch), rtol=1e-6)


labels_of_rows = st.integers(2, 4).flatmap(
    lambda n: st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), min_size=1, max_size=20)
)


@given(labels_of_rows)
def test_metrics_against_counting_and_scikit_learn(pairs):
    target, predicted = np.array(pairs).T
    assert accuracy(target, predicted) == pytest.approx((target == predicted).mean())
    f1 = []
    for label in range(4):
        right = ((target == label) & (predicted == label)).sum()
        said, there = (predicted == label).sum(), (target == label).sum()
        f1.append(2 * right / (said + there) if said + there else 0.0)
    assert macro_f1(target, predicted, 4) == pytest.approx(np.mean(f1))
    report = sklearn.metrics.classification_report(
        target, predicted, labels=range(4), output_dict=True, zero_division=0.0
    )
    assert macro_f1(target, predicted, 4) == pytest.approx(report["macro avg"]["f1-score"])


def test_protocols():
    task = Classification(ROWS, template=TEMPLATE, labels=LABELS)
    assert isinstance(task, Task)
    assert isinstance(task.bind(Words()), BoundTask)


def test_tokens_of_a_batch():
    words = Words()
    task = Classification(ROWS, [{"text": "it was", "label": "bad"}], template=TEMPLATE, labels=LABELS).bind(
        words
    )
    batch = task.all_rows("train")
    ids = words.ids
    assert task.splits == ("train", "dev")
    assert batch.vocabulary == (ids["terrible"], ids["great"])
    assert batch.target.tolist() == [1, 0, 0]
    assert batch.before[1] == (0, ids["Review:"], ids["the"], ids["food"], ids["was"], ids["bad"])
    assert set(batch.after) == {(ids["Sentiment:"],)}
    assert len(batch) == 3
    assert len(task.all_rows("dev")) == 1
    assert batch.key != task.all_rows("dev").key


def test_words_of_several_tokens_are_endings():
    words = Words()
    batch = (
        Classification(ROWS, template=TEMPLATE, labels={"bad": " not good", "good": " great"})
        .bind(words)
        .all_rows("train")
    )
    assert batch.vocabulary is None
    assert batch.endings == (((words.ids["not"], words.ids["good"]), (words.ids["great"],)),) * 3


def test_labels_that_are_numbers():
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": "0"}]
    assert bound(rows, labels={0: " no", 1: " yes"}).all_rows("train").target.tolist() == [1, 0]


def test_another_label_field():
    rows = [{"text": "a", "stars": "good"}]
    assert bound(rows, label_field="stars").all_rows("train").target.tolist() == [1]


def test_limits():
    task = bound(dev=ROWS, test=ROWS, limits={"train": 2, "test": 1})
    assert [len(task.all_rows(split)) for split in ("train", "dev", "test")] == [2, 3, 1]


def test_minibatches():
    rows = [{"text": f"w{i}", "label": ("bad", "good")[i % 2]} for i in range(10)]
    task, same, other = (bound(rows, dev=rows, batch_size=4, seed=seed) for seed in (1, 1, 2))
    batches = [task.batch("train", step) for step in range(50)]
    assert all(len(batch) == 4 == len(set(batch.before)) for batch in batches)  # without replacement
    assert [b.before for b in batches] == [same.batch("train", step).before for step in range(50)]
    assert [b.before for b in batches] != [other.batch("train", step).before for step in range(50)]
    assert len({b.key for b in batches}) > 30
    drawn = [text for batch in batches for text in batch.before]
    assert {drawn.count(text) for text in drawn} <= set(range(8, 34))  # 20 expected, 4 deviations
    assert len(set(drawn)) == 10
    assert len(task.batch("dev", 0)) == 10


def test_all_rows_without_a_batch_size():
    task = bound()
    assert task.batch("train", 0).key == task.batch("train", 7).key == task.all_rows("train").key


@pytest.mark.parametrize("word", ["", " ", "\n"])
def test_empty_label_word(word):
    labels = {"bad": " terrible", "good": word}
    refused(lambda: bound(labels=labels), "labels", "'good'", repr(word), "give it some text")


@pytest.mark.parametrize("word", [None, 3, [3]])
def test_label_word_that_is_no_text(word):
    labels = {"bad": " terrible", "good": word}
    refused(lambda: bound(labels=labels), "labels['good']", "give a text")


def test_label_word_without_tokens():
    labels = {"bad": " terrible", "good": "☃"}
    refused(lambda: bound(labels=labels), "labels", "'☃'", "'good'", "no tokens in this model", "another")


def test_label_without_a_word():
    refused(
        lambda: bound([*ROWS, {"text": "a", "label": "fine"}]),
        "train row 4",
        "'fine'",
        "no word",
        "bad, good",
    )
    refused(lambda: bound(test=[{"text": "a", "label": ""}]), "test row 1", "label ''", "no word")


@pytest.mark.parametrize("labels", [{}, {"bad": " terrible"}])
def test_fewer_than_two_labels(labels):
    refused(lambda: bound(labels=labels), f"labels = {labels}", "at least two")


def test_labels_that_are_the_same_as_text():
    refused(lambda: bound(labels={1: " a", "1": " b"}), "labels", "the same as text")


def test_unknown_field_of_the_template():
    refused(
        lambda: bound(template="{txet}{soft}"), "train row 1", "unknown field 'txet'", "did you mean 'text'?"
    )
    refused(lambda: bound(dev=[*ROWS, {"label": "bad"}]), "dev row 4", "unknown field 'text'", "label")


def test_unknown_label_field():
    refused(
        lambda: bound(label_field="labels"), "train row 1", "label_field 'labels'", "did you mean 'label'?"
    )


@pytest.mark.parametrize("value", [None, ["a"], {"a": 1}, True, b"a"])
def test_field_that_is_not_text(value):
    rows = [{"text": value, "label": "bad"}]
    refused(lambda: bound(rows), "train row 1", "field 'text'", repr(value), "text and numbers only")


def test_unknown_loss():
    refused(
        lambda: bound(loss="hinges"),
        "unknown loss 'hinges'",
        "did you mean 'hinge'?",
        "ce, hinge",
        "accuracy+ce",
    )


@pytest.mark.parametrize("size", [0, -1, 4])
def test_batch_size_out_of_range(size):
    refused(lambda: bound(batch_size=size), f"batch_size = {size}", "1 to 3")


def test_split_that_is_not_there():
    refused(lambda: bound().all_rows("dev"), "split 'dev'", "train", "give it rows")


def test_no_rows():
    refused(lambda: bound([]), "train has no rows", "at least one")
    refused(lambda: bound(dev=[]), "dev has no rows")
