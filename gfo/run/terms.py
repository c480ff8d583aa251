"""What a run that goes on must have as it was: its terms, as plain values, compared key by key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from gfo.core.errors import GfoError
from gfo.core.recording import walk
from gfo.run.files import format_of

# what may change when a run goes on
FREE = ("budget", "config.budget", "config.stop", "config.evaluator", "config.refit")
MODEL = ("model", "config.model.name")


def upgraded(
    folder: Path, found: Mapping[str, Any], now: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The terms of then and now, to be compared: those of an older format without what it did not record.

    Format 1 has attributes of space and task in the place of what they were made with. A config says that,
    too, so that a run with one goes on.

    Raises:
        GfoError: for a run of format 1 whose space and task nothing tells.
    """
    then = dict(found["terms"])
    if format_of(found) > 1 or "space" not in then:
        return then, now
    if "config" not in then:
        raise GfoError(
            f"out = {folder}: gfo 0.1.0 began the run and did not record what its space and task were made "
            "with, so it cannot go on here; finish it with gfo 0.1.0, or begin a new run"
        )
    left_out = ("space", "task", "options")
    return tuple({k: v for k, v in terms.items() if k not in left_out} for terms in (then, now))  # type: ignore[return-value]


def check_terms(
    folder: Path, then: Mapping[str, Any], now: Mapping[str, Any], *, same_gfo: bool = True
) -> None:
    """Raise GfoError unless a run that goes on is the one of then, but for its budget and stops.

    Args:
        folder: of the run.
        then: its terms.
        now: those it would go on with.
        same_gfo: whether one version of gfo wrote both. Of two versions one may know keys that the other
            does not; what they mean is the same, as another meaning is another format.
    """
    in_both = _keys(then) & _keys(now)
    for key, old, new in differences(then, now):
        if not _is_free(key, old, new) and (same_gfo or key in in_both):
            raise GfoError(
                f"out = {folder}: the run there has {key} = {old}, not {new}; only the budget and [stop] may "
                "change when a run goes on: begin a new run for the rest"
            )


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, value then, value now) of nested values that differ; None where there is none.

    An empty list is none: an option that came later, with nothing in it, is no difference.
    """
    old, new = _values(then), _values(now)
    return [(key, old.get(key), new.get(key)) for key in {**old, **new} if old.get(key) != new.get(key)]


def _is_free(key: str, old: Any, new: Any) -> bool:
    """Whether a value may be another one; a model's name is recorded without its folder since 0.2."""
    return key.startswith(FREE) or (key in MODEL and PurePath(str(old)).name == new)


def _values(terms: Mapping[str, Any]) -> dict[str, Any]:
    """Key -> value, without empty lists."""
    return {key: value for key, _, value in walk(terms) if value or not isinstance(value, list | tuple)}


def _keys(terms: Mapping[str, Any]) -> set[str]:
    return {key for key, _, _ in walk(terms)}


def as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as they come back from JSON; what it does not have, as text."""
    plain: dict[str, Any] = json.loads(json.dumps(values, default=_plain))
    return plain


def _plain(value: object) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else repr(value)
