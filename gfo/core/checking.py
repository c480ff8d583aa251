"""Arguments of public functions and classes are checked against their type hints, when they are called.

What a hint cannot say, such as a range, is the function's to check. numpy's numbers are numbers.
"""

from __future__ import annotations

import functools
import inspect
import math
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import numpy as np
from numpy.typing import ArrayLike

from gfo.core.errors import GfoError, shown, unknown_name
from gfo.core.hints import Unseen, hints_of, options_of
from gfo.core.reading import encodable

F = TypeVar("F", bound=Callable[..., Any])

HUGE = 2**63  # no count and no seed is as large, and numpy has none
MOST_LOOKED_AT = 10_000  # elements of a list
WORDS: dict[Any, tuple[str, str]] = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("True or False", "True or False"),
    str: ("a text", "texts"),
    type(None): ("None", "None"),
    Any: ("a value", "values"),
    Callable: ("a function", "functions"),
    np.ndarray: ("an array of numbers", "arrays of numbers"),
    Mapping: ("a mapping", "mappings"),
    tuple: ("a tuple", "tuples"),
    Sequence: ("a list", "lists"),
    Iterable: ("a list", "lists"),
}
"""Type -> one of it and several, in words."""
LISTS = (Mapping, Sequence, Iterable, tuple, list)
ARGUMENTS = {"model": "a model of gfo.load_model or gfo.freeze"}
"""Argument -> what it is in words, where its type's name says less."""


def checked(thing: F) -> F:
    """Decorator of a function, or of a class for its constructor: wrong arguments end in a GfoError.

    The error names the argument, the value, and what the type hint wants; also for arguments that are
    missing or unknown. numpy's numbers arrive as Python's.
    """
    if inspect.isclass(thing):
        init: Any = thing.__init__
        setattr(thing, "__init__", _guarded(init, thing.__name__))  # noqa: B010
        return thing
    guarded: F = _guarded(thing, thing.__qualname__)
    return guarded


def named(cls: F) -> F:
    """Decorator of a class whose constructor checks values itself, in words of its own: arguments that are
    missing or unknown end in a GfoError."""
    init: Any = cls.__init__  # type: ignore[misc]
    setattr(cls, "__init__", _guarded(init, cls.__name__, Check.bind))  # noqa: B010
    return cls


def _guarded(function: Callable[..., Any], name: str, how: Callable[..., Any] | None = None) -> Any:
    """The function, behind a check of its arguments; `how` is a method of `Check`."""
    check = Check(function, name)
    look = check if how is None else functools.partial(how, check)

    @functools.wraps(function)
    def guarded(*args: Any, **options: Any) -> Any:
        given = look(args, options)
        return function(*given.args, **given.kwargs)

    return guarded


