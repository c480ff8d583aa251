"""Texts as candidates of a model that is here: each stands in the template, and its rows are read whole."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gfo.core.domain import Array
from gfo.core.errors import GfoError, GfoWarning
from gfo.core.metric import Metric
from gfo.core.protocols import Answers, Batch, Batches, BoundTask, Cost, Evaluation, Scores, Task
from gfo.core.recording import recorded
from gfo.core.text_domain import TextSpace
from gfo.evaluation.feedback import NO_FEEDBACK, RowFeedback, feedback_on
from gfo.evaluation.incomplete import losses, scores
from gfo.evaluation.joining import concatenated
from gfo.evaluation.local import LocalEvaluator
from gfo.evaluation.parts import parts_of, training_rows
from gfo.evaluation.shape import Meter
from gfo.evaluation.values import measured, measuring_of, points_of, scored_values
from gfo.models.frozen import FrozenModel
from gfo.spaces.parts.unchanged import Unchanged
from gfo.tasks.parts.worded import with_prompt


@dataclass(frozen=True)
class Read:
    """What the model answers to a candidate's rows."""

    task: BoundTask
    batch: Batch | Batches
    answers: Answers


@recorded
class TextEvaluator:
    """Scores texts by a model that is here; `gfo.tune` takes it for `gfo.Words` and `gfo.Texts`.

    A text has the tokens that it has in running text, so that candidates differ in length; they are evaluated
    one by one, over all rows at once.

    Args:
        model: a frozen model.
        task: what to minimise; its template has `{soft}`.
        space: whose points are texts.
        memory: bytes that a forward pass may take; by default a quarter of what is free.
        values: metrics of the task that a step is to give beside the loss.

    Raises:
        GfoError: as `gfo.LocalEvaluator`, with the starting point's text in the template.
    """

    def __init__(
        self,
        model: FrozenModel,
        task: Task,
        space: TextSpace,
        *,
        memory: int | None = None,
        values: Sequence[str] = (),
    ) -> None:
        self._given, self.space = task, space
        self._start = space.text(np.zeros(space.domain.d))
        splits = task.bind(model).splits
        worded = with_prompt(task, self._start, splits)
        self._local = LocalEvaluator(model, worded, Unchanged(model), memory=memory)
        self.model, self.task = self._local.model, self._local.task
        self._measuring = measuring_of(space)
        if self._measuring is not None:
            self.measure = self._measuring.measure
        self._scored = scored_values(values, self.task, self._measuring, space.domain)
        self._meter = Meter(model.layers)  # of what is not told yet
        self._last: dict[str, Read] = {}

    def __call__(self, z: Array, step: int) -> Evaluation:
        """Loss of each candidate on the step's batch; z [K, d]; nan for a text that is too long."""
        start = time.perf_counter()
        read = [self._read(point, "train", step) for point in self._points(z)]
        self._last = {self.space.text(z[k]): each for k, each in enumerate(read) if each is not None}
        loss, rows, values = self._losses(read), self._rows(read), self._values(z, read)
        return Evaluation(loss, self._cost(len(z), start), values, rows)

    def score(self, z: Array, split: str) -> Scores:
        """Every metric of each candidate on a whole split; z [K, d].

        Raises:
            GfoError: if the task has no such split.
        """
        start = time.perf_counter()
        self.task.all_rows(split)  # which says so
        found = [self._scores(self._read(point, split, None)) for point in self._points(z)]
        metrics = concatenated([each.metrics for each in found], [metric.name for metric in self.metrics])
        rows = [each.rows for each in found]
        names = sorted(set(rows[0]).intersection(*rows))
        return Scores(metrics, self._cost(len(z), start), concatenated(rows, names))

    def answers(self, z: Array, batch: Batch | Batches) -> Answers:
        """What the model answers a batch with the texts of z [K, d], as far as its rows are of one split."""
        found = []
        for point in self._points(z):
            read = self._read(point, parts_of(batch)[0].split, None)
            if read is None:
                raise GfoError("text: it is too long for the model's context")
            found.append(read.answers[0])
        return found

    def feedback(self, z: Array) -> list[RowFeedback]:
        """What became of the training rows with the text of z [d]; those of the newest step are known."""
        text = self.space.text(z)
        read = self._last.get(text) or self._read(z, "train", 0)
        if read is None:
            return [RowFeedback(text, "", np.nan, "") for _ in range(self.row_count)]
        if isinstance(read.batch, Batches):
            raise GfoError(NO_FEEDBACK)
        return feedback_on(read.task, read.answers, read.batch, "", self.model.decode)

    @property
    def row_count(self) -> int:
        """How many training rows `feedback` is on."""
        return training_rows(self.task)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What `score` gives: the task's."""
        return self.task.metrics

    @property
    def batches_differ(self) -> bool:
        """Whether each step has rows of its own."""
        return self._local.batches_differ

    def settings(self) -> dict[str, int]:
        """What the memory decided, as `gfo.LocalEvaluator` has it."""
        return self._local.settings()

    def use(self, settings: Mapping[str, int]) -> None:
        """Decide as another evaluator did."""
        self._local.use(settings)

    def _points(self, z: Array) -> Iterator[Array]:
        yield from points_of(z, self.space.domain.d)

    def _read(self, z: Array, split: str, step: int | None) -> Read | None:
        """The answers to the rows of a step, or of a whole split, with the text of z [d]; None for one that
        does not fit."""
        if not np.isfinite(z).all():
            return None
        worded = with_prompt(self._given, self.space.text(z), {"train", split})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GfoWarning)  # said of the starting point
            task = worded.bind(self.model)
        batch = self._once(task.all_rows(split) if step is None else task.batch(split, step))
        if any(_longest(part) > self.model.context_length for part in parts_of(batch)):
            return None
        return Read(task, batch, self._local.answers(np.zeros((1, 1)), batch, self._meter))

    def _once(self, batch: Any) -> Any:
        """A batch that will not come again."""
        if isinstance(batch, Batches):
            return Batches(tuple(self._once(part) for part in batch.parts))
        return replace(batch, recurs=False)

    def _losses(self, read: Sequence[Read | None]) -> Array:
        loss = np.concatenate([_losses_of(each)[0] for each in read])
        loss[~np.isfinite(loss)] = np.nan
        return loss

    def _rows(self, read: Sequence[Read | None]) -> Array | None:
        """Losses of rows [K, B], if all candidates have them."""
        found = [_losses_of(each)[1] for each in read]
        rows = [each for each in found if each is not None]
        return np.concatenate(rows) if len(rows) == len(read) else None

    def _values(self, z: Array, read: Sequence[Read | None]) -> dict[str, Array]:
        values = measured(self._measuring, z)
        if self._scored:
            found = [self._scores(each).metrics for each in read]
            values |= concatenated(found, self._scored)
        return values

    def _scores(self, read: Read | None) -> Scores:
        if read is None:
            return Scores({metric.name: np.full(1, np.nan) for metric in self.metrics})
        return scores(read.task, read.answers, read.batch, 1)

    def _cost(self, K: int, start: float) -> Cost:
        meter, self._meter = self._meter, Meter(self.model.layers)
        return meter.cost(K, start)


def _losses_of(read: Read | None) -> tuple[Array, Array | None]:
    """The loss of a candidate, [1], and those of its rows [1, B], if there are such; nan without answers."""
    if read is None:
        return np.full(1, np.nan), None
    return losses(read.task, read.answers, read.batch, 1)


def _longest(batch: Batch) -> int:
    """Tokens of the longest row with what is written or wanted behind it."""
    behind = 0 if batch.decoding is None else batch.decoding.max_tokens
    pairs = zip(batch.before, batch.after, strict=True)
    ends = max((len(ending) for some in batch.endings for ending in some), default=0)
    return max(len(before) + len(after) for before, after in pairs) + max(behind, ends)
