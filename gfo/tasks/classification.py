"""Classification by label words: the model's next words after the template say the label."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Unpack

from gfo.core.domain import Array
from gfo.core.errors import GfoError, check_name
from gfo.core.images import is_image_field
from gfo.core.protocols import Batch, Tokenizer
from gfo.core.recording import recorded
from gfo.tasks.parts.base import RowOptions
from gfo.tasks.parts.datasets import Source
from gfo.tasks.parts.given_metrics import GivenMetrics, chosen_metrics
from gfo.tasks.parts.labelled import BoundLabels, LabelledRows, NamedLoss
from gfo.tasks.parts.losses import LOSSES, own_losses
from gfo.tasks.parts.metrics import ACCURACY, CE, LABEL_METRICS, MACRO_F1
from gfo.tasks.parts.templates import GivenTemplate

if TYPE_CHECKING:
    from torch import Tensor

CALIBRATIONS = ("none", "contextual")
CONTENT_FREE = ("N/A", "", "[MASK]")  # Zhao et al. 2021, section 5


@recorded
class Classification(LabelledRows):
    """Data, template and label words of a classification task.

    Args:
        train: rows the loss is computed on; see `gfo.datasets.load`.
        dev: rows the result is selected on, or None to take the last recommendation.
        test: rows kept for the end, or None.
        template: text with `{field}` places and, for a soft prompt, one `{soft}`. The answer follows its
            end; for a masked language model it has one `{mask}`, where the answer stands. Or messages of a
            chat, `[{"role": "user", "content": "{text}{soft}"}]`, in the model's chat format.
        labels: label -> the word that stands for it, usually with its leading blank, or several, of which
            the mean probability counts (see `LabelWords`). A word may have several
            tokens, but one for a masked language model. For a sentence encoder: a text that says the label.
        label_field: the rows' field that holds the label.
        loss: "ce", cross-entropy over the labels; "hinge", with margin 2; "accuracy" or "macro_f1", 1 less
            the metric; "accuracy+ce", accuracy with cross-entropy to decide between equals; or a metric of
            `metrics`: itself if lower is better, else 1 less a share, or the negative of another number (a
            correlation that predictions of one label do not have counts as 0 then).
        metrics: more of them, beside cross-entropy, accuracy and macro F1: "mcc", Matthews correlation;
            "spearman" and "pearson" for labels that are numbers, of the right and the predicted ones, nan
            where either has one value only; or `gfo.Metric(name, lower_is_better=..., form=...,
            function=f)` with f(target, predicted) as in scikit-learn: both [B], of the labels, as numbers
            where all of them are numbers, else as texts.
        normalize: where a word has several tokens: "sum" for its log-likelihood, "mean" for the mean over
            its tokens.
        calibration: "contextual" divides each label's probability by the mean of what the same candidate
            gives it where the template's fields hold "N/A", nothing or "[MASK]" (Zhao et al. 2021,
            arXiv:2102.09690; without the last for a masked language model), and makes them sum to 1. The
            paper has a softmax in the place of that; the predictions are the same.
        confidence: weight of a second term in the loss, "ce" or "hinge": the negative log-likelihood of the
            right label's word in the whole vocabulary, in nats, which the labels' softmax does not see. Few
            rows are fitted less by what tells them apart alone (the idea is that of Cai, Huang and He 2026,
            arXiv:2603.13786); none by default. It takes a decoder; each row then costs a product with the
            whole head.
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
        template: GivenTemplate,
        labels: Mapping[Any, str | Sequence[str]],
        label_field: str = "label",
        loss: str = "ce",
        metrics: GivenMetrics = (),
        normalize: str = "sum",
        calibration: str = "none",
        confidence: float | None = None,
        **rows: Unpack[RowOptions],
    ) -> None:
        check_name("calibration", calibration, CALIBRATIONS)
        super().__init__(
            train,
            dev,
            test,
            template=template,
            labels=labels,
            label_field=label_field,
            normalize=normalize,
            **rows,
        )
        self.loss_name, self.calibrated = loss, calibration == "contextual"
        usual = (*(() if loss == "ce" else (CE,)), ACCURACY, MACRO_F1)
        self.own_metrics = chosen_metrics(metrics, usual, LABEL_METRICS, loss=loss, values=self.values)
        self._loss = NamedLoss(loss, tuple(LOSSES), self)
        self.confidence = self._checked(confidence or 0.0)
        self.likelihoods = self.confidence > 0

    def _checked(self, confidence: float) -> float:
        """The weight of the term, where the loss can have it."""
        if not 0 <= confidence < math.inf:
            raise GfoError(f"confidence = {confidence}: give a number of at least 0")
        if confidence and self.loss_name not in ("ce", "hinge"):
            raise GfoError(
                f"confidence = {confidence}: the loss '{self.loss_name}' takes no second term; take loss = "
                '"ce" or "hinge", or confidence = 0'
            )
        if confidence and (self.calibrated or self.normalize != "sum"):
            raise GfoError(
                f"confidence = {confidence}: it is of a word's own likelihood; leave out calibration and "
                "normalize"
            )
        return confidence

    def row_losses(self, scores: Tensor, target: Array) -> Tensor | None:
        """Scores [K, B, C] -> the loss of each row [K, B], unless it is "macro_f1", "accuracy+ce" or a
        metric's."""
        if self._loss.rows is None:
            return None
        rows = self._loss.rows(scores, target)
        return rows + self.confidence * own_losses(scores, target) if self.confidence else rows

    def losses(self, scores: Tensor, target: Array) -> Tensor | Array:
        """Scores [K, B, C] -> the loss [K]; differentiable for ce and hinge."""
        return super().losses(scores, target) if self.confidence else self._loss(scores, target)

    def bind(self, tokenizer: Tokenizer) -> BoundClassification:
        """Tokenize all rows and label words for one model.

        Raises:
            GfoError: for label words that the model cannot tell apart, or a template that does not fit it.
        """
        return BoundClassification(self, tokenizer)


