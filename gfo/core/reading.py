"""The one way files are read: regular ones, of a sensible size and depth, with the line of an error."""

from __future__ import annotations

import json
import os
import stat
import tomllib
from pathlib import Path
from typing import Any

from gfo.core.errors import GfoError
from gfo.core.files import kind_of

MOST_BYTES = 2**30
DEPTH = 100  # of lists and sections in each other
DIGITS = 309  # of a whole number: more is infinite as a float


def read_bytes(path: Path, name: str, *, remedy: str = "check the path", most: int = MOST_BYTES) -> bytes:
    """What a regular file holds.

    Args:
        path: of the file.
        name: what errors call it, "config" say.
        remedy: how errors end.
        most: bytes that it may have.

    Raises:
        GfoError: if it cannot be read, or is a folder, a pipe or a device, or too large.
    """
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                raise OSError(0, f"it is {kind_of(info.st_mode)}, no file")
            if info.st_size > most:
                raise OSError(0, f"it has {info.st_size:,} bytes, {most:,} are allowed")
            with open(fd, "rb", closefd=False) as file:
                return file.read(most)
        finally:
            os.close(fd)
    except (OSError, ValueError) as error:  # a ValueError for a null byte in the path
        reason = getattr(error, "strerror", None) or error
        raise GfoError(f"{name}: cannot read {path}: {reason}; {remedy}") from None


def decoded(content: bytes, where: str) -> str:
    """Bytes of UTF-8 as text, without a byte-order mark.

    Raises:
        GfoError: for what is no UTF-8, with its line.
    """
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise GfoError(
            f"{where} is not UTF-8 in line {line}, byte {error.start}; convert it to UTF-8"
        ) from None


def read_text(path: Path, name: str, *, remedy: str = "check the path") -> str:
    """A file of text, as `read_bytes` and `decoded` have it."""
    return decoded(read_bytes(path, name, remedy=remedy), f"{name}: {path}")


def parse_json(text: str, where: str, remedy: str, *, line: int = 1) -> Any:
    """The value that JSON stands for.

    Args:
        text: the JSON.
        where: what errors call it.
        remedy: how errors end.
        line: of the file, in which it begins.

    Raises:
        GfoError: for what is no JSON, with its line; nested too deeply; with numbers too long, or halves of
            surrogate pairs, which no file can hold.
    """
    try:
        value = _JSON.decode(text)
        if text.count("[") + text.count("{") > DEPTH:
            _check_depth(value)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        at = f"{error.msg} in line {line + error.lineno - 1} at column {error.colno}"
        raise GfoError(f"{where} is not JSON ({at}); {remedy}") from None
    except (RecursionError, ValueError) as error:
        raise GfoError(
            f"{where}: cannot read what begins in line {line} ({_reason(error)}); {remedy}"
        ) from None
    return value


def parse_toml(text: str, where: str, remedy: str) -> dict[str, Any]:
    """The values that TOML stands for.

    Raises:
        GfoError: for what is no TOML, with its line; nested too deeply, or with numbers too long.
    """
    try:
        values = tomllib.loads(text)
        _check_depth(values)
    except (RecursionError, ValueError) as error:
        raise GfoError(f"{where}: {_reason(error)}; {remedy}") from None
    return values


def _reason(error: Exception) -> str:
    """Why something cannot be parsed, in words of its file."""
    if isinstance(error, RecursionError):
        return f"nested deeper than {DEPTH}"
    if isinstance(error, UnicodeEncodeError):
        return "half a surrogate pair, which is no character"
    return "a number of too many digits" if "limit" in str(error) else str(error)


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEPTH):
        inner = [list(each.values()) if isinstance(each, dict) else each for each in level]
        level = [part for parts in inner if isinstance(parts, list) for part in parts]
    if level:
        raise RecursionError


def _whole(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError(f"a whole number of {len(digits)} digits, {DIGITS} are allowed")
    return int(digits)


_JSON = json.JSONDecoder(parse_int=_whole)


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
