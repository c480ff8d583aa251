"""What spaces, tasks and optimizers were made with, as plain values: for records, resumed runs, comparisons.

Nothing is read off the attributes that an object happens to keep: a class says so by `recorded`, and what its
constructor was given is what counts.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from typing import Any, TypeVar

import numpy as np

from gfo.core.checking import Check, checked
from gfo.core.errors import GfoError

KEPT = "_arguments"  # the attribute that holds them
NOT_RECORDED = "not recorded"
LEFT_OUT = ("self", "model")  # the run says which model it was
LONG = 1000  # characters, from which on a digest stands for a value

C = TypeVar("C", bound=type)


@checked
def recorded(cls: C) -> C:
    """Class decorator: what the constructor is given is kept as plain values, for `arguments_of`.

    It is checked against the constructor's type hints before, as `gfo.core.checking.checked` does.

    A subclass with a constructor of its own is not recorded, unless it is decorated, too.

    Raises:
        GfoError: for a constructor with an argument `kind`, which is the class in records and configs.
    """
    init: Any = cls.__init__  # type: ignore[misc]
    check = Check(init, cls.__name__)
    if "kind" in check.signature.parameters:
        raise GfoError(f"{cls.__name__}: an argument cannot be called kind; rename it, such as method")

    @functools.wraps(init)
    def recording(self: Any, *args: Any, **options: Any) -> None:
        given = check((self, *args), options)
        init(*given.args, **given.kwargs)
        if getattr(type(self), "__init__", None) is recording:
            given.apply_defaults()
            remember(self, _named(given))

    setattr(cls, "__init__", recording)  # noqa: B010
    return cls


def remember(thing: Any, arguments: Mapping[str, Any]) -> None:
    """Keep what a thing was made with, unless it is kept already or the thing takes no attributes."""
    if arguments_of(thing) is None:
        with contextlib.suppress(AttributeError, TypeError):
            object.__setattr__(thing, KEPT, {name: plain(value) for name, value in arguments.items()})


def arguments_of(thing: Any) -> dict[str, Any] | None:
    """What a thing was made with, as plain values; None if that was not recorded."""
    found: dict[str, Any] | None = getattr(thing, "__dict__", {}).get(KEPT)
    return found


def description(thing: Any) -> dict[str, Any]:
    """The thing's class as `kind`, and its arguments, or that they were not recorded."""
    arguments = arguments_of(thing)
    return {"kind": type(thing).__name__, **({"arguments": NOT_RECORDED} if arguments is None else arguments)}


def options_of(optimizer: Any) -> Any:
    """What an optimizer was made with, its seed among it, or that it was not recorded."""
    found = arguments_of(optimizer)
    return NOT_RECORDED if found is None else found


def plain(value: Any) -> Any:
    """A value as JSON has it: numbers and texts as they are, what is long or has no such form as a digest.

    Recorded things are their description, a model is its name, a file its name without folders (runs travel),
    a function its name with a digest of its source; other things are their text, if it is no address.
    """
    if arguments_of(value) is not None:
        return description(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str | PurePath):
        return _text(value)
    return _with_parts(value)


def _with_parts(value: Any) -> Any:
    """What may have parts, as `plain` has it."""
    if is_dataclass(value) and not isinstance(value, type):
        inner = {field.name: plain(getattr(value, field.name)) for field in fields(value)}
        return {"kind": type(value).__name__, **inner}
    if isinstance(value, Mapping):
        return _short({str(key): plain(inner) for key, inner in value.items()}, len(value))
    if isinstance(value, set | frozenset):
        return _short(sorted(map(plain, value), key=repr), len(value))
    return _list(value) if isinstance(value, list | tuple) else _other(value)


def _list(values: Sequence[Any]) -> Any:
    """A list, or a digest of one that is long or has rows."""
    if any(isinstance(row, Mapping) for row in values):
        rows = re.sub(r" at 0x[0-9a-f]+", "", repr(values))  # an object's address says nothing
        return _digest(rows.encode("utf-8", "replace"), f"{len(values)} rows")
    return _short([plain(inner) for inner in values], len(values))


def walk(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str, Any]]:
    """(a.b.c, c, value) of nested values; parts of a list that have parts themselves count from 0."""
    for key, value in values.items():
        inner = _numbered(value)
        if isinstance(inner, Mapping):
            yield from walk(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", key, value


def _numbered(value: Any) -> Any:
    """A list whose parts have parts, as a mapping from their numbers; other values as they are."""
    if isinstance(value, list | tuple) and any(isinstance(each, Mapping | list | tuple) for each in value):
        return {str(i): each for i, each in enumerate(value)}
    return value


def _named(given: inspect.BoundArguments) -> dict[str, Any]:
    """The arguments of a call by name, those of **options among them."""
    found: dict[str, Any] = {}
    for name, value in given.arguments.items():
        if given.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            found |= value
        elif name not in LEFT_OUT:
            found[name] = value
    return found


def _text(value: str | PurePath) -> str:
    text = str(value)
    if isinstance(value, PurePath) or os.path.exists(text):
        return PurePath(text).name
    return text if len(text) <= LONG else _digest(text.encode("utf-8", "replace"), f"{len(text)} characters")


def _short(value: Any, number: int) -> Any:
    """The value, or a digest if it is long; things with arguments of their own are kept."""
    if not any(key == "kind" for _, key, _ in walk({"": value})):
        text = json.dumps(value)
        if len(text) > LONG:
            return _digest(text.encode(), f"{number} values")
    return value


def _other(value: Any) -> str:
    """Arrays and tensors by their numbers, functions by their source, models by name, the rest by class."""
    if hasattr(value, "detach"):  # a tensor
        value = value.detach().float().cpu().numpy()
    if isinstance(value, np.ndarray):
        return _digest(np.ascontiguousarray(value).tobytes(), f"{value.dtype} {list(value.shape)}")
    if inspect.isroutine(value):
        return _routine(value)
    own: Any = getattr(value, "name", None)
    if isinstance(own, str) and not isinstance(value, type):
        return _text(own)
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    text = repr(value)
    return f"{type(value).__qualname__}, {NOT_RECORDED}" if " at 0x" in text else _text(text)


def _routine(function: Any) -> str:
    """A function's name, with a digest of its source if there is one."""
    name = f"{getattr(function, '__module__', None)}.{getattr(function, '__qualname__', function)}"
    try:
        return f"{name}, {_digest(inspect.getsource(function).encode(), 'its source')}"
    except (OSError, TypeError):
        return name


def _digest(content: bytes, what: str) -> str:
    """What stands for a long value."""
    return f"sha256 {hashlib.sha256(content).hexdigest()[:16]} of {what}"
