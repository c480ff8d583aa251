"""Options of rows: their likelihood against plain forward passes, lengths, labels, and bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from plain import Words, plain_log_likelihood, prompts, refused

from gfo import LocalEvaluator, MultipleChoice, SoftPrompt
from gfo.core.protocols import BoundTask, Task

TEMPLATE = "{text}\n{soft}Say:"
ROWS = [
    {"text": "the food was good", "options": ["a great joy", "terrible", "a waste of time"], "label": 0},
    {"text": "the food was bad", "options": ["great", "not a joy"], "label": "not a joy"},
    {"text": "it was neither", "options": ["good or bad", "très bon", "bad", "so"], "label": "2"},
]
Z = np.random.default_rng(0).standard_normal((3, 8))


def bound(rows=ROWS, **options):
    return MultipleChoice(rows, **{"template": TEMPLATE} | options).bind(Words())


@pytest.mark.parametrize("normalize", ["sum", "mean", "characters", "bytes"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_against_full_forward_passes(tiny, family, normalize):
    model = tiny(family)
    task, space = MultipleChoice(ROWS, template=TEMPLATE, normalize=normalize), SoftPrompt(model, 2, 8)
    evaluator = LocalEvaluator(model, task, space)
    batch = evaluator.task.all_rows("train")
    scores = evaluator.task.scores(evaluator.answers(Z, batch), batch)
    ce, right = np.zeros((3, len(ROWS))), np.zeros((3, len(ROWS)))
    for k, prompt in enumerate(prompts(space, Z)):
        for b, row in enumerate(ROWS):
            found = []
            for option in row["options"]:
                ids = model.encode(f" {option}")
                size = {
                    "sum": 1,
                    "mean": len(ids),
                    "characters": len(option),
                    "bytes": len(option.encode()),
                }[normalize]
                found.append(plain_log_likelihood(model, batch.before[b], prompt, batch.after[b], ids) / size)
            n = len(found)
            np.testing.assert_allclose(scores[k, b, :n], found, rtol=1e-4, atol=1e-4)
            assert (scores[k, b, n:] == -torch.inf).all()
            target = [0, 1, 2][b]
            ce[k, b] = np.log(np.exp(found).sum()) - found[target]
            right[k, b] = np.argmax(found) == target
    metrics = evaluator.score(Z, "train").metrics
    np.testing.assert_allclose(metrics["loss"], ce.mean(1), rtol=1e-4)
    np.testing.assert_allclose(evaluator(Z, 0).loss, ce.mean(1), rtol=1e-4)
    np.testing.assert_allclose(metrics["accuracy"], right.mean(1))
    assert set(metrics) == {"loss", "accuracy"}
    if normalize != "sum":
        other = LocalEvaluator(model, MultipleChoice(ROWS, template=TEMPLATE), space)
        assert (np.abs(other(Z, 0).loss - metrics["loss"]) > 0.01).all()


def test_the_context_is_computed_once(tiny):
    """Options share what stands in front of them: four times the options, fewer than twice the tokens."""
    model = tiny("llama")
    space = SoftPrompt(model, 2, 8)
    rows = [{"text": "the food was good " * 5, "options": [" good", " bad"], "label": 0}]
    more = [
        {
            **rows[0],
            "options": [" good", " bad", *(f" {w} good" for w in ("so", "not", "a", "or", "it", "was"))],
        }
    ]
    costs = []
    for some in (rows, more):
        evaluator = LocalEvaluator(model, MultipleChoice(some, template="{soft}{text}Say:"), space)
        costs.append(evaluator(Z, 0).cost.tokens_needed)
    assert costs[0] < costs[1] < 2 * costs[0]


def test_several_fields_and_lacking_options():
    rows = [
        {"text": "a", "one": "x", "two": "y", "three": None, "answer": 1},
        {"text": "b", "one": "x", "two": "z", "three": 7, "answer": "7"},
    ]
    task = bound(rows, options=["one", "two", "three"], label_field="answer", delimiter=" - ")
    batch = task.all_rows("train")
    assert [len(endings) for endings in batch.endings] == [2, 3]
    assert batch.target.tolist() == [1, 2]
    assert len(batch.endings[0][0]) == 2  # the delimiter, the option
    assert isinstance(task, BoundTask)
    assert isinstance(MultipleChoice(ROWS, template=TEMPLATE), Task)


def test_a_label_is_a_text_before_it_is_a_number():
    rows = [{"text": f"a{label!r}", "options": ["1", "0"], "label": label} for label in ("1", 1)]
    assert bound(rows).all_rows("train").target.tolist() == [0, 1]


def test_differentiable_and_failed():
    task = bound()
    batch = task.all_rows("train")
    answers = torch.full((2, 3, 4), -torch.inf)
    for b, row in enumerate(ROWS):
        answers[:, b, : len(row["options"])] = torch.randn(2, len(row["options"]))
    answers.requires_grad_()
    (gradient,) = torch.autograd.grad(task.loss(answers, batch).sum(), answers)
    assert gradient.isfinite().all()
    assert (gradient[:, 1, :2] != 0).all()
    assert (gradient[:, 1, 2:] == 0).all()
    bad = answers.detach().clone()
    bad[1, 0, 1] = torch.nan
    for name, values in task.score(bad, batch).items():
        assert np.isnan(values).tolist() == [False, True], name


@pytest.mark.parametrize("loss", ["accuracy", "accuracy+ce"])
def test_other_losses(loss):
    task = bound(loss=loss)
    batch = task.all_rows("train")
    answers = torch.randn(5, 3, 4)
    found = task.score(answers, batch)
    np.testing.assert_allclose(found["loss"], task.loss(answers, batch))
    assert (np.floor(found["loss"] * 3 + 1e-9) == np.round((1 - found["accuracy"]) * 3)).all()


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"options": ["good"]}, ["train row 2", "['good']", "at least two"]),
        ({"options": []}, ["train row 2", "at least two"]),
        ({"options": ["a", ""]}, ["train row 2", "an option is ''", "give it some text"]),
        ({"options": ["a", None]}, ["train row 2", "an option is None"]),
        ({"options": ["a", "b", "a"]}, ["train row 2", "two are the same"]),
        ({"options": "a b"}, ["train row 2", "'a b'", "give a list of texts"]),
        ({"label": 2}, ["train row 2", "label = 2", "0 to 1"]),
        ({"label": -1}, ["train row 2", "label = -1"]),
        ({"label": "fine"}, ["train row 2", "label = 'fine'", "'great'"]),
        ({"label": None}, ["train row 2", "label = None"]),
        ({"label": True}, ["train row 2", "label = True"]),
        ({"text": None}, ["train row 2", "field 'text' is None"]),
    ],
)
def test_bad_rows(change, parts):
    refused(lambda: bound([ROWS[0], {**ROWS[1], **change}]), *parts)


def test_bad_arguments(tiny):
    refused(
        lambda: bound(options="option"), "train row 1", "field of options 'option'", "did you mean 'options'"
    )
    refused(lambda: bound(options=["a", "b"]), "train row 1", "options = []", "at least two")
    refused(lambda: bound(label_field="lable"), "train row 1", "did you mean 'label'")
    refused(lambda: bound(loss="hinge"), "unknown loss 'hinge'", "accuracy+ce")
    refused(lambda: bound(normalize="byte"), "unknown normalize 'byte'", "did you mean 'bytes'")
    refused(lambda: bound([]), "train has no rows")
    refused(
        lambda: MultipleChoice(ROWS, template="{text}{soft}{mask}").bind(tiny("bert")),
        "MultipleChoice",
        "reads the mask",
        "take a decoder",
    )


def test_rows_are_told_apart_by_their_options():
    other = {**ROWS[0], "options": ["a joy", "bad"]}
    bound(dev=[other])  # any warning is an error
    with pytest.warns(UserWarning, match="1 of 2 dev rows are train rows"):
        bound(dev=[other, {**ROWS[0]}])


@pytest.mark.parametrize(
    ("normalize", "scores"), [("characters", (-28.105, -15.77 / 6)), ("bytes", (-56.21 / 6, -15.77 / 6))]
)
def test_lengths_of_other_scripts(normalize, scores):
    """lm-evaluation-harness' acc_norm divides by characters, its acc_bytes by bytes."""
    rows = [{"text": "x", "options": ["はい", "no way"], "label": 0}]
    task = MultipleChoice(rows, template="{text}{soft}", normalize=normalize).bind(Words())
    found = task.scores(torch.tensor([[[-56.21, -15.77]]]), task.all_rows("train"))
    np.testing.assert_allclose(found[0, 0], scores, rtol=1e-6)
