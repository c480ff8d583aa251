"""Random projections from the search space to parameters: A with unit-variance rows, A z ~ N(0, 1); or none.

Dense ones are matrices; "sparse" and "fastfood" are applied without one, for large targets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError, unknown_name
from gfo.core.seeding import stream
from gfo.spaces.parts.options import dimension

if TYPE_CHECKING:
    import torch
    from torch import Tensor

DENSE_MOST = 2**25  # entries of a matrix that "auto" draws: 128 MiB of float32, half a second
SPARSE_ENTRIES = 3  # nonzero entries of a row of the sparse projection


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


def orthogonal(rng: np.random.Generator, rows: int, d: int) -> Array:
    """Orthogonal columns of length sqrt(rows / d), float32 [rows, d]: distances in z are kept exactly.

    Haar measure (Mezzadri 2007, arXiv:math-ph/0609050); wants rows >= d.
    """
    q, r = np.linalg.qr(rng.standard_normal((rows, d)))
    return np.asarray(q * np.sign(np.diag(r)) * np.sqrt(rows / d), dtype=np.float32)


PROJECTIONS: dict[str, Callable[[np.random.Generator, int, int], Array]] = {
    "gaussian": gaussian,
    "uniform": uniform,
    "orthogonal": orthogonal,
}


class Projection(Protocol):
    """A linear map from search points to parameters."""

    def __call__(self, z: Tensor) -> Tensor:
        """z [K, d] -> float32 [K, rows]; differentiable."""
        ...


class Dense:
    """A matrix A [rows, d]: z -> A z."""

    def __init__(self, A: Tensor) -> None:
        self.A = A

    def __call__(self, z: Tensor) -> Tensor:
        """z [K, d] -> A z, float32 [K, rows]."""
        return z.to(self.A) @ self.A.T


class Identity:
    """No projection: a coordinate of z for each number, times its scale."""

    def __init__(self, scale: float | Tensor, device: torch.device) -> None:
        import torch

        self._scale = torch.as_tensor(scale, dtype=torch.float32, device=device)

    def __call__(self, z: Tensor) -> Tensor:
        """z [K, rows] -> z times the scale, float32 [K, rows]."""
        return z.to(self._scale) * self._scale


class Sparse:
    """Rows with s entries +-1/sqrt(s) in places drawn with equal chances: rows * s numbers, not rows * d.

    As sparse Johnson-Lindenstrauss transforms (Kane and Nelson 2014, doi:10.1145/2559902), by rows;
    with s = 1 Uni-LoRA's (Li et al. 2025, arXiv:2506.00799). Every row has length 1 exactly.

    Args:
        rng: where the places and signs come from.
        rows, d: the size.
        scale: a factor on all rows, or on each, [rows].
        device: of the numbers.
    """

    def __init__(
        self, rng: np.random.Generator, rows: int, d: int, scale: float | Tensor, device: torch.device
    ) -> None:
        import torch

        s = min(SPARSE_ENTRIES, d)
        place = rng.integers(0, d, rows)[:, None] + np.zeros((1, s), dtype=np.int64)
        # s different places: steps of 1 to d - 1 from the first, by a partial Fisher-Yates of offsets
        steps = np.sort(rng.integers(1, d - s + 2, (rows, s - 1)), axis=1) + np.arange(s - 1) if s > 1 else 0
        place[:, 1:] += steps
        sign = rng.integers(0, 2, (rows, s)) * 2 - 1
        self._place = torch.from_numpy(place % d).to(device)  # (rows, s)
        weight = torch.from_numpy((sign / np.sqrt(s)).astype(np.float32)).to(device)
        self._weight = weight * (scale[:, None] if isinstance(scale, torch.Tensor) else scale)

    def __call__(self, z: Tensor) -> Tensor:
        """z [K, d] -> A z, float32 [K, rows]."""
        z = z.to(self._weight)
        columns = zip(self._place.unbind(1), self._weight.unbind(1), strict=True)
        return sum(z[:, place] * weight for place, weight in columns)  # type: ignore[return-value]


class Fastfood:
    """Blocks of H G Pi H B, applied in rows * log(d) operations (Le, Sarlos and Smola 2013).

    H is the Hadamard matrix of n = 2^ceil(log2 d) rows, Pi a permutation, G Gaussian and B signs on the
    diagonal, all drawn anew for every n rows; each block is scaled to rows of expected length 1, so their
    S is not needed. Holds 4 numbers a row.

    Args:
        rng: where B, Pi and G come from.
        rows, d: the size.
        scale: a factor on all rows, or on each, [rows].
        device: of the numbers.
    """

    def __init__(
        self, rng: np.random.Generator, rows: int, d: int, scale: float | Tensor, device: torch.device
    ) -> None:
        import torch

        self._rows, self._n = rows, 1 << (d - 1).bit_length()
        blocks, n = -(-rows // self._n), self._n
        sign = rng.integers(0, 2, (blocks, n)) * 2 - 1
        order = rng.permuted(np.tile(np.arange(n), (blocks, 1)), axis=1)
        normal = rng.standard_normal((blocks, n))
        # rows of H G Pi H B have the length sqrt(n) |G|, of which d of n columns are used
        normal /= np.linalg.norm(normal, axis=1, keepdims=True) * np.sqrt(d)
        self._sign = torch.from_numpy(sign.astype(np.float32)).to(device)
        self._order = torch.from_numpy(order).to(device)
        self._normal = torch.from_numpy(normal.astype(np.float32)).to(device)
        self._scale = scale

    def __call__(self, z: Tensor) -> Tensor:
        """z [K, d] -> A z, float32 [K, rows]."""
        import torch

        z = torch.nn.functional.pad(z.to(self._normal), (0, self._n - z.shape[1]))
        x = hadamard(z[:, None] * self._sign)  # (K, blocks, n)
        x = x.gather(2, self._order.expand(len(z), -1, -1))
        return hadamard(x * self._normal).flatten(1)[:, : self._rows] * self._scale


def hadamard(x: Tensor) -> Tensor:
    """x [..., n] -> H x with the Hadamard matrix of +-1 (Sylvester's); n a power of 2."""
    import torch

    shape, n = x.shape, x.shape[-1]
    h = 1
    while h < n:
        a, b = x.reshape(-1, n // (2 * h), 2, h).unbind(2)
        x = torch.stack([a + b, a - b], dim=2)
        h *= 2
    return x.reshape(shape)


KINDS = (*PROJECTIONS, "sparse", "fastfood", "identity", "auto")


def make_projection(
    kind: str,
    rng: np.random.Generator,
    rows: int,
    d: int,
    *,
    scale: float | Tensor = 1.0,
    device: torch.device,
) -> Projection:
    """A random linear map z [K, d] -> [K, rows], each row times its scale.

    Args:
        kind: "gaussian", "uniform", "orthogonal", "sparse", "fastfood"; "identity": none, for d = rows; or
            "auto": Gaussian up to 2^25 entries, Fastfood beyond.
        rng: all randomness.
        rows, d: the size.
        scale: what a coordinate of the result changes by for z ~ N(0, 1): one number or [rows].
        device: of the numbers.

    Raises:
        GfoError: for an unknown kind, or an identity of other sizes.
    """
    import torch

    if kind not in KINDS:
        raise unknown_name("projection", kind, KINDS)
    if kind == "auto":
        kind = "gaussian" if rows * d <= DENSE_MOST else "fastfood"
    if kind == "identity":
        if d != rows:
            raise GfoError(
                f"space: dim = {d}: projection = 'identity' has one for each number; give dim = {rows}"
            )
        return Identity(scale, device)
    if isinstance(scale, torch.Tensor):
        scale = scale.to(device)
    if kind in PROJECTIONS:
        A = torch.from_numpy(PROJECTIONS[kind](rng, rows, d)).to(device)
        return Dense(A * (scale[:, None] if isinstance(scale, torch.Tensor) else scale))
    return (Sparse if kind == "sparse" else Fastfood)(rng, rows, d, scale, device)


class Projected:
    """Numbers at several places of a model, linear in z by one random projection into all of them.

    Args:
        scale: place -> what its numbers change by for z ~ N(0, I), [n].
        dim: d.
        projection: see `make_projection`.
        seed: of the projection.
        device: of the numbers.
        what, remedy: what the numbers are, and how there can be fewer dimensions than these, for the error.

    Attributes:
        dim: as given.
        domain: of z.

    Raises:
        GfoError: for an unknown projection, or more dimensions than numbers.
    """

    def __init__(
        self,
        scale: Mapping[Any, Tensor],
        dim: int,
        projection: str,
        seed: int,
        device: torch.device,
        *,
        what: str,
        remedy: str,
    ) -> None:
        import torch

        self._sizes = {place: len(part) for place, part in scale.items()}
        rows = sum(self._sizes.values())
        self.dim = dimension(dim, rows, what, remedy)
        self.domain = Domain.unbounded(dim)
        rng, scales = stream(seed, "projection"), torch.cat(list(scale.values()))
        self._project = make_projection(projection, rng, rows, dim, scale=scales, device=device)

    def __call__(self, z: Tensor) -> dict[Any, Tensor]:
        """z [K, d] -> place -> float32 [K, n]; differentiable."""
        import torch

        parts = torch.split(self._project(z), list(self._sizes.values()), dim=1)
        return dict(zip(self._sizes, parts, strict=True))
