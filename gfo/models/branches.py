"""Branches: many continuations of shared contexts in one forward pass.

A context is a row of tokens whose keys and values are known. Branches lie one behind the other in rows
behind it; each sees the shared context and, causally, itself, but no other branch, and its positions
start anew behind the context. So a context is computed once and never again for its branches. A branch may
fork in turn, depth first: what lies in front of a fork is computed once for all ways behind it. Stock
transformers code does the rest: a cache that hands out the context, an additive 4-D mask and position ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

KeysValues = tuple[Tensor, Tensor]


class _FrozenLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of C contexts, or none: the tokens of C * R rows see them and leave no trace."""

    def __init__(self, pair: KeysValues | None) -> None:
        super().__init__()
        if pair:
            self.lazy_initialization(*pair)
            self.keys, self.values = pair

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            return key_states, value_states
        return _behind(self.keys, key_states), _behind(self.values, value_states)


def _behind(shared: Tensor, own: Tensor) -> Tensor:
    """Shared [C, H, S, D_h] in front of own [C * R, H, T, D_h]: [C * R, H, S + T, D_h], copied once."""
    C, H, S, size = shared.shape
    own = own.view(C, -1, *own.shape[1:])  # (C, R, H, T, D_h)
    out = own.new_empty(C, own.shape[1], H, S + own.shape[3], size)
    out[..., :S, :] = shared[:, None]
    out[..., S:, :] = own
    return out.flatten(0, 1)


@dataclass(frozen=True)
class Context:
    """Keys and values of C rows of up to S tokens, padded on the right.

    Attributes:
        layers: per layer the keys and values, each [C, H_kv, S, D_h]; None for a layer that was not run;
            fewer than S tokens, the last ones, where a layer has no prefix.
        visible: bool [C, S]; False at padding.
        position: int [C, S], the tokens' positions, by their number.
        length: int [C], the position at which branches start.
        shift: how much further words behind it stand where images take other positions than their tokens
            have numbers, int [C]; see `gfo.models.image_tokens`. None for nothing.
    """

    layers: tuple[KeysValues | None, ...]
    visible: Tensor
    position: Tensor
    length: Tensor
    shift: Tensor | None = None

    @property
    def bytes(self) -> int:
        """Memory held by the keys and values."""
        return sum(t.numel() * t.element_size() for pair in self.layers if pair for t in pair)

    @classmethod
    def of_prefix(cls, prefix: dict[int, KeysValues], layers: int) -> Context:
        """Given keys and values of S tokens at positions 0 to S - 1, in some layers or all."""
        first = next(iter(prefix.values()))[0]
        C, _, S, _ = first.shape
        position = torch.arange(S, device=first.device).expand(C, -1)
        length = torch.full((C,), S, device=first.device)
        pairs = tuple(prefix.get(layer) for layer in range(layers))
        return cls(pairs, torch.ones_like(position, dtype=torch.bool), position, length)

    @classmethod
    def nothing(cls, start: int, layers: int, device: torch.device) -> Context:
        """One row without tokens; what continues it starts at the position `start`."""
        none = torch.zeros(1, 0, dtype=torch.long, device=device)
        return cls((None,) * layers, none.bool(), none, torch.full((1,), start, device=device))

    @classmethod
    def stack(cls, contexts: Sequence[Context]) -> Context:
        """Contexts of any length and the same layers in one, padded to the longest."""
        if len(contexts) == 1:
            return contexts[0]
        S = max(context.visible.shape[1] for context in contexts)
        columns = zip(*(context.layers for context in contexts), strict=True)
        layers = tuple(_stacked(column, S) if all(column) else None for column in columns)
        visible = torch.cat([_padded(context.visible, 1, S) for context in contexts])
        position = torch.cat([_padded(context.position, 1, S) for context in contexts])
        length = torch.cat([context.length for context in contexts])
        shifts = [context.shift for context in contexts if context.shift is not None]
        return cls(layers, visible, position, length, torch.cat(shifts) if shifts else None)

    @cached_property
    def lacking(self) -> tuple[int, ...]:
        """The layers without keys, where others have some."""
        lacking = tuple(layer for layer, pair in enumerate(self.layers) if pair is None)
        return lacking if len(lacking) < len(self.layers) else ()

    def expand(self, rows: int) -> Context:
        """A single row seen as `rows` equal rows, without copying."""
        layers = tuple(
            pair and (pair[0].expand(rows, -1, -1, -1), pair[1].expand(rows, -1, -1, -1))
            for pair in self.layers
        )
        shift = None if self.shift is None else self.shift.expand(rows)
        visible, position = self.visible.expand(rows, -1), self.position.expand(rows, -1)
        return Context(layers, visible, position, self.length.expand(rows), shift)

    def behind(self, parent: Context) -> Context:
        """What continues a parent of as many rows, and has its keys and values already, with its tokens."""
        visible = torch.cat([parent.visible, self.visible], dim=1)
        position = torch.cat([parent.position, self.position], dim=1)
        return replace(self, visible=visible, position=position, length=parent.length + self.length)

    def above(self, layer: int) -> Context:
        """Without the keys and values of the layers below one."""
        return replace(self, layers=(None,) * layer + self.layers[layer:])

    def take(self, rows: Tensor) -> Context:
        """Some of the rows, by their numbers."""
        layers = tuple(pair and (pair[0][rows], pair[1][rows]) for pair in self.layers)
        shift = None if self.shift is None else self.shift[rows]
        return Context(layers, self.visible[rows], self.position[rows], self.length[rows], shift)

    def growing_cache(self) -> DynamicCache:
        """A transformers cache that holds the context and takes up what is computed behind it."""
        cache = DynamicCache()
        cache.layers = [DynamicLayer() for _ in self.layers]
        for layer, pair in zip(cache.layers, self.layers, strict=True):
            if pair:
                layer.lazy_initialization(*pair)
                layer.keys, layer.values = pair
        return cache

    @cached_property
    def frozen_cache(self) -> DynamicCache:
        """A transformers cache that hands out the context to R rows of branches each and never grows."""
        cache = DynamicCache()
        cache.layers = [_FrozenLayer(pair) for pair in self.layers]
        return cache


