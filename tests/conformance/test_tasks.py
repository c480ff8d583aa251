"""Every task passes the contract, with each of its losses, on models that read in each of the ways."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics
import torch

import gfo
from gfo.core.protocols import RowTask
from gfo.tasks.parts.labelled import LabelledRows
from gfo.tasks.parts.metrics import ACCURACY
from gfo.testing import check_task

WORDS = ["good", "bad", "great", "terrible", "short", "the first minute"]
ROWS = [{"text": f"the food was {word}", "label": str(i % 3 + 1)} for i, word in enumerate(WORDS)]
DEV = [{"text": f"the service was {word}", "label": str(i % 3 + 1)} for i, word in enumerate(WORDS[:4])]
LABELS = {"1": " bad", "2": " food", "3": " good"}
CHOICES = [
    {"text": row["text"], "options": ["good", "bad", "neither"][: 2 + i % 2], "label": i % 2}
    for i, row in enumerate(ROWS)
]
ANSWERS = [{"text": row["text"], "target": word} for row, word in zip(ROWS, WORDS, strict=True)]
DOCUMENTS = [{"text": " ".join(WORDS)}, {"text": "a terrible waste of time, and not even a short one!"}]


class Rating(LabelledRows):
    """Texts rated by words for 1, 2, 3 ...: the loss is the absolute error of the expected rating."""

    own_metrics = (
        ACCURACY,
        gfo.Metric("mae", lower_is_better=True, function=sklearn.metrics.mean_absolute_error),
    )

    def row_losses(self, scores, target):
        """Scores [K, B, C], targets [B] -> |expected - right|, [K, B]."""
        stars = self._stars(scores)
        return (self._expected(scores) - stars[target]).abs()

    def predicted(self, scores):
        """The rating nearest to the expected one, [K, B]."""
        return (self._expected(scores)[..., None] - self._stars(scores)).abs().argmin(dim=-1)

    def _expected(self, scores):
        return scores.softmax(dim=-1) @ self._stars(scores)

    def _stars(self, scores):
        return torch.as_tensor(self.values, dtype=scores.dtype, device=scores.device)


def classification(**options):
    return gfo.Classification(ROWS, DEV, template="{text}{soft} It was", labels=LABELS, **options)


def weighted(**options):
    parts = [(classification(), 2.0), (gfo.MultipleChoice(CHOICES, DEV_CHOICES, template="{text}"), 0.5)]
    return gfo.Weighted(parts, **options)


DEV_CHOICES = [{**row, "text": f"{row['text']}, I would say"} for row in CHOICES[:4]]
FUNCTION = gfo.Metric("kappa", function=sklearn.metrics.cohen_kappa_score)
LENGTH = gfo.Metric(
    "length", lower_is_better=True, function=lambda outputs, rows: [len(text) for text in outputs]
)
TASKS = {
    **{
        f"classification, {loss}": lambda loss=loss: classification(loss=loss, batch_size=3, metrics=["mcc"])
        for loss in ("ce", "hinge", "accuracy", "macro_f1", "accuracy+ce", "mcc")
    },
    "classification, confident": lambda: classification(confidence=0.1, batch_size=3),
    "classification, calibrated": lambda: classification(calibration="contextual"),
    "classification, numbers": lambda: classification(loss="spearman", metrics=["pearson", FUNCTION]),
    "rating": lambda: Rating(ROWS, DEV, template="{text}{soft} It was", labels=LABELS, batch_size=4),
    "multiple choice": lambda: gfo.MultipleChoice(CHOICES, template="{text}{soft}", metrics=[FUNCTION]),
    "multiple choice, characters": lambda: gfo.MultipleChoice(
        CHOICES, template="{text}", normalize="characters", loss="accuracy"
    ),
    "language modelling": lambda: gfo.LanguageModeling(DOCUMENTS, window=7, batch_size=3),
    "distillation": lambda: gfo.Distillation(
        ROWS,
        [{"text": row["text"]} for row in DEV],
        template="{text}{soft} It was",
        teacher_template="Review: {text} It was",
        labels=LABELS,
    ),
    "weighted": weighted,
    "weighted, bound": lambda: weighted(
        constraints=[gfo.Constraint(classification(loss="accuracy"), metric="accuracy", least=0.9)]
    ),
}


@pytest.mark.parametrize("name", TASKS)
def test_contract(tiny, name):
    check_task(TASKS[name](), tiny("llama"))


@pytest.mark.parametrize("metric", ["exact_match", "token_f1", "bleu", "rougeL", LENGTH])
def test_contract_of_generation(tiny, metric):
    model = tiny("llama")
    # BLEU counts runs of four words
    rows = [{**row, "target": f"it was so very {row['target']}"} for row in ANSWERS]
    rows = rows if metric == "bleu" else ANSWERS
    task = gfo.Generation(rows, template="{text}{soft} It was", metric=metric, max_tokens=4, batch_size=4)

    def right(batch):
        return [[model.encode(row["target"]) for row in batch.target]]

    check_task(task, model, right=None if metric is LENGTH else right)


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_contract_on_other_kinds_of_models(tiny, family):
    model = tiny(family)
    mask = "{mask}." if model.reads == "mask" else ""
    words = {"1": " bad", "2": " good"}
    rows = [{**row, "label": str(i % 2 + 1)} for i, row in enumerate(ROWS)]
    check_task(gfo.Classification(rows, template="{text}{soft} It was" + mask, labels=words), model)
    if model.reads == "mask":
        check_task(gfo.LanguageModeling(DOCUMENTS, window=9), model)


@pytest.mark.parametrize("name", [name for name in TASKS if "," not in name or "ce" in name])
def test_means_of_rows_are_the_scores(tiny, name):
    """To the last digits, and only there: another row's weight would show."""
    evaluator = gfo.LocalEvaluator(tiny("llama"), TASKS[name](), gfo.BiasSpace(tiny("llama"), dim=5))
    bound, batch = evaluator.task, evaluator.task.all_rows("train")
    answers = evaluator.answers(np.random.default_rng(3).standard_normal((3, 5)), batch)
    rows, scores = bound.row_scores(answers, batch), bound.score(answers, batch)
    assert isinstance(bound, RowTask)
    assert "loss" in rows or "accuracy+ce" in name
    for metric, values in rows.items():
        np.testing.assert_allclose(values.mean(axis=1), scores[metric], rtol=1e-12, atol=1e-12)
    if "loss" in rows:
        uneven = rows["loss"] @ np.linspace(0.5, 1.5, rows["loss"].shape[1]) / rows["loss"].shape[1]
        assert (abs(uneven - scores["loss"]) > 1e-6).all()
