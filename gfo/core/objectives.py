"""Optimizers of more than a loss: several objectives, limits."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from gfo.core.domain import Array


@runtime_checkable
class MultiObjective(Protocol):
    """An optimizer of several objectives: its `tell` gets losses [K, M], all to be low.

    Attributes:
        objectives: the names of the M numbers: "loss", or others that `Evaluation.values` has, or metrics of
            the task. One of a single objective, the loss, is an optimizer as all others and gets losses [K].
    """

    objectives: tuple[str, ...]


@runtime_checkable
class Limited(Protocol):
    """An optimizer that is told how far candidates break limits; others are told a higher loss."""

    def tell_limited(self, z: Array, loss: Array, violation: Array) -> None:
        """`tell` with the violations [K] of the limits, 0 where a candidate keeps to all."""
        ...
