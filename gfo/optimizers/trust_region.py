"""The trust region of TuRBO: a box about the best point that grows with successes and shrinks with failures.

Eriksson, Pearce, Gardner, Turner and Poloczek (2019), Scalable global optimization via local Bayesian
optimization, NeurIPS, arXiv:1910.01833. The search region is the unit cube.

    success: a batch improves the best loss by more than 0.001 |best loss|      the authors' code
    L <- min(2 L, L_max) after tau_succ successes in a row, L <- L / 2 after tau_fail failures in a row
    L < L_min: the region has collapsed; a new one starts from a new design
    L_i = lambda_i L / (prod_j lambda_j)^(1 / d)                                 section 2
    candidates: the centre with each coordinate moved with chance min(1, 20 / d)  supplement
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import qmc

from gfo.core.domain import Array

LENGTH, LENGTH_MIN, LENGTH_MAX = 0.8, 2.0**-7, 1.6
SUCCESSES = 3
MOVED = 20
"""Coordinates that a candidate moves, on average."""


def sobol(d: int, n: int, rng: np.random.Generator) -> Array:
    """n points of a scrambled Sobol' sequence in the unit cube, [n, d]."""
    if d > qmc.Sobol.MAXDIM:
        return rng.random((n, d))
    child = np.random.default_rng(rng.integers(2**63))  # scipy would spawn one, which the state does not hold
    sequence = qmc.Sobol(d, scramble=True, seed=child)
    return np.asarray(sequence.random_base2(max(n - 1, 0).bit_length())[:n])


@dataclass
class TrustRegion:
    """The length of the region and its counts.

    Attributes:
        length: L, the side of the region before it is stretched by the length scales.
        successes: batches in a row that improved.
        failures: batches in a row that did not.
    """

    length: float = LENGTH
    successes: int = 0
    failures: int = 0

    def update(self, new: float, best: float, d: int, q: int) -> None:
        """Count a batch of q points whose best loss is `new`, where the best before was `best`."""
        if new < best - 1e-3 * abs(best):
            self.successes, self.failures = self.successes + 1, 0
        else:
            self.successes, self.failures = 0, self.failures + 1
        if self.successes == SUCCESSES:
            self.length, self.successes = min(2 * self.length, LENGTH_MAX), 0
        elif self.failures == failure_tolerance(d, q):
            self.length, self.failures = self.length / 2, 0

    @property
    def collapsed(self) -> bool:
        return self.length < LENGTH_MIN

    def box(self, centre: Array, lengthscales: Array) -> tuple[Array, Array]:
        """The lower and the upper corner [d] of the region in the unit cube."""
        weights = lengthscales / np.exp(np.log(lengthscales).mean())
        half = weights * self.length / 2
        return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def failure_tolerance(d: int, q: int) -> int:
    """tau_fail = ceil(max(4, d) / q), batches."""
    return math.ceil(max(4.0 / q, d / q))


def perturbed(centre: Array, low: Array, high: Array, n: int, rng: np.random.Generator) -> Array:
    """n candidates in the box [n, d]: the centre with about 20 of its coordinates drawn anew in the box."""
    d = len(centre)
    drawn = low + (high - low) * sobol(d, n, rng)
    moved = rng.random((n, d)) < min(1.0, MOVED / d)
    moved[np.arange(n), rng.integers(d, size=n)] |= ~moved.any(axis=1)
    return np.where(moved, drawn, centre)
