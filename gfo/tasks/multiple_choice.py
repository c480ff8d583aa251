"""Multiple choice: each row has options of its own, scored by their likelihood behind the row's text."""

from __future__ import annotations

import bisect
import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, Unpack

import numpy as np

from gfo.core.domain import Array
from gfo.core.errors import GfoError, GfoWarning, check_name, unknown_name
from gfo.core.protocols import Batch, Tokenizer, Tokens
from gfo.core.recording import recorded
from gfo.core.texts import Pieces, Plain
from gfo.tasks.parts.base import NEW, Data, RowOptions
from gfo.tasks.parts.datasets import Source
from gfo.tasks.parts.given_metrics import GivenMetrics, chosen_metrics
from gfo.tasks.parts.joining import joined_splits
from gfo.tasks.parts.labelled import BoundClasses, ClassTask, NamedLoss
from gfo.tasks.parts.metrics import ACCURACY, CE
from gfo.tasks.parts.running import LOOKED_AT, tell_joints, tokens_behind
from gfo.tasks.parts.templates import GivenTemplate, Template, is_list, is_missing, is_plain, rows_of

if TYPE_CHECKING:
    from torch import Tensor

CHOICE_LOSSES = ("ce", "accuracy", "accuracy+ce")  # the others want the same classes in all rows
SIZES: dict[str, Callable[[Tokens, str], float]] = {
    "sum": lambda ids, text: 1.0,
    "mean": lambda ids, text: len(ids),
    "characters": lambda ids, text: len(text),
    "bytes": lambda ids, text: len(text.encode()),
}
"""What an option's log-likelihood is divided by."""


@recorded
class MultipleChoice(ClassTask):
    """Data, template and options of a multiple-choice task.

    Args:
        train: rows the loss is computed on; see `gfo.datasets.load`.
        dev: rows the result is selected on, or None to take the last recommendation.
        test: rows kept for the end, or None.
        template: text with `{field}` places and, for a soft prompt, one `{soft}`; an option follows its end.
            What stands in front of the options is computed once for all of them.
        options: the rows' field that holds the list of options, or the fields that hold one each. Rows may
            have different numbers of options, two at least; a field that a row lacks, or that is None or nan,
            is no option.
        label_field: the rows' field that says which is right: its number, counted from 0, or its text.
        delimiter: what stands between the template's end and an option.
        loss: "ce", cross-entropy over the options; "accuracy", 1 less the metric; or "accuracy+ce", accuracy
            with cross-entropy to decide between equals; or a metric of `metrics`, as in `Classification`.
        metrics: more of them, beside cross-entropy and accuracy: `gfo.Metric(name, lower_is_better=...,
            form=..., function=f)` with f(target, predicted), both [B], the numbers of options from 0.
        normalize: an option's score is its log-likelihood ("sum"), or that over its tokens ("mean"), its
            characters ("characters", `acc_norm` of lm-evaluation-harness) or its bytes in UTF-8 ("bytes",
            `acc_bytes` there; Gao 2021, "Multiple Choice Normalization in LM Evaluation"), both without the
            delimiter.
        rows: `limits`, `skip`, `shuffle`, `batch_size`, `max_length`, `truncate`, `seed`: which rows are
            used, and which a step; see `gfo.tasks.parts.base.Data.load`.

    Raises:
        GfoError: for unusable rows, an unknown field, fewer than two options, options that are equal, or a
            label that is none of them.
    """

    def __init__(
        self,
        train: Source,
        dev: Source | None = None,
        test: Source | None = None,
        *,
        template: GivenTemplate,
        options: str | Sequence[str] = "options",
        label_field: str = "label",
        delimiter: str = " ",
        loss: str = "ce",
        metrics: GivenMetrics = (),
        normalize: str = "sum",
        **rows: Unpack[RowOptions],
    ) -> None:
        check_name("normalize", normalize, SIZES)
        self.template = Template.parse(template)
        self.delimiter, self.loss_name, self.normalize = delimiter, loss, normalize
        self.data = Data.load(train, dev, test, **rows)
        self.template.check_rows(self.data.rows)
        self.option_fields = options
        self.options: dict[str, list[tuple[str, ...]]] = {}
        self.targets = {}
        for split, found in self.data.rows.items():
            where = rows_of(split)
            choices = [_options(row, options, where(i)) for i, row in enumerate(found)]
            targets = [_right(row, label_field, choices[i], where(i)) for i, row in enumerate(found)]
            self.options[split], self.targets[split] = choices, np.array(targets)
        usual = (*(() if loss == "ce" else (CE,)), ACCURACY)
        self.own_metrics = chosen_metrics(metrics, usual, {ACCURACY.name: ACCURACY}, loss=loss)
        self._loss = NamedLoss(loss, CHOICE_LOSSES, self)

    def row_losses(self, scores: Tensor, target: Array) -> Tensor | None:
        """Scores [K, B, m] -> the loss of each row [K, B], unless it is "accuracy+ce" or a metric's."""
        return None if self._loss.rows is None else self._loss.rows(scores, target)

    def losses(self, scores: Tensor, target: Array) -> Tensor | Array:
        """Scores [K, B, m] -> the loss [K]; differentiable for ce."""
        return self._loss(scores, target)

    def joined(self) -> Self:
        """The same task with the rows of dev behind those of train; see `Data.joined`."""
        found = super().joined()
        found.options = joined_splits(self.options)
        return found

    def bind(self, tokenizer: Tokenizer) -> BoundMultipleChoice:
        """Tokenize all rows and options for one model.

        Raises:
            GfoError: for a model that does not continue texts, or a template that does not fit it.
        """
        if tokenizer.reads != "next":
            raise GfoError(
                "task: MultipleChoice needs a model that continues texts, but this one reads the "
                f"{tokenizer.reads}; take a decoder or an encoder-decoder"
            )
        return BoundMultipleChoice(self, tokenizer)


