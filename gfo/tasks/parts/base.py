"""What all tasks on rows of data share: their splits, the batch of a step, and tokenized rows."""

from __future__ import annotations

import itertools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from gfo.core.domain import Array
from gfo.core.errors import GfoError, GfoWarning, check_name
from gfo.core.metric import Metric
from gfo.core.protocols import Batch, Tokenizer, Tokens
from gfo.core.seeding import stream
from gfo.core.texts import Pieces
from gfo.tasks.parts.datasets import Source, load
from gfo.tasks.parts.joining import joined_splits
from gfo.tasks.parts.lengths import Longest
from gfo.tasks.parts.running import LOOKED_AT, each_behind, tell_joints
from gfo.tasks.parts.templates import HERE, MASK, SOFT, Template, rows_of

SPLITS = ("train", "dev", "test")
NEW = "rows"  # what errors call rows that are none of the task's


class RowOptions(TypedDict, total=False):
    """Which rows of its data a task uses; see `Data.load`."""

    limits: Mapping[str, int] | None
    skip: Mapping[str, int] | None
    shuffle: int | None
    batch_size: int | None
    max_length: int | None
    truncate: str | None
    seed: int


@dataclass(frozen=True)
class Data:
    """The rows of a task's splits.

    Attributes:
        rows: split -> rows.
        batch_size: training rows of a step, drawn anew each step and shared by all its candidates; None
            for all.
        seed: of the batches.
        longest: how long rows may be, and what is done about longer ones.
        same: splits that were given as the same rows, so that it need not be told that they are.

    Raises:
        GfoError: for a batch size out of range.
    """

    rows: Mapping[str, list[dict[str, Any]]]
    batch_size: int | None = None
    seed: int = 0
    longest: Longest | None = None
    same: frozenset[tuple[str, str]] = frozenset()

    def __post_init__(self) -> None:
        most = len(self.rows["train"])
        if self.batch_size is not None and not 1 <= self.batch_size <= most:
            raise GfoError(f"batch_size = {self.batch_size} must be 1 to {most}, the training rows")

    @classmethod
    def load(
        cls,
        train: Source,
        dev: Source | None = None,
        test: Source | None = None,
        *,
        limits: Mapping[str, int] | None = None,
        skip: Mapping[str, int] | None = None,
        shuffle: int | None = None,
        batch_size: int | None = None,
        max_length: int | None = None,
        truncate: str | None = None,
        seed: int = 0,
    ) -> Data:
        """Read the splits that are given.

        Args:
            train, dev, test: where their rows come from; see `gfo.datasets.load`.
            limits: split -> use only its first rows; all by default.
            skip: split -> leave out its first rows, before its limit counts; none by default.
            shuffle: a seed to put rows in random order before `skip` and `limits` count, the same for the
                same seed, so that these tell splits of one file apart; by default they stay as they are.
            batch_size: see above.
            max_length: the most tokens of a row in its template, without soft prompt and answer; longer rows
                are left out, and a warning gives their number. By default none are left out.
            truncate: the field that is cut at its end instead, where a row is longer than `max_length`.
            seed: of the batches.

        Raises:
            GfoError: for data that cannot be read, an unknown split, or a number out of range.
        """
        limits, skip = limits or {}, skip or {}
        _check_splits(limits=limits, skip=skip)
        sources = zip(SPLITS, (train, dev, test), strict=True)
        given = {split: source for split, source in sources if source is not None}
        rows = {
            split: load(source, split, shuffle=shuffle, skip=skip.get(split, 0), limit=limits.get(split))
            for split, source in given.items()
        }
        return cls(rows, batch_size, seed, Longest.of(max_length, truncate), _same(given))

    def joined(self) -> Data:
        """The same with the rows of dev behind those of train, and no dev.

        Raises:
            GfoError: for no dev rows, or those of train.
        """
        if "dev" not in self.rows:
            raise GfoError("refit: the task has no dev rows; give it dev, or leave refit out")
        if ("train", "dev") in self.same:
            raise GfoError("refit: dev has the rows of train, and adds none; give it others, or no refit")
        return replace(self, rows=joined_splits(self.rows), same=self.same & {("train", "test")})

    def of_step(self, split: str, step: int, numbers: Array) -> Array:
        """Which of the rows with these numbers are a step's, sorted: all, or `batch_size` drawn without
        replacement."""
        if split != "train" or self.batch_size is None:
            return numbers
        order = stream(self.seed, f"batch {step}").permutation(numbers)
        return np.sort(order[: self.batch_size])


def _check_splits(**options: Iterable[str]) -> None:
    """Raise GfoError for an option of splits that are none."""
    for option, splits in options.items():
        for split in splits:
            check_name(f"split in {option}", split, SPLITS)


def _same(given: Mapping[str, Source]) -> frozenset[tuple[str, str]]:
    """Pairs of splits that were given as one list of rows; of a file `skip` and `limits` may make two."""
    return frozenset(
        (one, other)
        for one, other in itertools.combinations(given, 2)
        if given[one] is given[other] and not isinstance(given[one], str | Path)
    )


