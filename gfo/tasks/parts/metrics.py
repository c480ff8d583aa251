"""gfo's own metrics: what each is, and those of predicted labels by scikit-learn's and scipy's formulas."""

from __future__ import annotations

import math

import numpy as np

from gfo.core.domain import Array
from gfo.core.metric import Metric
from gfo.core.registry import entries


def accuracy(target: Array, predicted: Array) -> float:
    """The share of rows whose label is right, 0 to 1."""
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(target, predicted))


def macro_f1(target: Array, predicted: Array, labels: int) -> float:
    """The mean of the labels' F1 scores; 0 for a label that is neither present nor predicted."""
    from sklearn.metrics import f1_score

    return float(f1_score(target, predicted, labels=list(range(labels)), average="macro", zero_division=0.0))


def matthews(target: Array, predicted: Array) -> float:
    """Matthews correlation, -1 to 1, for any number of labels (Gorodkin 2004); 0 where one side has one
    label only."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(target, predicted))


def pearson(target: Array, predicted: Array) -> float:
    """Pearson's correlation of the right and the predicted label as numbers; nan where one side has one
    value only."""
    from scipy.stats import pearsonr

    return _correlation(pearsonr, target, predicted)


def spearman(target: Array, predicted: Array) -> float:
    """Spearman's rank correlation, ties with their mean rank; nan where one side has one value only."""
    from scipy.stats import spearmanr

    return _correlation(spearmanr, target, predicted)


def _correlation(of: object, target: Array, predicted: Array) -> float:
    """What scipy gives, without its warning of constants."""
    if len(np.unique(target)) < 2 or len(np.unique(predicted)) < 2:
        return math.nan
    return float(of(target, predicted).statistic)  # type: ignore[operator]


CE = Metric("ce", lower_is_better=True, form="nats")
ACCURACY = Metric("accuracy", form="share")
MACRO_F1 = Metric("macro_f1", form="share")
MCC = Metric("mcc", function=matthews)
SPEARMAN = Metric("spearman", function=spearman)
PEARSON = Metric("pearson", function=pearson)
AGREEMENT = Metric("agreement", form="share")
TEACHER_ACCURACY = Metric("teacher_accuracy", form="share")
PERPLEXITY = Metric("perplexity", lower_is_better=True)
SCORE = Metric("score")
ANSWER_TOKENS = Metric("answer_tokens", lower_is_better=True, form="tokens")

LABEL_METRICS = {metric.name: metric for metric in (ACCURACY, MACRO_F1, MCC, SPEARMAN, PEARSON)}
"""Of predicted labels, by name."""
CORRELATIONS = (SPEARMAN.name, PEARSON.name)  # of labels that are numbers
# of generated text: see gfo.tasks.parts.text_metrics and verifiers
EXACT_MATCH, TOKEN_F1, BLEU, CHRF, ROUGE1, ROUGE2, ROUGEL, REGEX_MATCH = (
    Metric(name, form="share")
    for name in ("exact_match", "token_f1", "bleu", "chrf", "rouge1", "rouge2", "rougeL", "regex")
)
GSM8K, MATH, COUNTDOWN, JSON_SCHEMA, PASS_AT_K = (
    Metric(name, form="share") for name in ("gsm8k", "math", "countdown", "json_schema", "pass@k")
)


def own_metric(name: str) -> Metric:
    """The registered metric of a name, also as "PART.NAME"; of an unknown name a number, higher is better.

    For what says nothing of its metrics but their names, as run folders of version 0.1.0; whoever has a
    bound task asks its `metrics`.
    """
    part, _, last = name.rpartition(".")
    known = entries("metric")
    found: Metric = known[last].load() if last in known else Metric(last or name)
    return found.of_part(part) if part else found
