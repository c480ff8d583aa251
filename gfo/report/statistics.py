"""Methods compared on the same blocks, a block being a task and a seed: differences in pairs, wins, ranks.

Values are [blocks, methods], nan where a method was not run. Demsar (2006), Statistical comparisons of
classifiers over multiple data sets, JMLR 7:1-30, has the ranks and the critical difference.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gfo.core.domain import Array

RESAMPLES = 9_999
CONFIDENCE = 0.95


class Paired(NamedTuple):
    """The difference of two methods on the blocks that both were run on.

    Attributes:
        n: blocks.
        mean: of the differences, first less second; nan without a block.
        low, high: its 95 % bootstrap interval (BCa, Efron 1987); nan with fewer than 3 blocks.
        p: of the exact test that turns signs of differences (of 9,999 random turns from 14 blocks on), two
            sides; it cannot be below 2^(1 - n). nan without a block.
        effect: Cohen's d of pairs, mean over standard deviation; nan where that is 0 or unknown.
    """

    n: int
    mean: float
    low: float
    high: float
    p: float
    effect: float


def paired(first: Array, second: Array, *, seed: int = 0) -> Paired:
    """Compare two methods by their values [blocks]; resampling is seeded."""
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    difference = difference[np.isfinite(difference)]
    n = len(difference)
    if not n:
        return Paired(0, *[math.nan] * 5)
    deviation = float(difference.std(ddof=1)) if n > 1 else 0.0
    effect = float(difference.mean()) / deviation if deviation > 0 else math.nan
    return Paired(
        n, float(difference.mean()), *_interval(difference, seed), _turned(difference, seed), effect
    )


def _interval(difference: Array, seed: int) -> tuple[float, float]:
    """The bootstrap interval of the mean of differences [n]."""
    from scipy.stats import bootstrap

    if len(difference) < 3:
        return math.nan, math.nan
    if np.ptp(difference) == 0:
        return float(difference[0]), float(difference[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a degenerate one, which is nan
        found = bootstrap(
            (difference,), np.mean, confidence_level=CONFIDENCE, n_resamples=RESAMPLES,
            rng=np.random.default_rng(seed),
        ).confidence_interval  # fmt: skip
    return float(found.low), float(found.high)


def _turned(difference: Array, seed: int) -> float:
    """The chance of a mean as far from 0 where signs of differences [n] are arbitrary."""
    from scipy.stats import permutation_test

    if len(difference) < 2 or not difference.any():
        return 1.0
    return float(
        permutation_test(
            (difference,), np.mean, permutation_type="samples", vectorized=True, n_resamples=RESAMPLES,
            rng=np.random.default_rng(seed),
        ).pvalue
    )  # fmt: skip


def holm(p: Sequence[float]) -> list[float]:
    """p values that all may be read together (Holm 1979); nan stay nan and do not count."""
    known = [i for i in np.argsort(p, kind="stable") if not math.isnan(p[i])]
    found, highest = list(map(float, p)), 0.0
    for place, i in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - place) * p[i]))
        found[i] = highest
    return found


def wins(values: Array, *, lower_is_better: bool) -> Array:
    """On how many blocks each method beats each other one, a tie as a half: [methods, methods]."""
    merit = -values if lower_is_better else values
    ours, theirs = merit[:, :, None], merit[:, None, :]
    both = np.isfinite(ours) & np.isfinite(theirs)
    return np.asarray((both * ((ours > theirs) + 0.5 * (ours == theirs))).sum(axis=0))


def mean_ranks(values: Array, *, lower_is_better: bool) -> tuple[Array, int]:
    """Mean ranks [methods], 1 the best, over the blocks on which all were run, and how many these are."""
    from scipy.stats import rankdata

    whole = values[np.isfinite(values).all(axis=1)]
    ranks = rankdata(whole if lower_is_better else -whole, axis=1)
    return (ranks.mean(axis=0) if len(whole) else np.full(values.shape[1], math.nan)), len(whole)


def critical_difference(methods: int, blocks: int, alpha: float = 0.05) -> float:
    """By how much mean ranks must differ for two methods to (Nemenyi; Demsar 2006, section 3.2.2)."""
    from scipy.stats import studentized_range

    q = studentized_range.ppf(1 - alpha, methods, np.inf) / math.sqrt(2)
    return float(q * math.sqrt(methods * (methods + 1) / (6 * blocks)))


def friedman(values: Array) -> float:
    """The chance of mean ranks as unequal where methods do not differ; nan with under 3 methods or blocks.

    Args:
        values: [blocks, methods], none of them nan.
    """
    from scipy.stats import friedmanchisquare

    if min(values.shape) < 3 or not np.ptp(values, axis=1).any():
        return math.nan
    return float(friedmanchisquare(*values.T).pvalue)
