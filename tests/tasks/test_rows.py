"""What all tasks on rows share: rows that are too long, and rows that stand in two splits."""

from __future__ import annotations

import numpy as np
import pytest

from gfo import Classification, GfoError

TEMPLATE = "Review: {text}{soft} It was"
LABELS = {"bad": " bad", "good": " good"}
ROWS = [
    {"text": "the food was good", "label": "good"},
    {"text": "a terrible waste of time, and not even a short one!", "label": "bad"},
    {"text": "the movie was bad", "label": "bad"},
]


@pytest.fixture
def model(tiny):
    return tiny("llama")


def bound(model, train=ROWS, dev=None, **options):
    return Classification(train, dev, **{"template": TEMPLATE, "labels": LABELS} | options).bind(model)


def lengths(batch):
    return [len(before) + len(after) for before, after in zip(batch.before, batch.after, strict=True)]


def test_rows_that_are_too_long_are_left_out(model):
    short, long, middle = lengths(bound(model).all_rows("train"))
    assert short <= middle < long
    bound(model, max_length=long)  # silent
    words = f"train: 1 of 3 rows have more than max_length = {long - 1} tokens and are left out"
    with pytest.warns(UserWarning, match=words):
        task = bound(model, max_length=long - 1)
    batch = task.all_rows("train")
    assert lengths(batch) == [short, middle]
    assert batch.target.tolist() == [1, 0]
    assert batch.before[1] == model.encode("Review: the movie was bad")
    assert task.batch("train", 0).target.tolist() == [1, 0]
    assert batch.key != bound(model).all_rows("train").key


def test_batches_are_drawn_from_the_rows_that_are_left(model):
    rows = [row for row in ROWS for _ in range(4)]
    limit = max(lengths(bound(model, [ROWS[0], ROWS[2]]).all_rows("train")))
    with pytest.warns(UserWarning, match="4 of 12 rows"):
        task = bound(model, rows, batch_size=3, max_length=limit)
    steps = [task.batch("train", step) for step in range(30)]
    assert all(len(batch) == 3 and max(lengths(batch)) <= limit for batch in steps)
    assert {number for batch in steps for number in batch.numbers} == {0, 1, 2, 3, 8, 9, 10, 11}


def test_a_field_is_cut(model):
    whole = bound(model).all_rows("train")
    most = lengths(whole)[1] - 4
    with pytest.warns(UserWarning, match=rf"1 of 3 rows .* {most} tokens and have their 'text' cut"):
        batch = bound(model, max_length=most, truncate="text").all_rows("train")
    assert batch.before[0] == whole.before[0]
    assert batch.before[2] == whole.before[2]
    assert lengths(batch)[1] <= most
    assert batch.after == whole.after
    cut = model.decode([batch.before[1]])[0]
    assert model.decode([whole.before[1]])[0].startswith(cut)
    assert len(cut) > len("Review: a terrible")
    assert np.array_equal(batch.target, whole.target)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_length": 0}, "max_length = 0 must be at least 1"),
        ({"truncate": "text"}, "truncate = 'text' needs max_length"),
        ({"max_length": 9, "truncate": "txt"}, "unknown truncate 'txt': did you mean 'text'"),
        ({"max_length": 1}, "train: none of 3 rows is left, all have more than max_length = 1 tokens"),
        ({"max_length": 1, "truncate": "text"}, r"train row 1 has \d+ tokens without its 'text'.* is 1"),
    ],
)
def test_lengths_that_cannot_be(model, options, words):
    with pytest.raises(GfoError, match=words):
        bound(model, **options)


def test_rows_of_train_in_dev(model):
    other = [{"text": "the food", "label": "good"}]
    bound(model, dev=other)  # silent
    with pytest.warns(UserWarning, match="1 of 2 dev rows are train rows, too") as told:
        bound(model, dev=[*other, {**ROWS[2], "idx": 7}])  # the template does not show idx
    assert len(told) == 1


def test_rows_of_train_and_dev_in_test(model):
    with pytest.warns(UserWarning) as told:  # noqa: PT030
        Classification(ROWS, ROWS[:2], ROWS[1:], template=TEMPLATE, labels=LABELS).bind(model)
    said = [str(warning.message) for warning in told]
    assert [text[:20] for text in said] == [
        "2 of 2 dev rows are ",
        "2 of 2 test rows are",
        "1 of 2 test rows are",
    ]


def test_the_same_object_is_meant(model, tmp_path):
    bound(model, ROWS, ROWS)  # silent
    path = tmp_path / "a.csv"
    path.write_text("text,label\na,good\nb,bad\n")
    with pytest.warns(UserWarning, match="2 of 2 dev rows are train rows"):
        bound(model, path, path)  # may be a slip
    bound(model, path, path, limits={"train": 1}, skip={"dev": 1})  # silent
