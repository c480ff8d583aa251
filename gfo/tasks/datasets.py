"""Rows from lists, JSON lines, CSV or `datasets` objects."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gfo.core.errors import GfoError

Row = Mapping[str, Any]
Source = str | Path | Sequence[Row] | Iterable[Row]


def load_rows(source: Source, name: str, *, limit: int | None = None) -> list[dict[str, Any]]:
    """The rows of a data source.

    Args:
        source: a path to a .jsonl or .csv file, a list of mappings, or any iterable of mappings,
            such as a `datasets.Dataset`.
        name: what errors call the source, "train" say.
        limit: keep only the first rows.

    Raises:
        GfoError: for a file that is missing, empty or malformed (with its line), or a row that is
            not a mapping.
    """
    if limit is not None and limit < 1:
        raise GfoError(f"{name}: limit = {limit} must be at least 1")
    if isinstance(source, str | Path):
        rows, where = _read(Path(source), name), f"{name}: {source}"
    else:
        rows, where = list(source), name
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise GfoError(
                f"{where}: row {number} is a {type(row).__name__}; give mappings of field to value"
            )
    if not rows:
        raise GfoError(f"{where} has no rows; give at least one example")
    return [dict(row) for row in rows[:limit]]


def _read(path: Path, name: str) -> list[Any]:
    readers = {".jsonl": _read_jsonl, ".json": _read_jsonl, ".csv": _read_csv}
    if path.suffix not in readers:
        raise GfoError(f"{name}: {path} has the ending '{path.suffix}'; give a .jsonl or .csv file")
    try:
        text = path.read_bytes().decode("utf-8").removeprefix("\ufeff")  # the byte-order mark of spreadsheets
    except OSError as error:
        raise GfoError(f"{name}: cannot read {path}: {error.strerror}; check the path") from None
    except UnicodeDecodeError as error:
        raise GfoError(f"{name}: {path} is not UTF-8 at byte {error.start}; convert it to UTF-8") from None
    return readers[path.suffix](io.StringIO(text, newline=""), path, name)


def _read_jsonl(file: io.StringIO, path: Path, name: str) -> list[Any]:
    rows = []
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise GfoError(
                f"{name}: {path} line {number} is not JSON ({error.msg} at column {error.colno}); "
                "write one JSON object a line"
            ) from None
    return rows


def _read_csv(file: io.StringIO, path: Path, name: str) -> list[Any]:
    reader = csv.DictReader(file)
    rows = []
    try:
        for row in reader:
            if None in row or None in row.values():
                raise GfoError(
                    f"{name}: {path} line {reader.line_num} has not the {len(reader.fieldnames or ())} "
                    "fields of the header; quote fields that hold commas"
                )
            rows.append(row)
    except csv.Error as error:
        raise GfoError(
            f"{name}: {path} is not CSV after line {reader.line_num} ({error}); mend the next"
        ) from None
    return rows
