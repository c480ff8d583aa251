"""What is read of others has limits: regular files, JSON of some depth, numbers of some digits."""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

MOST_DEPTH = 100  # of lists and mappings in each other
MOST_UNPACKED = 2**32  # bytes of a .gz file


def read_regular(path: Path) -> bytes:
    """The content of a regular file; of a pipe or a device, which may never end, nothing is read.

    Raises:
        OSError: if it cannot be read, or is none.
        ValueError: for a path that no file can have.
    """
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError(errno.EINVAL, "it is no regular file, but a directory, a pipe or a device")
    with open(number, "rb") as file:
        return file.read()


def unpack(content: bytes) -> bytes:
    """The content of a .gz file.

    Raises:
        OSError, EOFError, zlib.error: if it is none.
        ValueError: if it is too large.
    """
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
        found = file.read(MOST_UNPACKED + 1)
    if len(found) > MOST_UNPACKED:
        raise ValueError(f"it has more than {MOST_UNPACKED:,} bytes unpacked")
    return found


def parse_json(text: str) -> Any:
    """The values in a JSON text.

    Raises:
        json.JSONDecodeError: if it is none, with the place.
        ValueError: for numbers of thousands of digits, or values that lie too deep in each other.
    """
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    except json.JSONDecodeError:
        raise
    except ValueError:
        raise ValueError("a number has thousands of digits") from None
    if text.count("[") + text.count("{") > MOST_DEPTH:
        check_depth(found)
    return found


def check_depth(value: Any) -> None:
    """Raise ValueError for values that lie too deep in each other."""
    level: list[Any] = [value]
    depth = 0
    while level:
        level = [inner for each in level for inner in _parts(each)]
        depth += 1
        if depth > MOST_DEPTH + 1:
            raise ValueError(TOO_DEEP)


def _parts(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


TOO_DEEP = f"values lie more than {MOST_DEPTH} deep in each other"


def encodable(value: Any) -> bool:
    """Whether all texts in a value are Unicode, without the halves of characters that JSON can name."""
    try:
        json.dumps(value, ensure_ascii=False, skipkeys=True, default=_nothing).encode()
    except UnicodeEncodeError:
        return False
    except (ValueError, RecursionError):
        return True  # it lies in itself; who reads it says so
    return True


def _nothing(value: Any) -> None:
    """Stands for what JSON has not."""
