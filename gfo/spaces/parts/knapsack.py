"""Which level each module gets under a limit of bytes: exactly, and step by step."""

from __future__ import annotations

import numpy as np

from gfo.core.domain import Array

MOST_UNITS = 200_000  # of bytes in the table; finer sizes are rounded up, so that the limit holds


def knapsack(costs: Array, sizes: Array, limit: float) -> Array:
    """The choice of least summed cost whose summed size is within the limit: int [d].

    The multiple-choice knapsack, by dynamic programming over units of size (Kellerer, Pferschy and Pisinger
    2004, Knapsack Problems, chapter 11): exact where all sizes are multiples of a unit of which the limit
    holds 200,000 at most.

    Args:
        costs: of each option of each item, [d, L].
        sizes: of the same, whole numbers [d, L].
        limit: at least the sum of the least sizes.
    """
    costs, sizes = np.asarray(costs, dtype=np.float64), np.asarray(sizes, dtype=np.int64)
    more = sizes - sizes.min(axis=1, keepdims=True)
    room = int(min(limit - sizes.min(axis=1).sum(), more.max(axis=1).sum()))
    unit = max(1, int(np.gcd.reduce(more.ravel())))
    unit = max(unit, -(-room // MOST_UNITS))
    more, room = -(-more // unit), room // unit
    best, taken = np.zeros(room + 1), np.zeros((len(costs), room + 1), dtype=np.int64)
    for i, (cost, size) in enumerate(zip(costs, more, strict=True)):
        options = np.full((len(cost), room + 1), np.inf)
        for j, (c, s) in enumerate(zip(cost, size, strict=True)):
            options[j, s:] = best[: max(0, room + 1 - s)] + c
        taken[i] = options.argmin(axis=0)
        best = options.min(axis=0)
    choice = np.zeros(len(costs), dtype=np.int64)
    for i in reversed(range(len(costs))):
        choice[i] = taken[i, room]
        room -= int(more[i, choice[i]])
    return choice


def demoted(choice: Array, costs: Array, sizes: Array, limit: float) -> Array:
    """A choice int [d] within the limit, each step the one that costs least for the bytes it saves.

    Args:
        choice: options, numbered from large to small ones.
        costs: of each option of each item, [d, L].
        sizes: of the same, falling along L.
        limit: at least the sum of the least sizes.
    """
    choice, items = choice.copy(), np.arange(len(choice))
    step = np.full(sizes.shape, np.inf)
    step[:, :-1] = np.diff(costs, axis=1) / -np.diff(sizes, axis=1)
    total = sizes[items, choice].sum()
    while total > limit:
        i = int(np.argmin(step[items, choice]))
        total -= sizes[i, choice[i]] - sizes[i, choice[i] + 1]
        choice[i] += 1
    return choice
