"""What a method that wraps another one owes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gfo.core.domain import Array
from gfo.core.protocols import Optimizer
from gfo.optimizers import options_of
from gfo.optimizers.base import BaseOptimizer
from gfo.optimizers.options import mapping


def inner_options(name: str, options: Mapping[str, Any] | None, scale: Array | None) -> dict[str, Any]:
    """The options of the method inside, and the wrapper's scale [d] if one was given and it takes one."""
    given, known = mapping(name, "options", options), options_of(name)
    if scale is None or "scale" in given or (known is not None and "scale" not in known):
        return given
    return {**given, "scale": scale}


def quiet(inner: Optimizer) -> None:
    """Leave it to the wrapper to say that losses are flat."""
    if isinstance(inner, BaseOptimizer):
        inner._said = True


def plan(inner: Optimizer, evaluations: int | None, *, batches_differ: bool) -> None:
    """Hand the plan on, if the method inside takes one."""
    known = getattr(inner, "plan", None)
    if known is not None:
        known(evaluations, batches_differ=batches_differ)