def _content_free(fields: Sequence[str], tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Rows that say nothing: the same text in all fields, and no images."""
    texts = [text for text in CONTENT_FREE if tokenizer.reads != "mask" or text != CONTENT_FREE[-1]]
    return [{field: [] if is_image_field(field) else text for field in fields} for text in texts]


class BoundClassification(BoundLabels):
    """A classification task whose rows and label words are tokens of one model; see `BoundLabels`."""

    def __init__(self, task: Classification, tokenizer: Tokenizer) -> None:
        super().__init__(task, tokenizer)
        free = _content_free(task.template.fields, tokenizer) if task.calibrated else []
        self._free = self.template.encode(free, tokenizer)  # they stand behind the others in each batch

    def scores(self, answers: Tensor, batch: Batch) -> Tensor:
        """The words' logits or log-likelihoods [K, B, m] -> the labels' scores [K, B, C], whose softmax is
        their probability."""
        scores = super().scores(answers, batch)
        n = len(self._free)
        if not n:
            return scores
        log_p = scores.log_softmax(dim=-1)
        free = log_p[:, -n:].logsumexp(dim=1, keepdim=True)  # log(n p_cf); softmax takes no notice of n
        return log_p[:, :-n] - free

    def _rows(self, split: str, index: Array, *, recurs: bool = True) -> Batch:
        return self._with_free(super()._rows(split, index, recurs=recurs))

    def batch_of(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """See `BoundRows.batch_of`."""
        return self._with_free(super().batch_of(rows))

    def _with_free(self, batch: Batch) -> Batch:
        """The batch with the content-free texts behind its rows."""
        if not self._free:
            return batch
        before, after = zip(*self._free, strict=True)
        return replace(
            batch,
            before=batch.before + before,
            after=batch.after + after,
            **self._words.wanted(len(batch.target) + len(self._free)),
        )
