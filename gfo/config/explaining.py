"""What is wrong with a config, in one line: pydantic's errors in gfo's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gfo.config.sections import SAID, UNKNOWN_KEY
from gfo.core.errors import GfoError, unknown_name


def one_line(error: ValidationError, path: str | Path, values: Any) -> GfoError:
    """pydantic's first error in one line, with the nearest name for a wrong one."""
    first = error.errors()[0]
    keys = keys_at(first["loc"], values)
    where, problem, context = ".".join(keys), first["type"], first.get("ctx", {})
    if problem == UNKNOWN_KEY:
        reason = str(unknown_name(f"key in [{where}]" if where else "key", context["key"], context["known"]))
    elif problem == SAID:
        reason = context["sentence"]
    elif problem == "no_section":
        reason = f"{where} = {first['input']!r}; write a section [{where}] with keys"
    elif problem == "missing":
        reason = f"'{where}' is missing; give it a value"
    else:
        reason = f"{where} = {first['input']!r}: {first['msg'].lower().removeprefix('value error, ')}"
    return GfoError(f"config: {path}: {reason}")


def section_at(loc: Sequence[str | int], values: Any) -> Any:
    """The section at a location, as `keys_at` has it."""
    for key in keys_at(loc, values):
        values = values[int(key)] if isinstance(values, list) else values[key]
    return values


def keys_at(loc: Sequence[str | int], values: Any) -> list[str]:
    """The keys of a location, without pydantic's names for the choices of a union."""
    keys: list[str] = []
    for part in loc:
        if isinstance(values, Mapping) and (part in values or part == loc[-1]):
            values = values.get(part)
        elif isinstance(values, list) and isinstance(part, int):
            values = values[part]
        else:
            break
        keys.append(str(part))
    return keys
