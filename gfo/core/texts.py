"""Texts on their way to tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Tokens = tuple[int, ...]
"""Token ids."""


class Plain(str):
    """Text of a row, in which nothing is markup: `</s>` there is four characters, not the end of a text."""

    __slots__ = ()


Pieces = Sequence[str]
"""A text in pieces: a template's, which may hold special tokens, and `Plain` ones of the row."""
Where = Callable[[int], str]
"""What errors call a text, by its number from 0."""


def text_number(i: int) -> str:
    """What they call it unless told otherwise."""
    return f"text {i + 1}"
