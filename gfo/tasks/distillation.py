"""Distillation: the model with the candidate's change is to answer as a teacher does.

The teacher is another model, or the same one with another template: with a long instruction that a soft
prompt is to replace, say (prompt compression).
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, Unpack

import numpy as np

from gfo.core.domain import Array
from gfo.core.errors import GfoError, check_name, unknown_name
from gfo.core.metric import LOSS, Metric
from gfo.core.protocols import Batch, Reader, Tokenizer, Tokens
from gfo.core.recording import recorded
from gfo.tasks.parts.base import BoundRows, Data, RowOptions
from gfo.tasks.parts.datasets import Source
from gfo.tasks.parts.joining import joined_splits
from gfo.tasks.parts.label_words import LabelWords, Words, words_by_label
from gfo.tasks.parts.labels import label_indices
from gfo.tasks.parts.losses import as_array, only_finite
from gfo.tasks.parts.metrics import ACCURACY, AGREEMENT, TEACHER_ACCURACY
from gfo.tasks.parts.templates import GivenTemplate, Template, rows_of

if TYPE_CHECKING:
    from torch import Tensor

DISTILLATION_LOSSES = ("kl", "ce")
OVER = ("vocabulary", "labels")
IN_MEMORY = 2**28  # bytes of a split's teacher logits; more lie in a temporary file
ROWS_AT_ONCE = 64


@recorded
class Distillation:
    """Rows, templates and teacher of a distillation (Hinton et al. 2015, arXiv:1503.02531).

    The loss is that between the distributions of the next word behind the templates, or in the place of
    `{mask}`, the rows' mean: with p the teacher's softmax(logits / T) and q the candidate's,
    T^2 KL(p || q) in nats, or T^2 times the cross-entropy. Rows need no labels.

    Args:
        train: rows the loss is computed on; see `gfo.datasets.load`.
        dev: rows the result is selected on, or None to take the last recommendation.
        test: rows kept for the end, or None.
        template: text with `{field}` places and, for a soft prompt, one `{soft}`.
        teacher_template: what the teacher reads, without `{soft}`; by default the template without it.
        teacher: a model of `gfo.load_model` with the same tokenizer; None for the model that is tuned,
            unchanged.
        labels: label -> the word, or words, of one token that stand for it, for rows that have labels:
            `score` then gives the accuracy of the candidate and of the teacher. None for rows without.
        label_field: the rows' field that holds the label; splits without it have no accuracy.
        over: "vocabulary" for the distribution over all tokens, "labels" for that over the labels alone.
        loss: "kl" or "ce"; they differ by the teacher's entropy.
        temperature: T.
        rows: `limits`, `skip`, `shuffle`, `batch_size`, `max_length`, `truncate`, `seed`: which rows are
            used, and which a step; see `gfo.tasks.parts.base.Data.load`.

    Raises:
        GfoError: for unusable rows, an unknown field or name, a temperature that is not positive, or a
            teacher that is the same as the model.
    """

    def __init__(
        self,
        train: Source,
        dev: Source | None = None,
        test: Source | None = None,
        *,
        template: GivenTemplate,
        teacher_template: GivenTemplate | None = None,
        teacher: Reader | None = None,
        labels: Mapping[Any, str | Sequence[str]] | None = None,
        label_field: str = "label",
        over: str = "vocabulary",
        loss: str = "kl",
        temperature: float = 1.0,
        **rows: Unpack[RowOptions],
    ) -> None:
        check_name("loss", loss, DISTILLATION_LOSSES)
        check_name("over", over, OVER)
        if not 0 < temperature < math.inf:
            raise GfoError(f"temperature = {temperature} must be above 0")
        _check_given(teacher, teacher_template, over, labels)
        self.template = Template.parse(template)
        self.teacher_template = self.template.without_soft()
        if teacher_template is not None:
            self.teacher_template = _of_teacher(teacher_template)
        self.teacher, self.loss_name, self.over, self.temperature = teacher, loss, over, temperature
        self.words = None if labels is None else words_by_label(labels)
        self.data = Data.load(train, dev, test, **rows)
        for each in (self.template, self.teacher_template):
            each.check_rows(self.data.rows)
        self.targets = self._targets(label_field)

    def bind(self, tokenizer: Tokenizer) -> BoundDistillation:
        """Tokenize all rows for the model and the teacher.

        Raises:
            GfoError: for a teacher with another tokenizer or too short a context, label words of several
                tokens, or templates that do not fit.
        """
        return BoundDistillation(self, tokenizer)

    def joined(self) -> Self:
        """The same task with the rows of dev behind those of train; see `Data.joined`."""
        found = copy.copy(self)
        found.data, found.targets = self.data.joined(), joined_splits(self.targets)
        return found

    def _targets(self, field: str) -> dict[str, Array]:
        """The labels of the splits that have them, as indices into the labels."""
        if self.words is None:
            return {}
        rows = self.data.rows
        labelled = {split: some for split, some in rows.items() if any(field in row for row in some)}
        if not labelled:
            raise GfoError(
                f"no row has its label: {unknown_name('label_field', field, map(str, rows['train'][0]))}"
            )
        return {split: label_indices(some, field, self.words, split) for split, some in labelled.items()}


def _check_given(teacher: Any, teacher_template: Any, over: str, labels: Any) -> None:
    """Raise GfoError where there is nothing to learn from, or no labels to learn over."""
    if teacher is None and teacher_template is None:
        raise GfoError("teacher: give a teacher, a teacher_template, or both")
    if over == "labels" and labels is None:
        raise GfoError("over = 'labels': give labels with their words")


def _of_teacher(given: GivenTemplate) -> Template:
    """A teacher's template, which has no soft prompt and no place where changes begin."""
    template = Template.parse(given)
    if template.place is not None:
        raise GfoError(f"teacher_template = {given!r}: a teacher has no {{{template.place}}}; leave it out")
    return template


