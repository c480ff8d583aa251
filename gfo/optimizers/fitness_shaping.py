"""From losses to weights: what a method learns from instead of the raw losses.

Each function takes losses [K], lower is better, nan for a failed candidate, at least one finite,
and gives finite weights [K], higher is better, that sum to zero. Equal losses get equal weights, and
failed candidates count as equal and worst.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from gfo.core.domain import Array


def _failed_as_worst(loss: Array) -> Array:
    return np.where(np.isnan(loss), np.inf, loss)


def centred_ranks(loss: Array) -> Array:
    """Ranks spread evenly from 1/2 (best) to -1/2 (worst), [K].

    Salimans et al. (2017), arXiv:1703.03864.
    """
    K = len(loss)
    ranks: Array = rankdata(_failed_as_worst(loss)) - 1
    return 0.5 - ranks / max(K - 1, 1) if K > 1 else np.zeros(1)


def nes_utilities(loss: Array) -> Array:
    """u_k = max(0, ln(K/2 + 1) - ln k) / sum_j max(0, ln(K/2 + 1) - ln j) - 1/K for rank k, [K].

    Wierstra et al. (2014), JMLR 15:949-980. Tied losses share the mean of their utilities.
    """
    K = len(loss)
    u = np.maximum(0.0, np.log(K / 2 + 1) - np.log(np.arange(1, K + 1)))
    u = u / u.sum() - 1 / K
    cost = _failed_as_worst(loss)
    first = rankdata(cost, method="min").astype(int) - 1
    last = rankdata(cost, method="max").astype(int)
    total = np.concatenate([[0.0], np.cumsum(u)])
    return np.asarray((total[last] - total[first]) / (last - first))


def z_scores(loss: Array) -> Array:
    """(mean - loss) / standard deviation, a failed candidate taken as the worst of the rest, [K].

    Zero where all losses are equal.
    """
    filled = np.where(np.isnan(loss), np.nanmax(loss), loss)
    spread = filled.std()
    return (filled.mean() - filled) / spread if spread > 0 else np.zeros(len(loss))


def worst_for_failed(loss: Array) -> Array:
    """loss [K] with nan replaced by a finite value worse than every finite one, [K]."""
    best, worst = np.nanmin(loss), np.nanmax(loss)
    largest = np.finfo(np.float64).max
    with np.errstate(over="ignore"):
        filled = worst + max(worst - best, abs(worst) * 1e-6, 1e-12)
    return np.where(np.isnan(loss), min(filled, largest), loss)
