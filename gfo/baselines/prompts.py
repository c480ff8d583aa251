"""Prompts without training: the template with a text in the `{soft}` place, and in-context learning.

In-context learning (Brown et al. 2020, arXiv:2005.14165): k training rows with their labels' words stand in
front of each row, the same ones for all, so that they are computed once for a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from gfo.baselines.base import Fixed, Setting, joined, joined_losses
from gfo.core.domain import Array
from gfo.core.errors import GfoError
from gfo.core.metric import Metric
from gfo.core.protocols import (
    Batch,
    Batches,
    BoundTask,
    Evaluation,
    RowTask,
    Scores,
    Task,
    Tokenizer,
    Tokens,
)
from gfo.core.seeding import stream
from gfo.evaluation.local import LocalEvaluator
from gfo.models.frozen import FrozenModel
from gfo.spaces.parts.unchanged import Unchanged
from gfo.tasks.classification import Classification


@dataclass(frozen=True)
class Worded:
    """A task with more words in its rows.

    Attributes:
        task: the task.
        front: tokens in front of each row, behind the special tokens that the model wants at a start.
        soft: tokens in the soft prompt's place.
        blanks: what stands between `front` and the row.
    """

    task: Task
    front: Tokens = ()
    soft: Tokens = ()
    blanks: str = ""

    def bind(self, tokenizer: Tokenizer) -> BoundWorded:
        """The task's rows, for one model, with the words."""
        return BoundWorded(self.task.bind(tokenizer), self, cast(FrozenModel, tokenizer))


class BoundWorded:
    """A bound task with more words in its rows."""

    def __init__(self, task: BoundTask, words: Worded, model: FrozenModel) -> None:
        self._task, self._words, self._model = task, words, model
        self._start = model.encode("", start=True)
        self.splits, self.metrics = task.splits, task.metrics
        self.loss, self.score = task.loss, task.score

    def row_scores(self, answers: Any, batch: Any) -> dict[str, Array]:
        """Values of rows [K, B], if the task has them."""
        return self._task.row_scores(answers, batch) if isinstance(self._task, RowTask) else {}

    def row_losses(self, answers: Any, batch: Any) -> Array | None:
        """Losses of rows [K, B], if the task has them."""
        return self._task.row_losses(answers, batch) if isinstance(self._task, RowTask) else None

    def batch(self, split: str, step: int) -> Batch | Batches:
        """One batch for all candidates of a step."""
        return self._with_words(self._task.batch(split, step))

    def all_rows(self, split: str) -> Batch | Batches:
        """The whole split as one batch."""
        return self._with_words(self._task.all_rows(split))

    def _with_words(self, batch: Batch | Batches) -> Batch | Batches:
        if isinstance(batch, Batches):
            return Batches(tuple(self._with_words(part) for part in batch.parts))
        start, words = self._start, self._words
        if words.front:
            batch = running_rows(self._model, batch, start, words.blanks)
        before = tuple(
            (start if starts(row, start) else ()) + words.front + without(row, start) + words.soft
            for row in batch.before
        )
        return replace(batch, before=before, key=(batch.key, words.front, words.soft, words.blanks))


class Shots:
    """Scores numbers of demonstrations, as points [K, 1].

    Args:
        setting: the model and a classification.
        shown: the demonstrations, of which a point takes the first ones.
        blanks: what stands between the last of them and a row.
    """

    def __init__(self, setting: Setting, shown: list[Tokens], blanks: str) -> None:
        self._setting, self._shown, self._blanks = setting, shown, blanks
        self._evaluators: dict[int, LocalEvaluator] = {}

    def __call__(self, z: Array, step: int) -> Evaluation:
        """Losses on the step's batch."""
        return joined_losses([self._with(point)(point[None], step) for point in z])

    def score(self, z: Array, split: str) -> Scores:
        """Metrics on a split."""
        return joined([self._with(point).score(point[None], split) for point in z])

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What `score` gives: the task's."""
        return self._with(np.zeros(1)).metrics

    def _with(self, point: Array) -> LocalEvaluator:
        number = int(point[0])
        if number not in self._evaluators:
            front = sum(self._shown[:number], ())
            words = Worded(self._setting.task, front, blanks=self._blanks)
            self._evaluators[number] = _evaluator(self._setting, words)
        return self._evaluators[number]


def manual(setting: Setting, *, text: str = "") -> Fixed:
    """The model as it is, on the template with `text` in the `{soft}` place.

    Args:
        text: the prompt; none by default, so that the template stands without one.

    Raises:
        GfoError: for a text without a place.
    """
    soft = setting.model.encode(text, inside=True)
    judge = _evaluator(setting, Worded(setting.task, soft=soft))
    batch = judge.task.all_rows("train")
    if soft and isinstance(batch, Batch) and not batch.prompt:
        raise GfoError(
            f"baseline 'manual': text = {text!r}, but the template has no {{soft}} for it; write it there"
        )
    return Fixed(np.zeros(1), judge, {"prompt_tokens": len(soft)})