class BoundMultipleChoice(BoundClasses):
    """A multiple-choice task whose rows and options are tokens of one model."""

    def __init__(self, task: MultipleChoice, tokenizer: Tokenizer) -> None:
        template = task.template.bound(tokenizer)
        self._delimiter, self._fields = task.delimiter, task.option_fields
        self._plain, self._size = task.normalize == "sum", SIZES[task.normalize]
        self._sizes: dict[Tokens, float] = {}  # of an option by its tokens, which a batch has
        self._endings = {
            split: self._encoded_options(task.options[split], rows, template, split, tokenizer)
            for split, rows in task.data.rows.items()
        }
        super().__init__(task, tokenizer)
        if self._plain:
            self._tell_beginnings()

    def _tell_beginnings(self) -> None:
        """Warn of options that begin others, which are never the less likely ones where they are summed."""
        found = [
            f"{split} row {i + 1}, where option {shorter + 1} begins option {longer + 1}"
            for split, rows in self._endings.items()
            for i, endings in enumerate(rows)
            for longer, shorter in itertools.permutations(range(len(endings)), 2)
            if endings[longer][: len(endings[shorter])] == endings[shorter]
        ]
        if found:
            warnings.warn(
                f"options: {len(found)} begin another option, as in {found[0]}: by 'sum' it is never less "
                "likely; take normalize = 'mean' or 'characters'",
                GfoWarning,
                stacklevel=2,
            )

    def scores(self, answers: Tensor, batch: Batch) -> Tensor:
        """Log-likelihoods of the options -> their scores [K, B, m], whose softmax is their probability."""
        import torch

        if self._plain:
            return answers
        sizes = torch.ones(answers.shape[1:])
        for b, endings in enumerate(batch.endings):
            sizes[b, : len(endings)] = torch.tensor([self._sizes[ids] for ids in endings])
        return answers / sizes.to(answers.device)

    def _encoded_options(
        self,
        options: Sequence[tuple[str, ...]],
        rows: Sequence[Mapping[str, Any]],
        template: Template,
        split: str,
        tokenizer: Tokenizer,
    ) -> list[tuple[Tokens, ...]]:
        """The tokens of each row's options; their sizes are kept."""
        found = _endings(options, rows, self._delimiter, template, split, tokenizer)
        for row, endings in zip(options, found, strict=True):
            self._sizes |= {ids: self._size(ids, text) for text, ids in zip(row, endings, strict=True)}
        return found

    def _asked(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        where = rows_of(NEW)
        options = [_options(row, self._fields, where(i)) for i, row in enumerate(rows)]
        endings = self._encoded_options(options, rows, self.template, NEW, self._tokenizer)
        target = np.empty(len(rows), dtype=object)
        target[:] = options
        return {"target": target, "vocabulary": None, "endings": tuple(endings)}

    def _class_names(self, batch: Batch) -> Sequence[Sequence[str]]:
        return list(batch.target)

    def _contents(self, split: str) -> list[Any]:
        return [(row, self._endings[split][i]) for i, row in self._encoded[split].items()]

    def _wanted(self, split: str, index: Array) -> dict[str, Any]:
        endings = tuple(self._endings[split][i] for i in index.tolist())
        return {**super()._wanted(split, index), "vocabulary": None, "endings": endings}


def _endings(
    options: Sequence[tuple[str, ...]],
    rows: Sequence[Mapping[str, Any]],
    delimiter: str,
    template: Template,
    split: str,
    tokenizer: Tokenizer,
) -> list[tuple[Tokens, ...]]:
    """The tokens of each row's options, behind its text."""
    fronts = [_running(template, row, tokenizer) for row in rows]
    owner = [i for i, texts in enumerate(options) for _ in texts]
    texts: list[Pieces] = [(delimiter, Plain(text)) for text in itertools.chain(*options)]
    contexts: list[Pieces] = [fronts[i] for i in owner]
    where = rows_of(split)
    found = iter(tokens_behind(contexts, texts, tokenizer, lambda i: f"{where(owner[i])}: an option"))
    if split == "train" and (template.after or not template.soft):
        looked_at = bisect.bisect_left(owner, LOOKED_AT)
        tell_joints(contexts[:looked_at], texts[:looked_at], "the option", tokenizer)
    return [tuple(itertools.islice(found, len(some))) for some in options]


def _running(template: Template, row: Mapping[str, Any], tokenizer: Tokenizer) -> Pieces:
    """A row's text, with nothing in the place of the soft prompt."""
    before, after = template.pieces(row, tokenizer)
    return [*before, *after]


def _options(row: Mapping[str, Any], fields: str | Sequence[str], where: str) -> tuple[str, ...]:
    """The texts of a row's options; two at least, all different."""
    found = _given_options(row, fields, where)
    for option in found:
        if not is_plain(option) or not str(option).strip():
            raise GfoError(f"{where}: an option is {option!r}; give it some text")
    texts = tuple(map(str, found))
    if len(texts) < 2:
        raise GfoError(f"{where}: options = {list(texts)}: give at least two")
    if len(set(texts)) < len(texts):
        raise GfoError(f"{where}: options = {list(texts)}: two are the same; drop one")
    return texts


def _given_options(row: Mapping[str, Any], fields: str | Sequence[str], where: str) -> Sequence[Any]:
    """What a field lists, or what there is in several."""
    if not isinstance(fields, str):
        given = [row.get(field) for field in fields]
        return [option for option in given if option is not None and not is_missing(option)]
    if fields not in row:
        raise GfoError(f"{where}: {unknown_name('field of options', fields, map(str, row))}")
    found = row[fields]
    if not is_list(found):
        raise GfoError(
            f"{where}: field '{fields}' is {found!r}; give a list of texts, or name one field an option"
        )
    return list(found)


def _right(row: Mapping[str, Any], field: str, options: tuple[str, ...], where: str) -> int:
    """The number of the right option."""
    if field not in row:
        raise GfoError(f"{where}: {unknown_name('label_field', field, map(str, row))}")
    label = row[field]
    number = options.index(label) if label in options else _as_number(label)
    if number is None or not 0 <= number < len(options):
        raise GfoError(
            f"{where}: {field} = {label!r} is none of the options; give a text of {list(options)}, or a "
            f"number from 0 to {len(options) - 1}"
        )
    return number


def _as_number(label: Any) -> int | None:
    """A whole number, also one that is written out; None of what is none."""
    if isinstance(label, str):
        return int(label) if label.isdecimal() else None
    return label if isinstance(label, int) and not isinstance(label, bool) else None
