"""Random projections from the search space to parameters: A with unit-variance rows, A z ~ N(0, 1)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gfo.core.domain import Array


def gaussian(rng: np.random.Generator, rows: int, d: int) -> Array:
    """Entries N(0, 1/d), float32 [rows, d] (Sun et al. 2022, eq. 6 and appendix)."""
    return np.asarray(rng.standard_normal((rows, d)) / np.sqrt(d), dtype=np.float32)


def uniform(rng: np.random.Generator, rows: int, d: int) -> Array:
    """Entries U(-sqrt(3/d), sqrt(3/d)), float32 [rows, d].

    The form of Black-Box Tuning (Sun et al. 2022), whose bound is 1/sqrt(d), here of variance 1/d
    as the other projections.
    """
    bound = np.sqrt(3.0 / d)
    return rng.uniform(-bound, bound, (rows, d)).astype(np.float32)


PROJECTIONS: dict[str, Callable[[np.random.Generator, int, int], Array]] = {
    "gaussian": gaussian,
    "uniform": uniform,
}
