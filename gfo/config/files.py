"""What a config's file says, before it is checked."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gfo.config.dotted import parsed, put
from gfo.config.explaining import section_at
from gfo.config.sections import UNKNOWN_KEY
from gfo.core.errors import GfoError, GfoWarning
from gfo.core.reading import parse_json, parse_toml, read_text
from gfo.run.files import check_unchanged

REMEDY = "write TOML, or JSON in a .json file"


def nested_values(path: Path) -> dict[str, Any]:
    """The keys and values of a file.

    Raises:
        GfoError: for a file that cannot be read or parsed, or holds anything else.
    """
    where, text = f"config: {path}", read_text(path, "config")
    values = (parse_json if path.suffix == ".json" else parse_toml)(text, where, REMEDY)
    if not isinstance(values, dict):
        raise GfoError(f"config: {path} holds a {type(values).__name__}; write keys and values")
    return values


def known_keys(
    values: dict[str, Any], path: Path, validate: Callable[[dict[str, Any]], object]
) -> dict[str, Any]:
    """What a run's config says without keys that a newer gfo wrote: as the format is known, they mean nothing
    that changes the run.

    Raises:
        GfoError: for a file that was changed.
    """
    check_unchanged(values, path, "change it with --set, or delete its key 'checksum' to make it yours")
    while True:
        try:
            validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            if first["type"] == UNKNOWN_KEY:
                section, key = section_at(first["loc"], values), first["ctx"]["key"]
                del section[key]
                said = f"config: {path}: the key '{key}' is of another gfo, and left out"
                warnings.warn(said, GfoWarning, stacklevel=4)
                continue
        return values


def override_value(values: dict[str, Any], override: str) -> None:
    """Put "a.b=value" into nested values."""
    key, equals, text = override.partition("=")
    put(values, key if equals else "", parsed(text), f"--set {override}")