def in_context(
    setting: Setting, *, k: int = 16, separator: str = "\n\n", max_tokens: int | None = None
) -> Fixed:
    """Up to k training rows with their labels' words in front of each row.

    As many of each label as can be, drawn and shuffled by the seed; fewer where the longest row of all splits
    would not fit behind them. In the template `{soft}` is left empty.

    Args:
        setting: a classification, and a model that says words.
        k: demonstrations.
        separator: the text behind each.
        max_tokens: the most tokens of a row; the model's context by default.

    Raises:
        GfoError: for a task without label words, a sentence encoder, or a k that no row leaves room for.
    """
    model, task = setting.model, _with_label_words(setting)
    bound = task.bind(model)
    batch = bound.all_rows("train")
    if not 1 <= k <= len(batch):
        raise GfoError(f"baseline 'in-context': k = {k} must be 1 to {len(batch)}, the training rows")
    limit = min(max_tokens or model.context_length, model.context_length)
    longest = _longest([bound.all_rows(split) for split in bound.splits])
    chosen = balanced(batch.target, k, setting.seed)
    shown = _demonstrations(model, task, batch, chosen, separator)
    fit = int((np.cumsum([len(tokens) for tokens in shown]) <= limit - longest).sum())
    if not fit:
        raise GfoError(
            f"baseline 'in-context': a demonstration of {len(shown[0])} tokens does not fit in front of the "
            f"longest row, of {longest}, in {limit}; shorten the rows, or raise max_tokens"
        )
    facts = {"demonstrations": chosen[:fit], "demonstration_tokens": sum(map(len, shown[:fit]))}
    shots = Shots(setting, shown[:fit], _without_blanks(separator)[1])
    return Fixed(np.array([float(fit)]), shots, facts)


def _with_label_words(setting: Setting) -> Classification:
    """The task, whose labels have words that the model can say; else GfoError."""
    if not isinstance(setting.task, Classification) or setting.model.reads == "sentence":
        raise GfoError(
            "baseline 'in-context' shows label words; give it a gfo.Classification and no sentence encoder"
        )
    return setting.task


def _demonstrations(
    model: FrozenModel, task: Classification, batch: Batch, chosen: Sequence[int], separator: str
) -> list[Tokens]:
    """The chosen rows of a batch, each with the first word of its label and the separator."""
    words = [model.encode(some[0], inside=model.continues) for some in task.words.values()]
    text, blanks = _without_blanks(separator)
    behind = model.encode(text, inside=True)
    later = running_rows(model, batch, model.encode("", start=True), blanks)
    rows = [batch, *[later] * (len(chosen) - 1)]  # the first begins the text
    return [
        _answered(model, row, i, words[batch.target[i]]) + behind for row, i in zip(rows, chosen, strict=True)
    ]


def _without_blanks(separator: str) -> tuple[str, str]:
    """A separator and the blanks that it ends in."""
    text = separator.rstrip(" ")
    return text, separator[len(text) :]


def running_rows(model: FrozenModel, batch: Batch, start: Tokens, blanks: str) -> Batch:
    """The rows as they are behind other text and blanks, which may be a part of their first words."""
    before, after = [], []
    for front, back in zip(batch.before, batch.after, strict=True):
        begun = start if starts(front, start) else ()
        own = without(front, start)
        before.append(begun + model.running(own, blanks))
        after.append(back if own else model.running(back, blanks))
    return replace(batch, before=tuple(before), after=tuple(after))


def balanced(target: Array, k: int, seed: int) -> list[int]:
    """k of the rows, as many of each label as can be, in random order."""
    rng = stream(seed, "demonstrations")
    labels = rng.permutation(np.unique(target))
    piles = [list(rng.permutation(np.flatnonzero(target == label))) for label in labels]
    chosen: list[int] = []
    while len(chosen) < k:
        chosen += [int(pile.pop()) for pile in piles if pile]
    return [int(i) for i in rng.permutation(chosen[:k])]


def _longest(batches: Sequence[Batch]) -> int:
    """Tokens of the longest row."""
    return max(len(b) + len(a) for part in batches for b, a in zip(part.before, part.after, strict=True))


def _answered(model: FrozenModel, batch: Batch, i: int, answer: Tokens) -> Tokens:
    """A row with its answer, without the special tokens of a start and an end."""
    row = without(batch.before[i] + batch.after[i], model.encode("", start=True))
    end = model.encode("", end=True)
    row = row[: len(row) - len(end)] if end and row[-len(end) :] == end else row
    if model.read_token is None:
        return row + answer
    place = row.index(model.read_token)
    return row[:place] + answer + row[place + 1 :]


def starts(row: Tokens, start: Tokens) -> bool:
    """Whether the row has the model's start tokens, which a chat brings along, or not."""
    return row[: len(start)] == start


def without(row: Tokens, start: Tokens) -> Tokens:
    """The row without its start tokens."""
    return row[len(start) :] if starts(row, start) else row


def _evaluator(setting: Setting, task: Any) -> LocalEvaluator:
    return LocalEvaluator(setting.model, task, Unchanged(setting.model), memory=setting.memory)
