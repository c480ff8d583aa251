"""How the numbers of one linear module become a low-rank change B A of its weight, whose A is frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SPARE_VECTORS, ITERATIONS = 8, 12  # of the subspace iteration for singular vectors
VERA_D = 0.5  # how far VeRA's vector d moves around its start, 1


class Form(Protocol):
    """How the parameters of one module become B."""

    size: int
    """Parameters of the module."""
    A: Tensor
    """Frozen, [r, in]."""
    scale: Tensor
    """What the parameters change by for z ~ N(0, I) and alpha = 1, [size]."""

    def up(self, parameters: Tensor) -> Tensor:
        """Parameters [K, size] -> [K, out, r]; 0 gives 0, or an adapter's B."""
        ...


class LoRAFA:
    """B itself; A [r, in] of N(0, 1/in), frozen (Zhang et al. 2023, arXiv:2308.03303)."""

    def __init__(self, weight: Tensor, rank: int, rng: np.random.Generator) -> None:
        import torch

        self._shape = (out, inner) = tuple(weight.shape)
        self._rank, self.size = rank, out * rank
        self.A = normal(rng, (rank, inner), inner, weight.device)
        self.scale = torch.full((self.size,), float(weight.norm()) / np.sqrt(out * rank))

    def up(self, parameters: Tensor) -> Tensor:
        """Parameters [K, out * r] -> [K, out, r]."""
        return parameters.view(len(parameters), self._shape[0], self._rank)


class Started:
    """B0 of an adapter and what is added to it; its A [r, in] frozen.

    Args:
        weight: [out, in].
        A, B0: the adapter's, its scaling in B0.
    """

    def __init__(self, weight: Tensor, A: Tensor, B0: Tensor) -> None:
        import torch

        self.A, self._B0, self.size = A, B0, B0.numel()
        # E |N A|^2 = out |A|^2 for N of N(0, 1)
        each = float(weight.norm()) / float(A.norm()) / np.sqrt(len(B0))
        self.scale = torch.full((self.size,), each)

    def up(self, parameters: Tensor) -> Tensor:
        """Parameters [K, out * r] -> [K, out, r]; 0 gives B0."""
        return self._B0 + parameters.view(-1, *self._B0.shape)


class LoRAXS:
    """W + U_r S_r R V_r^T with the weight's largest singular values and vectors, and a core R [r, r].

    Balazy et al. 2024, arXiv:2405.17604; TinyLoRA's change too (Morris et al. 2026, arXiv:2602.04118),
    with R = sum_i z_i P_i for random P_i of each module: what the projection does here. As plain LoRA,
    A = V_r^T and B = U_r S_r R.
    """

    def __init__(self, weight: Tensor, rank: int, rng: np.random.Generator) -> None:
        import torch

        U, S, V = singular_vectors(weight, rank, rng)
        self._rank, self.size = rank, rank * rank
        self.A = V.T.contiguous()
        self._US = U * S  # (out, r)
        # E |U S R V^T|^2 = r |S|^2 for R of N(0, 1)
        each = float(weight.norm()) / float(S.norm()) / np.sqrt(rank)
        self.scale = torch.full((self.size,), each)

    def up(self, parameters: Tensor) -> Tensor:
        """Parameters [K, r * r] -> [K, out, r]."""
        return self._US @ parameters.view(-1, self._rank, self._rank)


class SVD:
    """W + U_r diag(S_r p) V_r^T: the weight's largest singular values alone, each times 1 + p.

    Sun, Cetin and Tang 2025, arXiv:2501.06252 ("singular value fine-tuning"), of r values instead of all.
    """

    def __init__(self, weight: Tensor, rank: int, rng: np.random.Generator) -> None:
        import torch

        U, S, V = singular_vectors(weight, rank, rng)
        self.size = rank
        self.A = V.T.contiguous()
        self._US = U * S  # (out, r)
        self.scale = torch.full((rank,), float(weight.norm()) / float(S.norm()))

    def up(self, parameters: Tensor) -> Tensor:
        """Parameters [K, r] -> [K, out, r]."""
        return self._US * parameters[:, None]


