"""Messages in a model's chat format: rendered once, with signs in the places of fields, which are then found
again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gfo.core.errors import GfoError
from gfo.core.images import PLACE, is_image_field
from gfo.core.protocols import Tokenizer

Message = tuple[str, str]
"""Role and content."""
SIGN = "\ue000{}\ue001"  # of private characters, which no template has
SIGNS = re.compile(SIGN.format(r"(\d+)"))
ODD = re.compile(r"[<>\[\]{}|]")
LEFT, RIGHT = "\t", "\f"  # blanks around a sign, by which it is seen what the format cuts off
CHANGED = (
    "template: the model's chat template does not write the messages' texts once and as they are; "
    "write the template as one text"
)


class Piece(NamedTuple):
    """A part of a template.

    Attributes:
        literal: text in front of the place; it may hold special tokens.
        field: what stands in the place, or None.
        trim: the sides at which a chat template cuts off blanks of what stands there: "l", "r" or both.
    """

    literal: str
    field: str | None
    trim: str = ""


def checked_messages(given: Any) -> tuple[Message, ...]:
    """Messages as role and content; an image in a list of contents is the place of a field.

    Raises:
        GfoError: for other than a list of mappings with texts for these two.
    """
    wanted = "give a text, or a list of messages with 'role' and 'content'"
    if not isinstance(given, Sequence) or not given:
        raise GfoError(f"template = {given!r}: {wanted}")
    return tuple(_checked_message(message, wanted) for message in given)


def _checked_message(message: Any, wanted: str) -> Message:
    if not isinstance(message, Mapping) or {*message} != {"role", "content"}:
        raise GfoError(f"template: the message {message!r} is not of 'role' and 'content'; {wanted}")
    role, content = message["role"], _joined(message["content"])
    if not (isinstance(role, str) and isinstance(content, str)):
        raise GfoError(f"template: role and content of {message!r} must be texts")
    return role, content


def _joined(content: Any) -> Any:
    """A message's content, its parts as one text if it is a list."""
    return "".join(map(_content, content)) if isinstance(content, list | tuple) else content


def _content(part: Any) -> str:
    """A part of a message's content as text: {"type": "image"} is "{image}"."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "image":
        return str(part.get("image", "{image}"))
    if kind == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise GfoError(
        f"template: the content {part!r} is neither {{'type': 'text', 'text': ...}} nor {{'type': 'image'}}; "
        "gfo reads texts and images"
    )


def in_chat(
    messages: Sequence[tuple[str, Sequence[Piece]]], tokenizer: Tokenizer
) -> tuple[list[str], list[str]]:
    """Messages as one text, in parts.

    Args:
        messages: role and pieces of each; there are n places in them.
        tokenizer: whose chat format it is.

    Returns:
        The n + 1 texts around the places, and the sides at which blanks of what stands in each are cut off.

    Raises:
        GfoError: for a format that changes, repeats or leaves out what the messages say.
    """
    parts, padded = (_around(messages, tokenizer, *blanks) for blanks in (("", ""), (LEFT, RIGHT)))
    trims = [""] * (len(parts) - 1)
    for i, (part, wide) in enumerate(zip(parts, padded, strict=True)):
        front, back = RIGHT if i else "", LEFT if i < len(trims) else ""
        left, right = _kept_blanks(part, wide, front, back)
        if left != front:
            trims[i - 1] += "r"
        if right != back:
            trims[i] += "l"
    return parts, trims


def _kept_blanks(part: str, wide: str, front: str, back: str) -> tuple[str, str]:
    """Which of the blanks in front of a part and behind it the format has kept."""
    kept = {f + part + b: (f, b) for f in ("", front) for b in ("", back)}
    if wide not in kept:
        raise GfoError(CHANGED)
    return kept[wide]


def is_odd(value: str) -> bool:
    """Whether a chat format may change a text: it is empty, has blanks at an end, or signs in it."""
    return not value or value != value.strip() or ODD.search(value) is not None


def _around(
    messages: Sequence[tuple[str, Sequence[Piece]]], tokenizer: Tokenizer, left: str, right: str
) -> list[str]:
    """The texts around the places, each of which has a sign between two texts."""
    said: list[dict[str, str]] = []
    number, pictures = 0, []
    for role, pieces in messages:
        content = ""
        for piece in pieces:
            content += piece.literal
            if piece.field is not None:
                image = is_image_field(piece.field)
                pictures += [number] if image else []
                content += left + (PLACE if image else SIGN.format(number)) + right
                number += 1
        said.append({"role": role, "content": content})
    signs = iter(map(SIGN.format, pictures))
    found = SIGNS.split(re.sub(PLACE, lambda _: next(signs), tokenizer.chat(said)))
    if found[1::2] != [str(i) for i in range(number)]:
        raise GfoError(CHANGED)
    return found[::2]
