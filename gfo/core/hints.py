"""Type hints as objects, also those that are imported for type checkers alone."""

from __future__ import annotations

import builtins
import inspect
import sys
from collections.abc import Callable
from typing import Any, Unpack, get_args, get_origin, get_type_hints, is_typeddict


class _Unseen(type):
    def __getattr__(cls, name: str) -> Any:
        return cls

    def __getitem__(cls, arguments: Any) -> Any:
        return cls


class Unseen(metaclass=_Unseen):
    """Stands for a type that is imported for type checkers alone."""


class _Names(dict[str, Any]):
    """The names of a module, and `Unseen` for all others."""

    def __missing__(self, name: str) -> Any:
        return getattr(builtins, name, Unseen)


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """argument -> its hint, of those that have one; of a variable its bound."""
    inner: Any = inspect.unwrap(function)
    found = get_type_hints(inner, localns=_Names(getattr(inner, "__globals__", {})))
    return {name: getattr(hint, "__bound__", None) or hint for name, hint in found.items()}


def options_of(hint: Any) -> dict[str, Any] | None:
    """option -> its hint, of **options that are an unpacked TypedDict; None for others."""
    inner = get_args(hint)[0] if get_origin(hint) is Unpack else None
    if inner is None or not is_typeddict(inner):
        return None
    return get_type_hints(inner, localns=_Names(vars(sys.modules[inner.__module__])))
