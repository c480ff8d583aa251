"""Options that several spaces have, checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gfo.core.errors import GfoError

Layers = str | Sequence[int] | None
"""All layers (None), the "upper" or "lower" half, the "last", or their numbers."""


def positive(name: str, value: float) -> float:
    """The value, if it is a finite number above 0."""
    if not (math.isfinite(value) and value > 0):
        raise GfoError(f"space: {name} = {value} must be a positive number")
    return value


def at_least_one(name: str, value: int) -> int:
    """The value, if it is 1 or more."""
    if value < 1:
        raise GfoError(f"space: {name} = {value} must be at least 1")
    return value


def dimension(dim: int, size: int, what: str, remedy: str) -> int:
    """The search dimensions, if they are 1 to `size`, the number of parameters."""
    if not 1 <= dim <= size:
        raise GfoError(f"space: dim = {dim} must be 1 to {size}, {what}; {remedy}")
    return dim


def select_layers(layers: Layers, number: int) -> list[int]:
    """The numbers of the chosen layers in order, of 0 to number - 1.

    Raises:
        GfoError: for a number out of range, none at all, or an unknown word.
    """
    whole: Any = range(number)
    if layers is None:
        return list(whole)
    if isinstance(layers, str):
        named = {"upper": whole[number // 2 :], "lower": whole[: -(-number // 2)], "last": whole[-1:]}
        if layers not in named:
            raise GfoError(f"space: layers = '{layers}'; give 'upper', 'lower', 'last' or a list of numbers")
        return list(named[layers])
    found = sorted(set(layers))
    wrong = [layer for layer in found if layer not in whole]
    if wrong or not found:
        given = f"layer {wrong[0]}" if wrong else "no layer"
        raise GfoError(f"space: layers: {given} given; the model has the layers 0 to {number - 1}")
    return found


def even_sizes(total: int, parts: int) -> list[int]:
    """Sizes of `parts` parts of a total, as equal as can be."""
    return [len(part) for part in np.array_split(np.arange(total), parts)]