class StartedSVD:
    """The singular values of an adapter's A and B, each times 1 + p; its singular vectors are frozen.

    Korotyshova et al. 2025, arXiv:2507.04453 ("ESSA"). With A = U_A S_A V_A^T and B = U_B S_B V_B^T the
    shared matrix is V_A^T, and what a candidate has is U_B S_B (V_B^T U_A) S_A.

    Args:
        weight: [out, in].
        A, B0: the adapter's [r, in] and [out, r], its scaling in B0.
    """

    def __init__(self, weight: Tensor, A: Tensor, B0: Tensor) -> None:
        import torch

        left, self._S_A, self.A = torch.linalg.svd(A, full_matrices=False)
        self._U, self._S_B, right = torch.linalg.svd(B0, full_matrices=False)
        self._between = right @ left  # (r, r)
        self._r = len(self._S_B)
        self.size = self._r + len(self._S_A)
        self.scale = torch.ones(self.size)

    def up(self, parameters: Tensor) -> Tensor:
        """Parameters [K, 2 r], of B and then of A, -> [K, out, r]; 0 gives B0 in the basis of A."""
        S_B, S_A = self._S_B * (1 + parameters[:, : self._r]), self._S_A * (1 + parameters[:, self._r :])
        up: Tensor = (self._U * S_B[:, None]) @ self._between * S_A[:, None]
        return up


class VeRA:
    """W + diag(b) B0 diag(d) A0 with frozen random A0, B0 that all modules share, and two vectors.

    Kopiczko et al. 2023, arXiv:2310.11454. b starts at 0 and d at 1, and both move with z: the change
    is b (1 + VERA_D d'), odd in z to first order, as b's part alone is. d is merged into B, so that all
    candidates share A0.

    Args:
        weight: [out, in].
        rank: r.
        bases: A0 [r, at least in] and B0 [at least out, r] of N(0, 1).
    """

    def __init__(self, weight: Tensor, rank: int, bases: tuple[Tensor, Tensor]) -> None:
        import torch

        self._out, inner = weight.shape
        self.size = self._out + rank
        self.A = (bases[0][:, :inner] / np.sqrt(inner)).to(weight.device)
        self._B0 = (bases[1][: self._out] / np.sqrt(rank)).to(weight.device)
        self.scale = torch.ones(self.size)
        self.scale[: self._out] = float(weight.norm()) / np.sqrt(self._out)

    def up(self, parameters: Tensor) -> Tensor:
        """Parameters [K, out + r], b and then d', -> [K, out, r]."""
        b, d = parameters[:, : self._out, None], parameters[:, None, self._out :]
        up: Tensor = b * self._B0 * (1 + VERA_D * d)
        return up


def normal(
    rng: np.random.Generator, shape: tuple[int, ...], variance_over: int, device: torch.device
) -> Tensor:
    """N(0, 1 / variance_over), float32."""
    import torch

    numbers = rng.standard_normal(shape) / np.sqrt(variance_over)
    return torch.from_numpy(numbers.astype(np.float32)).to(device)


def singular_vectors(weight: Tensor, rank: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """The largest singular values and vectors, U [out, r], S [r], V [in, r], with signs fixed.

    Subspace iteration (Halko, Martinsson and Tropp 2011, doi:10.1137/090771806, algorithm 4.4): a few
    products instead of a full decomposition, which takes minutes on large models.
    """
    import torch

    width = min(*weight.shape, rank + SPARE_VECTORS)
    Q = normal(rng, (weight.shape[1], width), 1, weight.device)
    for _ in range(ITERATIONS):
        Q = torch.linalg.qr(weight.T @ torch.linalg.qr(weight @ Q).Q).Q
    U, S, Vh = torch.linalg.svd(weight @ Q, full_matrices=False)
    U, S, V = U[:, :rank], S[:rank], (Q @ Vh.T)[:, :rank]
    sign = torch.sign(U.gather(0, U.abs().argmax(0, keepdim=True)))  # (1, r)
    return U * sign, S, V * sign
