"""The base of tasks on rows with a right class each: a label, which words stand for, or an option.

A new task of this kind says what a row loses by the scores of its labels, and which metrics it has; rows,
splits, template, label words, batches, means, rows' values and failed candidates are here. One that rates
texts from 1 to 5:

    class Rating(LabelledRows):
        own_metrics = (ACCURACY, Metric("mae", lower_is_better=True, function=mean_absolute_error))

        def row_losses(self, scores, target):
            stars = torch.as_tensor(self.values, dtype=scores.dtype, device=scores.device)
            return (scores.softmax(-1) @ stars - stars[target]).abs()
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from gfo.core.domain import Array
from gfo.core.errors import GfoError, GfoWarning, check_name
from gfo.core.metric import LOSS, Metric
from gfo.core.protocols import Batch, Tokenizer
from gfo.tasks.parts.base import BoundRows, Data, RowOptions
from gfo.tasks.parts.datasets import Source
from gfo.tasks.parts.label_words import NORMALIZE, LabelWords, words_by_label
from gfo.tasks.parts.labels import label_indices, label_values
from gfo.tasks.parts.losses import (
    LOSSES,
    ROW_LOSSES,
    as_array,
    cross_entropies,
    failures,
    only_finite,
)
from gfo.tasks.parts.metrics import ACCURACY, CE, CORRELATIONS, macro_f1
from gfo.tasks.parts.templates import GivenTemplate, Template

if TYPE_CHECKING:
    from torch import Tensor

FEW = 4  # rows of one class are no accident any more
GivenMetrics = Sequence[str | Metric]
"""Names of built-in metrics of labels, and the user's own."""


class ClassTask(ABC):
    """What class scores [K, B, C], whose softmax is the classes' probability, are worth.

    Attributes:
        data: the rows.
        template: where they go.
        targets: split -> the right class of each row, int [N].
        values: what stands for each class where metrics compare, [C]; None for its number.
        own_metrics: what it tells beside the loss. One with a function gets `function(target, predicted)`,
            both [B], of `values`, as scikit-learn has it, and gives a number; those without are built in.
    """

    data: Data
    template: Template
    targets: Mapping[str, Array]
    values: Array | None = None
    own_metrics: tuple[Metric, ...] = (ACCURACY,)

    @abstractmethod
    def row_losses(self, scores: Tensor, target: Array) -> Tensor | None:
        """Scores [K, B, C], targets [B] -> what each row loses, [K, B]; None if the loss is no mean of rows.

        A tensor, differentiable where the loss is.
        """

    def losses(self, scores: Tensor, target: Array) -> Tensor | Array:
        """Scores [K, B, C], targets [B] -> the loss of each candidate, [K]: its rows' mean."""
        rows = self.row_losses(scores, target)
        if rows is None:
            raise GfoError(f"task: {type(self).__name__} gives no row_losses; overwrite `losses`, too")
        return rows.mean(dim=1)

    def predicted(self, scores: Tensor) -> Tensor:
        """Scores [K, B, C] -> the class that is said, int [K, B]: the likeliest."""
        return scores.argmax(dim=-1)

    def measured(self, metric: Metric, scores: Tensor, target: Array) -> Array:
        """A metric of `own_metrics` that is no mean of rows, [K]; nan where a candidate failed."""
        predicted = self.predicted(scores).cpu().numpy()
        failed, classes = failures(scores, target), scores.shape[-1]
        return np.array(
            [
                math.nan if bad else self._measure(metric, target, said, classes)
                for said, bad in zip(predicted, failed, strict=True)
            ]
        )

    def _measure(self, metric: Metric, target: Array, predicted: Array, classes: int) -> float:
        if metric.function is None:
            return macro_f1(target, predicted, classes)
        values = np.arange(classes) if self.values is None else self.values
        return float(metric.function(values[target], values[predicted]))


