"""Rows that are too long: left out, or a field of them cut."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gfo.core.errors import GfoError, GfoWarning, check_name
from gfo.core.protocols import Tokenizer, Tokens
from gfo.core.texts import Plain
from gfo.tasks.parts.templates import Template

ZERO_WIDTH_JOINER = "\u200d"
JOINERS = {ZERO_WIDTH_JOINER, *map(chr, range(0x1F3FB, 0x1F400))}  # and the colours of skin
Encoded = tuple[Tokens, Tokens]
"""A row's tokens in front of and behind the soft prompt."""


@dataclass(frozen=True)
class Longest:
    """How long rows may be.

    Attributes:
        tokens: the most tokens of a row in its template, without soft prompt and answer.
        truncate: the field of a longer row that is cut at its end; None to leave the row out.
    """

    tokens: int
    truncate: str | None = None

    @classmethod
    def of(cls, max_length: int | None, truncate: str | None) -> Longest | None:
        """What a task's arguments say; None for rows of any length.

        Raises:
            GfoError: for a length below 1, or a field to cut without a length.
        """
        if max_length is None:
            if truncate is not None:
                raise GfoError(f"truncate = '{truncate}' needs max_length, the most tokens of a row")
            return None
        if max_length < 1:
            raise GfoError(f"max_length = {max_length} must be at least 1")
        return cls(max_length, truncate)

    def fit(
        self,
        encoded: Sequence[Encoded],
        rows: Sequence[Mapping[str, Any]],
        template: Template,
        tokenizer: Tokenizer,
        split: str,
    ) -> dict[int, Encoded]:
        """Number -> tokens of the rows that are left, cut where they are to be.

        Warns:
            GfoWarning: with the number of rows left out or cut.

        Raises:
            GfoError: if no row is left, there is no such field, or a row is too long without it.
        """
        long = [i for i, row in enumerate(encoded) if _length(row) > self.tokens]
        fitting = dict(enumerate(encoded))
        for i in long:
            if self.truncate is None:
                del fitting[i]
            else:
                fitting[i] = self._cut(rows[i], template, tokenizer, f"{split} row {i + 1}")
        if not fitting:
            raise GfoError(
                f"{split}: none of {len(rows)} rows is left, all have more than max_length = {self.tokens} "
                "tokens; allow more, or cut a field with truncate"
            )
        if long:
            done = "are left out" if self.truncate is None else f"have their '{self.truncate}' cut"
            warnings.warn(
                f"{split}: {len(long)} of {len(rows)} rows have more than max_length = {self.tokens} tokens "
                f"and {done}",
                GfoWarning,
                stacklevel=2,
            )
        return fitting

    def _cut(self, row: Mapping[str, Any], template: Template, tokenizer: Tokenizer, where: str) -> Encoded:
        """The row with as much of the field's beginning as fits."""
        field = str(self.truncate)
        check_name("truncate", field, template.fields)
        whole = str(row[field])
        tokens = tokenizer.encode_rows([(Plain(whole),)], where=lambda _: where)[0]
        (found,) = template.encode([row], tokenizer, lambda _: where)
        left = len(tokens)
        while (excess := _length(found) - self.tokens) > 0:
            if left == 0:
                raise GfoError(
                    f"{where} has {_length(found)} tokens without its '{field}', but max_length is "
                    f"{self.tokens}; allow more"
                )
            left = max(0, left - excess)  # the joints may count another token, so this may take two turns
            text = beginning(whole, tokenizer.decode([tokens[:left]])[0])
            (found,) = template.encode([{**row, field: text}], tokenizer, lambda _: where)
        return found


def beginning(whole: str, cut: str) -> str:
    """The beginning of a text that was cut between tokens, without the half of a character at its end.

    Args:
        whole: the text.
        cut: what its first tokens say, which may not be the text's own spelling.
    """
    while cut and not whole.startswith(cut) and cut.endswith("\ufffd"):
        cut = cut[:-1]
    if not whole.startswith(cut):
        return cut
    end = len(cut)
    while 0 < end < len(whole) and _joins(whole[end - 1], whole[end]):
        end -= 1
    return whole[:end]


def _joins(one: str, other: str) -> bool:
    """Whether two code points next to each other are parts of one character: accents, emoji of several."""
    marks = unicodedata.category(other) in ("Mn", "Me") or other in JOINERS
    return marks or one == ZERO_WIDTH_JOINER


def _length(row: Encoded) -> int:
    return len(row[0]) + len(row[1])
