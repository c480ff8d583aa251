"""A frozen encoder-decoder: the text and the soft prompt are the encoder's, the answer is the decoder's.

Layers are counted through: the encoder's first. Where only decoder layers change, the encoder runs once
for all candidates, and so do the decoder's keys and values of the encoder's output.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache
from transformers.cache_utils import DynamicLayer

from gfo.core.delta import Delta
from gfo.core.errors import GfoError
from gfo.models.apply import Change, applied
from gfo.models.branches import Context, Forced, RowLayout
from gfo.models.frozen import FrozenModel
from gfo.models.probing import given_whole_rows
from gfo.models.structure import find_stacks

Layers = tuple[list[Any], list[Any]]
"""Keys and values by layer: the decoder's own, and those of the encoder's output."""


class _SharedLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of some rows, for each as often as it is named; copied for a layer while it runs.

    Tokens that see them leave no trace.
    """

    def __init__(self, keys: Tensor, values: Tensor, rows: Tensor) -> None:
        super().__init__()
        self._shared, self._rows = (keys, values), rows
        self.is_initialized = True

    @classmethod
    def of(cls, layer: Any, rows: Tensor) -> _SharedLayer:
        """Some rows of another layer."""
        if isinstance(layer, cls):
            return cls(*layer._shared, layer._rows[rows])
        return cls(layer.keys, layer.values, rows)

    @property
    def keys(self) -> Tensor | None:
        """Keys [rows, H, T, D_h]."""
        return self._shared[0][self._rows] if self.is_initialized else None

    @keys.setter
    def keys(self, value: Tensor | None) -> None: ...

    @property
    def values(self) -> Tensor | None:
        """Values [rows, H, T, D_h]."""
        return self._shared[1][self._rows] if self.is_initialized else None

    @values.setter
    def values(self, value: Tensor | None) -> None: ...

    def get_seq_length(self, *args: Any, **kwargs: Any) -> int:
        return int(self._shared[0].shape[2])

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return torch.cat([self.keys, keys], dim=2), torch.cat([self.values, values], dim=2)  # type: ignore[list-item]


def _new_cache() -> EncoderDecoderCache:
    return EncoderDecoderCache(DynamicCache(), DynamicCache())


def _layers(cache: EncoderDecoderCache) -> Layers:
    """The layers' own keys and values, and those of the encoder's output."""
    return cache.self_attention_cache.layers, cache.cross_attention_cache.layers


def _cache_of(own: Sequence[Any], cross: Sequence[Any], rows: Tensor) -> EncoderDecoderCache:
    """Some rows of the layers' own keys and values, and of those of the encoder's output."""
    caches = DynamicCache(), DynamicCache()
    for cache, layers in zip(caches, (own, cross), strict=True):
        if layers:
            cache.layers = [_SharedLayer.of(layer, rows) for layer in layers]
    found = EncoderDecoderCache(*caches)
    found.is_updated = dict.fromkeys(range(len(cross)), True)
    return found


