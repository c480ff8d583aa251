"""Configs: TOML or JSON <-> objects, the only place that turns names into objects."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from gfo.config.dotted import parsed, put
from gfo.config.explaining import one_line, section_at
from gfo.config.run_config import DATA_DIRS as DATA_DIRS
from gfo.config.run_config import Config as Config
from gfo.config.sections import UNKNOWN_KEY
from gfo.core.errors import GfoError, GfoWarning
from gfo.core.files import absolute
from gfo.core.reading import parse_json, parse_toml, read_text
from gfo.run.files import CHECKSUM, check_unchanged
from gfo.run.stored import CONFIG as CONFIG
from gfo.tasks.parts.sources import DATA

if TYPE_CHECKING:
    from gfo.core.protocols import Evaluator

DEMO = DATA / "demo.toml"


def search_evaluator(config: str | Path | dict[str, Any]) -> Evaluator:
    """What evaluates in the search of a config, a path or its values, as a worker makes it."""
    found = make_config(config, "of a worker") if isinstance(config, dict) else load_config(config)
    return found.local_evaluator(values=(*(found.objectives or ()), *(found.limits or {})))


def open_evaluator(folder: Path, **parts: Any) -> Evaluator:
    """The evaluator of the run in a folder; parts as in `Config.local_evaluator`."""
    return load_config(folder / CONFIG).local_evaluator(folder, **parts)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The config in a TOML or JSON file, with "key.key=value" overrides (values as in TOML).

    Raises:
        GfoError: for a file that cannot be read or parsed, or a key or value that is not known.
    """
    return make_config(read_values(path, overrides), absolute(path, "config"))


def read_values(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The nested values of a config's file, with overrides, before they are checked.

    Raises:
        GfoError: for a file that cannot be read or parsed.
    """
    path = absolute(path, "config")
    where, text = f"config: {path}", read_text(path, "config")
    if path.suffix == ".json":
        values = parse_json(text, where, "write TOML, or JSON in a .json file")
    else:
        values = parse_toml(text, where, "write TOML, or JSON in a .json file")
    if not isinstance(values, dict):
        raise GfoError(f"config: {path} holds a {type(values).__name__}; write keys and values")
    if CHECKSUM in values:
        check_unchanged(
            values, path, f"change it with --set, or delete its key '{CHECKSUM}' to make it yours"
        )
        values = _known(values, path)
    for override in overrides:
        _set(values, override)
    return dict(values)


def _known(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """What a run's config says without keys that a newer gfo wrote: as the format is known, they mean nothing
    that changes the run."""
    while True:
        try:
            Config.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            if first["type"] == UNKNOWN_KEY:
                section, key = section_at(first["loc"], values), first["ctx"]["key"]
                del section[key]
                said = f"config: {path}: the key '{key}' is of another gfo, and left out"
                warnings.warn(said, GfoWarning, stacklevel=3)
                continue
        return values


def make_config(values: dict[str, Any], name: str | Path) -> Config:
    """The config that nested values stand for; errors call it by the name.

    Raises:
        GfoError: for a key or value that is not known.
    """
    if "optimizer" in values and "baseline" in values:
        raise GfoError(f"config: {name}: it has [optimizer] and [baseline]; give one of them")
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise one_line(error, name, values) from None


def _set(values: dict[str, Any], override: str) -> None:
    """Put "a.b=value" into nested values."""
    key, equals, text = override.partition("=")
    put(values, key if equals else "", parsed(text), f"--set {override}")
