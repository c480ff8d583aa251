"""The box in which an optimizer searches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gfo.core.errors import GfoError

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Domain:
    """d search dimensions, each with bounds and a flag for integer genes.

    Attributes:
        low: lower bounds, float64 [d]; -inf where there is none.
        high: upper bounds, float64 [d], inclusive; +inf where there is none.
        integer: bool [d]; True where the gene takes whole numbers only. A binary gene is an
            integer gene with bounds 0 and 1.

    Raises:
        GfoError: for unequal lengths, reversed or nan bounds, or an integer gene without finite
            whole-numbered bounds.
    """

    low: Array
    high: Array
    integer: Array

    def __post_init__(self) -> None:
        low = np.array(self.low, dtype=np.float64)
        high = np.array(self.high, dtype=np.float64)
        integer = np.array(self.integer, dtype=bool)
        if low.ndim != 1 or low.size == 0 or low.shape != high.shape or low.shape != integer.shape:
            raise GfoError(
                f"Domain: low {low.shape}, high {high.shape} and integer {integer.shape} must be "
                "one-dimensional, of one length and not empty"
            )
        bad = np.flatnonzero(~(low < high))
        if bad.size:
            i = int(bad[0])
            raise GfoError(
                f"Domain: low[{i}] = {low[i]} is not below high[{i}] = {high[i]}; swap the bounds, "
                "and leave out dimensions that cannot vary"
            )
        with np.errstate(invalid="ignore"):
            whole = np.isfinite(low) & np.isfinite(high) & (low == np.rint(low)) & (high == np.rint(high))
        bad = np.flatnonzero(integer & ~whole)
        if bad.size:
            i = int(bad[0])
            raise GfoError(
                f"Domain: integer gene {i} has bounds [{low[i]}, {high[i]}]; give finite whole numbers"
            )
        for name, value in (("low", low), ("high", high), ("integer", integer)):
            value.setflags(write=False)
            object.__setattr__(self, name, value)

    @classmethod
    def unbounded(cls, d: int) -> Domain:
        """All of R^d."""
        return cls.box(-np.inf, np.inf, d)

    @classmethod
    def box(cls, low: ArrayLike, high: ArrayLike, d: int | None = None, integer: ArrayLike = False) -> Domain:
        """A box; scalars are repeated to length `d` (needed only if all three are scalars)."""
        if d is not None and d < 1:
            raise GfoError(f"Domain: d = {d} must be at least 1")
        given = [np.asarray(x) for x in (low, high, integer)]
        try:
            shape = (d,) if d is not None else np.broadcast_shapes(*(x.shape for x in given))
            parts = [np.broadcast_to(x, shape) for x in given]
        except ValueError:
            low_shape, high_shape, integer_shape = (x.shape for x in given)
            raise GfoError(
                f"Domain: low {low_shape}, high {high_shape}, integer {integer_shape} and d = {d} do not fit "
                "together; give scalars or arrays of one length"
            ) from None
        return cls(*parts)

    @property
    def d(self) -> int:
        """The number of search dimensions."""
        return int(self.low.size)

    @property
    def bounded(self) -> bool:
        """True if any dimension has a finite bound."""
        return bool(np.isfinite(self.low).any() or np.isfinite(self.high).any())

    def clip(self, z: Array) -> Array:
        """A copy of z [..., d], moved into the bounds and rounded where genes are integer."""
        z = np.where(self.integer, np.rint(z), z)
        return np.clip(z, self.low, self.high)

    def contains(self, z: Array) -> Array:
        """bool [...]: which points of z [..., d] lie inside the bounds, integer genes whole."""
        inside = (z >= self.low) & (z <= self.high) & (~self.integer | (z == np.rint(z)))
        return np.asarray(inside.all(axis=-1))
