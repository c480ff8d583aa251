"""The one error a user of gfo meets for bad input, and the one warning."""

from __future__ import annotations

import difflib
import functools
import warnings
from collections.abc import Callable, Iterable
from typing import Any

HARMLESS = "\xa0\u200c\u200d"  # a blank that keeps a line together; what joins emoji and Persian letters


class GfoError(ValueError):
    """Bad input: one line that names the field, the value and the remedy.

    The command line prints it without a traceback and exits with code 2.
    """

    def __str__(self) -> str:
        return printable(super().__str__())  # also where it quotes more


class GfoWarning(UserWarning):
    """Something a user of gfo should know of; shown as "warning: ..." in one line, without a line of code."""

    def __str__(self) -> str:
        return printable(super().__str__())


def in_one_line(shown_before: Callable[..., str]) -> Callable[..., str]:
    """A `warnings.formatwarning` to which warnings of gfo are one line, and all others what they were."""

    @functools.wraps(shown_before)
    def formatted(message: Any, category: type[Warning], *where: Any, **more: Any) -> str:
        if issubclass(category, GfoWarning):
            return f"warning: {message}\n"
        return shown_before(message, category, *where, **more)

    return formatted


warnings.formatwarning = in_one_line(warnings.formatwarning)


def printable(text: str, keep: str = "") -> str:
    """Text for a terminal, a figure or HTML: control characters, which could steer a terminal, and others
    that are not seen, as "\\x1b" has it; those of `keep` as they are."""
    return "".join(_seen(character, HARMLESS + keep) for character in text)


def _seen(character: str, harmless: str) -> str:
    if character.isprintable() or character in harmless:
        return character
    return character.encode("unicode_escape").decode("ascii")


def shown(value: object, most: int = 80) -> str:
    """A value in an error: its repr, in its middle cut to so many characters; its type if it has none."""
    try:
        text = printable(repr(value))
    except Exception:  # whatever a class of the user's raises
        return f"<{type(value).__name__}>"
    half = most // 2
    return text if len(text) <= most else f"{text[:half]}...{text[-half:]}"


def unknown_name(kind: str, name: str, known: Iterable[str]) -> GfoError:
    """A `GfoError` for a name that is not in `known`, with the nearest one suggested."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return GfoError(f"unknown {kind} '{name}': {hint}known are {', '.join(known)}")


def check_name(kind: str, name: str, known: Iterable[str]) -> None:
    """Raise GfoError for a name that is not in `known`."""
    known = list(known)
    if name not in known:
        raise unknown_name(kind, name, known)


def check_at_least_one(**numbers: int | None) -> None:
    """Raise GfoError for a number, if it is given, below 1."""
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise GfoError(f"{name} = {value} must be at least 1")
