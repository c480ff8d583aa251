"""Tasks whose rows of dev stand behind those of train are those of rows that were given so."""

from __future__ import annotations

import numpy as np
import pytest

import gfo
from gfo.tasks.parts.joining import joined

WORDS = ["good", "bad", "short", "long", "great", "terrible", "nice"]
ROWS = [
    {"text": f"a {w} day", "label": "ab"[i % 2], "options": ["one", w], "right": i % 2, "target": w}
    for i, w in enumerate(WORDS)
]
TRAIN, DEV, TEST = ROWS[:3], ROWS[3:5], ROWS[5:]
LABELS = {"a": "good", "b": "bad"}


def classification(*rows, **options):
    return gfo.Classification(*rows, template="{text}{soft}:", labels=LABELS, **options)


TASKS = {
    "classification": lambda *rows: classification(*rows, batch_size=2),
    "multiple-choice": lambda *rows: gfo.MultipleChoice(*rows, template="{text}", label_field="right"),
    "generation": lambda *rows: gfo.Generation(*rows, template="{text}:", batch_size=2),
    "language-modeling": lambda *rows: gfo.LanguageModeling(*rows, template="{text}", window=3, batch_size=2),
    "distance": lambda *rows: gfo.Distance(*rows, window=4),
    "distillation": lambda *rows: gfo.Distillation(
        *rows,
        template="{text}{soft}:",
        teacher_template="Say: {text}:",
        labels={"a": " terrible", "b": " great"},
    ),
    "weighted": lambda *rows: gfo.Weighted(
        [(first := classification(*rows), 1.0), (gfo.Generation(*rows, template="{text}:"), 2.0)],
        constraints=[gfo.Constraint(first, "accuracy", least=0.5)],
    ),
}


def plain(value):
    """A batch without its key, as texts."""
    if hasattr(value, "parts"):
        return list(map(plain, value.parts))
    return {k: repr(getattr(value, k)) for k in ("before", "after", "target", "endings", "numbers", "split")}


@pytest.mark.filterwarnings("ignore::gfo.GfoWarning")
@pytest.mark.parametrize("name", TASKS)
def test_joined_rows_are_those_given_so(tiny, name):
    model, make = tiny("llama"), TASKS[name]
    found = joined(make(TRAIN, DEV, TEST)).bind(model)
    by_hand = make([*TRAIN, *DEV], None, TEST).bind(model)
    assert found.splits == by_hand.splits == ("train", "test")
    for step in range(4):
        assert plain(found.batch("train", step)) == plain(by_hand.batch("train", step))
    assert plain(found.all_rows("train")) == plain(by_hand.all_rows("train"))
    assert plain(found.all_rows("test")) == plain(by_hand.all_rows("test"))
    other = make([*DEV, *TRAIN], None, TEST).bind(model)
    assert plain(found.all_rows("train")) != plain(other.all_rows("train"))  # control


@pytest.mark.filterwarnings("ignore::gfo.GfoWarning")
def test_labels_that_one_of_the_two_lacks_are_left_out(tiny):
    bare = [{"text": row["text"]} for row in DEV]
    task = joined(TASKS["distillation"](TRAIN, bare, TEST))
    assert set(task.targets) == {"test"}
    evaluator = gfo.LocalEvaluator(tiny("llama"), task, gfo.SoftPrompt(tiny("llama"), tokens=2, dim=4))
    assert "accuracy" not in evaluator.score(np.zeros((1, 4)), "train").metrics
    assert "accuracy" in evaluator.score(np.zeros((1, 4)), "test").metrics


class Own:
    def bind(self, tokenizer):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("task", "why"),
    [
        (classification(TRAIN), "refit: the task has no dev rows"),
        (classification(TRAIN, TRAIN), "refit: dev has the rows of train"),
        (Own(), "refit: a Own does not join train and dev; give it a method joined"),
        (gfo.Weighted([(classification(TRAIN, DEV), 1.0), (classification(TRAIN), 1.0)]), "no dev rows"),
    ],
)
def test_what_cannot_be_joined_is_one_line(task, why):
    with pytest.raises(gfo.GfoError, match=why) as error:
        joined(task)
    assert "\n" not in str(error.value)


def test_test_rows_that_are_learnt_from_are_told(tiny):
    task = joined(classification(TRAIN, DEV, DEV))
    with pytest.warns(gfo.GfoWarning, match="2 of 2 test rows are train rows"):
        task.bind(tiny("llama"))