class Check:
    """The check of a function's arguments.

    Args:
        function: whose hints decide; they are read at the first call.
        name: what errors call it.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self._function, self._name = function, name
        self.signature = inspect.signature(function)

    @functools.cached_property
    def _hints(self) -> dict[str, Any]:
        return hints_of(self._function)

    def __call__(self, args: Sequence[Any], options: Mapping[str, Any]) -> inspect.BoundArguments:
        """The arguments by name.

        Raises:
            GfoError: for arguments that are missing, unknown or of a wrong type.
        """
        given = self.bind(args, options)
        for name, value in given.arguments.items():
            given.arguments[name] = self._argument(name, value)
        return given

    def bind(self, args: Sequence[Any], options: Mapping[str, Any]) -> inspect.BoundArguments:
        """The arguments by name, whatever they are.

        Raises:
            GfoError: for arguments that are missing or unknown.
        """
        self._only_known(options)
        try:
            return self.signature.bind(*args, **options)
        except TypeError as error:
            raise GfoError(
                f"{self._name}: {error}; its arguments are {', '.join(self._names()) or 'none'}"
            ) from None

    def _argument(self, name: str, value: Any) -> Any:
        """An argument as the function gets it; those of *args and **options one by one."""
        parameter, hint = self.signature.parameters[name], self._hints.get(name, Any)
        if parameter.kind is parameter.VAR_POSITIONAL:
            return tuple(self._checked(name, each, hint) for each in value)
        if parameter.kind is parameter.VAR_KEYWORD:
            kinds = options_of(hint) or dict.fromkeys(value, hint)
            return {key: self._checked(key, each, kinds[key]) for key, each in value.items()}
        return value if value is parameter.default else self._checked(name, value, hint)

    @functools.cached_property
    def _known(self) -> list[str] | None:
        """The names of arguments; None where any is taken."""
        last = [*self.signature.parameters.values()][-1:]
        if not last or last[0].kind is not inspect.Parameter.VAR_KEYWORD:
            return self._names()
        more = options_of(self._hints.get(last[0].name, Any))
        return None if more is None else [*self._names()[:-1], *more]

    def _only_known(self, options: Mapping[str, Any]) -> None:
        known = self._known
        unknown = [] if known is None else [name for name in options if name not in known]
        if unknown:
            raise GfoError(f"{self._name}: {unknown_name('argument', unknown[0], known or ())}")

    def _names(self) -> list[str]:
        return [name for name in self.signature.parameters if name not in ("self", "cls")]

    def _checked(self, name: str, value: Any, hint: Any) -> Any:
        """The value, a number of numpy's as Python's; the text of a wrong one is cut short."""
        if not fits(value, hint):
            where, wrong, hint = _culprit(name, value, hint)
            remedy = ARGUMENTS.get(where) or _whole_of(wrong, hint) or words(hint)
            raise GfoError(f"{self._name}: {where} = {shown(wrong)}; give {remedy}")
        return value.item() if isinstance(value, np.generic) else value


def _whole_of(value: Any, hint: Any) -> str:
    """1e4 as 10000, where only that is taken."""
    whole = isinstance(value, float) and value.is_integer() and fits(int(value), hint)
    return str(int(value)) if whole else ""


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the type; of hints that cannot be told at run time all are."""
    check = CHECKS.get(hint) or CHECKS.get(get_origin(hint))
    return _is_a(value, get_origin(hint) or hint) if check is None else check(value, get_args(hint))


def _is_a(value: Any, cls: Any) -> bool:
    """Whether a value is of a class, or has what a protocol wants; a class has it for no object."""
    if not isinstance(cls, type) or issubclass(cls, Unseen):
        return True
    return _has_all_of(value, cls) if getattr(cls, "_is_protocol", False) else isinstance(value, cls)


def _has_all_of(value: Any, protocol: Any) -> bool:
    known = vars(protocol).get("_is_runtime_protocol", False)  # not inherited
    return not isinstance(value, type) and (not known or isinstance(value, protocol))


def _anything(value: Any, inner: Any) -> bool:
    """Also what is to be an array: who makes one says what is none."""
    return True


def _none(value: Any, inner: Any) -> bool:
    return value is None


def _either(value: Any, inner: tuple[Any, ...]) -> bool:
    return any(fits(value, each) for each in inner)


def _true_or_false(value: Any, inner: Any) -> bool:
    return isinstance(value, bool | np.bool_)


def _text(value: Any, inner: Any) -> bool:
    """Not what no tokenizer reads."""
    return isinstance(value, str) and encodable(value)


def _function(value: Any, inner: Any) -> bool:
    return callable(value)


