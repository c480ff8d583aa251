"""Dotted keys of a config, as in budget.evaluations, and values as TOML or plain text has them."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Any

from gfo.core.errors import GfoError


def put(values: dict[str, Any], key: str, value: Any, given: str) -> None:
    """Put the value of "a.b" into nested values.

    Args:
        values: of a config; changed.
        key: with dots.
        value: plain.
        given: what errors call it.

    Raises:
        GfoError: for a key with an empty part, or one of something that is no section.
    """
    *sections, last = parts = [part.strip() for part in key.split(".")]
    if not all(parts):
        raise GfoError(f"{given}: write key=value, as in budget.evaluations=500")
    for part in sections:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise GfoError(f"{given}: '{part}' is a value, not a section")
    values[last] = value


def pairs(option: str, texts: Sequence[str]) -> dict[str, Any]:
    """The values of texts such as "timeout_min=60", by their keys.

    Raises:
        GfoError: for one without "=".
    """
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise GfoError(f"{option} {text}: write key=value, as in {option} timeout_min=60")
        found[key.strip()] = parsed(value.strip())
    return found


def parsed(text: str) -> Any:
    """The value that a text is in TOML; plain text needs no quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def parsed_list(text: str) -> list[Any]:
    """Values with commas between them, all as TOML has them or each by itself."""
    try:
        found: list[Any] = tomllib.loads(f"values = [{text}]")["values"]
    except tomllib.TOMLDecodeError:
        return [parsed(part.strip()) for part in text.split(",")]
    return found
