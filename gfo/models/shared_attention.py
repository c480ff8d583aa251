"""Attention of many sequences to a context that they share and to tokens of their own.

One softmax over both, so it is exact; but the two products with keys, and the two with values, are
separate, so that the shared keys and values are read once for all sequences and never copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.masking_utils import sdpa_mask

from gfo.core.domain import Array
from gfo.models.branches import KeysValues

NAME = "gfo_shared"
REPLACED = ("sdpa", "eager")  # transformers' attention that `attend` may stand for
# What a family's attention may have beside scores, softcap and mask (sinks, T5's position bias).
BEYOND = ("s_aux", "position_bias")


class NotSharedError(Exception):
    """The model's attention is not the one that `attend` computes."""


@dataclass(frozen=True)
class Grid:
    """Where N sequences, sorted by context, lie in a rectangle of C contexts x M places.

    Attributes:
        first: the first context that they continue; C of them from there on.
        contexts: C.
        places: M, the most sequences of one context.
        place: c * M + m of each sequence, int [N]; None where the N fill the rectangle.
    """

    first: int
    contexts: int
    places: int
    place: Tensor | None

    @classmethod
    def of(cls, owner: Array, device: Any) -> Grid:
        """The grid of sequences that continue the contexts `owner`, int [N], ascending; on a device."""
        first = int(owner[0])
        own = owner - first
        count = np.bincount(own)
        C, M = len(count), int(count.max())
        if len(owner) == C * M:
            return cls(first, C, M, None)
        rank = np.arange(len(owner)) - (count.cumsum() - count)[own]
        return cls(first, C, M, torch.from_numpy(own * M + rank).to(device))

    def spread(self, x: Tensor) -> Tensor:
        """[N, ...] -> [C, M, ...], 0 where there is no sequence."""
        if self.place is not None:
            x = x.new_zeros(self.contexts * self.places, *x.shape[1:]).index_copy_(0, self.place, x)
        return x.reshape(self.contexts, self.places, *x.shape[1:])

    def gather(self, x: Tensor) -> Tensor:
        """[C, M, ...] -> [N, ...]."""
        x = x.flatten(0, 1)
        return x if self.place is None else x[self.place]


@dataclass
class Shared:
    """What the layer that runs now shares.

    Attributes:
        grid: where the sequences of the pass lie among the contexts.
        pair: keys and values of all contexts, each [C', H_kv, S, D_h]; None for a layer without.
        used: how many layers attended.
    """

    grid: Grid
    pair: KeysValues | None = None
    used: int = 0


_now: ContextVar[Shared | None] = ContextVar("gfo_shared", default=None)


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    softcap: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """transformers' eager attention over [shared, own] keys.

    query [N, H, T, D_h], own key and value [N, H_kv, n, D_h], additive mask [N, 1, T, >= S + n], the first
    columns of which may be missing in a layer -> [N, T, H, D_v], D_v the values' width.
    """
    shared = _now.get()
    if shared is None or any(options.get(name) is not None for name in BEYOND):
        raise NotSharedError
    shared.used += 1
    N, H, T, size = query.shape
    H_kv, n = key.shape[1:3]
    S = 0 if shared.pair is None else shared.pair[0].shape[2]
    q = (query * (size**-0.5 if scaling is None else scaling)).reshape(
        N, H_kv, -1, size
    )  # (N, H_kv, G T, D_h)
    scores = q.new_empty(N, H_kv, q.shape[2], S + n)
    scores[..., S:] = q @ key.mT
    if shared.pair is not None:
        scores[..., :S] = _product(q, shared.pair[0].mT, shared.grid)
    scores = scores.view(N, H, T, S + n)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores + attention_mask[..., attention_mask.shape[-1] - S - n :]
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype).view(N, H_kv, -1, S + n)
    out = weights[..., S:] @ value
    if shared.pair is not None:
        out = out + _product(weights[..., :S], shared.pair[1], shared.grid)
    return out.view(N, H, T, -1).transpose(1, 2).contiguous(), None


def _product(x: Tensor, shared: Tensor, grid: Grid) -> Tensor:
    """x [N, H_kv, I, J] times its context's matrix among shared [C', H_kv, J, O]: [N, H_kv, I, O]."""
    some = shared[grid.first : grid.first + grid.contexts]
    rows = x.shape[2]
    x = grid.spread(x).transpose(1, 2).flatten(2, 3)  # (C, H_kv, M I, J)
    out = (x @ some).view(*x.shape[:2], grid.places, rows, -1)
    return grid.gather(out.transpose(1, 2))


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


@torch.no_grad()
def may_share(model: Any) -> bool:
    """Whether a decoder runs an attention that `attend` computes, in every layer: it is tried."""
    if model.config._attn_implementation not in REPLACED:
        return False
    one = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    entry, shared = model.embed(one), Shared(Grid.of(np.zeros(1, dtype=np.int64), model.device))
    mask = torch.zeros_like(entry[:, None, :, :1])
    try:
        with shared_attention(model.config, shared):
            model.extend(entry, one, lambda _: mask, DynamicCache())
    except NotSharedError:
        return False
    return shared.used == int(model.layers)


@contextmanager
def shared_attention(config: Any, shared: Shared) -> Iterator[None]:
    """Within, the model's attention is `attend`, with what is shared by the layer at hand in `shared`."""
    before, token = config._attn_implementation, _now.set(shared)
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
        _now.reset(token)