def _whole(value: Any, inner: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and abs(int(value)) < HUGE


def _number(value: Any, inner: Any) -> bool:
    """Not nan, and not more than a float holds."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        return not math.isnan(float(value))
    except OverflowError:
        return False


def _one_of_values(value: Any, inner: tuple[Any, ...]) -> bool:
    return any(isinstance(value, type(each)) and value == each for each in inner)


def _mapping(value: Any, inner: tuple[Any, ...]) -> bool:
    if not isinstance(value, Mapping):
        return False
    return not inner or all(fits(key, inner[0]) and fits(each, inner[1]) for key, each in value.items())


def _array(value: Any, inner: tuple[Any, ...]) -> bool:
    """Lists, too: who makes arrays of them says what cannot be one."""
    return _indexed(value, ())


def _indexed(value: Any, inner: tuple[Any, ...]) -> bool:
    """What has a length and can be indexed, as arrays can. Rows are not looked at: who reads them says which
    is wrong."""
    indexed = hasattr(value, "__len__") and hasattr(value, "__getitem__")
    if isinstance(value, NO_LISTS) or not indexed or getattr(value, "ndim", 1) == 0:
        return False
    return not inner or get_origin(inner[0]) is Mapping or _all_fit(value, inner[0])


def _all_fit(values: Any, hint: Any) -> bool:
    """Whether the elements fit, of lists and arrays, the first of them."""
    looked_at = values[:MOST_LOOKED_AT] if isinstance(values, Sequence | np.ndarray) else ()
    return all(fits(each, hint) for each in looked_at)


def _iterable(value: Any, inner: tuple[Any, ...]) -> bool:
    if isinstance(value, Sequence | np.ndarray | np.generic):
        return _indexed(value, inner)
    return isinstance(value, Iterable) or (hasattr(value, "__getitem__") and not isinstance(value, type))


def _tuple(value: Any, inner: tuple[Any, ...]) -> bool:
    if not isinstance(value, tuple) or Ellipsis in inner:
        return isinstance(value, tuple) and _indexed(value, inner)
    return not inner or (len(value) == len(inner) and all(map(fits, value, inner)))


UNIONS = (Union, types.UnionType)
NO_LISTS = (str, bytes, Mapping, type, np.generic)
CHECKS: dict[Any, Callable[[Any, tuple[Any, ...]], bool]] = {
    Any: _anything,
    ArrayLike: _anything,
    type(None): _none,
    Union: _either,
    types.UnionType: _either,
    Literal: _one_of_values,
    int: _whole,
    float: _number,
    bool: _true_or_false,
    str: _text,
    Callable: _function,
    Mapping: _mapping,
    Sequence: _indexed,
    Iterable: _iterable,
    tuple: _tuple,
    np.ndarray: _array,
}
"""Type, or origin of one -> whether a value is of it with these arguments."""


def _culprit(name: str, value: Any, hint: Any) -> tuple[str, Any, Any]:
    """Where in a wrong value the first wrong part is, that part, and what it should be."""
    for each in get_args(hint) if get_origin(hint) in UNIONS else (hint,):
        for key, part, wanted in _parts(value, each):
            if not fits(part, wanted):
                return _culprit(f"{name}[{key!r}]", part, wanted)
    return name, value, hint


def _parts(value: Any, hint: Any) -> Iterable[tuple[Any, Any, Any]]:
    """(key, part, the part's type) of a mapping, a list or a tuple that is one by its type, too."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Mapping and isinstance(value, Mapping):
        return ((key, part, inner[1]) for key, part in value.items())
    if origin is Sequence and isinstance(value, list | tuple):
        return ((i, part, inner[0]) for i, part in enumerate(value))
    if origin is tuple and isinstance(value, tuple) and len(value) == len(inner):
        return ((i, *pair) for i, pair in enumerate(zip(value, inner, strict=True)))
    return ()


def words(hint: Any, several: bool = False) -> str:
    """What a type is, in words: "a whole number or None", "a list of texts"; of lists in lists no more."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in UNIONS:
        return _listed(words(each, several) for each in inner)
    if origin is Literal:
        return " or ".join(map(repr, inner))
    return _words_of_class(origin or hint, inner, several)


def _words_of_class(outer: Any, inner: Sequence[Any], several: bool) -> str:
    """What a class is, in words, and its elements if it is a list."""
    one, more = WORDS.get(outer) or _nouns(getattr(outer, "__name__", "value"))
    if several or not inner or outer not in LISTS:
        return more if several else one
    return f"{one} of {' to '.join(words(each, True) for each in inner if each is not Ellipsis)}"


def _nouns(name: str) -> tuple[str, str]:
    """One and several of a class."""
    return f"{'an' if name[0] in 'AEIO' else 'a'} {name}", f"{name}s"


def _listed(all_words: Iterable[str]) -> str:
    """ "a, b or c", each once."""
    *most, last = dict.fromkeys(all_words)
    return f"{', '.join(most)} or {last}" if most else last
