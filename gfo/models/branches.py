"""Branches: many continuations of shared contexts in one forward pass.

A context is a row of tokens whose keys and values are known. M branches of n tokens lie one
behind the other in that row; each sees the shared context and, causally, itself, but no other
branch, and its positions start anew behind the context. So a context is computed once and
neither copied nor recomputed for its branches. Stock transformers code does the rest: a cache
that hands out the context, an additive 4-D mask and position ids.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class _FrozenLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of a context: new tokens see them and leave no trace."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        return torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2)


@dataclass(frozen=True)
class Context:
    """Keys and values of C rows of up to S tokens, padded on the right.

    Attributes:
        layers: per layer the keys and values, each [C, H_kv, S, D_h].
        visible: bool [C, S]; False at padding.
        position: int [C, S], the tokens' positions.
        length: int [C], the number of real tokens; branches start at this position.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    visible: Tensor
    position: Tensor
    length: Tensor

    @property
    def bytes(self) -> int:
        """Memory held by the keys and values."""
        return sum(t.numel() * t.element_size() for pair in self.layers for t in pair)

    def rows(self, index: slice) -> Context:
        """Some of the rows, as views."""
        layers = tuple((k[index], v[index]) for k, v in self.layers)
        return Context(layers, self.visible[index], self.position[index], self.length[index])

    def expand(self, rows: int) -> Context:
        """A single row seen as `rows` equal rows, without copying."""
        layers = tuple((k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1)) for k, v in self.layers)
        return Context(
            layers, self.visible.expand(rows, -1), self.position.expand(rows, -1), self.length.expand(rows)
        )

    def cache(self) -> DynamicCache:
        """A transformers cache that hands out the context and never grows."""
        cache = DynamicCache()
        cache.layers = [_FrozenLayer(k, v) for k, v in self.layers]
        return cache


FORCE_GROUPS = "TRANSFORMERS_SDPA_FORCE_GQA"


@contextmanager
def unrepeated_keys(device: torch.device) -> Iterator[None]:
    """On a CPU, let grouped-query attention share keys and values between heads instead of copying them.

    transformers copies them wherever there is a mask, as CUDA's kernels want it; its own switch says
    otherwise. It saves about a tenth of a pass.
    """
    before = os.environ.get(FORCE_GROUPS)
    if device.type != "cpu" or before is not None:
        yield
        return
    os.environ[FORCE_GROUPS] = "1"
    try:
        yield
    finally:
        del os.environ[FORCE_GROUPS]


def branch_positions(context: Context | None, shape: tuple[int, int, int], device: Any) -> Tensor:
    """Positions [C, M * n] of M branches of n tokens behind each context."""
    C, M, n = shape
    start = torch.zeros(C, dtype=torch.long, device=device) if context is None else context.length
    own = torch.arange(n, device=device).repeat(M)  # (M * n)
    return start[:, None] + own[None, :]


def branch_mask(
    context: Context | None, position: Tensor, n: int, window: int | None, dtype: torch.dtype
) -> Tensor:
    """Additive attention mask [C, 1, M * n, S + M * n]: the shared context and, causally, the own branch.

    Args:
        context: the shared rows, or None for branches that start from nothing.
        position: positions [C, M * n] of the branch tokens.
        n: tokens a branch, padding included. Padding lies behind the real tokens, so no real
            token sees it, and it sees its own branch, so no row of the mask is empty.
        window: a token sees the last `window` positions, itself included; None for all.
        dtype: of the mask; hidden places hold the dtype's lowest number.
    """
    C, length = position.shape
    branch = torch.arange(length, device=position.device) // n
    order = torch.arange(length, device=position.device)
    own = (branch[:, None] == branch[None, :]) & (order[:, None] >= order[None, :])
    visible = own[None].expand(C, -1, -1)  # (C, M * n, M * n)
    seen = position
    if context is not None:
        shared = context.visible[:, None, :].expand(-1, length, -1)  # (C, M * n, S)
        visible = torch.cat([shared, visible], dim=-1)
        seen = torch.cat([context.position, position], dim=-1)
    if window is not None:
        visible = visible & (position[:, :, None] - seen[:, None, :] < window)
    mask = torch.zeros(visible.shape, dtype=dtype, device=position.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]
