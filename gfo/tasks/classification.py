"""Classification by label words: the model's next word after the template says the label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gfo.core.domain import Array
from gfo.core.errors import GfoError, unknown_name
from gfo.core.protocols import Batch, Tokenizer
from gfo.tasks.base import BoundRows, Data
from gfo.tasks.datasets import Source
from gfo.tasks.losses import LOSSES
from gfo.tasks.metrics import accuracy, macro_f1
from gfo.tasks.templates import Template

if TYPE_CHECKING:
    from torch import Tensor


class Classification:
    """Data, template and label words of a classification task.

    Args:
        train: rows the loss is computed on: a path (.jsonl, .csv), a list of mappings, or a
            `datasets.Dataset`.
        dev: rows the result is selected on, or None to take the last recommendation.
        test: rows kept for the end, or None.
        template: text with `{field}` places and, for a soft prompt, one `{soft}`. The answer follows its
            end; for a masked language model it has one `{mask}`, where the answer stands.
        labels: label -> the word that stands for it, usually with its leading blank. A word of
            several tokens is read at its first. For a sentence encoder: a text that says the label.
        label_field: the rows' field that holds the label.
        loss: "ce", cross-entropy over the label words, or "hinge", with margin 2.
        batch_size: rows of a step's batch, drawn anew each step and shared by all its candidates;
            None for all training rows.
        limits: split -> use only its first rows.
        seed: of the batches.

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
        labels: Mapping[Any, str],
        label_field: str = "label",
        loss: str = "ce",
        batch_size: int | None = None,
        limits: Mapping[str, int] | None = None,
        seed: int = 0,
    ) -> None:
        if loss not in LOSSES:
            raise unknown_name("loss", loss, LOSSES)
        if len(labels) < 2:
            raise GfoError(f"labels = {dict(labels)}: give at least two labels with their words")
        if len({str(label) for label in labels}) < len(labels):
            raise GfoError(
                f"labels = {dict(labels)}: two labels are the same as text; give each another name"
            )
        for label, word in labels.items():
            if not isinstance(word, str) or not word.strip():
                raise GfoError(f"labels: the word for '{label}' is {word!r}; give it some text")
        self.template = Template.parse(template)
        self.words = {str(label): word for label, word in labels.items()}
        self.label_field = label_field
        self.loss_name = loss
        self.data = Data.load(train, dev, test, limits=limits, batch_size=batch_size, seed=seed)
        self.targets = {split: self._targets(split) for split in self.data.rows}

    def bind(self, tokenizer: Tokenizer) -> BoundClassification:
        """Tokenize all rows and label words for one model.

        Raises:
            GfoError: if two label words share their first token, or the template does not fit the model.
        """
        return BoundClassification(self, tokenizer)

    def _targets(self, split: str) -> Array:
        """The rows' labels as indices into the labels, int [N]; checks fields and labels."""
        index = {label: i for i, label in enumerate(self.words)}
        targets = np.empty(len(self.data.rows[split]), dtype=np.int64)
        for i, row in enumerate(self.data.rows[split]):
            where = f"{split} row {i + 1}"
            self.template.check(row, where)
            if self.label_field not in row:
                raise GfoError(f"{where}: {unknown_name('label_field', self.label_field, map(str, row))}")
            label = str(row[self.label_field])
            if label not in index:
                raise GfoError(
                    f"{where}: label '{label}' has no word; add it to labels ({', '.join(self.words)})"
                )
            targets[i] = index[label]
        return targets


class BoundClassification(BoundRows):
    """A classification task whose rows and label words are tokens of one model.

    Attributes:
        words: label -> the word that stands for it.
    """

    def __init__(self, task: Classification, tokenizer: Tokenizer) -> None:
        super().__init__(task.data, task.template, tokenizer)
        self._task = task
        self.words = task.words
        self.vocabulary = (
            tuple(tokenizer.encode(word, start=True, end=True) for word in task.words.values())
            if tokenizer.reads == "sentence"
            else _first_tokens(task.words, tokenizer)
        )

    def _wanted(self, split: str, index: Array) -> dict[str, Any]:
        return {"vocabulary": self.vocabulary, "target": self._task.targets[split][index]}

    def loss(self, answers: Tensor, batch: Batch) -> Tensor:
        """float32 logits [K, B, V'] -> mean loss [K]; differentiable."""
        import torch

        K, B, V = answers.shape
        target = torch.as_tensor(batch.target, device=answers.device).repeat(K)
        return LOSSES[self._task.loss_name](answers.reshape(K * B, V), target).view(K, B).mean(dim=1)

    def score(self, answers: Tensor, batch: Batch) -> dict[str, Array]:
        """float32 logits [K, B, V'] -> loss, accuracy and macro F1, each [K]; nan for a failed candidate."""
        logits = answers
        failed = ~logits.isfinite().all(dim=-1).all(dim=-1).cpu().numpy()
        predicted = logits.argmax(dim=-1).cpu().numpy()
        labels = len(self.vocabulary)
        metrics = {
            "loss": self.loss(logits, batch).double().cpu().numpy(),
            "accuracy": np.array([accuracy(batch.target, p) for p in predicted]),
            "macro_f1": np.array([macro_f1(batch.target, p, labels) for p in predicted]),
        }
        return {name: np.where(failed, np.nan, values) for name, values in metrics.items()}


def _first_tokens(words: Mapping[str, str], tokenizer: Tokenizer) -> tuple[int, ...]:
    """The first token of each label word; they must differ."""
    owner: dict[int, str] = {}
    for label, word in words.items():
        ids = tokenizer.encode(word)
        if not ids:
            raise GfoError(
                f"labels: the word {word!r} for '{label}' has no tokens in this model; give another"
            )
        if ids[0] in owner:
            other = owner[ids[0]]
            raise GfoError(
                f"labels: the words {words[other]!r} for '{other}' and {word!r} for '{label}' share their "
                "first token, which is where they are read; give words that differ from the start"
            )
        owner[ids[0]] = label
    return tuple(owner)
