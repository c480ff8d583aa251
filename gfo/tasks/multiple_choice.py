"""Multiple choice: each row has options of its own, scored by their likelihood behind the row's text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from gfo.core.domain import Array
from gfo.core.errors import GfoError, check_name, unknown_name
from gfo.core.metric import LOSS, Metric
from gfo.core.protocols import Batch, Tokenizer, Tokens
from gfo.tasks.parts.base import BoundRows, Data, RowOptions
from gfo.tasks.parts.datasets import Source
from gfo.tasks.parts.losses import LOSSES, class_metrics
from gfo.tasks.parts.metrics import ACCURACY, CE
from gfo.tasks.parts.templates import Template

if TYPE_CHECKING:
    from torch import Tensor

CHOICE_LOSSES = ("ce", "accuracy", "accuracy+ce")  # the others want the same classes in all rows
CHOICE_NORMALIZE = ("sum", "mean", "bytes")


class MultipleChoice:
    """Data, template and options of a multiple-choice task.

    Args:
        train: rows the loss is computed on; see `gfo.datasets.load`.
        dev: rows the result is selected on, or None to take the last recommendation.
        test: rows kept for the end, or None.
        template: text with `{field}` places and, for a soft prompt, one `{soft}`; an option follows its end.
            What stands in front of the options is computed once for all of them.
        options: the rows' field that holds the list of options, or the fields that hold one each. Rows may
            have different numbers of options, two at least; a field that a row lacks, or that is None, is
            no option.
        label_field: the rows' field that says which is right: its number, counted from 0, or its text.
        delimiter: what stands between the template's end and an option.
        loss: "ce", cross-entropy over the options; "accuracy", 1 less the metric; or "accuracy+ce", accuracy
            with cross-entropy to decide between equals.
        normalize: an option's score is its log-likelihood ("sum"), or that over its tokens ("mean") or its
            bytes in UTF-8 without the delimiter ("bytes", the byte-length normalization of Gao 2021,
            "Multiple Choice Normalization in LM Evaluation", `acc_norm` of lm-evaluation-harness).
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
        template: str,
        options: str | Sequence[str] = "options",
        label_field: str = "label",
        delimiter: str = " ",
        loss: str = "ce",
        normalize: str = "sum",
        **rows: Unpack[RowOptions],
    ) -> None:
        check_name("loss", loss, CHOICE_LOSSES)
        check_name("normalize", normalize, CHOICE_NORMALIZE)
        self.template = Template.parse(template)
        self.delimiter, self.loss_name, self.normalize = delimiter, loss, normalize
        self.data = Data.load(train, dev, test, **rows)
        self.template.check_rows(self.data.rows)
        self.options: dict[str, list[tuple[str, ...]]] = {}
        self.targets: dict[str, Array] = {}
        for split, found in self.data.rows.items():
            where = [f"{split} row {i}" for i in range(1, len(found) + 1)]
            choices = [_options(row, options, w) for row, w in zip(found, where, strict=True)]
            targets = [
                _right(row, label_field, some, w) for row, some, w in zip(found, choices, where, strict=True)
            ]
            self.options[split], self.targets[split] = choices, np.array(targets)

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


class BoundMultipleChoice(BoundRows):
    """A multiple-choice task whose rows and options are tokens of one model."""

    def __init__(self, task: MultipleChoice, tokenizer: Tokenizer) -> None:
        self._task = task
        self._endings: dict[str, list[tuple[Tokens, ...]]] = {
            split: [tuple(tokenizer.encode(task.delimiter + text) for text in row) for row in options]
            for split, options in task.options.items()
        }
        super().__init__(task.data, task.template, tokenizer)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Loss, ce unless it is the loss, and accuracy."""
        return (LOSS, *([] if self._task.loss_name == "ce" else [CE]), ACCURACY)

    def loss(self, answers: Tensor, batch: Batch) -> Tensor | Array:
        """Log-likelihoods of the options [K, B, m] -> the loss [K]; differentiable for ce."""
        return LOSSES[self._task.loss_name](self.scores(answers, batch), batch.target)

    def score(self, answers: Tensor, batch: Batch) -> dict[str, Array]:
        """Log-likelihoods of the options -> loss, ce and accuracy, each [K]; nan where a candidate failed."""
        return class_metrics(self._task.loss_name, self.scores(answers, batch), batch.target, f1=False)

    def scores(self, answers: Tensor, batch: Batch) -> Tensor:
        """Log-likelihoods of the options -> their scores [K, B, m], whose softmax is their probability."""
        import torch

        if self._task.normalize == "sum":
            return answers
        sizes = torch.ones(answers.shape[1:])
        for b, i in enumerate(batch.numbers):
            tokens, texts = self._endings[batch.split][i], self._task.options[batch.split][i]
            size = [
                len(ids) if self._task.normalize == "mean" else len(text.encode())
                for ids, text in zip(tokens, texts, strict=True)
            ]
            sizes[b, : len(size)] = torch.tensor(size)
        return answers / sizes.to(answers.device)

    def _contents(self, split: str) -> list[Any]:
        return [(row, self._endings[split][i]) for i, row in self._encoded[split].items()]

    def _wanted(self, split: str, index: Array) -> dict[str, Any]:
        endings = tuple(self._endings[split][i] for i in index.tolist())
        return {"vocabulary": None, "target": self._task.targets[split][index], "endings": endings}


def _options(row: Mapping[str, Any], fields: str | Sequence[str], where: str) -> tuple[str, ...]:
    """The texts of a row's options; two at least, all different."""
    if isinstance(fields, str):
        if fields not in row:
            raise GfoError(f"{where}: {unknown_name('field of options', fields, map(str, row))}")
        found = row[fields]
        if isinstance(found, str) or not isinstance(found, Sequence):
            raise GfoError(
                f"{where}: field '{fields}' is {found!r}; give a list of texts, or name one field an option"
            )
    else:
        found = [row[field] for field in fields if row.get(field) is not None]
    for option in found:
        if isinstance(option, bool) or not isinstance(option, str | int | float) or not str(option).strip():
            raise GfoError(f"{where}: an option is {option!r}; give it some text")
    texts = tuple(map(str, found))
    if len(texts) < 2:
        raise GfoError(f"{where}: options = {list(texts)}: give at least two")
    if len(set(texts)) < len(texts):
        raise GfoError(f"{where}: options = {list(texts)}: two are the same; drop one")
    return texts


def _right(row: Mapping[str, Any], field: str, options: tuple[str, ...], where: str) -> int:
    """The number of the right option."""
    if field not in row:
        raise GfoError(f"{where}: {unknown_name('label_field', field, map(str, row))}")
    label = row[field]
    if isinstance(label, str) and label in options:
        return options.index(label)
    number = int(label) if isinstance(label, str) and label.isdecimal() else label
    if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < len(options):
        return number
    raise GfoError(
        f"{where}: {field} = {label!r} is none of the options; give a text of {list(options)}, or a number "
        f"from 0 to {len(options) - 1}"
    )