class BoundClasses(BoundRows):
    """Rows with a right class each that are tokens of one model; `scores` says what its answers mean.

    Raises:
        GfoError: for a template that does not fit the model.
    """

    def __init__(self, task: ClassTask, tokenizer: Tokenizer) -> None:
        super().__init__(task.data, task.template, tokenizer)
        self._task = task
        self._tell_one_class()
        self._tell_contradictions()

    @abstractmethod
    def scores(self, answers: Tensor, batch: Batch) -> Tensor:
        """The model's answers -> the scores of the classes, [K, B, C]; -inf for one that a row lacks."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The loss, and the task's own."""
        return (LOSS, *self._task.own_metrics)

    def loss(self, answers: Tensor, batch: Batch) -> Tensor | Array:
        """The model's answers -> the loss [K]; differentiable where it is."""
        return self._task.losses(self.scores(answers, batch), batch.target)

    def score(self, answers: Tensor, batch: Batch) -> dict[str, Array]:
        """The model's answers -> loss and metrics, each [K]; nan where a candidate failed: a nan or +inf, or
        no finite score of the right class."""
        scores, task = self.scores(answers, batch), self._task
        failed = failures(scores, batch.target)
        found = {name: rows.mean(axis=1) for name, rows in self._row_values(scores, batch.target).items()}
        if LOSS.name not in found:
            found[LOSS.name] = as_array(task.losses(scores, batch.target))
        for metric in task.own_metrics:
            if metric.name not in found:
                found[metric.name] = task.measured(metric, scores, batch.target)
        return {metric.name: only_finite(found[metric.name], failed) for metric in self.metrics}

    def row_scores(self, answers: Tensor, batch: Batch) -> dict[str, Array]:
        """The model's answers -> the rows' values of the metrics that are means of them, each [K, B]."""
        scores = self.scores(answers, batch)
        failed = failures(scores, batch.target)
        found = self._row_values(scores, batch.target)
        return {name: only_finite(rows, failed) for name, rows in found.items()}

    def row_losses(self, answers: Tensor, batch: Batch) -> Array | None:
        """The model's answers -> the loss of each row, [K, B]; None if the loss is no mean of them."""
        scores = self.scores(answers, batch)
        rows = self._task.row_losses(scores, batch.target)
        return None if rows is None else only_finite(as_array(rows), failures(scores, batch.target))

    def predictions(self, answers: Tensor, batch: Batch) -> list[dict[str, Any]]:
        """The model's answers to new rows, of one candidate -> what it says of each: "prediction", its
        "probability", and "probabilities" of all classes, which sum to 1.

        Raises:
            GfoError: if a row has no finite score.
        """
        scores = self.scores(answers, batch)
        if not scores.amax(dim=-1).isfinite().all():
            raise GfoError("predict: the point fails; its logits are not finite")
        said = self._task.predicted(scores)[0].tolist()
        probable = scores[0].double().softmax(dim=-1).tolist()
        found = []
        for names, i, row in zip(self._class_names(batch), said, probable, strict=True):
            of = dict(zip(names, row[: len(names)], strict=True))
            found.append({"prediction": names[i], "probability": row[i], "probabilities": of})
        return found

    @abstractmethod
    def _class_names(self, batch: Batch) -> Sequence[Sequence[str]]:
        """What the classes of each row are called, of a batch of new rows."""

    def _row_values(self, scores: Tensor, target: Array) -> dict[str, Array]:
        """Of the loss and the built-in metrics that are means of rows, float64 [K, B]."""
        found: dict[str, Array] = {}
        losses = self._task.row_losses(scores, target)
        if losses is not None:
            found[LOSS.name] = as_array(losses)
        for metric in self._task.own_metrics:
            if metric == CE:
                found[metric.name] = as_array(cross_entropies(scores, target))
            elif metric == ACCURACY and metric.function is None:
                said = self._task.predicted(scores).cpu().numpy()
                found[metric.name] = (said == target).astype(np.float64)
        return found

    def _wanted(self, split: str, index: Array) -> dict[str, Any]:
        return {"target": self._task.targets[split][index]}

    def _tell_one_class(self) -> None:
        """Warn of splits whose rows are all of one class."""
        targets = {split: self._task.targets[split][rows] for split, rows in self._numbers_of.items()}
        alike = [
            f"{split}'s {len(rows)} rows"
            for split, rows in targets.items()
            if len(rows) >= FEW and (rows == rows[0]).all()
        ]
        if alike:
            _tell(
                f"data: {' and '.join(alike)} are of one class each, so that always saying it is best; of "
                "sorted data take shuffle = 0 with limits"
            )

    def _tell_contradictions(self) -> None:
        """Warn of rows with the same text and different classes."""
        found = []
        for split, rows in self._numbers_of.items():
            first: dict[Any, int] = {}
            for i, content in zip(rows.tolist(), self._contents(split), strict=True):
                other = first.setdefault(content, i)
                if self._task.targets[split][i] != self._task.targets[split][other]:
                    found.append(f"{split} rows {other + 1} and {i + 1}")
        if found:
            _tell(
                f"data: {len(found)} rows have the text of another and another label, such as {found[0]}; "
                "no candidate can have both right: mend the labels, or drop the rows"
            )