class BoundDistillation(BoundRows):
    """A distillation whose rows are tokens of one model. A split is read by the teacher when its loss is
    first asked for, and never again."""

    def __init__(self, task: Distillation, tokenizer: Tokenizer) -> None:
        super().__init__(task.data, task.template, tokenizer)
        self._task = task
        self._teacher = _checked(task, tokenizer)
        self._labels = None if task.words is None else self._label_words(task.words, tokenizer)
        self._vocabulary = self._labels.vocabulary if self._labels and task.over == "labels" else None
        self._teacher_rows = {split: self._read_by_teacher(split, tokenizer) for split in self.splits}
        self._known: dict[str, tuple[dict[int, int], Array]] = {}

    def _label_words(self, words: Words, tokenizer: Tokenizer) -> LabelWords:
        """The labels' words, each of one token."""
        found = LabelWords(words, tokenizer, behind=self._shown()[0])
        self._tell_joints(word for some in words.values() for word in some)
        if found.vocabulary is None:
            raise GfoError(
                "labels: one of the words has several tokens; distillation reads one, so give others"
            )
        return found

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Loss and agreement; with labels accuracy and the teacher's."""
        return (LOSS, AGREEMENT, *([ACCURACY, TEACHER_ACCURACY] if self._task.targets else []))

    def loss(self, answers: Tensor, batch: Batch) -> Tensor:
        """Logits [K, B, V'] -> the loss [K]; differentiable."""
        return self._losses(answers, batch).mean(dim=1)

    def score(self, answers: Tensor, batch: Batch) -> dict[str, Array]:
        """Logits [K, B, V'] -> loss; agreement, the share of rows whose likeliest word, or label, is the
        teacher's; and of a split with labels accuracy and teacher_accuracy. Each [K]; nan where a candidate
        failed."""
        return {name: rows.mean(axis=1) for name, rows in self.row_scores(answers, batch).items()}

    def row_scores(self, answers: Tensor, batch: Batch) -> dict[str, Array]:
        """Logits [K, B, V'] -> the same of each row, [K, B]."""
        taught = self._taught(batch, answers.device)
        said = _likeliest(self._compared(taught[None]))[0]
        guessed = np.concatenate([_likeliest(self._compared(logits[None])) for logits in answers])
        found = {"loss": as_array(self._losses(answers, batch)), "agreement": guessed == said}
        if batch.split in self._task.targets:
            target = self._task.targets[batch.split][list(batch.numbers)]
            labels = np.concatenate([_likeliest(self._of_labels(logits[None])) for logits in answers])
            found["accuracy"] = labels == target
            right = _likeliest(self._of_labels(taught[None]))[0] == target
            found["teacher_accuracy"] = np.tile(right, (len(answers), 1))
        failed = _failed(answers)
        return {name: only_finite(values.astype(np.float64), failed) for name, values in found.items()}

    def row_losses(self, answers: Tensor, batch: Batch) -> Array:
        """Logits [K, B, V'] -> the loss of each row, [K, B]; nan where a candidate failed."""
        return only_finite(as_array(self._losses(answers, batch)), _failed(answers))

    def _losses(self, answers: Tensor, batch: Batch) -> Tensor:
        """Logits [K, B, V'] -> the loss of each row, [K, B]; differentiable."""
        import torch

        T = self._task.temperature
        teacher = self._compared(self._taught(batch, answers.device))
        log_p = (teacher / T).log_softmax(dim=-1)
        found = []
        for logits in answers:  # one by one: all at once would take several times the memory of the logits
            log_q = (self._compared(logits[None])[0] / T).log_softmax(dim=-1)
            difference = log_p - log_q if self._task.loss_name == "kl" else -log_q
            found.append((log_p.exp() * difference).sum(dim=-1))
        return T**2 * torch.stack(found)

    def _wanted(self, split: str, index: Array) -> dict[str, Any]:
        return {"vocabulary": self._vocabulary, "target": index}

    def _compared(self, logits: Tensor) -> Tensor:
        """Logits [K, B, V'] -> those that are compared: of all tokens, or the labels' scores [K, B, C]."""
        return logits if self._vocabulary is None else self._of_labels(logits)

    def _of_labels(self, logits: Tensor) -> Tensor:
        """Logits [K, B, V'] -> the labels' scores [K, B, C]."""
        assert self._labels is not None
        if self._vocabulary is None:
            logits = logits[..., list(self._labels.vocabulary or ())]
        return self._labels.scores(logits)

    def _taught(self, batch: Batch, device: Any) -> Tensor:
        """The teacher's logits of a batch, [B, V']."""
        import torch

        if batch.split not in self._known:
            self._known[batch.split] = self._ask(batch.split)
        place, logits = self._known[batch.split]
        return torch.from_numpy(np.asarray(logits[[place[i] for i in batch.numbers]])).to(device)

    def _ask(self, split: str) -> tuple[dict[int, int], Array]:
        """Where each row's logits are, and the teacher's logits of all rows of a split, [N, V']."""
        numbers = list(self._teacher_rows[split])
        wanted = self._teacher.vocabulary_size if self._vocabulary is None else len(self._vocabulary)
        logits = _room(len(numbers), wanted)
        for i in range(0, len(numbers), ROWS_AT_ONCE):
            rows = [self._teacher_rows[split][n] for n in numbers[i : i + ROWS_AT_ONCE]]
            logits[i : i + len(rows)] = self._teacher.read(rows, self._vocabulary).cpu().numpy()
        return {n: place for place, n in enumerate(numbers)}, logits

    def _read_by_teacher(self, split: str, tokenizer: Tokenizer) -> dict[int, Tokens]:
        """Number of a row -> what the teacher reads of it."""
        numbers = list(self._encoded[split])
        rows, where = [self._data.rows[split][i] for i in numbers], rows_of(split)
        template = self._task.teacher_template.bound(self._teacher)
        read = template.encode(rows, self._teacher, lambda i: where(numbers[i]))
        same = replace(template, messages=()).encode(rows, tokenizer)  # the teacher's format, as text
        for i, (tokens, _), (others, _) in zip(numbers, read, same, strict=True):
            if tokens != others:
                raise GfoError(
                    f"teacher: its tokens of {where(i)} are not the model's; take a teacher with the same "
                    "tokenizer"
                )
            if len(tokens) > self._teacher.context_length:
                raise GfoError(
                    f"teacher_template: {where(i)} has {len(tokens)} tokens in it, the teacher's context has "
                    f"{self._teacher.context_length}; shorten the template or drop the row"
                )
        return {i: tokens for i, (tokens, _) in zip(numbers, read, strict=True)}


