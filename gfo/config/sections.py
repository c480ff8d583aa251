"""What the sections of a config share, and how the name in `kind` gives a section its keys."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from gfo.core.errors import GfoError
from gfo.core.registry import Entry, find

UNKNOWN_KEY, SAID = "unknown_key", "said"  # errors of this module: a key, and whole sentences


class Section(BaseModel):
    """Keys that are not known are refused."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, values: Any) -> Any:
        unknown = [key for key in values if key not in cls.model_fields] if isinstance(values, dict) else []
        if unknown:
            context = {"key": str(unknown[0]), "known": list(cls.model_fields)}
            raise PydanticCustomError(UNKNOWN_KEY, "unknown key", context)
        return values


def anchored_name(name: str) -> str:
    """A model's folder as a path that means the same everywhere; any other name as it is."""
    folder = os.path.expanduser(name)
    return os.path.abspath(folder) if os.path.isdir(folder) else name


def of_kind(
    kind: str,
    default: str,
    make: Callable[[Entry], type[Section]],
    others: Mapping[str, type[Section]] | None = None,
) -> Callable[[Any], Any]:
    """A validator of sections that the registry's names of a kind have: of which one, `kind` says.

    Args:
        kind: of the registry.
        default: the name of a section that does not say.
        make: the section of a thing with a name.
        others: sections by names that the registry has not.
    """

    def validated(values: Any) -> Any:
        if isinstance(values, Section):
            return values
        if not isinstance(values, dict):
            raise PydanticCustomError("no_section", "no section")
        name = str(values.get("kind", default))
        try:
            section = (others or {}).get(name) or make(find(kind, name))
        except GfoError as error:
            raise PydanticCustomError(SAID, "{sentence}", {"sentence": str(error)}) from None
        return section.model_validate(values)

    return validated
