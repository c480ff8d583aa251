"""What stands behind a row's text has the tokens of the running text, or it is told that it has not."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Sequence

from gfo.core.errors import GfoWarning
from gfo.core.protocols import Tokenizer, Tokens
from gfo.core.texts import Pieces, Plain, Where, text_number

LOOKED_AT = 3  # rows in whose text it is looked for what differs
TAIL = 64  # characters of a text's end, on which the tokens behind it may depend


def tokens_behind(
    contexts: Sequence[Pieces], texts: Sequence[Pieces], tokenizer: Tokenizer, where: Where = text_number
) -> list[Tokens]:
    """Tokens of texts behind others; alone where the model begins a text of its own with its answer."""
    behind = [tail(context) for context in contexts] if tokenizer.continues else None
    return tokenizer.encode_rows(texts, behind=behind, where=where)


def tell_joints(contexts: Sequence[Pieces], texts: Sequence[Pieces], what: str, tokenizer: Tokenizer) -> None:
    """Warn of the first text that running text behind its context would write otherwise.

    Args:
        contexts: what stands in front of each text.
        texts: words or options, as pieces.
        what: they are.
        tokenizer: of the model.
    """
    if not tokenizer.continues:
        return
    ends = [tail(context) for context in contexts]
    given = tokens_behind(ends, texts, tokenizer)
    first = tokenizer.encode_rows(ends)
    joint = tokenizer.encode_rows([(*end, *text) for end, text in zip(ends, texts, strict=True)])
    for end, text, ids, parts in zip(
        map("".join, ends), map("".join, texts), joint, zip(first, given, strict=True), strict=True
    ):
        said = _remedy(end, text, what, same=ids == (*parts[0], *parts[1]))
        if end and parts[1] and said:
            warnings.warn(f"template: {said}", GfoWarning, stacklevel=2)
            return


def _remedy(end: str, text: str, what: str, *, same: bool) -> str:
    """What is wrong with a text behind a template's end, and what helps; "" if nothing is."""
    blank = end[-1:].isspace()
    if blank and text[:1].isspace():
        return (
            f"it ends in {end[-1:]!r}, and {what} {text[:40]!r} begins with a blank, too, which running text "
            "has not; leave one of them out, which is mostly the template's"
        )
    if same:
        return ""
    remedy = f"begin {what} with the blank that ends it" if blank else "put a blank or a line break between"
    return f"behind {end[-20:]!r} running text has other tokens for {what} {text[:40]!r}; {remedy}"


def tail(pieces: Pieces) -> Pieces:
    """The last pieces of a text, of those of a row no more than the end."""
    found: list[str] = []
    for piece in reversed(pieces):
        if sum(map(len, found)) >= TAIL:
            break
        found.insert(0, Plain(piece[-TAIL:]) if isinstance(piece, Plain) else piece)
    return found


def each_behind(contexts: Iterable[Pieces], texts: Sequence[Pieces]) -> tuple[list[Pieces], list[Pieces]]:
    """Every text behind every context: (contexts, texts), as many of each."""
    pairs = list(itertools.product(contexts, texts))
    return [context for context, _ in pairs], [text for _, text in pairs]