def _stacked(column: Sequence[Any], size: int) -> KeysValues:
    """Keys and values of a layer of several contexts in one, padded to `size` tokens."""
    keys, values = zip(*column, strict=True)
    return (
        torch.cat([_padded(some, 2, size) for some in keys]),
        torch.cat([_padded(some, 2, size) for some in values]),
    )


def _padded(tensor: Tensor, axis: int, size: int) -> Tensor:
    """The tensor with zeros (False) behind it along the axis."""
    missing = size - tensor.shape[axis]
    return torch.nn.functional.pad(tensor, [0, 0] * (tensor.ndim - 1 - axis) + [0, missing])


@dataclass(frozen=True)
class Forced:
    """N continuations of an answer's start that an encoder-decoder's decoder is given (teacher forcing).

    Attributes:
        ids: int [N, T'], padded on the right.
        row: the row that each continuation answers, int [N].
        real: tokens without padding.
    """

    ids: Tensor
    row: Tensor
    real: int


@dataclass(frozen=True)
class Together:
    """Tokens that see each other whatever their order.

    Attributes:
        pairs: which do, bool [C or 1, R, T, T], in one branch.
        windowed: whether a sliding window hides some of them.
    """

    pairs: Tensor
    windowed: bool


@dataclass(frozen=True)
class RowLayout:
    """M branches laid one behind the other in R rows of T tokens, the same behind each of C contexts.

    Attributes:
        branch: the branch that a token belongs to, int [R, T]; -1 at padding. Padding may also be
            counted to the branch in front of it: no real token sees it.
        position: the token's place in its branch, int [R, T], or [C, R, T] where contexts differ in it;
            where the branch forks, the number of tokens in front of it on its way.
        read: row * T + column of the tokens whose hidden states are wanted, int [C or 1, M].
        end: where branches fork, the column behind the last token that sees this one, int [R, T] or
            [C, R, T]; None where all that stand behind it in its branch do.
        forced: what an encoder-decoder's decoder is given; `read` then counts through the answers' R starts
            and the N * T' tokens forced.
        ids: the words, int [R, T], or [C, R, T] where contexts differ in them, 0 in the soft prompt's
            places; None where a layout does not tell.
        answer: which tokens are of endings, bool [R, T]; None for none.
    """

    branch: Tensor
    position: Tensor
    read: Tensor
    end: Tensor | None = None
    forced: Forced | None = None
    ids: Tensor | None = None
    answer: Tensor | None = None

    @classmethod
    def single(cls, length: Tensor, n: int, ids: Tensor | None = None) -> RowLayout:
        """One branch of n tokens, padded behind the real `length` [C] of them; `ids` [C, n]."""
        position = torch.arange(n, device=length.device)[None]
        own = None if ids is None else ids[:, None]
        return cls(torch.zeros_like(position), position, (length - 1)[:, None], ids=own)

    def positions(self, context: Context | None, C: int) -> Tensor:
        """Positions [C * R, T] behind each of C contexts."""
        if context is None:
            return self.position.expand(C, *self.branch.shape).flatten(0, 1)
        return (context.length[:, None, None] + self.position).flatten(0, 1)

    def mask(
        self,
        context: Context | None,
        C: int,
        window: int | None,
        dtype: torch.dtype,
        together: Together | None = None,
    ) -> Tensor:
        """Additive attention mask [C * R, 1, T, S + T]: the shared context and, causally, the own branch.

        Args:
            context: C shared rows, or None for branches that start from nothing.
            C: number of contexts, or of times that the rows start from nothing.
            window: a token sees the last `window` positions, itself included; None for all.
            dtype: of the mask; hidden places hold the dtype's lowest number.
            together: which tokens see each other, too.
        """
        R, T = self.branch.shape
        order = torch.arange(T, device=self.branch.device)
        if self.end is None:
            visible = self.branch[:, :, None] == self.branch[:, None, :]
        else:
            visible = order[:, None] < self.end[..., None, :]
        visible = visible & (order[:, None] >= order[None, :])
        if together is not None and together.windowed:
            visible = visible | together.pairs
        if window is not None:
            visible = visible & (self.position[..., :, None] - self.position[..., None, :] < window)
        if together is not None and not together.windowed:
            visible = visible | together.pairs
        visible = visible.expand(C, R, T, T)
        if context is not None:
            shared = context.visible[:, None, None, :].expand(C, R, T, -1)
            if window is not None:
                position = self.positions(context, C).view(C, R, T, 1)
                shared = shared & (position - context.position[:, None, None, :] < window)
            visible = torch.cat([shared, visible], dim=-1)
        mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
        return mask.masked_fill_(~visible, torch.finfo(dtype).min).flatten(0, 1)[:, None]

    def reading(self, hidden: Tensor) -> Tensor:
        """Hidden states [C, R * T, D] -> those read, [C, M, D]."""
        index = self.read[:, :, None].expand(len(hidden), -1, hidden.shape[-1])
        return hidden.gather(1, index)
