"""Test functions that know their optimum: shifted, rotated, ill-conditioned, multimodal, noisy, integer.

Each is called as an evaluator, f(z [K, d]) -> loss [K], and has `domain`, `optimum` [d] and the
value there, `minimum`. None has its optimum at 0, and those of real genes are rotated: wrong
updates pass on the sphere at the origin. Definitions after Hansen, Finck, Ros and Auger (2009),
Real-parameter black-box optimization benchmarking, inria-00362633.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError
from gfo.core.recording import recorded

MOST_D = 20_000  # whose rotation takes 3 GB


def _generator(d: int, seed: int, *more: int) -> np.random.Generator:
    """Of a function's numbers.

    Raises:
        GfoError: for a d or a seed out of range.
    """
    if not 1 <= d <= MOST_D:
        raise GfoError(f"d = {d} must be from 1 to {MOST_D}")
    if seed < 0:
        raise GfoError(f"seed = {seed} must be 0 or more")
    return np.random.default_rng([seed, d, *more])


class BenchmarkFunction(ABC):
    """f(z [K, d]) -> loss [K] with a known optimum.

    Attributes:
        domain: where it is searched.
        optimum: its minimiser [d].
        minimum: the value there.
    """

    def __init__(self, domain: Domain, optimum: Array, minimum: float = 0.0) -> None:
        self.domain = domain
        self.optimum = optimum
        self.minimum = minimum

    @abstractmethod
    def _loss(self, z: Array) -> Array:
        """z [K, d] -> loss [K]."""

    def __call__(self, z: Array) -> Array:
        """The losses [K] of z [K, d]."""
        z = np.asarray(z, dtype=np.float64)
        if z.ndim != 2 or z.shape[1] != self.domain.d:
            raise GfoError(f"{type(self).__name__}: z has shape {z.shape}, must be [K, {self.domain.d}]")
        return self._loss(z)


@recorded
class _Rotated(BenchmarkFunction):
    """y = R (z - optimum) with a random rotation R and an optimum drawn from N(0, I)."""

    def __init__(self, d: int, *, seed: int = 0, domain: Domain | None = None) -> None:
        rng = _generator(d, seed)
        domain = Domain.unbounded(d) if domain is None else domain
        optimum = rng.standard_normal(d)
        if domain.bounded:  # well inside
            margin = np.minimum(0.1, (domain.high - domain.low) / 4)
            optimum = np.clip(optimum, domain.low + margin, domain.high - margin)
        super().__init__(domain, optimum)
        q, r = np.linalg.qr(rng.standard_normal((d, d)))
        self.rotation = q * np.sign(np.diag(r))  # Haar measure: Mezzadri (2007), arXiv:math-ph/0609050

    def _rotate(self, z: Array) -> Array:
        return np.asarray((z - self.optimum) @ self.rotation.T)


class Sphere(_Rotated):
    """sum_i (z_i - optimum_i)^2."""

    def _loss(self, z: Array) -> Array:
        return np.asarray(((z - self.optimum) ** 2).sum(axis=1))


@recorded
class Bowl(Sphere):
    """The sphere in a box of a given width about 0."""

    def __init__(self, d: int, *, width: float, seed: int = 0) -> None:
        super().__init__(d, seed=seed, domain=Domain.box(-width / 2, width / 2, d))
        self.optimum = _generator(d, seed).uniform(-0.4 * width, 0.4 * width, d)


@recorded
class Ellipsoid(_Rotated):
    """sum_i condition^(i / (d - 1)) y_i^2: a quadratic with that condition number."""

    def __init__(
        self, d: int, *, condition: float = 1e3, seed: int = 0, domain: Domain | None = None
    ) -> None:
        super().__init__(d, seed=seed, domain=domain)
        self.weights = condition ** (np.arange(d) / max(d - 1, 1))

    def _loss(self, z: Array) -> Array:
        return np.asarray((self._rotate(z) ** 2) @ self.weights)


class Rosenbrock(_Rotated):
    """sum_i 100 (x_i^2 - x_(i+1))^2 + (x_i - 1)^2 with x = y + 1: a bent valley."""

    def _loss(self, z: Array) -> Array:
        x = self._rotate(z) + 1
        return np.asarray((100 * (x[:, :-1] ** 2 - x[:, 1:]) ** 2 + (x[:, :-1] - 1) ** 2).sum(axis=1))


class Rastrigin(_Rotated):
    """10 d + sum_i x_i^2 - 10 cos(2 pi x_i) with x = 2 y: about 10^d local minima."""

    def _loss(self, z: Array) -> Array:
        x = 2 * self._rotate(z)
        return np.asarray((x**2 - 10 * np.cos(2 * np.pi * x) + 10).sum(axis=1))


@recorded
class NoisySphere(Sphere):
    """The sphere with Gaussian noise of standard deviation `noise` added to every evaluation."""

    def __init__(self, d: int, *, noise: float = 0.1, seed: int = 0, domain: Domain | None = None) -> None:
        super().__init__(d, seed=seed, domain=domain)
        self.noise = noise
        self._rng = _generator(d, seed, 1)

    def exact(self, z: Array) -> Array:
        """The losses [K] of z [K, d] without noise."""
        return super()._loss(np.asarray(z))

    def _loss(self, z: Array) -> Array:
        return super()._loss(z) + self.noise * self._rng.standard_normal(len(z))


@recorded
class OneMax(BenchmarkFunction):
    """The number of bits that differ from a random optimum."""

    def __init__(self, d: int, *, seed: int = 0) -> None:
        optimum = _generator(d, seed).integers(0, 2, d).astype(np.float64)
        super().__init__(Domain.box(0, 1, d, integer=True), optimum)

    def _loss(self, z: Array) -> Array:
        return np.asarray((z != self.optimum).sum(axis=1), dtype=np.float64)


@recorded
class IntegerSphere(BenchmarkFunction):
    """sum_i (z_i - optimum_i)^2 over the whole numbers -10 to 10."""

    def __init__(self, d: int, *, seed: int = 0) -> None:
        optimum = _generator(d, seed).integers(-8, 9, d).astype(np.float64)
        super().__init__(Domain.box(-10, 10, d, integer=True), optimum)

    def _loss(self, z: Array) -> Array:
        return np.asarray(((z - self.optimum) ** 2).sum(axis=1))


@recorded
class Words(BenchmarkFunction):
    """The weight of the genes that differ from a random optimum: categories without an order."""

    def __init__(self, d: int, *, values: int = 30, seed: int = 0) -> None:
        rng = _generator(d, seed)
        optimum = rng.integers(1, values, d).astype(np.float64)
        super().__init__(Domain.box(0, values - 1, d, categorical=True), optimum)
        self.weights = rng.uniform(1, 2, d)

    def _loss(self, z: Array) -> Array:
        return np.asarray((z != self.optimum) @ self.weights)


@recorded
class MixedSphere(BenchmarkFunction):
    """A sphere whose first third of genes is binary, second third whole (-5 to 5), rest real."""

    def __init__(self, d: int, *, seed: int = 0) -> None:
        rng = _generator(d, seed)
        kind = np.arange(d) * 3 // d
        low = np.choose(kind, [0.0, -5.0, -np.inf])
        high = np.choose(kind, [1.0, 5.0, np.inf])
        optimum = np.choose(kind, [rng.integers(0, 2, d), rng.integers(-5, 6, d), rng.standard_normal(d)])
        super().__init__(Domain(low, high, kind < 2), optimum.astype(np.float64))

    def _loss(self, z: Array) -> Array:
        return np.asarray(((z - self.optimum) ** 2).sum(axis=1))
