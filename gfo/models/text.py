"""Text to tokens: what a template says is markup, what a row holds is text, and nothing stands in front of a
text that running text does not have."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from gfo.core.deadline import at_most
from gfo.core.errors import GfoError
from gfo.core.protocols import Tokens
from gfo.core.texts import Pieces, Plain, Where, text_number

PROBES = ((":", "a"), (":", " a"), ("\n", "a"), ("\n", " a"))  # a context, and what follows it
ANCHOR = "\n"  # a context that hardly any token spans
SURROGATE = re.compile("[\ud800-\udfff]")
SECONDS = 2.0  # that a chat template may take
DIGITS = 6  # of a number in one: it may multiply texts
STAND_IN = "\ue0fe{}\ue0ff"  # of private characters: what is written for a special token of a template


class TextTokens:
    """The tokens of texts in one tokenizer.

    A row is pieces of text, of which those of `Plain` are data: `</s>` in them is four characters, not the
    end of a text. All pieces together are tokenized as one text, so that words go across their joints.

    Args:
        tokenizer: of transformers.

    Attributes:
        start, end: the special tokens that it puts in front of a text and behind it.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._counts: dict[str, int] = {}  # special tokens of a template's pieces
        self.start, self.end = self._special_ends()

    def encode(
        self,
        rows: Sequence[Pieces],
        *,
        start: bool = False,
        end: bool = False,
        behind: Sequence[Pieces] | None = None,
        where: Where = text_number,
    ) -> list[Tokens]:
        """The tokens of each row.

        Args:
            rows: pieces of text.
            start, end: put the special tokens there that the tokenizer wants, unless the text has them.
            behind: what stands in front of each row in the running text; by default nothing.
            where: what errors call a row, by its number from 0.

        Raises:
            GfoError: for a lone surrogate, or data that hold a special token which the tokenizer cannot read
                as text.
        """
        found = self._encoded(rows, where)
        if behind is not None and self.prefixes:
            found = self._running(rows, found, behind, where)
        front, back = self.start if start else (), self.end if end else ()
        return [_with_ends(ids, front, back) for ids in found]

    @functools.cached_property
    def prefixes(self) -> bool:
        """Whether it writes something in front of a text, such as a "▁", that running text does not have."""
        unknown = self._tokenizer.unk_token_id
        for context, text in PROBES:
            joint, first, alone = self._tokenized([context + text, context, text])
            if unknown not in joint and joint[: len(first)] == first and joint[len(first) :] != alone:
                return True
        return False

    def chat(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Messages as the tokenizer's chat template writes them, with the opening of the answer.

        Where the last message is the assistant's, the answer goes on with it.

        Raises:
            GfoError: for a tokenizer without a chat template, or messages that it does not take.
        """
        if not getattr(self._tokenizer, "chat_template", None):
            raise GfoError(
                "template: the model's tokenizer has no chat template; write one text, no messages"
            )
        begun = messages[-1]["role"] == "assistant"
        try:
            check_template(self._tokenizer.chat_template)
            with at_most(SECONDS):
                return str(
                    self._tokenizer.apply_chat_template(
                        [dict(message) for message in messages],
                        tokenize=False,
                        add_generation_prompt=not begun,
                        continue_final_message=begun,
                    )
                )
        except Exception as error:  # of jinja2, of transformers, and what the template raises
            reason = str(error).strip().partition("\n")[0]
            raise GfoError(
                f"template: the model's chat template does not take these messages ({reason}); change their "
                "roles, or write one text"
            ) from None

    def _running(
        self, rows: Sequence[Pieces], alone: Sequence[Tokens], behind: Sequence[Pieces], where: Where
    ) -> list[Tokens]:
        """The rows' tokens without those of what is in front of them, where the two can be told apart; else
        behind a line break, or alone."""
        found = list(alone)
        for contexts in ([(ANCHOR,)] * len(rows), behind):
            first = self._encoded(contexts, where)
            joint = self._encoded([(*c, *row) for c, row in zip(contexts, rows, strict=True)], where)
            found = list(map(_behind, joint, first, found))
        return found

    def _encoded(self, rows: Sequence[Pieces], where: Where) -> list[Tokens]:
        """Tokens of whole texts, data as text."""
        found = self._tokenized(["".join(row) for row in rows], where)
        for i, (row, ids) in enumerate(zip(rows, found, strict=True)):
            wanted = self._wanted(row)
            if self._number(ids) != wanted or self._mark_in(row) is not None:
                found[i] = self._as_text(row, wanted, where(i))
        return found

    def _wanted(self, row: Pieces) -> int:
        """How many special tokens the template has put into a row."""
        return sum(self._count(piece) for piece in row if not isinstance(piece, Plain))

    def _tokenized(self, texts: Sequence[str], where: Where = text_number) -> list[Tokens]:
        """Tokens of texts all of which may be markup."""
        full = list(filter(None, texts))
        if not full:
            return [()] * len(texts)
        try:
            ids = iter(self._tokenizer(full, add_special_tokens=False)["input_ids"])
        except (TypeError, UnicodeError):
            _check_surrogates(texts, where)
            raise
        return [tuple(next(ids)) if text else () for text in texts]

    def _as_text(self, row: Pieces, wanted: int, where: str) -> Tokens:
        """Tokens of one text whose data hold what would be special tokens, as text."""
        found = None if self._textual is None else self._read_as_text(row, *self._textual)
        if found is not None and self._number(found) == wanted:
            return found
        mark = self._mark_in(row) or "a special token"
        raise GfoError(
            f"{where}: it holds {mark!r}, which this tokenizer reads as its own sign and not as text; drop "
            "it, or write it otherwise"
        )

    def _read_as_text(
        self, row: Pieces, backend: Any, numbers: dict[int, int], written: dict[str, str]
    ) -> Tokens:
        """Tokens of one text by a tokenizer as `_textual` has it."""
        pieces = (
            piece if isinstance(piece, Plain) else self._marks.sub(lambda found: written[found[0]], piece)
            for piece in row
        )
        ids = backend.encode("".join(pieces), add_special_tokens=False).ids
        return tuple(numbers.get(token, token) for token in ids)

    @functools.cached_property
    def _special(self) -> dict[str, int]:
        """Text and id of what is no text: special tokens, and added ones that the chat template writes."""
        tokenizer = self._tokenizer
        chat = str(getattr(tokenizer, "chat_template", None) or "")
        found = {
            token.content: number
            for number, token in tokenizer.added_tokens_decoder.items()
            if token.special or (token.content.strip() and token.content in chat)
        }
        return found | dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))

    @functools.cached_property
    def _marks(self) -> re.Pattern[str]:
        """Finds them, the longest first."""
        longest = sorted(filter(None, self._special), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest)) or r"(?!)")

    @functools.cached_property
    def _special_ids(self) -> frozenset[int]:
        """Their ids, but for that of unknown words, which are text."""
        return frozenset(self._special.values()) - {self._tokenizer.unk_token_id}

    def _mark_in(self, row: Pieces) -> str | None:
        """The first special token in a row's data, as text."""
        found = (self._marks.search(piece) for piece in row if isinstance(piece, Plain))
        return next((mark[0] for mark in found if mark), None)

    def _number(self, ids: Tokens) -> int:
        """How many of these tokens are special."""
        if self._special_ids.isdisjoint(ids):
            return 0
        return sum(token in self._special_ids for token in ids)

    def _count(self, piece: str) -> int:
        """How many special tokens a template's piece has."""
        if piece not in self._counts:
            self._counts[piece] = self._number(self._tokenized([piece])[0])
        return self._counts[piece]

    @functools.cached_property
    def _textual(self) -> tuple[Any, dict[int, int], dict[str, str]] | None:
        """A tokenizer that reads special tokens as text, ids of its added tokens -> the original's, and what
        is written for those of a template; None where it cannot be made."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            return None
        from tokenizers import AddedToken, Tokenizer

        spec = json.loads(backend.to_str())
        special, others = _parted(spec["added_tokens"], self._special)
        copy = Tokenizer.from_str(json.dumps({**spec, "added_tokens": others, "post_processor": None}))
        numbers: dict[Any, int] = {copy.token_to_id(token["content"]): token["id"] for token in others}
        written: dict[str, str] = {}
        for token in special:
            number, content = token.pop("id"), token.pop("content")
            written[content] = STAND_IN.format(number)
            copy.add_special_tokens([AddedToken(written[content], **token)])
            numbers[copy.token_to_id(written[content])] = number
        return copy, numbers, written

    def _special_ends(self) -> tuple[Tokens, Tokens]:
        """The special tokens that the tokenizer puts in front of a text and behind it."""
        bare = self._tokenizer("a", add_special_tokens=False)["input_ids"]
        full = self._tokenizer("a")["input_ids"]
        for i in range(len(full) - len(bare) + 1):
            if full[i : i + len(bare)] == bare:
                return tuple(full[:i]), tuple(full[i + len(bare) :])
        return (), ()


def _parted(added: Sequence[Any], special: Mapping[str, int]) -> tuple[list[Any], list[Any]]:
    """A tokenizer's added tokens: the special ones, and the others."""
    kept = [token for token in added if token["content"] in special]
    return kept, [token for token in added if token["content"] not in special]


def _check_surrogates(texts: Sequence[str], where: Where) -> None:
    """Raise GfoError for a text with half a character."""
    for i, text in enumerate(texts):
        if at := SURROGATE.search(text):
            raise GfoError(
                f"{where(i)}: U+{ord(at[0]):04X} at character {at.start() + 1} is a lone surrogate, "
                "half of a character; mend the text, or drop it"
            ) from None


def _behind(joint: Tokens, context: Tokens, otherwise: Tokens) -> Tokens:
    """The tokens behind those of a context, where a text of both begins with these; else what is given."""
    return joint[len(context) :] if context and joint[: len(context)] == context else otherwise


def _with_ends(ids: Tokens, front: Tokens, back: Tokens) -> Tokens:
    """Tokens between special ones, each of which stands once."""
    begun, ended = ids[: len(front)] == front, ids[len(ids) - len(back) :] == back
    return (() if begun else front) + ids + (() if ended and ids else back)


def check_template(template: Any) -> None:
    """Raise ValueError for a chat template (or several, by name) that computes with numbers so large that no
    deadline could cut it short: other than the loops of a template, that is one step of Python's."""
    for text in template.values() if isinstance(template, Mapping) else [template]:
        if (value := _too_large(str(text))) is not None:
            raise ValueError(f"it computes with {value}")


@functools.lru_cache(maxsize=64)
def _too_large(template: str) -> str | None:
    """What of a template may make numbers too large, or None; looked for once, not for each row."""
    from jinja2 import Environment

    for _, kind, value in Environment().lex(template):
        if (kind, value) == ("operator", "**") or (kind == "integer" and len(value) > DIGITS):
            return str(value)
    return None
