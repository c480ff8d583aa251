"""Classification by label words: the model's next words after the template say the label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from gfo.core.domain import Array
from gfo.core.errors import GfoError, check_name, unknown_name
from gfo.core.metric import LOSS, Metric
from gfo.core.protocols import Batch, Tokenizer
from gfo.core.recording import recorded
from gfo.tasks.parts.base import BoundRows, Data, RowOptions
from gfo.tasks.parts.datasets import Source
from gfo.tasks.parts.label_words import NORMALIZE, LabelWords, words_of
from gfo.tasks.parts.losses import LOSSES, class_metrics
from gfo.tasks.parts.metrics import ACCURACY, CE, MACRO_F1
from gfo.tasks.parts.templates import Template

if TYPE_CHECKING:
    from torch import Tensor

CALIBRATIONS = ("none", "contextual")
CONTENT_FREE = ("N/A", "", "[MASK]")  # Zhao et al. 2021, section 5


@recorded
class Classification:
    """Data, template and label words of a classification task.

    Args:
        train: rows the loss is computed on; see `gfo.datasets.load`.
        dev: rows the result is selected on, or None to take the last recommendation.
        test: rows kept for the end, or None.
        template: text with `{field}` places and, for a soft prompt, one `{soft}`. The answer follows its
            end; for a masked language model it has one `{mask}`, where the answer stands.
        labels: label -> the word that stands for it, usually with its leading blank, or several, of which
            the mean probability counts (see `LabelWords`). A word may have several
            tokens, but one for a masked language model. For a sentence encoder: a text that says the label.
        label_field: the rows' field that holds the label.
        loss: "ce", cross-entropy over the labels; "hinge", with margin 2; "accuracy" or "macro_f1", 1 less
            the metric; or "accuracy+ce", accuracy with cross-entropy to decide between equals.
        normalize: where a word has several tokens: "sum" for its log-likelihood, "mean" for the mean over
            its tokens.
        calibration: "contextual" divides each label's probability by the mean of what the same candidate
            gives it where the template's fields hold "N/A", nothing or "[MASK]" (Zhao et al. 2021,
            arXiv:2102.09690; without the last for a masked language model), and makes them sum to 1. The
            paper has a softmax in the place of that; the predictions are the same.
        rows: `limits`, `skip`, `shuffle`, `batch_size`, `max_length`, `truncate`, `seed`: which rows are
            used, and which a step; see `gfo.tasks.parts.base.Data.load`.

    Raises:
        GfoError: for unusable rows, an unknown field, a label without a word, an empty word.
    """

    def __init__(
        self,
        train: Source,
        dev: Source | None = None,
        test: Source | None = None,
        *,
        template: str,
        labels: Mapping[Any, str | Sequence[str]],
        label_field: str = "label",
        loss: str = "ce",
        normalize: str = "sum",
        calibration: str = "none",
        **rows: Unpack[RowOptions],
    ) -> None:
        check_name("loss", loss, LOSSES)
        check_name("normalize", normalize, NORMALIZE)
        check_name("calibration", calibration, CALIBRATIONS)
        self.words = words_of(labels)
        self.template = Template.parse(template)
        self.label_field, self.loss_name = label_field, loss
        self.normalize, self.calibrated = normalize, calibration == "contextual"
        self.data = Data.load(train, dev, test, **rows)
        self.template.check_rows(self.data.rows)
        self.targets = {
            split: label_indices(found, label_field, self.words, split)
            for split, found in self.data.rows.items()
        }

    def bind(self, tokenizer: Tokenizer) -> BoundClassification:
        """Tokenize all rows and label words for one model.

        Raises:
            GfoError: for label words that the model cannot tell apart, or a template that does not fit it.
        """
        return BoundClassification(self, tokenizer)


class BoundClassification(BoundRows):
    """A classification task whose rows and label words are tokens of one model.

    Attributes:
        words: label -> the word that stands for it, or the list of them.
    """

    def __init__(self, task: Classification, tokenizer: Tokenizer) -> None:
        super().__init__(task.data, task.template, tokenizer)
        self._task = task
        self.words = {label: some[0] if len(some) == 1 else list(some) for label, some in task.words.items()}
        self._words = LabelWords(task.words, tokenizer, task.normalize)
        texts = [text for text in CONTENT_FREE if tokenizer.reads != "mask" or text != CONTENT_FREE[-1]]
        self._free = [  # tokens of the content-free rows, which stand behind the others in each batch
            task.template.encode(dict.fromkeys(task.template.fields, text), tokenizer)
            for text in (texts if task.calibrated else ())
        ]

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Loss, ce unless it is the loss, accuracy and macro F1."""
        return (LOSS, *([] if self._task.loss_name == "ce" else [CE]), ACCURACY, MACRO_F1)

    def loss(self, answers: Tensor, batch: Batch) -> Tensor | Array:
        """The words' logits or log-likelihoods [K, B, m] -> the loss [K]; differentiable for ce and hinge."""
        return LOSSES[self._task.loss_name](self.scores(answers), batch.target)

    def score(self, answers: Tensor, batch: Batch) -> dict[str, Array]:
        """The words' logits or log-likelihoods -> loss, ce, accuracy and macro F1, each [K]; nan where a
        candidate failed."""
        return class_metrics(self._task.loss_name, self.scores(answers), batch.target)

    def scores(self, answers: Tensor) -> Tensor:
        """The words' logits or log-likelihoods -> the labels' scores [K, B, C], whose softmax is their
        probability."""
        scores = self._words.scores(answers)
        n = len(self._free)
        if not n:
            return scores
        log_p = scores.log_softmax(dim=-1)
        free = log_p[:, -n:].logsumexp(dim=1, keepdim=True)  # log(n p_cf); softmax takes no notice of n
        return log_p[:, :-n] - free

    def _wanted(self, split: str, index: Array) -> dict[str, Any]:
        return {**self._words.wanted(len(index)), "target": self._task.targets[split][index]}

    def _rows(self, split: str, index: Array, *, recurs: bool = True) -> Batch:
        batch = super()._rows(split, index, recurs=recurs)
        if not self._free:
            return batch
        before, after = zip(*self._free, strict=True)
        return replace(
            batch,
            before=batch.before + before,
            after=batch.after + after,
            **self._words.wanted(len(index) + len(self._free)),
        )


def label_indices(
    rows: Sequence[Mapping[str, Any]], field: str, labels: Mapping[str, Any], split: str
) -> Array:
    """The rows' labels as indices into the labels, int [N].

    Raises:
        GfoError: for a row without the field, or with another label.
    """
    index = {label: i for i, label in enumerate(labels)}
    found = np.empty(len(rows), dtype=np.int64)
    for i, row in enumerate(rows):
        where = f"{split} row {i + 1}"
        if field not in row:
            raise GfoError(f"{where}: {unknown_name('label_field', field, map(str, row))}")
        label = str(row[field])
        if label not in index:
            raise GfoError(f"{where}: label '{label}' has no word; add it to labels ({', '.join(labels)})")
        found[i] = index[label]
    return found