def _tell(text: str) -> None:
    warnings.warn(text, GfoWarning, stacklevel=2)


class LabelledRows(ClassTask):
    """Rows with labels, and words that stand for the labels: a task says what the labels' scores are worth.

    Args:
        train: rows the loss is computed on; see `gfo.datasets.load`.
        dev: rows the result is selected on, or None to take the last recommendation.
        test: rows kept for the end, or None.
        template: text with `{field}` places and, for a soft prompt, one `{soft}`.
        labels: label -> the word that stands for it, or several; see `LabelWords`.
        label_field: the rows' field that holds the label.
        normalize: where a word has several tokens: "sum" for its log-likelihood, "mean" for the mean.
        rows: see `gfo.tasks.parts.base.Data.load`.

    Attributes:
        words: label -> its words.
        values: the labels, as numbers if all are numbers, else as texts, [C].
        likelihoods: whether scores must be log-likelihoods in the whole vocabulary; logits cost less.

    Raises:
        GfoError: for unusable rows, an unknown field, a label without a word, an empty word.
    """

    values: Array
    likelihoods = False

    def __init__(
        self,
        train: Source,
        dev: Source | None = None,
        test: Source | None = None,
        *,
        template: GivenTemplate,
        labels: Mapping[Any, str | Sequence[str]],
        label_field: str = "label",
        normalize: str = "sum",
        **rows: Unpack[RowOptions],
    ) -> None:
        check_name("normalize", normalize, NORMALIZE)
        self.words = words_by_label(labels)
        self.values = label_values(list(self.words))
        self.template = Template.parse(template)
        self.label_field, self.normalize = label_field, normalize
        self.data = Data.load(train, dev, test, **rows)
        self.template.check_rows(self.data.rows)
        self.targets = {
            split: label_indices(found, label_field, self.words, split)
            for split, found in self.data.rows.items()
        }

    def bind(self, tokenizer: Tokenizer) -> BoundLabels:
        """Tokenize all rows and label words for one model.

        Raises:
            GfoError: for label words that the model cannot tell apart, or a template that does not fit it.
        """
        return BoundLabels(self, tokenizer)


