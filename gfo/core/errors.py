"""The one error a user of gfo meets for bad input, and the one warning."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GfoError(ValueError):
    """Bad input: one line that names the field, the value and the remedy.

    The command line prints it without a traceback and exits with code 2.
    """

    def __str__(self) -> str:
        return "\\n".join(super().__str__().splitlines())  # also where it quotes more


class GfoWarning(UserWarning):
    """Something a user of gfo should know of, in one line; the command line prints it as such."""


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
