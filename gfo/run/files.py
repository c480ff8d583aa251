"""The JSON files of a run folder: with a checksum, by which a changed one is known, and a format number."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gfo.core.domain import Array
from gfo.core.errors import GfoError
from gfo.core.files import write_whole
from gfo.core.reading import parse_json, read_text

CHECKSUM = "checksum"  # the key of a file's own, in JSON
FORMAT = 2  # of run.json and result.json; without a number they are of gfo 0.1.0, which is format 1
PUT_BACK = "put back a copy of the file"


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write plain values with their checksum, whole or not at all.

    Raises:
        GfoError: if the file cannot be written.
    """
    write_whole(path, json.dumps({**values, CHECKSUM: checksum_of(values)}, indent=1) + "\n")


def read_json(
    path: Path, *, remedy: str = "give the folder of a finished run", changed: str = PUT_BACK
) -> dict[str, Any]:
    """The values in a JSON file of a run folder, without their checksum.

    Args:
        path: of the file.
        remedy: how errors end if it is missing or no such file.
        changed: how they end if it was changed.

    Raises:
        GfoError: if it cannot be read, is of a newer gfo, or was changed since gfo wrote it.
    """
    values = parse_json(read_text(path, "run", remedy=remedy), str(path), remedy)
    if not isinstance(values, dict):
        raise GfoError(f"{path} cannot be read (it holds a {type(values).__name__}); {remedy}")
    check_format(values, path)
    if CHECKSUM in values or format_of(values) > 1:
        check_unchanged(values, path, changed)
    return values


def check_unchanged(values: dict[str, Any], path: Path, remedy: str) -> None:
    """Take the checksum out of values, and raise GfoError if it is not theirs."""
    if values.pop(CHECKSUM, None) != checksum_of(values):
        raise GfoError(f"{path} was changed since gfo wrote it (its checksum is another); {remedy}")


def checksum_of(values: Mapping[str, Any]) -> str:
    """Of plain values without their checksum, however their JSON is laid out."""
    plain = json.loads(json.dumps(values))  # keys as texts, tuples as lists
    plain.pop(CHECKSUM, None)
    return short_digest(json.dumps(plain, sort_keys=True).encode())


def point_checksum(z: Array) -> str:
    """Of a point [d], by which result.json knows its own."""
    return short_digest(np.ascontiguousarray(z, dtype=np.float64).tobytes())


def short_digest(content: bytes) -> str:
    """64 bits of a SHA-256, in hexadecimal, against chance: a forger can compute it, too."""
    return hashlib.sha256(content).hexdigest()[:16]


def format_of(values: Mapping[str, Any]) -> Any:
    """The format of what a file of a run folder holds."""
    return values.get("format", 1)


def check_format(values: Any, path: Path) -> None:
    """Raise GfoError for the values of a file that a newer gfo wrote."""
    found = format_of(values) if isinstance(values, Mapping) else 1
    if found not in range(1, FORMAT + 1):
        raise GfoError(
            f"{path}: format = {found!r}, and this gfo reads 1 to {FORMAT}; a newer gfo wrote it: update gfo"
        )