class BoundLabels(BoundClasses):
    """A task on labelled rows whose rows and label words are tokens of one model.

    Attributes:
        words: label -> the word that stands for it, or the list of them.
    """

    def __init__(self, task: LabelledRows, tokenizer: Tokenizer) -> None:
        super().__init__(task, tokenizer)
        self.words = {label: some[0] if len(some) == 1 else list(some) for label, some in task.words.items()}
        shown = self._shown()[0]
        self._words = LabelWords(task.words, tokenizer, task.normalize, shown, likelihoods=task.likelihoods)
        self._tell_joints(word for some in task.words.values() for word in some)

    def scores(self, answers: Tensor, batch: Batch) -> Tensor:
        """The words' logits or log-likelihoods [K, B, m] -> the labels' scores [K, B, C]."""
        return self._words.scores(answers)

    def _wanted(self, split: str, index: Array) -> dict[str, Any]:
        return {**super()._wanted(split, index), **self._words.wanted(len(index))}

    def _asked(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {"target": np.zeros(len(rows), dtype=np.int64), **self._words.wanted(len(rows))}

    def _class_names(self, batch: Batch) -> Sequence[Sequence[str]]:
        return [list(self.words)] * len(batch.target)


def chosen_metrics(
    given: GivenMetrics,
    usual: Sequence[Metric],
    names: Mapping[str, Metric],
    *,
    loss: str,
    values: Array | None = None,
) -> tuple[Metric, ...]:
    """A task's usual metrics and those of the user.

    Args:
        given: names of built-in ones, or metrics with functions.
        usual: those that it always has.
        names: the built-in ones that may be asked for.
        loss: the loss' name, which may be one of them.
        values: what stands for each class; texts have no correlation.

    Raises:
        GfoError: for an unknown name, one that is there already, or a metric without a function.
    """
    found = list(usual)
    if isinstance(given, str | Metric):
        raise GfoError(f"metrics = {given!r}: give a list")
    numbers = values is not None and values.dtype.kind == "f"
    for each in [*([loss] if loss in names else []), *given]:
        metric = _chosen(each, names, numbers)
        if isinstance(each, str) and metric in found:
            continue
        if metric.name in (LOSS.name, *(other.name for other in found)):
            raise GfoError(f"metrics: '{metric.name}' is there already; name it otherwise")
        found.append(metric)
    return tuple(found)


def _chosen(each: str | Metric, names: Mapping[str, Metric], numbers: bool) -> Metric:
    """A built-in metric by its name, or the user's own; correlations where the labels are numbers."""
    if isinstance(each, Metric) and each.function is not None:
        return each
    if not isinstance(each, str):
        raise GfoError(
            f"metrics: {each!r} is no name of {', '.join(names)} and no gfo.Metric with a function"
        )
    check_name("metric", each, names)
    if names[each].name in CORRELATIONS and not numbers:
        raise GfoError(f"metrics: '{each}' needs labels that are numbers; name them so, or take 'mcc'")
    return names[each]


class NamedLoss:
    """A loss of class scores by its name: one of LOSSES, or a metric as something to minimise.

    Args:
        name: of the loss, or of one of the task's own metrics.
        names: those of LOSSES that the task takes.
        task: whose metrics they are.

    Attributes:
        name: as given.
        rows: scores [K, B, C] and targets [B] -> what each row loses, [K, B]; None if the loss is no mean of
            rows.

    Raises:
        GfoError: for an unknown name.
    """

    def __init__(self, name: str, names: Sequence[str], task: ClassTask) -> None:
        by_name = {metric.name: metric for metric in task.own_metrics if metric.name not in names}
        check_name("loss", name, (*names, *by_name))
        self.name, self._metric, self._task = name, by_name.get(name), task
        self.rows = None if self._metric is not None else ROW_LOSSES.get(name)

    def __call__(self, scores: Tensor, target: Array) -> Tensor | Array:
        """The loss of each candidate, [K]."""
        if self._metric is None:
            return LOSSES[self.name](scores, target)
        found = self._metric.as_loss(self._task.measured(self._metric, scores, target))
        if self._metric.name not in CORRELATIONS:
            return np.asarray(found)
        # predictions of one label have no correlation, which is as good as one of 0
        return only_finite(np.nan_to_num(found), failures(scores, target))
