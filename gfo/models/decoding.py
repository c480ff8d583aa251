"""Sequences that grow token by token behind contexts, or behind an encoder's output.

Contexts are shared as they are; each sequence has keys and values of its own, written in place into
buffers with room for all of its tokens. Sequences that are done are dropped. Stock transformers code does
the rest, by a cache, additive masks and position ids.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache
from transformers.cache_utils import DynamicLayer

from gfo.core.domain import Array
from gfo.models.apply import Change, applied
from gfo.models.attention import attention_of_branches
from gfo.models.branches import Context, KeysValues, RowLayout, Together
from gfo.models.last_layer import read_tokens_only
from gfo.models.shared_attention import Grid, Shared, shared_attention

if TYPE_CHECKING:
    from gfo.models.decoder import Decoder
    from gfo.models.encoder_decoder import EncoderDecoder


class _GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """A layer's own keys and values of N sequences, [N, H_kv, capacity, D_h], and those of their contexts."""

    def __init__(self, sequences: DecoderSequences, number: int) -> None:
        super().__init__()
        self._of, self._number = sequences, number
        self.own: KeysValues | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write what is new, [rows, H_kv, T, D_h]; what attention takes as keys and values."""
        it, new = self._of, (key_states, value_states)
        if self.own is None:
            rows, heads = len(it.owner), key_states.shape[1]
            key, value = (t.new_zeros(rows, heads, it.capacity, t.shape[3]) for t in new)
            self.own = key, value
        for whole, part in zip(self.own, new, strict=True):
            it.write(whole, part)
        key, value = new if it.first_pass else tuple(whole[:, :, : it.columns] for whole in self.own)
        pair = it.context.layers[self._number] if it.context else None
        if it.shared is not None:
            it.shared.pair = pair
            return key, value
        if pair is None:
            return key, value
        owner = it.owner[it.rows]
        return torch.cat([pair[0][owner], key], dim=2), torch.cat([pair[1][owner], value], dim=2)

    def keep(self, rows: Tensor) -> None:
        """Drop all but some sequences."""
        if self.own is not None:
            self.own = self.own[0][rows], self.own[1][rows]


class Growing:
    """What sequences have in common.

    Attributes:
        shrinks: whether some of them can be dropped.
        tokens_a_step: how many tokens of each go through the model in a step.
    """

    shrinks: bool = True
    tokens_a_step: int = 1


class DecoderSequences(Growing):
    """N sequences behind C contexts of a decoder.

    Args:
        model: the decoder.
        context: C rows, or None for sequences that start from nothing.
        owner: the context of each sequence, int [N], ascending, on the host.
        capacity: the most own tokens of a sequence whose keys and values are kept.

    Attributes:
        rows: the sequences of the pass that runs, int [rows]; all of them but in the first pass.
        first_pass: whether it is their first, so that all they see of their own is new.
        columns: own tokens that the pass sees, the shorter sequences' padding included.
        shared: what the layers share in the pass; None where keys and values are copied.
    """

    def __init__(self, model: Decoder, context: Context | None, owner: Array, capacity: int) -> None:
        self._model, self._device = model, model.device
        self._owner, self._own = owner, np.zeros_like(owner)  # and lengths, on the host
        self.context, self.owner, self.capacity = context, self._there(owner), capacity
        self._start = torch.zeros_like(self.owner) if context is None else context.length[self.owner]
        shift = None if context is None else context.shift
        self._shift = torch.zeros_like(self.owner) if shift is None else shift[self.owner]
        self._together: Together | None = None
        self._length = torch.zeros_like(self.owner)
        self._cache = DynamicCache()
        self._cache.layers = [_GrowingLayer(self, i) for i in range(model.layers)]
        self._grid = Grid.of(owner, self._device)
        self.rows, self.first_pass, self.columns = torch.arange(len(owner), device=self._device), True, 0
        self.shared: Shared | None = None
        self._may_share = model.shares_attention

    def begin(
        self, entry: Tensor, length: Array, rows: Array, change: Change | None, ids: Tensor | None = None
    ) -> Tensor:
        """The first tokens of some of the sequences, each once.

        Args:
            entry: input embeddings [rows, T, D], padded on the right.
            length: real tokens of each, int [rows], on the host.
            rows: which sequences, int [rows], ascending, on the host.
            change: candidates to apply, in these rows.
            ids: the words, int [rows, T], 0 in the soft prompt's places; None for no images.

        Returns:
            Hidden states of their last tokens, [rows, D].
        """
        T = entry.shape[1]
        self._own[rows] = length
        lengths, at = self._there(length), self._there(rows)
        self.first_pass, self.rows, self.columns = True, at, T
        self._length[at] = lengths
        lie = RowLayout.single(lengths, T)
        position = self._start[at][:, None] + torch.arange(T, device=self._device)
        stands = self._stand(position, lengths, at, ids)
        scores, copies = T * self._model.heads * self._model.layers, self._model.kept
        grid = Grid.of(self._owner[rows], self._device) if scores <= copies else None  # the smaller
        with read_tokens_only(self._model.last_network, lie):
            hidden = self._pass(entry, position, stands, grid, change, ids)
        self._together = None
        return lie.reading(hidden)[:, 0]

    def _stand(self, position: Tensor, length: Tensor, at: Tensor, ids: Tensor | None) -> Tensor:
        """Where the first tokens of the sequences `at` stand, which have numbers [rows, T]; see `Placed`."""
        if ids is None:
            return position
        column = torch.arange(ids.shape[1], device=self._device).expand_as(ids)
        branch = torch.where(column < length[:, None], 0, -1)
        rows, before = RowLayout(branch, column, length[None] - 1, ids=ids[None]), self._shift[at]
        if self._model.images is not None:
            self._shift[at] = self._model.images.tokens.shift_behind(ids, before)
        stands, self._together = self._model.stand(position, rows, before[:1])
        return stands

    def step(self, token: Tensor, change: Change | None) -> Tensor:
        """One token more for each sequence, int [N]: its hidden state, [N, D].

        Args:
            token: its id.
            change: candidates to apply, in the N rows.
        """
        self.first_pass = False
        self.rows = torch.arange(len(token), device=token.device)
        self.columns = int(self._own.max()) + 1
        position = (self._start + self._length)[:, None]
        stands = position + self._shift[:, None]
        hidden = self._pass(self._model.embed(token)[:, None], position, stands, self._grid, change)
        self._length += 1
        self._own += 1
        return hidden[:, 0]

    def keep(self, rows: Array) -> None:
        """Drop all but some sequences, int [rows], ascending, on the host."""
        at = self._there(rows)
        used, self._owner = np.unique(self._owner[rows], return_inverse=True)
        self._own, self.owner = self._own[rows], self._there(self._owner)
        self._start, self._length, self._shift = self._start[at], self._length[at], self._shift[at]
        if self.context is not None and len(used) < len(self.context.length):
            self.context = self.context.take(self._there(used))
        for layer in self._cache.layers:
            layer.keep(at)
        self._grid = Grid.of(self._owner, self._device)

    def _there(self, numbers: Array) -> Tensor:
        """Numbers of the host on the device."""
        return torch.from_numpy(numbers).to(self._device)

    def write(self, whole: Tensor, new: Tensor) -> None:
        """Own tokens of the pass into their places: new [rows, H_kv, T, D_h] into whole [N, H_kv, :, D_h]."""
        if self.first_pass:
            whole[self.rows, :, : new.shape[2]] = new
        else:
            whole[self.rows, :, self._length] = new[:, :, 0]

    def _pass(
        self,
        entry: Tensor,
        position: Tensor,
        stands: Tensor,
        grid: Grid | None,
        change: Change | None,
        ids: Tensor | None = None,
    ) -> Tensor:
        """Entry [rows, T, D] numbered [rows, T], which stands as `Placed` says -> hidden states."""
        self.shared, config = None, self._model.config
        if grid is not None and self._may_share:
            self.shared = Shared(grid)
        lacking = () if self.context is None else self.context.lacking
        with ExitStack() as within:
            if self.shared is None:
                within.enter_context(attention_of_branches(config))
                within.enter_context(self._model.own_keys_alone(lacking, self.columns))
            else:
                within.enter_context(shared_attention(config, self.shared))
            return self._model.extend(
                entry,
                stands,
                lambda window: self._mask(position, window, entry.dtype),
                self._cache,
                ids=ids,
                change=change,
            )

    def _mask(self, position: Tensor, window: int | None, dtype: torch.dtype) -> Any:
        """Additive mask [rows, 1, T, S + n]: the context and, causally, what is the sequence's own."""
        own = self._start[self.rows][:, None] + torch.arange(self.columns, device=position.device)
        there = torch.ones_like(own, dtype=torch.bool)
        if self.context is not None:
            owner = self.owner[self.rows]
            own = torch.cat([self.context.position[owner], own], dim=1)
            there = torch.cat([self.context.visible[owner], there], dim=1)
        back = position[:, :, None] - own[:, None, :]  # (rows, T, S + n)
        visible = there[:, None, :] & (back >= 0)
        together = self._together
        if together is not None and together.windowed:
            visible[..., -self.columns :] |= together.pairs[0]
        if window is not None:
            visible = visible & (back < window)
        if together is not None and not together.windowed:
            visible[..., -self.columns :] |= together.pairs[0]
        mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
        mask.masked_fill_(~visible, torch.finfo(dtype).min)
        return self._model.mask_of_keys(mask[:, None], own)


