"""A server's model as a tokenizer: its tokens are not known, so that characters stand for them.

Messages stay messages, which the server puts in the model's chat format: in a text they are marked by private
characters, which no row may hold.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from gfo.core.errors import GfoError
from gfo.core.images import check_no_pictures
from gfo.core.protocols import Tokens
from gfo.core.texts import Pieces, Plain, Where, text_number

ROLE, CONTENT = "\ue0f0", "\ue0f1"  # in front of a message's role, and of what it says
MARKS = re.compile(f"[{ROLE}{CONTENT}]")


class Characters:
    """The tokenizer that tasks are bound to; see `gfo.core.protocols.Tokenizer`."""

    reads = "next"
    mask: str | None = None
    continues = True
    context_length = 2**31  # the server says when a text is too long
    end_tokens: frozenset[int] = frozenset()
    token_texts: Sequence[str] = ()

    def encode(self, text: str, *, start: bool = False, end: bool = False) -> Tokens:
        """The text's characters; the server adds the model's special tokens."""
        return cast(Tokens, tuple(text))

    def encode_rows(
        self,
        rows: Sequence[Pieces],
        *,
        start: bool = False,
        end: bool = False,
        behind: Sequence[Pieces] | None = None,
        where: Where = text_number,
    ) -> list[Tokens]:
        """The characters of many texts; raises GfoError, with `where(i)`, for an image."""
        check_no_pictures(rows, where, "an Endpoint is asked with texts")
        for i, row in enumerate(rows):
            if any(isinstance(piece, Plain) and MARKS.search(piece) for piece in row):
                raise GfoError(f"{where(i)}: it holds U+E0F0 or U+E0F1, by which gfo marks messages; drop it")
        return [self.encode("".join(row)) for row in rows]

    def chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Messages in one text, from which `messages_in` has them again."""
        return "".join(f"{ROLE}{message['role']}{CONTENT}{message['content']}" for message in messages)

    def decode(self, rows: Sequence[Tokens]) -> list[str]:
        """The text of each row."""
        return ["".join(cast(Any, row)) for row in rows]


def messages_in(text: str) -> list[dict[str, str]] | None:
    """The messages of a text; None of one without."""
    if not text.startswith(ROLE):
        return None
    parts = (part.partition(CONTENT) for part in text.split(ROLE)[1:])
    return [{"role": role, "content": content} for role, _, content in parts]


def readable(text: str) -> str:
    """A text with its messages as people read them."""
    return text.replace(ROLE, "\n").replace(CONTENT, ": ").lstrip("\n") if ROLE in text else text


def in_pieces(text: str, number: int) -> Tokens:
    """A text in so many pieces, as many as the server counted tokens of it."""
    number = min(max(1, number or len(text)), len(text))
    cuts = [len(text) * i // number for i in range(number + 1)] if text else []
    return cast(Tokens, tuple(text[a:b] for a, b in itertools.pairwise(cuts)))