class BoundExamples(ABC):
    """Examples that are tokens of one model. A task adds what it wants to know of them, and its scores.

    Args:
        data: their rows.
        encoded: split -> number of a row that is used -> its tokens in front of and behind the soft prompt.
        place: what the template has between them, SOFT, HERE or None.
    """

    _numbers = itertools.count()

    def __init__(
        self, data: Data, encoded: Mapping[str, Mapping[int, tuple[Tokens, Tokens]]], place: str | None
    ) -> None:
        self.splits = tuple(data.rows)
        self._data, self._place, self._encoded = data, place, encoded
        self._number = next(self._numbers)  # so that no two tasks have batches of one key
        self._numbers_of = {split: np.array([*rows]) for split, rows in encoded.items()}
        self._whole: dict[str, Batch] = {}
        self._tell_repeated()

    @property
    @abstractmethod
    def metrics(self) -> tuple[Metric, ...]:
        """What `score` gives, "loss" first."""

    @abstractmethod
    def _wanted(self, split: str, index: Array) -> dict[str, Any]:
        """The fields `vocabulary`, `target`, `endings`, `decoding` of a `Batch` of the rows numbered."""

    def batch(self, split: str, step: int) -> Batch:
        """The rows of a step."""
        if split != "train" or self._data.batch_size is None:
            return self.all_rows(split)
        return self._rows(split, self._of_step(split, step), recurs=False)

    def all_rows(self, split: str) -> Batch:
        """The whole split as one batch.

        Raises:
            GfoError: if the task has no such split.
        """
        if split not in self._whole:
            self._check(split)
            self._whole[split] = self._rows(split, self._numbers_of[split])
        return self._whole[split]

    def _check(self, split: str) -> None:
        if split not in self.splits:
            raise GfoError(
                f"split '{split}': the task has {', '.join(self.splits)}; give it rows for {split}"
            )

    def _of_step(self, split: str, step: int) -> Array:
        """Numbers of a step's rows."""
        return self._data.of_step(split, step, self._numbers_of[split])

    def _rows(self, split: str, index: Array, *, recurs: bool = True) -> Batch:
        numbers = tuple(index.tolist())
        encoded = [self._encoded[split][i] for i in numbers]
        return Batch(
            key=(self._number, split, numbers),
            split=split,
            numbers=numbers,
            before=tuple(before for before, _ in encoded),
            after=tuple(after for _, after in encoded),
            prompt=self._place == SOFT,
            here=self._place == HERE,
            recurs=recurs,
            **self._wanted(split, index),
        )

    def _contents(self, split: str) -> list[Any]:
        """What of each row must be equal for it to be the same row."""
        return list(self._encoded[split].values())

    def _tell_repeated(self) -> None:
        """Warn of rows that stand in two splits, as they look in the template."""
        for one, other in itertools.combinations(self.splits, 2):
            known, rows = set(self._contents(one)), self._contents(other)
            repeated = sum(row in known for row in rows)
            if repeated and (one, other) not in self._data.same:
                warnings.warn(
                    f"{repeated} of {len(rows)} {other} rows are {one} rows, too, in the template; "
                    f"scores on {other} say little of unseen rows",
                    GfoWarning,
                    stacklevel=2,
                )


class BoundRows(BoundExamples):
    """Rows in a template, tokenized for one model.

    Args:
        data: the rows; each has the template's fields.
        template: where they go.
        tokenizer: of the model.

    Attributes:
        template: the task's, as the model reads it.

    Raises:
        GfoError: for a template that does not fit the model.
    """

    def __init__(self, data: Data, template: Template, tokenizer: Tokenizer) -> None:
        self.template, self._mask = template.bound(tokenizer), tokenizer.mask
        template = self.template
        found: dict[str, dict[int, tuple[Tokens, Tokens]]] = {}
        for split, rows in data.rows.items():
            encoded = template.encode(rows, tokenizer, rows_of(split))
            found[split] = (
                dict(enumerate(encoded))
                if data.longest is None
                else data.longest.fit(encoded, rows, template, tokenizer, split)
            )
        self._tokenizer = tokenizer
        super().__init__(data, found, template.place)

    def _shown(self) -> list[Pieces]:
        """The texts of the first training rows in pieces, which an answer goes on with."""
        numbers = self._numbers_of["train"][:LOOKED_AT].tolist()
        rows = [self.template.pieces(self._data.rows["train"][i], self._tokenizer) for i in numbers]
        return [[*before, *after] for before, after in rows]

    def _tell_joints(self, words: Iterable[str]) -> None:
        """Warn of a word that running text behind the template's end would write otherwise."""
        if self.template.after or not self.template.soft:  # else the soft prompt is between the two
            tell_joints(*each_behind(self._shown(), [(word,) for word in words]), "the word", self._tokenizer)

    def batch_of(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Rows that are none of the task's, and need not say what is right, as a batch.

        Raises:
            GfoError: for a row without a field of the template, or with more tokens than rows may have.
        """
        where = rows_of(NEW)
        for i, row in enumerate(rows):
            self.template.check(row, where(i))
        encoded = self.template.encode(rows, self._tokenizer, where)
        if (longest := self._data.longest) is not None:
            fitting = longest.fit(encoded, rows, self.template, self._tokenizer, NEW)
            if len(fitting) < len(rows):
                raise GfoError(f"{NEW}: leave out those with more than max_length = {longest.tokens} tokens")
            encoded = list(fitting.values())
        return Batch(
            key=(self._number, NEW, next(self._numbers)),
            split=NEW,
            numbers=tuple(range(len(rows))),
            before=tuple(before for before, _ in encoded),
            after=tuple(after for _, after in encoded),
            prompt=self._place == SOFT,
            here=self._place == HERE,
            recurs=False,
            **self._asked(rows),
        )

    def _asked(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The fields `vocabulary`, `target`, `endings`, `decoding` of a `Batch` of new rows."""
        raise GfoError(f"predict: a {type(self).__name__} says nothing of new rows; give it `_asked`")

    def texts(self, split: str) -> list[tuple[str, str]]:
        """The text in front of the soft prompt and behind it, of each row of a split that is used, uncut."""
        rows = self._data.rows[split]
        return [self.template.render({**rows[i], MASK: self._mask}) for i in self._numbers_of[split].tolist()]
