"""Levels that look at what enters a module: sparse weights, and products of two thin matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

GROUP = 4  # weights of a row, of which 2:4 sparsity keeps two
LEAST = 1e-3  # of the mean norm: a column that is nearly never used


def input_norms(weight: Tensor, inputs: Tensor | None) -> Tensor:
    """|X_j| of each column [in] of a weight [out, in], of inputs X [tokens, in]; 1 without."""
    if inputs is None:
        return weight.new_ones(weight.shape[1])
    norms = inputs.to(weight).norm(dim=0)
    least: Tensor = norms.clamp(min=LEAST * max(float(norms.mean()), 1e-30))
    return least


def sparse(share: float, weight: Tensor, inputs: Tensor | None) -> Tensor:
    """A weight [out, in] with a share of each row 0: those of the least |W_ij| |X_j|.

    Wanda (Sun et al. 2023, arXiv:2306.11695); without inputs by size alone.
    """
    closed = round(share * weight.shape[1])
    order = (weight.abs() * input_norms(weight, inputs)).argsort(dim=1, stable=True)
    return weight.scatter(1, order[:, :closed], 0.0)


def two_of_four(weight: Tensor, inputs: Tensor | None) -> Tensor:
    """A weight [out, in] of which each four neighbours of a row keep the two of the largest |W_ij| |X_j|."""
    score = (weight.abs() * input_norms(weight, inputs)).view(len(weight), -1, GROUP)
    order = score.argsort(dim=2, stable=True)[..., : GROUP // 2]
    return weight.view_as(score).scatter(2, order, 0.0).view_as(weight)


def low_rank(share: float, weight: Tensor, inputs: Tensor | None) -> Tensor:
    """The nearest product B A to a weight [out, in] with a share of its parameters, inputs weighted.

    It is the least |(W - B A) diag(|X_j|)|, by the singular values of W diag(|X_j|): with the norms of inputs
    for scales, as ASVD has them (Yuan et al. 2023, arXiv:2312.05821).
    """
    import torch

    out, columns = weight.shape
    rank = max(1, int(share * out * columns / (out + columns)))
    norms = input_norms(weight, inputs)
    U, S, V = torch.linalg.svd(weight * norms, full_matrices=False)
    found: Tensor = (U[:, :rank] * S[:rank]) @ V[:rank] / norms
    return found
