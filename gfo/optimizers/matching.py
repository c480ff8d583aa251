"""Which point of `ask` a row of `tell` is: workers that answer as they finish tell rows in another order.

And what of rows that no method drew: points of others.
"""

from __future__ import annotations

import numpy as np

from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError


def matched(method: str, asked: Array, z: Array, loss: Array, domain: Domain) -> tuple[Array, Array]:
    """z [K, d] and loss [K], or several numbers a row, in the order of asked [K, d].

    Rows in another order are put back into order. A row that was moved (rounded, repaired) stays in its
    place, and one that is not finite is taken for the one asked there.

    Raises:
        GfoError: if rows are in another order and others of them were moved, so that no one can say
            which is which.
    """
    lost = ~np.isfinite(z).all(axis=1)
    z[lost] = asked[lost]
    loss[lost] = np.nan
    elsewhere = np.flatnonzero((z != asked).any(axis=1))
    if not len(elsewhere):
        return z, loss
    rows = [row.tobytes() for row in z[elsewhere] + 0.0]  # -0.0 is 0.0
    wanted = [row.tobytes() for row in asked[elsewhere] + 0.0]
    if sorted(rows) == sorted(wanted):
        order = np.empty(len(elsewhere), dtype=np.intp)
        places = range(len(elsewhere))
        order[sorted(places, key=wanted.__getitem__)] = sorted(places, key=rows.__getitem__)
        z[elsewhere], loss[elsewhere] = z[elsewhere][order], loss[elsewhere][order]
    elif not domain.integer.all() and set(rows) & set(wanted):
        row = elsewhere[[row in set(wanted) for row in rows]][0]
        raise GfoError(
            f"optimizer '{method}': tell got in row {row} a point that was asked in another one, and "
            "others that were not asked; tell the points in the order of ask, or all of them unmoved"
        )
    return z, loss


def completed(method: str, asked: Array, z: Array, loss: Array) -> tuple[Array, Array]:
    """A part of what was asked, z [n, d] in any order and loss [n] -> all of asked [K, d] and loss [K].

    Points that were not told have failed: nan.

    Raises:
        GfoError: for a point that was not asked, or one told more often than it was asked.
    """
    places: dict[bytes, list[int]] = {}
    for i, row in enumerate(asked + 0.0):  # -0.0 is 0.0
        places.setdefault(row.tobytes(), []).append(i)
    told = np.full((len(asked), *loss.shape[1:]), np.nan)
    for n, (row, value) in enumerate(zip(z + 0.0, loss, strict=True)):
        left = places.get(row.tobytes())
        if not left:
            raise GfoError(
                f"optimizer '{method}': tell got {len(z)} of the {len(asked)} points asked, and row {n} is "
                "none of the others; tell a part as it was asked, or all of them, nan for failed ones"
            )
        told[left.pop(0)] = value
    return asked.copy(), told


def shortened(s: Array) -> Array:
    """Standardised steps s [K, d]; those longer than any that is drawn are cut to a usual length.

    Hansen (2011), Injecting external solutions into CMA-ES, arXiv:1110.4181.
    """
    root = s.shape[1] ** 0.5
    length = np.sqrt((s**2).sum(axis=1, keepdims=True))
    return np.where(length > root + 6, s * ((root + 2) / np.maximum(length, 1.0)), s)
