"""The rows of the speed benchmarks: three data sets, and random tokens of their lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gfo.core.errors import GfoError
from gfo.core.protocols import Batch, Tokenizer
from gfo.core.seeding import stream
from gfo.tasks.classification import Classification
from gfo.tasks.parts.datasets import load
from gfo.tasks.parts.templates import HERE, Template

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class DataSet:
    """A classification task: where its rows are, and how they are asked.

    Attributes:
        name: what `--dataset` calls it.
        file: of the rows, in the folder that `--data` names.
        rows: B, how many are taken.
        step: every how manieth row of the file.
        text: the row's text, from its fields.
        head, tail: the template's words in front of the text and at its end.
        labels: `label_text` -> the word that stands for it.
        quantiles: tokens of a text in SmolLM2's vocabulary: the quantiles 1/64, 3/64, ..., 63/64.
    """

    name: str
    file: Path
    rows: int
    step: int
    text: str
    head: str
    tail: str
    labels: Mapping[str, str]
    quantiles: tuple[int, ...]

    def read(self, folder: Path) -> list[dict[str, str]]:
        """The rows, with `text` and `label_text`, [B].

        Raises:
            GfoError: for a file that cannot be read, or a row without one of the fields.
        """
        rows = load(folder / self.file, f"--data {folder}")[:: self.step][: self.rows]
        try:
            return [{"text": self.text.format_map(row), "label_text": str(row["label_text"])} for row in rows]
        except KeyError as field:
            raise GfoError(
                f"--data {folder}: a row of {self.file} has no field {field}; take the file as "
                "README.md of the benchmarks describes it"
            ) from None

    def lengths(self, rows: int | None = None) -> list[int]:
        """Tokens of each row's text, evenly spread over the data set's distribution."""
        rows = self.rows if rows is None else rows
        at = (np.arange(rows) + 0.5) / rows
        grid = (np.arange(len(self.quantiles)) + 0.5) / len(self.quantiles)
        return [int(n) for n in np.rint(np.interp(at, grid, self.quantiles))]


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in text.split())


DATA_SETS = {
    each.name: each
    for each in (
        DataSet(  # all of the 16-shot split; quantiles of the 6,920 training sentences
            name="sst2",
            file=Path("kshot16/sst2/seed13/train.jsonl"),
            rows=32,
            step=1,
            text="{text}",
            head="Review: ",
            tail="Sentiment:",
            labels={"negative": " negative", "positive": " positive"},
            quantiles=_numbers(
                "5 7 8 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 33 35 36 39 41 44 52"
            ),
        ),
        DataSet(  # 4 of each class's 16; quantiles of 2,000 test rows, title and description
            name="agnews",
            file=Path("kshot16/agnews/seed13/train.jsonl"),
            rows=16,
            step=4,
            text="{text}",
            head="News: ",
            tail="Topic:",
            labels={
                "World": " World",
                "Sports": " Sports",
                "Business": " Business",
                "Sci/Tech": " Technology",
            },
            quantiles=_numbers(
                "25 31 34 36 38 40 41 42 43 45 46 47 48 49 50 51 "
                "53 54 55 56 57 59 60 61 63 64 66 68 70 74 83 117"
            ),
        ),
        DataSet(  # the first 8; quantiles of 2,000 validation rows, passage and question
            name="boolq",
            file=Path("boolq/validation.jsonl"),
            rows=8,
            step=1,
            text="{text_a}\nQuestion: {text_b}?",
            head="Passage: ",
            tail="Answer:",
            labels={"no": " no", "yes": " yes"},
            quantiles=_numbers(
                "42 59 67 74 80 86 91 96 100 105 110 114 118 123 128 133 "
                "137 142 148 153 158 165 170 176 182 190 201 215 231 254 283 355"
            ),
        ),
    )
}


def check_data(folder: Path | None, names: Sequence[str]) -> None:
    """Raise GfoError if the folder lacks the file of one of the data sets."""
    for name in names:
        if folder is not None and not (folder / DATA_SETS[name].file).is_file():
            raise GfoError(
                f"--data {folder}: it has no file {DATA_SETS[name].file}; give the folder that has it, or "
                "leave --data out for random tokens"
            )


def read_task(data: DataSet, folder: Path, template: str) -> Classification:
    """The data set's task in a template."""
    return Classification(data.read(folder), template=template, labels=data.labels, label_field="label_text")


class RandomTokens:
    """Rows of random tokens, and random label tokens.

    Args:
        template: with `{text}` and perhaps `{soft}`.
        vocabulary_size: V; tokens are drawn from all of them.
        lengths: tokens of each text, [B].
        labels: number of labels.
        seed: of the tokens.
        batch_size: rows of a step's batch, drawn anew each step; None for all.
    """

    splits: tuple[str, ...] = ("train",)

    def __init__(
        self,
        template: str,
        vocabulary_size: int,
        lengths: Sequence[int],
        *,
        labels: int = 2,
        seed: int = 0,
        batch_size: int | None = None,
    ) -> None:
        rng = stream(seed, "speed rows")
        self._template = Template.parse(template)
        self._texts = [tuple(rng.integers(vocabulary_size, size=n).tolist()) for n in lengths]
        self._vocabulary = tuple(rng.choice(vocabulary_size, labels, replace=False).tolist())
        self._target = rng.integers(labels, size=len(lengths))
        self._batch_size, self._seed = batch_size, seed

    def bind(self, tokenizer: Tokenizer) -> RandomTokens:
        """Put the texts into the template."""
        mark = "\0"
        before, after = self._template.render(dict.fromkeys(self._template.fields, mark))
        self._before = [_fill(before, mark, text, tokenizer, start=True) for text in self._texts]
        self._after = [_fill(after, mark, text, tokenizer, start=False) for text in self._texts]
        return self

    def batch(self, split: str, step: int) -> Batch:
        """The rows of a step: all, or `batch_size` drawn without replacement by seed and step."""
        if self._batch_size is None:
            return self.all_rows(split)
        order = stream(self._seed, f"batch {step}").permutation(len(self._texts))
        return self._rows(np.sort(order[: self._batch_size]), recurs=False)

    def all_rows(self, split: str) -> Batch:
        """All rows."""
        return self._rows(np.arange(len(self._texts)))

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Mean cross-entropy over the label tokens, [K, B, V'] -> [K]."""
        import torch

        target = torch.as_tensor(batch.target, device=logits.device).expand(len(logits), -1)
        return torch.nn.functional.cross_entropy(logits.transpose(1, 2), target, reduction="none").mean(1)

    def score(self, logits: Tensor, batch: Batch) -> dict[str, Any]:
        """The mean loss, [K]."""
        return {"loss": self.loss(logits, batch).double().cpu().numpy()}

    def _rows(self, index: Any, *, recurs: bool = True) -> Batch:
        return Batch(
            key=("random tokens", tuple(index.tolist())),
            before=tuple(self._before[i] for i in index),
            after=tuple(self._after[i] for i in index),
            vocabulary=self._vocabulary,
            target=self._target[index],
            prompt=self._template.soft,
            here=self._template.place == HERE,
            recurs=recurs,
        )


def _fill(
    text: str, mark: str, ids: tuple[int, ...], tokenizer: Tokenizer, *, start: bool
) -> tuple[int, ...]:
    """Tokens of the text with the ids in the mark's place."""
    left, found, right = text.partition(mark)
    tokens = tokenizer.encode(left, start=start)
    return tokens + ids + tokenizer.encode(right, start=False) if found else tokens
