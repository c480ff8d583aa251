"""Keys of a section from the signature of a constructor: names, types and defaults."""

from __future__ import annotations

import inspect
import types
from collections.abc import Collection, Iterable, Mapping
from pathlib import PurePath
from typing import Any, Literal, TypedDict, Union, get_args, get_origin

from pydantic import Field

from gfo.core.errors import GfoError
from gfo.core.hints import hints_of, options_of
from gfo.core.protocols import Reader

PLAIN = (str, int, float, bool, type(None))
NO_KEY = object()  # the type of what a config cannot say


class Key(TypedDict):
    """What a config may say of an argument."""

    type: Any
    default: Any
    """Of the argument; `inspect.Parameter.empty` without."""
    model: bool
    """Whether a model's name stands for the model."""


def keys_of(cls: type, leave_out: Collection[str] = ()) -> dict[str, Key]:
    """The arguments of a class's constructor that a config can give.

    Args:
        cls: the class. Its type hints decide; an argument without one takes any value.
        leave_out: arguments that are not the config's to give.

    Raises:
        GfoError: for an argument without a default of a type that a config has not.
    """
    hints = hints_of(cls.__init__)  # type: ignore[misc]
    found: dict[str, Key] = {}
    for name, parameter in inspect.signature(cls).parameters.items():
        hint = hints.get(name, Any)
        if parameter.kind is parameter.VAR_KEYWORD:
            found |= {key: value for key, value in _options(hint).items() if key not in leave_out}
        elif name not in leave_out and parameter.kind is not parameter.VAR_POSITIONAL:
            found |= _of_argument(cls, parameter, hint)
    return found


def _of_argument(cls: type, parameter: inspect.Parameter, hint: Any) -> dict[str, Key]:
    """The key of an argument of a class; none for one with a default that a config cannot give."""
    name = parameter.name
    model = Reader in _members(hint)
    kept = str | None if model else plain_type(hint)
    if kept is not NO_KEY:
        return {name: Key(type=kept, default=parameter.default, model=model)}
    if parameter.default is parameter.empty:
        raise GfoError(
            f"{cls.__name__}: a config cannot give its argument '{name}' ({hint}); give it a default"
        )
    return {}


def field_of(key: Key) -> Any:
    """The key as pydantic's `create_model` takes it."""
    default = key["default"]
    if default is inspect.Parameter.empty:
        return key["type"], ...
    if isinstance(default, list | tuple | set):
        return key["type"], Field(default_factory=lambda: list(default))
    if isinstance(default, Mapping):
        return key["type"], Field(default_factory=lambda: dict(default))
    return key["type"], default


def plain_type(hint: Any) -> Any:
    """The hint as JSON has it, without what a config cannot say; NO_KEY if nothing is left.

    Sequences are lists, the keys of mappings are texts.
    """
    if hint is Any or hint in PLAIN:
        return hint
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return hint
    if origin in (Union, types.UnionType):
        return _plain_union(inner)
    if isinstance(hint, type) and issubclass(hint, PurePath):
        return str
    outer = origin or hint
    return _plain_container(outer, inner) if isinstance(outer, type) else NO_KEY


def _plain_union(inner: tuple[Any, ...]) -> Any:
    """Those of the types that a config can say; NO_KEY if that is None at most."""
    kept = [found for each in inner if (found := plain_type(each)) is not NO_KEY]
    return Union[tuple(kept)] if set(kept) - {type(None)} else NO_KEY  # noqa: UP007


def _plain_container(outer: type, inner: tuple[Any, ...]) -> Any:
    """A mapping or sequence, of `inner`, as `plain_type` has it."""
    if issubclass(outer, Mapping):
        value = plain_type(inner[1]) if inner else Any
        return NO_KEY if value is NO_KEY else dict[str, value]  # type: ignore[valid-type]
    if issubclass(outer, Iterable) and outer.__module__ in ("builtins", "collections.abc"):
        value = plain_type(inner[0]) if inner else Any
        return NO_KEY if value is NO_KEY else list[value]  # type: ignore[valid-type]
    return NO_KEY


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _options(hint: Any) -> dict[str, Key]:
    """The keys of **options that are an unpacked TypedDict; of others nothing is known."""
    found = {}
    for name, each in (options_of(hint) or {}).items():
        kept = plain_type(each)
        if kept is not NO_KEY:
            found[name] = Key(type=Union[kept, None], default=None, model=False)  # noqa: UP007
    return found
