"""Texts as points: the characters of a text are its coordinates, so that the loop takes it as any other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError

T = TypeVar("T")
LAST = 0x10FFFF  # the last code point of Unicode
NUL = "\0"  # what fills a point behind a text


@dataclass(frozen=True, eq=False)
class TextDomain(Domain):
    """Texts of d characters at most, each coordinate a code point; 0 fills a point behind its text.

    Attributes:
        start: texts to start from; the point 0 stands for the first of them.
    """

    start: tuple[str, ...] = ("",)

    @classmethod
    def of(cls, start: Sequence[str], length: int) -> TextDomain:
        """Texts of `length` characters at most."""
        return cls(
            np.zeros(length), np.full(length, float(LAST)), np.zeros(length, dtype=bool), start=(*start,)
        )

    def points(self, texts: Iterable[str]) -> Array:
        """Texts -> float64 [K, d]; what is too long is cut."""
        rows = [[ord(character) for character in self.fitted(text)] for text in texts]
        z = np.zeros((len(rows), self.d))
        for i, row in enumerate(rows):
            z[i, : len(row)] = row
        return z

    def text(self, z: Array) -> str:
        """The text that a point [d] stands for."""
        codes = np.rint(np.nan_to_num(np.asarray(z, dtype=np.float64))).astype(int).clip(0, LAST)
        written = np.flatnonzero(codes)
        if not len(written):
            return self.start[0]
        return "".join(chr(code) for code in codes[: written[-1] + 1] if code)

    def fitted(self, text: str) -> str:
        """A text without what no point can say, cut to d characters."""
        return text.replace(NUL, "")[: self.d]


@runtime_checkable
class TextSpace(Protocol):
    """A search space whose points are texts, which stand in the template's `{soft}` place."""

    @property
    def domain(self) -> Domain: ...

    def text(self, z: Array) -> str:
        """z [d] -> the text; that of 0 is the starting point."""
        ...


@runtime_checkable
class Writes(Protocol):
    """What answers texts, such as a model: it rewrites prompts."""

    def write(
        self, prompts: Sequence[str], *, max_tokens: int = 256, temperature: float = 1.0, seed: int = 0
    ) -> list[str | None]:
        """What it answers each prompt; None for one that failed for good."""
        ...


@runtime_checkable
class Reflecting(Protocol):
    """An optimizer that wants to know what became of single rows."""

    def attend(self, evaluator: Any) -> None:
        """Told once, before the first `ask`, with an evaluator that has a `feedback` on rows.

        Raises:
            GfoError: for one that has not.
        """
        ...


def attending(optimizer: T, evaluator: Any) -> T:
    """The optimizer; one that wants to know of rows is told who does."""
    if isinstance(optimizer, Reflecting):
        optimizer.attend(evaluator)
    return optimizer


def check_texts(name: str, texts: Sequence[str], length: int) -> None:
    """Raise GfoError for no text, or one that a point of so many characters cannot say."""
    if not len(texts):
        raise GfoError(f"space: {name} = []; give one text at least")
    for text in texts:
        if len(text) > length or NUL in text:
            raise GfoError(
                f"space: {name}: a text has {len(text)} characters, {length} are allowed; raise length, or "
                "shorten it"
            )
