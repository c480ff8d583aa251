"""Templates: a text, or messages of a chat, with places for fields, and one for what is searched.

That is `{soft}` for the soft prompt, or `{here}`, where changes of the model's modules may begin.
"""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gfo.core.errors import GfoError, shown, unknown_name
from gfo.core.images import Picture, check_images, images_of, is_image_field
from gfo.core.protocols import Tokenizer, Tokens
from gfo.core.texts import Pieces, Plain, Where, text_number
from gfo.tasks.parts.chat import SIGN, Message, Piece, checked_messages, in_chat, is_odd

SOFT = "soft"
HERE = "here"  # where changes of modules may begin; nothing stands there
MASK = "mask"  # where a masked language model says the answer
GivenTemplate = str | Sequence[Mapping[str, Any]]
"""A text, or messages of "role" and "content", which may be a list of texts and images."""
Row = Mapping[str, Any]


def is_missing(value: Any) -> bool:
    """Whether a value stands for none, as nan does in tables."""
    return isinstance(value, float) and math.isnan(value)


def is_plain(value: Any) -> bool:
    """Whether a value is a text or a number, neither missing nor a truth value."""
    return isinstance(value, str | int | float) and not isinstance(value, bool) and not is_missing(value)


def is_list(value: Any) -> bool:
    """Whether a value lists others: a sequence that is no text."""
    return isinstance(value, Sequence) and not isinstance(value, str)


