"""Which points beat which in several objectives, how crowded a front is, and what it covers.

Points are rows of losses [N, M], all to be low. One beats another that is nowhere better and somewhere worse.
Fast non-dominated sorting and hypervolumes are moocore's (Lopez-Ibanez et al.); limits as in Deb (2000),
doi:10.1016/S0045-7825(99)00389-8; crowding as in Deb et al. (2002), doi:10.1109/4235.996017, section III-B.
"""

from __future__ import annotations

import numpy as np

from gfo.core.domain import Array


def pareto_ranks(losses: Array) -> Array:
    """0 for points [N, M] that none beats, 1 for those that only points of rank 0 beat, ...: int [N]."""
    import moocore

    if losses.shape[1] == 1:
        return np.unique(losses[:, 0], return_inverse=True)[1].ravel()
    return np.asarray(moocore.pareto_rank(np.ascontiguousarray(losses)) if len(losses) else np.empty(0, int))


def not_beaten(losses: Array) -> Array:
    """Which of the points [N, M] none other beats, bool [N]; of equal ones the first."""
    import moocore

    if not len(losses):
        return np.zeros(0, dtype=bool)
    return np.asarray(moocore.is_nondominated(np.ascontiguousarray(losses), keep_weakly=False))


def constrained_ranks(losses: Array, violation: Array) -> Array:
    """Ranks [N] under limits: those that keep to them by their losses, behind them others by their violation.

    Args:
        losses: [N, M]; nan where a point failed, which is behind all.
        violation: [N], 0 where a point keeps to all limits.
    """
    ranks = np.zeros(len(losses), dtype=np.int64)
    failed = np.isnan(losses).any(axis=1) | np.isnan(violation)
    kept = ~failed & (violation <= 0)
    ranks[kept] = pareto_ranks(losses[kept])
    behind = ranks.max(initial=0) + 1
    broken = ~failed & ~kept
    ranks[broken] = behind + pareto_ranks(violation[broken][:, None])
    ranks[failed] = ranks.max(initial=0) + 1
    return ranks


def crowding_distances(losses: Array) -> Array:
    """Of the points [N, M] of one front: the sum over objectives of the distance between the neighbours on
    both sides, as a share of the front's width; inf at the ends: [N]."""
    N, M = losses.shape
    distance = np.zeros(N)
    for m in range(M):
        order = np.argsort(losses[:, m], kind="stable")
        sorted_ = losses[order, m]
        width = sorted_[-1] - sorted_[0]
        if width > 0:
            distance[order[1:-1]] += (sorted_[2:] - sorted_[:-2]) / width
            distance[order[[0, -1]]] = np.inf
    return distance


def standing(losses: Array, violation: Array) -> Array:
    """The crowded-comparison order of points [N, M]: by rank, within a rank the less crowded first.

    Returns:
        Places from 0, equal for equals, int [N].
    """
    ranks = constrained_ranks(losses, violation)
    crowding = np.zeros(len(losses))
    kept = violation <= 0
    if losses.shape[1] > 1:  # points of one objective and one rank are equal
        for rank in np.unique(ranks[kept]):
            front = np.flatnonzero(kept & (ranks == rank))
            crowding[front] = crowding_distances(np.nan_to_num(losses[front], nan=0.0))
    return np.unique(np.column_stack([ranks, -crowding]), axis=0, return_inverse=True)[1].ravel()


def hypervolume(losses: Array, reference: Array) -> float:
    """What points [N, M] beat of the box below a reference [M] (Zitzler and Thiele 1998)."""
    import moocore

    inside = losses[(losses < reference).all(axis=1)]
    if not len(inside):
        return 0.0
    if losses.shape[1] == 1:
        return float(reference[0] - inside.min())
    return float(moocore.hypervolume(np.ascontiguousarray(inside), ref=reference))


def spread_out(losses: Array, most: int) -> Array:
    """Numbers of at most so many points [N, M] of a front, in order: the most crowded leaves, one by one."""
    left = np.arange(len(losses))
    while len(left) > most:
        left = np.delete(left, np.argmin(crowding_distances(losses[left])))
    return left