class AnswerSequences(Growing):
    """N answers that an encoder-decoder writes.

    Args:
        model: the encoder-decoder.
        encoded: the encoder's output [N, T, D], padded on the right.
        real: bool [N, T]; False at padding.
    """

    def __init__(self, model: EncoderDecoder, encoded: Tensor, real: Tensor) -> None:
        self._model, self._encoded, self._real = model, encoded, real
        self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())

    def share(self, encoded: Tensor, real: Tensor, candidates: int) -> None:
        """Take keys and values of the encoder's output [R, T, D] from one pass for all K candidates."""
        once = AnswerSequences(self._model, encoded, real)
        once.begin(None)
        cross = DynamicCache()
        for i, layer in enumerate(once._cache.cross_attention_cache.layers):
            pair = (t.repeat(candidates, 1, 1, 1) for t in (layer.keys, layer.values))
            cross.update(*pair, i)
        self._cache = EncoderDecoderCache(DynamicCache(), cross)
        self._cache.is_updated = dict.fromkeys(range(len(cross.layers)), True)

    def begin(self, change: Change | None) -> Tensor:
        """The tokens that every answer begins with: the last one's hidden states [N, D]."""
        first = torch.tensor(self._model.answer_start, device=self._encoded.device)
        return self._run(first.expand(len(self._encoded), -1), change)

    def step(self, token: Tensor, change: Change | None) -> Tensor:
        """One token more for each answer, int [N]: its hidden state, [N, D]."""
        return self._run(token[:, None], change)

    def keep(self, rows: Array) -> None:
        """Drop all but some answers, int [rows], ascending, on the host."""
        at = torch.from_numpy(rows).to(self._encoded.device)
        self._encoded, self._real = self._encoded[at], self._real[at]
        self._cache.batch_select_indices(at)

    def _run(self, ids: Tensor, change: Change | None) -> Tensor:
        with ExitStack() as hooks:
            hooks.enter_context(applied(change, self._model.module, self._model.all_layers))
            out = self._model.stacks[1].body(
                input_ids=ids,
                encoder_hidden_states=self._encoded,
                encoder_attention_mask=self._real.long(),
                past_key_values=self._cache,
                use_cache=True,
            )
        return out.last_hidden_state[:, -1]  # type: ignore[no-any-return]
