"""What all tasks on rows of data share: their splits, the batch of a step, and tokenized rows."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gfo.core.domain import Array
from gfo.core.errors import GfoError
from gfo.core.protocols import Batch, Tokenizer
from gfo.core.seeding import stream
from gfo.tasks.datasets import Source, load_rows
from gfo.tasks.templates import MASK, Template

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Data:
    """The rows of a task's splits.

    Attributes:
        rows: split -> rows.
        batch_size: training rows of a step, drawn anew each step and shared by all its candidates; None
            for all.
        seed: of the batches.
    """

    rows: Mapping[str, list[dict[str, Any]]]
    batch_size: int | None = None
    seed: int = 0

    @classmethod
    def load(
        cls,
        train: Source,
        dev: Source | None = None,
        test: Source | None = None,
        *,
        limits: Mapping[str, int] | None = None,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> Data:
        """Read the splits that are given, of some only the first rows.

        Raises:
            GfoError: for data that cannot be read, or a batch size out of range.
        """
        given = dict(zip(SPLITS, (train, dev, test), strict=True))
        rows = {
            split: load_rows(source, split, limit=(limits or {}).get(split))
            for split, source in given.items()
            if source is not None
        }
        if batch_size is not None and not 1 <= batch_size <= len(rows["train"]):
            raise GfoError(f"batch_size = {batch_size} must be 1 to {len(rows['train'])}, the training rows")
        return cls(rows, batch_size, seed)

    def of_step(self, split: str, step: int) -> Array:
        """Numbers of the rows of a step, sorted: all, or `batch_size` drawn without replacement."""
        everything = np.arange(len(self.rows[split]))
        if not self.draws(split):
            return everything
        order = stream(self.seed, f"batch {step}").permutation(everything)
        return np.sort(order[: self.batch_size])

    def draws(self, split: str) -> bool:
        """Whether each step has rows of its own."""
        return split == "train" and self.batch_size is not None


class BoundRows(ABC):
    """Rows in a template, tokenized for one model. A task adds what it wants to know of them, and its scores.

    Args:
        data: the rows; each has the template's fields.
        template: where they go.
        tokenizer: of the model.

    Attributes:
        template: the task's.

    Raises:
        GfoError: for a template that does not fit the model.
    """

    _numbers = itertools.count()

    def __init__(self, data: Data, template: Template, tokenizer: Tokenizer) -> None:
        template.check_mask(tokenizer)
        self.splits = tuple(data.rows)
        self.template, self._data, self._mask = template, data, tokenizer.mask
        self._number = next(self._numbers)  # so that no two tasks have batches of one key
        self._before: dict[str, tuple[tuple[int, ...], ...]] = {}
        self._after: dict[str, tuple[tuple[int, ...], ...]] = {}
        for split in self.splits:
            texts = self.texts(split)
            self._before[split] = tuple(
                tokenizer.encode(before, start=True, end=not template.soft) for before, _ in texts
            )
            self._after[split] = tuple(tokenizer.encode(after, end=template.soft) for _, after in texts)

    def texts(self, split: str) -> list[tuple[str, str]]:
        """The text in front of the soft prompt and behind it, of each row of a split."""
        return [self.template.render({**row, MASK: self._mask}) for row in self._data.rows[split]]

    @abstractmethod
    def _wanted(self, split: str, index: Array) -> dict[str, Any]:
        """The fields `vocabulary`, `target`, `endings`, `decoding` of a `Batch` of the rows numbered."""

    def batch(self, split: str, step: int) -> Batch:
        """The rows of a step."""
        return self._rows(split, self._data.of_step(split, step), recurs=not self._data.draws(split))

    def all_rows(self, split: str) -> Batch:
        """The whole split as one batch.

        Raises:
            GfoError: if the task has no such split.
        """
        if split not in self.splits:
            raise GfoError(
                f"split '{split}': the task has {', '.join(self.splits)}; give it rows for {split}"
            )
        return self._rows(split, np.arange(len(self._after[split])))

    def _rows(self, split: str, index: Array, *, recurs: bool = True) -> Batch:
        return Batch(
            key=(self._number, split, tuple(index.tolist())),
            before=tuple(self._before[split][i] for i in index),
            after=tuple(self._after[split][i] for i in index),
            prompt=self.template.soft,
            recurs=recurs,
            **self._wanted(split, index),
        )