def _checked(task: Distillation, tokenizer: Tokenizer) -> Reader:
    """The teacher, which must read the same tokens in the same way."""
    teacher = tokenizer if task.teacher is None else task.teacher
    if not isinstance(teacher, Reader):
        raise GfoError(f"teacher: a {type(teacher).__name__} cannot read; give a model of gfo.load_model")
    if "sentence" in (teacher.reads, tokenizer.reads) or teacher.reads != tokenizer.reads:
        raise GfoError(
            f"teacher: it reads the {teacher.reads}, the model the {tokenizer.reads}; both must continue "
            "texts, or both fill in a mask"
        )
    size = getattr(tokenizer, "vocabulary_size", teacher.vocabulary_size)
    if size != teacher.vocabulary_size:
        raise GfoError(
            f"teacher: its vocabulary has {teacher.vocabulary_size} tokens, the model's {size}; take a "
            "teacher with the same tokenizer"
        )
    task.teacher_template.check_mask(teacher)
    return teacher


def _likeliest(logits: Tensor) -> Array:
    """Logits or scores [K, B, V'] -> int [K, B]."""
    found: Array = logits.argmax(dim=-1).cpu().numpy()
    return found


def _failed(answers: Tensor) -> Array:
    """Which candidates have an answer [K, B, V'] that is not finite, bool [K]."""
    return ~np.array([bool(logits.isfinite().all()) for logits in answers])


def _room(rows: int, columns: int) -> Array:
    """Room for float32 numbers [rows, columns]: in memory, or in a file that goes with the array."""
    if 4 * rows * columns <= IN_MEMORY:
        return np.empty((rows, columns), dtype=np.float32)
    with tempfile.TemporaryFile() as file:  # its mapping stays when it is closed
        return np.memmap(file, dtype=np.float32, mode="w+", shape=(rows, columns))