@dataclass(frozen=True)
class Template:
    """A parsed template.

    Attributes:
        before: pieces in front of the soft prompt, or of where changes may begin, or all of them.
        after: the pieces behind it.
        place: SOFT, HERE or None: what stands between the two.
        messages: of a chat; without them it is a text.
        is_text: whether the pieces are what the model reads; those of messages are once they are `bound`.
        ends: whether the model's special tokens for a start and an end are put around it; a chat has its own.
    """

    before: tuple[Piece, ...]
    after: tuple[Piece, ...]
    place: str | None = SOFT
    messages: tuple[Message, ...] = ()
    is_text: bool = True
    ends: bool = True

    @classmethod
    def parse(cls, given: GivenTemplate) -> Template:
        """Parse "Review: {text}\\n{soft}Sentiment:", or messages of such; doubled braces are single ones.

        Raises:
            GfoError: for unbalanced braces, formats or conversions in a place, more than one `{soft}` or
                `{here}`, or messages without role and content.
        """
        messages = () if isinstance(given, str) else checked_messages(given)
        texts = [given] if isinstance(given, str) else [content for _, content in messages]
        pieces = [piece for text in texts for piece in _parsed(text)]
        at = _place(pieces, given)
        before, after = _around(pieces, at)
        place = None if at is None else pieces[at].field
        return cls(before, after, place, messages, is_text=not messages)

    @property
    def soft(self) -> bool:
        """Whether there is a place for a soft prompt."""
        return self.place == SOFT

    @property
    def fields(self) -> list[str]:
        """The fields that a row must have."""
        places = (piece.field for piece in (*self.before, *self.after))
        return [field for field in places if field is not None and field != MASK]

    @property
    def masks(self) -> int:
        """How often `{mask}` stands in it."""
        return sum(piece.field == MASK for piece in (*self.before, *self.after))

    def bound(self, tokenizer: Tokenizer) -> Template:
        """The template as the model reads it: messages in its chat format, rendered once.

        Raises:
            GfoError: as `check_mask`; for a model without a chat format, or one that changes the messages.
        """
        self.check_mask(tokenizer)
        if self.is_text:
            return self
        messages = self._parsed_messages()
        parts, trims = in_chat(messages, tokenizer)
        fields = [piece.field for _, some in messages for piece in some if piece.field]
        pieces = list(map(Piece, parts, [*fields, None], [*trims, ""]))
        before, after = _around(pieces, fields.index(self.place) if self.place else None)
        return Template(before, after, self.place, self.messages, ends=False)

    def without_soft(self) -> Template:
        """The template without the place of a soft prompt, or of where changes begin."""
        if self.messages:
            return Template.parse(self.messages_with(soft="", here=""))
        return Template(before=(*self.before, *self.after), after=(), place=None)

    def with_field(self, name: str) -> Template:
        """The template with the place of a field of that name where the soft prompt goes."""

        def renamed(pieces: Sequence[Piece]) -> str:
            return _text([p._replace(field=name) if p.field == SOFT else p for p in pieces], {})

        if self.messages:
            return Template.parse(
                [{"role": r, "content": renamed(_parsed(text))} for r, text in self.messages]
            )
        return Template.parse(renamed([*self.before, Piece("", SOFT), *self.after]))

    def text(self, **places: str) -> str:
        """The template as text again, with texts put into some places, `soft` and `here` among them."""
        place = [Piece("", self.place)] if self.place else []
        return _text((*self.before, *place, *self.after), places)

    def messages_with(self, **places: str) -> list[dict[str, str]]:
        """The messages, with texts put into some places."""
        return [{"role": role, "content": _text(_parsed(text), places)} for role, text in self.messages]

    def _parsed_messages(self) -> list[tuple[str, list[Piece]]]:
        """Role and pieces of each message."""
        return [(role, _parsed(text)) for role, text in self.messages]

    def check(self, row: Row, where: str) -> None:
        """Raise GfoError if the row lacks a field or holds something that is not text, or has an image, or a
        field of images has none."""
        fields = self.fields
        for field in fields:
            if field not in row:
                raise GfoError(f"template at {where}: {unknown_name('field', field, map(str, row))}")
            check = check_images if is_image_field(field) else _check_text
            check(row[field], f"{where}: field '{field}'")
        _check_no_other_image(row, fields, where)

    def check_rows(self, rows: Mapping[str, Sequence[Row]]) -> None:
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

    def render(self, row: Row) -> tuple[str, str]:
        """The texts in front of and behind the soft prompt."""
        return "".join(_filled(self.before, row)), "".join(_filled(self.after, row))

    def pieces(self, row: Row, tokenizer: Tokenizer) -> tuple[Pieces, Pieces]:
        """The same in pieces, those of the row as text that holds no markup."""
        row = {**row, MASK: tokenizer.mask}
        return _filled(self.before, row), _filled(self.after, row)

    def encode(
        self, rows: Sequence[Row], tokenizer: Tokenizer, where: Where = text_number
    ) -> list[tuple[Tokens, Tokens]]:
        """The tokens of each row in front of and behind the place; a chat has its own special tokens.

        Raises:
            GfoError: for a row that cannot be tokens, or that the chat format changes, as `where(i)`.
        """
        self._check_chat(rows, tokenizer, where)
        pieces = [self.pieces(row, tokenizer) for row in rows]
        fronts, backs = [front for front, _ in pieces], [back for _, back in pieces]
        split = self.place is not None
        before = tokenizer.encode_rows(fronts, start=self.ends, end=self.ends and not split, where=where)
        after = tokenizer.encode_rows(backs, end=self.ends and split, behind=fronts, where=where)
        return list(zip(before, after, strict=True))

    def _check_chat(self, rows: Sequence[Row], tokenizer: Tokenizer, where: Where) -> None:
        """Raise GfoError for a row, the first or an odd one, of which the chat makes another text."""
        messages = self._parsed_messages()
        for i, row in enumerate(rows if messages else ()):
            if i and not any(_is_odd(field, row[field]) for field in self.fields):
                continue
            if not self._is_chat(messages, row, tokenizer):
                raise GfoError(
                    f"{where(i)}: the model's chat template makes another text of it than of other rows; "
                    "drop it, or mend it (an empty field, blanks at an end, signs of the chat format)"
                )

    def _is_chat(
        self, messages: Sequence[tuple[str, Sequence[Piece]]], row: Row, tokenizer: Tokenizer
    ) -> bool:
        """Whether the text of a row is what the chat format makes of the messages with the row in them."""
        sign = SIGN.format(0)
        filled = {**row, SOFT: sign, HERE: "", MASK: tokenizer.mask}
        said = [{"role": role, "content": "".join(_filled(some, filled))} for role, some in messages]
        return tokenizer.chat(said) == (sign if self.soft else "").join(self.render(filled))


