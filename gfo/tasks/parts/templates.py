"""Templates: text with `{field}` places and one `{soft}` place for the soft prompt."""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gfo.core.errors import GfoError, unknown_name
from gfo.core.protocols import Tokenizer, Tokens

SOFT = "soft"
MASK = "mask"  # where a masked language model says the answer


def is_missing(value: Any) -> bool:
    """Whether a value stands for none, as nan does in tables."""
    return isinstance(value, float) and math.isnan(value)


@dataclass(frozen=True)
class Template:
    """A parsed template.

    Attributes:
        before: pieces (literal text, field name or None) in front of the soft prompt, or all of them.
        after: the pieces behind it.
        soft: whether there is a soft prompt.
    """

    before: tuple[tuple[str, str | None], ...]
    after: tuple[tuple[str, str | None], ...]
    soft: bool = True

    @classmethod
    def parse(cls, text: str) -> Template:
        """Parse "Review: {text}\\n{soft}Sentiment:"; doubled braces stand for single ones.

        Raises:
            GfoError: for unbalanced braces, formats or conversions in a place, or more than one `{soft}`.
        """
        try:
            pieces = list(string.Formatter().parse(text))
        except ValueError as error:
            raise GfoError(f"template = {text!r}: {error}; write {{{{ for a brace that is text") from None
        if any(field == "" or form or conversion for _, field, form, conversion in pieces):
            raise GfoError(f"template = {text!r}: a place holds a field's name alone, as in {{text}}")
        places = [i for i, (_, field, _, _) in enumerate(pieces) if field == SOFT]
        if len(places) > 1:
            raise GfoError(
                f"template = {text!r} has {len(places)} times {{soft}}; write {{soft}} once, where the soft "
                "prompt goes"
            )
        plain = [(literal, field) for literal, field, _, _ in pieces]
        if not places:
            return cls(before=tuple(plain), after=(), soft=False)
        i = places[0]
        return cls(before=(*plain[:i], (plain[i][0], None)), after=tuple(plain[i + 1 :]))

    @property
    def fields(self) -> list[str]:
        """The fields that a row must have."""
        return [field for _, field in (*self.before, *self.after) if field not in (None, MASK)]  # type: ignore[misc]

    @property
    def masks(self) -> int:
        """How often `{mask}` stands in it."""
        return sum(field == MASK for _, field in (*self.before, *self.after))

    def text(self, **places: str) -> str:
        """The template as text again, with texts put into some places, `soft` among them."""
        pieces = [*self.before, *([("", SOFT)] if self.soft else []), *self.after]
        return "".join(
            _escaped(literal)
            + ("" if field is None else _escaped(places[field]) if field in places else f"{{{field}}}")
            for literal, field in pieces
        )

    def check(self, row: Mapping[str, Any], where: str) -> None:
        """Raise GfoError if the row lacks a field or holds something that is not text."""
        for field in self.fields:
            if field not in row:
                raise GfoError(f"template at {where}: {unknown_name('field', field, map(str, row))}")
            if is_missing(row[field]):
                raise GfoError(
                    f"{where}: field '{field}' is {row[field]!r}, a missing value; drop the row, or fill it"
                )
            if not isinstance(row[field], str | int | float) or isinstance(row[field], bool):
                raise GfoError(
                    f"{where}: field '{field}' is {row[field]!r}; a template takes text and numbers only"
                )

    def check_rows(self, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Check all rows of all splits."""
        for split, some in rows.items():
            for i, row in enumerate(some, 1):
                self.check(row, f"{split} row {i}")

    def check_mask(self, tokenizer: Tokenizer) -> None:
        """Raise GfoError unless there is one `{mask}` for a model that reads it, and none for others."""
        wanted = int(tokenizer.reads == "mask")
        if self.masks != wanted:
            raise GfoError(
                f"template: it has {self.masks} times {{mask}}; "
                + (
                    "the model is a masked language model: write {mask} once, where the answer stands"
                    if wanted
                    else "the model reads the answer behind the text: leave {mask} out"
                )
            )

    def render(self, row: Mapping[str, Any]) -> tuple[str, str]:
        """The texts in front of and behind the soft prompt."""
        return _join(self.before, row), _join(self.after, row)

    def encode(self, row: Mapping[str, Any], tokenizer: Tokenizer) -> tuple[Tokens, Tokens]:
        """The tokens in front of and behind the soft prompt."""
        before, after = self.render({**row, MASK: tokenizer.mask})
        return (
            tokenizer.encode(before, start=True, end=not self.soft),
            tokenizer.encode(after, end=self.soft),
        )


def _escaped(text: str) -> str:
    """Text as a template has it."""
    return text.replace("{", "{{").replace("}", "}}")


def _join(pieces: tuple[tuple[str, str | None], ...], row: Mapping[str, Any]) -> str:
    return "".join(literal + ("" if field is None else str(row[field])) for literal, field in pieces)
