"""Runs without barriers: an optimizer that waits for nothing that it asked, an evaluator of many calls."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol, runtime_checkable

from gfo.core.domain import Array
from gfo.core.protocols import Evaluation


@runtime_checkable
class Asynchronous(Protocol):
    """An optimizer that is asked for parts, numbered from 0, and told them in any order."""

    def ask_part(self, part: int, n: int) -> Array:
        """n new points [n, d], whatever was asked and not told yet."""
        ...

    def tell_part(self, part: int, z: Array, loss: Array) -> None:
        """The losses [n] of the points [n, d] of a part that was asked; nan is a failed candidate."""
        ...


@runtime_checkable
class Concurrent(Protocol):
    """An evaluator that has several calls under way.

    Attributes:
        at_once: calls that keep it busy.
        part: the most points of a call.
    """

    at_once: int
    part: int

    def submit(self, z: Array, step: int) -> int:
        """Have points z [k, d] evaluated; the number of the call."""
        ...

    def finished(self, calls: Collection[int]) -> tuple[int, Evaluation | Exception]:
        """The call of these that ends next, and what it gives or raises."""
        ...

    def forget(self, calls: Collection[int]) -> None:
        """Want nothing of these calls any more."""
        ...
