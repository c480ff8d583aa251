"""What racing does with losses that are known: shares, the best candidate, false drops."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np

import gfo
from gfo.core.domain import Array
from gfo.core.seeding import stream

NOISE = 0.5  # of a candidate's loss on a row, beside what all candidates lose on it (1)


def race(losses: Array, how: gfo.Racing) -> tuple[Array, Array]:
    """What candidates are told [K], and which rows they have seen, bool [K, B], for losses [K, B]."""
    K, B = losses.shape
    told, found = how.race(K, B, lambda candidates, rows: losses[np.ix_(candidates, rows)])
    return told, np.isfinite(found)


def raced(losses: Array, how: gfo.Racing, orders: int) -> dict[str, float]:
    """What a setting does with losses [K, B] in so many orders of the rows.

    share: of all pairs of candidate and row, those that are evaluated, on average. same: orders in which the
    best candidate is that of all rows. fewer: the same where all candidates get so many rows instead.
    correlation: of the ranks of what is told and of the means over all rows, on average.
    """
    from scipy.stats import spearmanr

    whole = losses.mean(axis=1)
    found = []
    for seed in range(orders):
        told, seen = race(losses, replace(how, seed=seed))
        share = float(seen.mean())
        some = stream(seed, "order of rows").permutation(losses.shape[1])[: round(share * losses.shape[1])]
        fewer = losses[:, some].mean(axis=1).argmin()
        same = whole.argmin()
        found.append((share, told.argmin() == same, fewer == same, spearmanr(told, whole).statistic))
    means = np.mean(np.array(found, dtype=np.float64), axis=0).round(4).tolist()
    return dict(zip(("share", "same", "fewer", "correlation"), means, strict=True))


def simulated(
    how: gfo.Racing, spread: float, *, races: int, candidates: int = 16, rows: int = 64
) -> dict[str, float]:
    """How often the best of all rows is dropped, and the share of rows, where it is known how losses come.

    Args:
        how: a setting.
        spread: standard deviation of the candidates' means, as a multiple of NOISE.
        races, candidates, rows: sizes.
    """
    dropped, shares = 0, 0.0
    for seed in range(races):
        rng = np.random.default_rng([seed, candidates, rows])
        losses = spread * NOISE * rng.standard_normal((candidates, 1)) + rng.standard_normal((1, rows))
        losses = losses + NOISE * rng.standard_normal((candidates, rows))
        _, seen = race(losses, replace(how, seed=seed))
        dropped += not seen[losses.mean(axis=1).argmin()].all()
        shares += float(seen.mean())
    return {"dropped": dropped / races, "share": round(shares / races, 4)}


def settings(how: gfo.Racing) -> dict[str, Any]:
    """A setting as plain values, without its order."""
    return {name: value for name, value in asdict(how).items() if name != "seed"}
