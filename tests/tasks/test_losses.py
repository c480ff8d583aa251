"""Losses of class scores by hand, their order, and candidates that failed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from plain import Words

from gfo import Classification, MultipleChoice
from gfo.tasks.parts.losses import LOSSES, cross_entropy, hinge

LABELS = {"a": " a", "b": " b", "c": " c"}
# scores of two candidates, two rows, three labels; targets 0 and 2
SCORES = torch.tensor([[[2.0, 0.0, 1.0], [0.0, 3.0, 1.0]], [[-1.0, 5.0, 0.5], [0.0, 0.0, 9.0]]])
TARGET = np.array([0, 2])


def test_cross_entropy_by_hand():
    expected = [
        [np.log(np.e**2 + 1 + np.e) - 2, np.log(1 + np.e**3 + np.e) - 1],
        [np.log(np.e**-1 + np.e**5 + np.e**0.5) + 1, np.log(2 + np.e**9) - 9],
    ]
    np.testing.assert_allclose(cross_entropy(SCORES, TARGET), np.mean(expected, 1), rtol=1e-6, atol=1e-6)


def test_hinge_by_hand():
    """(1 / C) sum over j != target of max(0, 2 - l_target + l_j)."""
    expected = [[(0 + 1) / 3, (1 + 4) / 3], [(8 + 3.5) / 3, 0]]
    np.testing.assert_allclose(hinge(SCORES, TARGET), np.mean(expected, 1), rtol=1e-6)
    torchs = [torch.nn.functional.multi_margin_loss(s, torch.tensor(TARGET), margin=2.0) for s in SCORES]
    np.testing.assert_allclose(hinge(SCORES, TARGET), torchs, rtol=1e-6)


def test_losses_of_predictions_by_hand():
    """The first candidate says 0 and 1, the second 1 and 2."""
    np.testing.assert_array_equal(LOSSES["accuracy"](SCORES, TARGET), [0.5, 0.5])
    np.testing.assert_allclose(LOSSES["macro_f1"](SCORES, TARGET), [1 - 1 / 3, 1 - 1 / 3])
    perfect = torch.eye(3)[torch.tensor(TARGET)][None]
    np.testing.assert_allclose(LOSSES["accuracy"](perfect, TARGET), [0])
    np.testing.assert_allclose(LOSSES["macro_f1"](perfect, TARGET), [1 - 2 / 3])  # label 1 is absent: 0
    ce = cross_entropy(SCORES, TARGET).double().numpy()
    np.testing.assert_allclose(LOSSES["accuracy+ce"](SCORES, TARGET), 0.5 + ce / (1 + ce) / 3, rtol=1e-6)


@given(
    arrays.arrays(np.float32, (6, 5, 3), elements=st.floats(-100, 100, width=32)),
    arrays.arrays(np.int64, 5, elements=st.integers(0, 2)),
)
def test_cross_entropy_never_overrules_accuracy(scores, target):
    scores = torch.from_numpy(scores)
    joint, ce = LOSSES["accuracy+ce"](scores, target), cross_entropy(scores, target).double().numpy()
    wrong = LOSSES["accuracy"](scores, target)
    for i in range(6):
        for j in range(6):
            if wrong[i] < wrong[j]:
                assert joint[i] < joint[j]
            elif wrong[i] == wrong[j] and ce[i] < ce[j]:
                assert joint[i] <= joint[j]


def test_cross_entropy_decides_between_equals():
    """The control: accuracy alone does not, and the largest cross-entropy stays below one row."""
    scores = torch.tensor([[[3.0, 0.0], [1.0, 0.0]], [[2.0, 0.0], [1.0, 0.0]], [[1e30, 0.0], [0.0, 1e30]]])
    joint = LOSSES["accuracy+ce"](scores, np.array([0, 1]))
    assert joint[0] < joint[1]
    assert LOSSES["accuracy"](scores, np.array([0, 1])).tolist() == [0.5, 0.5, 0.0]
    worst = LOSSES["accuracy+ce"](torch.tensor([[[0.0, 3e38], [1.0, 0.0]]]), np.array([0, 0]))
    assert 0.5 < worst[0] < 1


def test_losses_with_a_gradient():
    for loss in (cross_entropy, hinge):
        scores = SCORES.clone().requires_grad_()
        value = loss(scores, TARGET)
        assert value.dtype == torch.float32
        (gradient,) = torch.autograd.grad(value.sum(), scores)
        assert gradient[1, 0, 0] < 0 < gradient[1, 0, 1]
    for name in ("accuracy", "macro_f1", "accuracy+ce"):
        assert isinstance(LOSSES[name](SCORES.clone().requires_grad_(), TARGET), np.ndarray)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_failed_candidate_is_nan_and_leaves_the_others_alone(name, bad):
    scores = SCORES.clone()
    scores[1, 0, 2] = bad
    rows = [{"text": f"x{label}", "label": label} for label in "ac"]
    task = Classification(rows, template="{text}{soft}", labels=LABELS, loss=name).bind(Words())
    batch = task.all_rows("train")
    whole, found = task.score(SCORES, batch), task.score(scores, batch)
    assert set(found) == {"loss", "accuracy", "macro_f1"} | ({"ce"} if name != "ce" else set())
    for metric, values in found.items():
        assert values[0] == whole[metric][0]
        assert np.isfinite(whole[metric][1])
        assert np.isnan(values[1])
    if np.isnan(bad):
        assert np.isnan(np.asarray(LOSSES[name](scores, TARGET))).tolist() == [False, True]


def chosen(scores, *right):
    """Scores of multiple choice, of two rows with three options and two or with three each."""
    options = [["x", "y", "z"][: 3 - bool(torch.isinf(scores[0, i, 2]))] for i in range(2)]
    rows = [{"text": "t", "options": o, "label": r} for o, r in zip(options, right, strict=True)]
    task = MultipleChoice(rows, template="{text}{soft}").bind(Words())
    return task.score(scores, task.all_rows("train"))


def test_an_option_that_is_not_there_is_no_failure():
    scores = torch.tensor([[[0.0, -1.0, -torch.inf], [1.0, 2.0, 0.5]]])
    found = chosen(scores, 0, 1)
    each = [np.log(1 + np.exp(-1)), np.log(np.e + np.e**2 + np.e**0.5) - 2]
    np.testing.assert_allclose(found["loss"], [np.mean(each)], rtol=1e-6)
    assert found["accuracy"].tolist() == [1.0]
    scores[0, 0, 0] = -torch.inf  # the right one
    assert np.isnan(chosen(scores, 0, 1)["loss"])
