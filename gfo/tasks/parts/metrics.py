"""Metrics of predicted labels; the formulas are scikit-learn's."""

from __future__ import annotations

from gfo.core.domain import Array
from gfo.core.metric import Metric

CE = Metric("ce", lower_is_better=True, form="nats")
ACCURACY = Metric("accuracy", form="share")
MACRO_F1 = Metric("macro_f1", form="share")
AGREEMENT = Metric("agreement", form="share")
TEACHER_ACCURACY = Metric("teacher_accuracy", form="share")
PERPLEXITY = Metric("perplexity", lower_is_better=True)
# of generated text: see gfo.tasks.parts.text_metrics
EXACT_MATCH, TOKEN_F1, BLEU, CHRF, ROUGE1, ROUGE2, ROUGEL, REGEX_MATCH = (
    Metric(name, form="share")
    for name in ("exact_match", "token_f1", "bleu", "chrf", "rouge1", "rouge2", "rougeL", "regex")
)
ANSWER_TOKENS = Metric("answer_tokens", lower_is_better=True, form="tokens")


def accuracy(target: Array, predicted: Array) -> float:
    """The share of rows whose label is right, 0 to 1."""
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(target, predicted))


def macro_f1(target: Array, predicted: Array, labels: int) -> float:
    """The mean of the labels' F1 scores; 0 for a label that is neither present nor predicted."""
    from sklearn.metrics import f1_score

    return float(f1_score(target, predicted, labels=list(range(labels)), average="macro", zero_division=0.0))