def rows_of(split: str) -> Where:
    """What errors call the i-th row of a split."""
    return lambda i: f"{split} row {i + 1}"


def _parsed(text: str) -> list[Piece]:
    """The pieces of a text, `{soft}` and `{here}` among them."""
    try:
        pieces = list(string.Formatter().parse(text))
    except ValueError as error:
        raise GfoError(f"template = {text!r}: {error}; write {{{{ for a brace that is text") from None
    if any(field == "" or form or conversion for _, field, form, conversion in pieces):
        raise GfoError(f"template = {text!r}: a place holds a field's name alone, as in {{text}}")
    return [Piece(literal, field) for literal, field, _, _ in pieces]


def _place(pieces: Sequence[Piece], given: GivenTemplate) -> int | None:
    """The number of the piece in front of `{soft}` or `{here}`, if there is one; GfoError for several."""
    places = [i for i, piece in enumerate(pieces) if piece.field in (SOFT, HERE)]
    if len(places) > 1:
        raise GfoError(
            f"template = {given!r} has {len(places)} times {{soft}} or {{here}}; write {{soft}} once, "
            "where the soft prompt goes, or {here} once, where changes begin"
        )
    return places[0] if places else None


def _around(pieces: Sequence[Piece], i: int | None) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
    """The pieces in front of the place of the i-th and those behind it; all and none without a place."""
    if i is None:
        return tuple(pieces), ()
    return (*pieces[:i], Piece(pieces[i].literal, None)), tuple(pieces[i + 1 :])


def _text(pieces: Sequence[Piece], places: Mapping[str, str]) -> str:
    """Pieces as a template has them, with texts in some places."""

    def place(field: str | None) -> str:
        return "" if field is None else _escaped(places[field]) if field in places else f"{{{field}}}"

    return "".join(_escaped(piece.literal) + place(piece.field) for piece in pieces)


def _escaped(text: str) -> str:
    """Text as a template has it."""
    return text.replace("{", "{{").replace("}", "}}")


def _filled(pieces: Sequence[Piece], row: Row) -> Pieces:
    """Texts, with the row's values in their places."""
    found: list[str] = []
    for literal, field, trim in pieces:
        found.append(literal)
        if field is not None and is_image_field(field):
            found += [Picture(value) for value in images_of(row[field])]
        elif field is not None:
            value = str(row[field])
            found.append(value if field == MASK else Plain(_trimmed(value, trim)))
    return found


def _check_no_other_image(row: Row, fields: Sequence[str], where: str) -> None:
    """Raise GfoError for a row with an image in a field that a template does not have."""
    for field in filter(is_image_field, map(str, row)):
        if field not in fields and images_of(row[field]):
            raise GfoError(
                f"{where}: field '{field}' has no place in the template; write {{{field}}} where its "
                "image goes, or drop the field"
            )


def _check_text(value: Any, where: str) -> None:
    """Raise GfoError for a field's value that is no text or number."""
    if is_missing(value):
        raise GfoError(f"{where} is {value!r}, a missing value; drop the row, or fill it")
    if not is_plain(value):
        raise GfoError(
            f"{where} is {shown(value)}; a template takes text and numbers only, and images in fields called "
            "image, images or image_..."
        )


def _is_odd(field: str, value: Any) -> bool:
    """Whether a chat format may make another text of a field's value: of images, not one."""
    return len(images_of(value)) != 1 if is_image_field(field) else is_odd(str(value))


def _trimmed(value: str, sides: str) -> str:
    value = value.lstrip() if "l" in sides else value
    return value.rstrip() if "r" in sides else value
