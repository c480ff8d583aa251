"""Ask-and-tell optimizers by name (see `gfo.core.registry`); each is imported when it is first made."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from gfo.core.checking import checked
from gfo.core.domain import Domain
from gfo.core.errors import GfoError, shown
from gfo.core.protocols import Optimizer
from gfo.core.recording import remember
from gfo.core.registry import entries, find
from gfo.core.text_domain import TextDomain

Factory = Callable[..., Optimizer]
ONE, SEVERAL = "cma", "nsga2"
"""What searches by default: for one objective, and for several."""
WRITERS = ("evoprompt", "gepa")
"""Methods that have a language model write texts."""


def names() -> list[str]:
    """The names that `make` knows of methods that search numbers.

    Those of families, such as nevergrad's, are more, and so are WRITERS.
    """
    found = entries("optimizer").items()
    return [name for name, entry in found if not entry.is_family and name not in WRITERS]


def describe() -> dict[str, str]:
    """name -> one line on the method; `nevergrad:<name>` stands for all of nevergrad's registry."""
    return {name: entry.describe() for name, entry in entries("optimizer").items()}


@checked
def options_of(name: str) -> list[str] | None:
    """The options of the optimizer `name`; None if it takes any."""
    parameters = inspect.signature(_factory(name)).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


@checked
def takes_genes(name: str) -> bool:
    """Whether the optimizer `name` takes integer and categorical genes; True where that is not known."""
    return bool(getattr(_factory(name), "integers", True))


@checked
def make(name: str, *, domain: Domain, seed: int, **options: Any) -> Optimizer:
    """The optimizer `name` on `domain`, with its own random generator from `seed`.

    `nevergrad:<name>` is any optimizer of nevergrad's registry.

    Raises:
        GfoError: for an unknown name, an unknown option, or an option's value that cannot be used.
    """
    return make_with(name, domain, seed, options)


@checked
def make_with(name: str, domain: Domain, seed: int, options: Mapping[str, Any]) -> Optimizer:
    """`make` with options that may have any name, such as those of a config."""
    check(name, options)
    if isinstance(domain, TextDomain) and not getattr(_factory(name), "writes", False):
        raise GfoError(
            f"optimizer '{name}' cannot write texts; take {' or '.join(WRITERS)}, or gfo.Words as the space"
        )
    optimizer = _factory(name)(domain, seed, **options)
    remember(optimizer, {**options, "seed": seed})
    return optimizer


@checked
def check(name: str, options: Mapping[str, Any]) -> None:
    """Raise GfoError for an optimizer, or an option of it, that is not known."""
    known = options_of(name)
    for option, value in options.items():
        if option in ("domain", "seed") or (known is not None and option not in known):
            raise GfoError(
                f"optimizer '{name}' has no option '{option}' (given {shown(value)}); "
                f"its options are {', '.join(known or ()) or 'none'}"
            )


def for_objectives(
    optimizer: str | Optimizer | None,
    options: Mapping[str, Any] | None,
    objectives: Sequence[str],
    model: Any = None,
) -> tuple[str | Optimizer, Mapping[str, Any] | None]:
    """An optimizer or a name, by default one that suits, and its options with several objectives among them,
    and, where it has texts written, the model that writes them unless another one is given.

    Raises:
        GfoError: for a single objective, one that is given twice, or an optimizer that takes one alone.
    """
    if not objectives:
        optimizer = ONE if optimizer is None else optimizer
        return optimizer, _with_writer(optimizer, options, model)
    _check_objectives(objectives)
    optimizer = SEVERAL if optimizer is None else optimizer
    if not isinstance(optimizer, str):
        return _same_objectives(optimizer, objectives), options
    if "objectives" not in (options_of(optimizer) or ()):
        raise GfoError(
            f"optimizer '{optimizer}' takes one objective; take '{SEVERAL}', or leave objectives out"
        )
    return optimizer, {**(options or {}), "objectives": list(objectives)}


def _with_writer(
    optimizer: str | Optimizer, options: Mapping[str, Any] | None, model: Any
) -> Mapping[str, Any] | None:
    """The options; of a method that has texts written, by the model unless they say by what."""
    if model is None or not isinstance(optimizer, str) or "rewrite" not in (options_of(optimizer) or ()):
        return options
    return {"rewrite": model, **(options or {})}


def _same_objectives(optimizer: Optimizer, objectives: Sequence[str]) -> Optimizer:
    """The optimizer, if these are its objectives."""
    if tuple(getattr(optimizer, "objectives", ())) != tuple(objectives):
        raise GfoError(
            f"objectives = {list(objectives)} are not those of the optimizer given; make it with them"
        )
    return optimizer


def _check_objectives(objectives: Sequence[str]) -> None:
    twice = next((name for name in objectives if list(objectives).count(name) > 1), None)
    if twice is not None:
        raise GfoError(f"objectives: '{twice}' is given twice; give each once")
    if len(objectives) == 1:
        raise GfoError(
            f"objectives = {list(objectives)}: give two or more, or leave it out for the loss alone"
        )


def _factory(name: str) -> Factory:
    return cast(Factory, find("optimizer", name).load())
