"""Candidates in parts, and what the parts got as one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import numpy as np

from gfo.core.domain import Array
from gfo.core.protocols import Cost, Evaluation, Scores


@lru_cache
def parts(K: int, size: int) -> tuple[slice, ...]:
    """The candidates 0 to K - 1 in parts of at most `size`, as equal as can be."""
    number = -(-K // max(1, size))
    return tuple(slice(i * K // number, (i + 1) * K // number) for i in range(number))


def in_parts(z: Array, most: int) -> list[Array]:
    """Points z [K, d] in parts of at most so many, as equal as can be; their number depends on K alone."""
    return [z[part] for part in parts(len(z), most)]


def concatenated(found: Sequence[Mapping[str, Array]], names: Iterable[str]) -> dict[str, Array]:
    """Of each name what the parts found, in their order."""
    return {name: np.concatenate([each[name] for each in found]) for name in names}


def joined(found: Sequence[Evaluation]) -> Evaluation:
    """What the parts of a population got, in their order, as one; costs are summed."""
    first = found[0]
    values = concatenated([each.values for each in found], first.values)
    rows = (
        None if first.rows is None else np.concatenate([each.rows for each in found if each.rows is not None])
    )
    loss = np.concatenate([each.loss for each in found])
    return Evaluation(loss, sum((each.cost for each in found), Cost()), values, rows)


def joined_scores(found: Sequence[Scores]) -> Scores:
    """The same of scores."""
    first = found[0]
    metrics = concatenated([each.metrics for each in found], first.metrics)
    rows = concatenated([each.rows for each in found], first.rows)
    return Scores(metrics, sum((each.cost for each in found), Cost()), rows)
