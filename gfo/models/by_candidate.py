"""Tokens of a forward pass by candidate, and as they lay; and those alone that are changed."""

from __future__ import annotations

import torch
from torch import Tensor

from gfo.core.errors import GfoError


def where_changed(changed: Tensor, name: str, y: Tensor, before: Tensor) -> Tensor:
    """A module's numbers [rows, T, ...] as they are changed, and as they were in front of that.

    It may get the tokens one behind the other, [rows * T, ...], or those alone that are read, which are few.

    Raises:
        GfoError: for a module that gets other tokens.
    """
    rows, T = changed.shape
    if y.shape[:2] == (rows, T):
        return torch.where(changed.view(rows, T, *[1] * (y.ndim - 2)), y, before)
    if len(y) == rows * T:
        return torch.where(changed.view(-1, *[1] * (y.ndim - 1)), y, before)
    if y.ndim == 3 and y.shape[0] * y.shape[1] < rows * T:
        return y
    raise GfoError(
        f"module '{name}' gets {tuple(y.shape)} for {rows} rows of {T} tokens; a change that begins at a "
        "place needs modules that get each row's tokens: take others"
    )


def by_candidate(x: Tensor, K: int, again: int) -> Tensor:
    """Tokens [..., D], in which K candidates follow each other so many times: [K, N, D]."""
    return x.reshape(again, K, -1, x.shape[-1]).transpose(0, 1).reshape(K, -1, x.shape[-1])


def as_it_lay(x: Tensor, before: Tensor, K: int, again: int) -> Tensor:
    """Tokens by candidate [K, N, D] in the order and shape in which they came, [..., D]."""
    x = x.reshape(K, again, -1, x.shape[-1]).transpose(0, 1)
    return x.reshape(*before.shape[:-1], x.shape[-1])
