"""The box in which an optimizer searches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gfo.core.checking import checked
from gfo.core.errors import GfoError, shown

Array = NDArray[Any]


@checked
@dataclass(frozen=True, eq=False)
class Domain:
    """d search dimensions, each with bounds and a flag for integer genes.

    Attributes:
        low: lower bounds, float64 [d]; -inf where there is none.
        high: upper bounds, float64 [d], inclusive; +inf where there is none.
        integer: bool [d]; True where the gene takes whole numbers only. A binary gene is an
            integer gene with bounds 0 and 1.
        categorical: bool [d]; True where the numbers of an integer gene are names, without order or
            distance; none by default. A categorical gene is an integer gene.
        names: a name for each dimension, or None.
        exactly: (start, stop, n): the integer genes start to stop - 1, from 0 on, have the sum n, so that of
            binary ones just n are 1. `clip` does not see to it, but a space's `repair`, and methods that
            exchange genes for others.

    Raises:
        GfoError: for unequal lengths, reversed or nan bounds, an integer or categorical gene without finite
            whole-numbered bounds, or names that are not d different ones.
    """

    low: Array
    high: Array
    integer: Array
    categorical: Array = field(default_factory=lambda: np.zeros(0, dtype=bool))
    names: tuple[str, ...] | None = None
    exactly: tuple[tuple[int, int, int], ...] = ()

    def __post_init__(self) -> None:
        low, high = _numbers("low", self.low, np.float64), _numbers("high", self.high, np.float64)
        integer = _numbers("integer", self.integer, bool)
        categorical = _numbers("categorical", self.categorical, bool)
        if categorical.size == 0:
            categorical = np.zeros(low.shape, dtype=bool)
        _check_shapes(low, high, integer, categorical)
        _check_order(low, high)
        integer = integer | categorical
        _check_whole(low, high, integer, categorical)
        if self.names is not None:
            object.__setattr__(self, "names", _checked_names(self.names, low.size))
        _check_exactly(self.exactly, np.where(integer & (low == 0), high, np.nan))
        arrays = {"low": low, "high": high, "integer": integer, "categorical": categorical}
        for name, value in arrays.items():
            value.setflags(write=False)
            object.__setattr__(self, name, value)

    @classmethod
    @checked
    def unbounded(cls, d: int) -> Domain:
        """All of R^d."""
        return cls.box(-np.inf, np.inf, d)

    @classmethod
    @checked
    def box(
        cls,
        low: ArrayLike,
        high: ArrayLike,
        d: int | None = None,
        integer: ArrayLike = False,
        *,
        categorical: ArrayLike = False,
        names: Sequence[str] | None = None,
    ) -> Domain:
        """A box; scalars are repeated to length `d` (needed only if all of them are scalars)."""
        if d is not None and d < 1:
            raise GfoError(f"Domain: d = {d} must be at least 1")
        given = {"low": low, "high": high, "integer": integer, "categorical": categorical}
        arrays = {name: _numbers(name, value, None) for name, value in given.items()}
        lows, highs, integers, categoricals = _broadcast(arrays, d)
        return cls(lows, highs, integers, categoricals, None if names is None else tuple(names))

    @classmethod
    @checked
    def joined(cls, domains: Sequence[Domain]) -> Domain:
        """Domains one behind the other; with names if all have some, and no two the same."""
        if not len(domains):
            raise GfoError("Domain.joined: domains = []; give one at least")
        columns = [(x.low, x.high, x.integer, x.categorical) for x in domains]
        names = tuple(name for domain in domains for name in domain.names or ())
        distinct = len(set(names)) == sum(domain.d for domain in domains)
        low, high, integer, categorical = (np.concatenate(column) for column in zip(*columns, strict=True))
        return cls(low, high, integer, categorical, names if distinct else None, _groups_of(domains))

    def part(self, which: slice) -> Domain:
        """The dimensions of a slice, as a domain; groups of `exactly` that are cut apart are left out."""
        names = None if self.names is None else self.names[which]
        start, stop, step = which.indices(self.d)
        inside = (group for group in self.exactly if step == 1 and start <= group[0] and group[1] <= stop)
        exactly = tuple((a - start, b - start, n) for a, b, n in inside)
        parts = (self.low[which], self.high[which], self.integer[which], self.categorical[which])
        return Domain(*parts, names, exactly)

    @cached_property
    def d(self) -> int:
        """The number of search dimensions."""
        return int(self.low.size)

    @cached_property
    def bounded(self) -> bool:
        """True if any dimension has a finite bound."""
        return bool(np.isfinite(self.low).any() or np.isfinite(self.high).any())

    @cached_property
    def free(self) -> bool:
        """True if every point is inside: no bounds, no integer genes."""
        return not self.bounded and not bool(self.integer.any())

    def clip(self, z: Array) -> Array:
        """A copy of z [..., d], moved into the bounds and rounded where genes are integer."""
        if self.free:
            return np.array(z, dtype=np.float64)
        z = np.where(self.integer, np.rint(z), z)
        return np.clip(z, self.low, self.high)

    def contains(self, z: Array) -> Array:
        """bool [...]: which points of z [..., d] lie inside the bounds, integer genes whole."""
        inside = (z >= self.low) & (z <= self.high) & (~self.integer | (z == np.rint(z)))
        return np.asarray(inside.all(axis=-1))


def _numbers(name: str, values: Any, kind: Any) -> NDArray[Any]:
    """Values as an array of floats or bools; None keeps their kind.

    Raises:
        GfoError: for other things than numbers.
    """
    try:
        found = np.asarray(values)
        if found.dtype.kind not in "biuf":
            raise TypeError
        return found if kind is None else found.astype(kind)
    except (TypeError, ValueError, OverflowError):
        raise GfoError(f"Domain: {name} = {shown(values)}; give numbers, or an array of them") from None


def _groups_of(domains: Sequence[Domain]) -> tuple[tuple[int, int, int], ...]:
    """`Domain.exactly` of domains one behind the other."""
    starts = np.cumsum([0, *(domain.d for domain in domains)]).tolist()
    return tuple(
        (start + a, start + b, n) for start, x in zip(starts, domains, strict=False) for a, b, n in x.exactly
    )


def _broadcast(arrays: dict[str, Array], d: int | None) -> list[Array]:
    """Scalars and arrays as arrays of length d, or of the length that they have in common."""
    try:
        shape = (d,) if d is not None else np.broadcast_shapes(*(x.shape for x in arrays.values()))
        return [np.broadcast_to(x, shape) for x in arrays.values()]
    except ValueError:
        shapes = ", ".join(f"{name} {x.shape}" for name, x in arrays.items())
        raise GfoError(
            f"Domain: {shapes} and d = {d} do not fit together; give scalars or arrays of one length"
        ) from None


def _check_shapes(low: Array, high: Array, integer: Array, categorical: Array) -> None:
    """Raise GfoError for arrays that are not one-dimensional and of one length."""
    if categorical.shape != low.shape:
        raise GfoError(f"Domain: categorical {categorical.shape} must be of the length of low {low.shape}")
    if low.ndim != 1 or low.size == 0 or low.shape != high.shape or low.shape != integer.shape:
        raise GfoError(
            f"Domain: low {low.shape}, high {high.shape} and integer {integer.shape} must be "
            "one-dimensional, of one length and not empty"
        )


def _check_order(low: Array, high: Array) -> None:
    """Raise GfoError for a lower bound that is not below the upper one."""
    bad = np.flatnonzero(~(low < high))
    if bad.size:
        i = int(bad[0])
        raise GfoError(
            f"Domain: low[{i}] = {low[i]} is not below high[{i}] = {high[i]}; swap the bounds, "
            "and leave out dimensions that cannot vary"
        )


def _check_whole(low: Array, high: Array, integer: Array, categorical: Array) -> None:
    """Raise GfoError for an integer gene whose bounds are not finite whole numbers."""
    with np.errstate(invalid="ignore"):
        whole = np.isfinite(low) & np.isfinite(high) & (low == np.rint(low)) & (high == np.rint(high))
    bad = np.flatnonzero(integer & ~whole)
    if bad.size:
        i = int(bad[0])
        kind = "categorical" if categorical[i] else "integer"
        raise GfoError(f"Domain: {kind} gene {i} has bounds [{low[i]}, {high[i]}]; give finite whole numbers")


def _check_exactly(groups: Sequence[tuple[int, int, int]], high: Array) -> None:
    """Raise GfoError for groups of genes that are not whole from 0 on, or whose sum cannot be such.

    Args:
        groups: those of `Domain.exactly`.
        high: the bounds of integer genes from 0 on, nan for others, [d].
    """
    for start, stop, number in groups:
        whole = 0 <= start < stop <= len(high) and not np.isnan(high[start:stop]).any()
        if not whole or not 0 <= number <= high[start:stop].sum():
            raise GfoError(
                f"Domain: exactly = {(start, stop, number)}: give the first of some integer genes from 0 on, "
                "that behind the last, and their sum"
            )


def _checked_names(names: Sequence[str], d: int) -> tuple[str, ...]:
    """names as a tuple, if they are d different texts."""
    checked = tuple(names)
    if isinstance(names, str) or len(checked) != d or not all(isinstance(name, str) for name in checked):
        raise GfoError(f"Domain: names = {names!r} must be {d} texts, one for each dimension")
    if len(set(checked)) < d:
        twice = next(name for name in checked if checked.count(name) > 1)
        raise GfoError(f"Domain: names has {twice!r} twice; give each dimension its own")
    return checked
