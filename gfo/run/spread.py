"""How far an optimizer searched about its mean at the end of a run."""

from __future__ import annotations

import numpy as np

from gfo.core.domain import Array
from gfo.core.protocols import Optimizer

MOST_D = 1_000
"""A covariance matrix of more coordinates is over 8 MB, and is not kept."""


def spread_of(optimizer: Optimizer) -> dict[str, Array]:
    """ "std" [d] and "covariance" [d, d] of what an optimizer draws, of a method that adapts them."""
    small = optimizer.domain.d <= MOST_D
    found = {"std": getattr(optimizer, "standard_deviations", None)}
    if small and hasattr(optimizer, "correlate"):
        found["covariance"] = getattr(optimizer, "covariance", None)
    return {name: np.array(value) for name, value in found.items() if value is not None and _usable(value)}


def _usable(value: Array) -> bool:
    """Whether standard deviations [d] or a covariance matrix [d, d] can be searched with."""
    sizes = np.diag(value) if value.ndim > 1 else value
    return bool(np.isfinite(value).all() and (sizes > 0).all())