class EncoderDecoder(FrozenModel):
    """An encoder-decoder language model of transformers; the first word of the answer is read, or all."""

    causal = False
    continues = False

    def __init__(self, module: Any, tokenizer: Any, name: str = "") -> None:
        name = name or str(module.config.name_or_path) or module.config.model_type
        encoder, decoder = module.get_encoder(), module.get_decoder()
        super().__init__(module, tokenizer, name, [*find_stacks(encoder), *find_stacks(decoder)])
        bias = getattr(module, "final_logits_bias", None)
        self._bias = self._bias if bias is None else bias[0]
        config = module.config
        if getattr(config, "expert_capacity", None):
            raise GfoError(
                f"model '{self.name}': its experts take so many tokens of a pass and drop the rest, so that "
                "a row's numbers depend on the other rows; take another model"
            )
        generation = getattr(module, "generation_config", None) or config
        first = [config.decoder_start_token_id, getattr(generation, "forced_bos_token_id", None)]
        self._answer = [token for token in first if token is not None]
        if not self._answer:
            raise GfoError(
                f"model '{self.name}': its config has no decoder_start_token_id; set it to the token that "
                "answers begin with"
            )

    @property
    def answer_start(self) -> tuple[int, ...]:
        """The token ids that every answer begins with and that are no part of it."""
        return tuple(self._answer)

    @property
    def encoder_layers(self) -> int:
        """The number of the encoder's layers, and of the decoder's first."""
        return self.stacks[0].size

    @property
    def prompt_layers(self) -> int:
        """The encoder's layers, where the soft prompt is."""
        return self.encoder_layers

    @functools.cached_property
    def _readers(self) -> frozenset[str]:
        """The decoder's linear modules that get the encoder's output: they make keys and values of it."""
        size = self.encoder_layers
        return given_whole_rows(self, [name for name, info in self.linears.items() if info.layer >= size])

    def reads_as_before(self, delta: Delta) -> bool:
        """Whether a Delta leaves the keys and values of the encoder's output what they are."""
        return not self._readers & delta.modules

    def branches(
        self,
        context: Context | None,
        entry: Tensor,
        rows: RowLayout,
        *,
        change: Change | None = None,
        start: int = 0,
        stop: int | None = None,
    ) -> Tensor:
        """Run whole sequences through the encoder, one a row, and the first tokens of their answers.

        Args:
            context: None; there are no contexts.
            entry: what enters layer `start`, [C, R, T, D]; input embeddings at 0. From the decoder's
                first layer on, the encoder's output, equal for all C.
            rows: R sequences of T tokens, the same behind each of C candidates.
            change: candidates to apply, in C * R rows.
            start: the first layer run.
            stop: the layer not run any more: hidden states of the encoder that leave layer `stop - 1`,
                or its output where `stop` is a decoder layer. None to run all.

        Returns:
            States of the decoder's tokens that are read, [C, M, D], which is the start's last token of each
            row unless `rows` forces more; with `stop` the encoder's, [C, R, T, D].
        """
        C, real = len(entry), rows.branch >= 0
        if start >= self.encoder_layers:
            return self._answer_once(entry[0], rows, C, change, start - self.encoder_layers)
        last = None if stop is None or stop >= self.encoder_layers else stop
        mask = real.repeat(C, 1).long()
        hidden = self._run(self.stacks[0], entry.flatten(0, 1), change, start, last, attention_mask=mask)
        if stop is not None:
            return hidden.reshape(C, -1, *hidden.shape[1:])
        return self._answer_all(hidden, rows, C, change)

    @torch.no_grad()
    def check_branches(self) -> None:
        """Compare an answer's logits with a plain forward pass.

        Raises:
            GfoError: if they differ by more than rounding, so that no result would be right.
        """
        some, ids = self.probe_vocabulary, self.probe_text
        answer = torch.tensor([self._answer], device=self.device)
        plain = self.module(input_ids=ids[None], decoder_input_ids=answer).logits[0, -1, list(some)].float()
        rows = RowLayout.single(torch.tensor([len(ids)], device=self.device), len(ids))
        entry = self.embed(ids)[None, None]
        self.compare(self.logits(self.branches(None, entry, rows)[0, 0], some), plain)
        output = self.branches(None, entry, rows, stop=self.encoder_layers)
        later = self.branches(None, output.expand(2, -1, -1, -1), rows, start=self.layers - 1)
        self.compare(self.logits(later[1, 0], some), plain)

    def _decode(
        self,
        ids: Tensor,
        encoded: Tensor,
        real: Tensor,
        change: Change | None,
        cache: EncoderDecoderCache | None = None,
        start: int = 0,
        hidden: Tensor | None = None,
        stop: int | None = None,
    ) -> Tensor:
        """The decoder's layers from its `start` on, [rows, T', D].

        Args:
            ids: tokens of the answers, int [rows, T'].
            encoded: the encoder's output, [rows, T, D].
            real: where it is no padding, bool [rows, T].
            change: candidates to apply, in the rows.
            cache: what the tokens continue; None for nothing.
            start: the first layer run.
            hidden: what enters that layer, [rows, T', D], if it is above 0.
            stop: the layer not run any more; None to run all.
        """
        stack = self.stacks[1]
        with ExitStack() as hooks:
            if hidden is not None:
                hooks.enter_context(stack.entering(start, hidden))
            hooks.enter_context(applied(change, self.module, self._layers))
            out = stack.part(start, stack.size if stop is None else stop)(
                input_ids=ids,
                encoder_hidden_states=encoded,
                encoder_attention_mask=real.long(),
                past_key_values=cache,
                use_cache=cache is not None,
            )
        return out.last_hidden_state  # type: ignore[no-any-return]

    def _starts(self, rows: int) -> Tensor:
        """The answers' first tokens, int [rows, T']."""
        return torch.tensor(self._answer, device=self.device).expand(rows, -1)

    def _answer_all(self, encoded: Tensor, rows: RowLayout, C: int, change: Change | None) -> Tensor:
        """The decoder over the encoder's output of C candidates [C * R, T, D]: states read, [C, M, D]."""
        R = len(rows.branch)
        real = (rows.branch >= 0).repeat(C, 1)
        cache = _new_cache() if rows.forced else None
        first = self._decode(self._starts(C * R), encoded, real, change, cache)[:, -1].reshape(C, R, -1)
        if rows.forced is None or cache is None:
            return first
        return rows.reading(self._with_forced(first, rows.forced, _layers(cache), encoded, real, change))

    def _answer_once(
        self, encoded: Tensor, rows: RowLayout, C: int, change: Change | None, start: int
    ) -> Tensor:
        """The decoder for C candidates over one encoder's output [R, T, D]: states read, [C, M, D].

        What does not depend on the candidate comes from one pass over the R rows: the hidden states
        that enter the decoder's layer `start`, and the keys and values of the encoder's output.
        """
        R, real = len(encoded), rows.branch >= 0
        shares = change is None or self.reads_as_before(change.delta)
        once = _new_cache()
        hidden = None
        if start or shares:
            hidden = self._entering(start, self._starts(R), encoded, real, once)
        every = torch.arange(R, device=self.device).repeat(C)
        cross = once.cross_attention_cache.layers if shares else []
        cache = _cache_of([], cross, every) if shares or rows.forced else None
        all_encoded, all_real = encoded.expand(C, *encoded.shape).flatten(0, 1), real.repeat(C, 1)
        first = self._decode(
            self._starts(C * R), all_encoded, all_real, change, cache, start, _repeated(hidden, C)
        )
        first = first[:, -1].reshape(C, R, -1)
        if rows.forced is None or cache is None:
            return first
        layers = _layers(cache)
        if start:  # the candidates' caches hold nothing of the layers below, whose length counts
            ids, row = rows.forced.ids, rows.forced.row
            past = _cache_of(*_layers(once), row)
            hidden = self._entering(start, ids, _unread(encoded, row), real[row], past, start)
            layers = _joined(_layers(once), layers, start, every)
        with_forced = self._with_forced(
            first, rows.forced, layers, all_encoded, all_real, change, start, _repeated(hidden, C)
        )
        return rows.reading(with_forced)

    def _with_forced(
        self,
        first: Tensor,
        forced: Forced,
        layers: Layers,
        encoded: Tensor,
        real: Tensor,
        change: Change | None,
        start: int = 0,
        hidden: Tensor | None = None,
    ) -> Tensor:
        """States of the answers' starts [C, R, D], with those of the tokens forced behind them.

        Args:
            first: the former.
            forced: tokens, which continue the rows' answers.
            layers: of the C * R rows, the layers' own keys and values, and those of the encoder's output.
            encoded, real, change, start, hidden: as `_decode` has them; the first two of C * R rows.
        """
        C, R, D = first.shape
        index = _of_candidates(forced.row, R, C)
        behind = self._decode(
            forced.ids.repeat(C, 1),
            _unread(encoded, index),
            real[index],
            change,
            _cache_of(*layers, index),
            start,
            hidden,
        )
        return torch.cat([first, behind.reshape(C, -1, D)], dim=1)

    def _entering(
        self,
        start: int,
        ids: Tensor,
        encoded: Tensor,
        real: Tensor,
        cache: EncoderDecoderCache,
        stop: int | None = None,
    ) -> Tensor | None:
        """What enters the frozen decoder's layer `start`, if above 0; fills the cache below `stop`."""
        with ExitStack() as hooks:
            seen = hooks.enter_context(self.stacks[1].leaving(start)) if start else []
            self._decode(ids, encoded, real, None, cache, stop=stop)
        return seen[0] if seen else None


def _of_candidates(row: Tensor, R: int, C: int) -> Tensor:
    """Rows [N] of R -> those of C candidates, R each: [C * N]."""
    return (torch.arange(C, device=row.device)[:, None] * R + row).flatten()


def _unread(encoded: Tensor, rows: Tensor) -> Tensor:
    """In the shape of some rows of the encoder's output, whose keys and values a cache already has."""
    return encoded[:1].expand(len(rows), -1, -1)


def _joined(below: Layers, above: Layers, start: int, rows: Tensor) -> Layers:
    """Keys and values of some rows of `below` in the layers below `start`, and `above` from there on."""
    own, cross = (
        [_SharedLayer.of(layer, rows) for layer in lower[:start]] + upper[start:]
        for lower, upper in zip(below, above, strict=True)
    )
    return own, cross


def _repeated(hidden: Tensor | None, C: int) -> Tensor | None:
    return None if hidden is None else hidden.repeat(C, 1, 1)
