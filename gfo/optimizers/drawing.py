"""Points drawn over a domain: where a search begins."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri

from gfo.core.domain import Array, Domain


def scatter(domain: Domain, u: Array, scale: Array | float = 1.0) -> Array:
    """Points of the unit cube u [..., d] spread over the domain, [..., d].

    Uniform between two bounds (over the whole numbers for integer genes), normal with the standard
    deviation `scale` where there is none, and the half of it on the open side where there is one.
    """
    low, high = domain.low, domain.high
    below, above = np.isfinite(low), np.isfinite(high)
    half = below ^ above
    gauss = scale * ndtri(np.clip(np.where(half, (1 + u) / 2, u), 2.0**-53, 1 - 2.0**-53))
    box = below & above
    finite_low, finite_high = np.where(below, low, 0.0), np.where(above, high, 0.0)
    width = np.where(box, finite_high - finite_low + domain.integer, 0.0)
    uniform = finite_low + u * width
    uniform = np.where(domain.integer, np.floor(uniform), uniform)
    one_sided = np.where(below, finite_low + gauss, finite_high - gauss)
    return domain.clip(np.where(box, uniform, np.where(half, one_sided, gauss)))


def first_population(
    domain: Domain, rng: np.random.Generator, K: int, sigma0: Array, x0: Array, *, boxes: bool = True
) -> Array:
    """x0 and K - 1 points about it, [K, d]: N(x0, sigma0^2), uniform where genes are integer or, by `boxes`,
    where the domain is a box.
    """
    uniform = scatter(domain, rng.random((K, domain.d)))
    normal = domain.clip(x0 + sigma0 * rng.standard_normal((K, domain.d)))
    boxed = np.isfinite(domain.low) & np.isfinite(domain.high)
    z = np.where(boxed & (boxes | domain.integer), uniform, normal)
    z[0] = x0
    return z
