"""A frozen encoder-decoder: the text and the soft prompt are the encoder's, the answer is the decoder's.

Layers are counted through: the encoder's first. Where only decoder layers change, the encoder runs once
for all candidates, and so do the decoder's keys and values of the encoder's output.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache
from transformers.cache_utils import DynamicLayer

from gfo.core.delta import Delta
from gfo.core.errors import GfoError
from gfo.models.apply import Change, applied
from gfo.models.branches import Context, Rows
from gfo.models.families import CROSS_ATTENTION
from gfo.models.frozen import FrozenModel
from gfo.models.structure import find_stacks


class _SharedLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of R rows that C candidates share; copied for a layer while it runs."""

    def __init__(self, keys: Tensor, values: Tensor, C: int) -> None:
        super().__init__()
        self._shared, self._C = (keys, values), C
        self.is_initialized = True

    @property
    def keys(self) -> Tensor | None:
        """Keys [C * R, H, T, D_h]."""
        return self._shared[0].repeat(self._C, 1, 1, 1) if self.is_initialized else None

    @keys.setter
    def keys(self, value: Tensor | None) -> None: ...

    @property
    def values(self) -> Tensor | None:
        """Values [C * R, H, T, D_h]."""
        return self._shared[1].repeat(self._C, 1, 1, 1) if self.is_initialized else None

    @values.setter
    def values(self, value: Tensor | None) -> None: ...

    def get_seq_length(self, *args: Any, **kwargs: Any) -> int:
        return int(self._shared[0].shape[2])


class EncoderDecoder(FrozenModel):
    """An encoder-decoder language model of transformers; the first word of the answer is read."""

    causal = False

    def __init__(self, module: Any, tokenizer: Any, name: str = "") -> None:
        name = name or str(module.config.name_or_path) or module.config.model_type
        encoder, decoder = module.get_encoder(), module.get_decoder()
        super().__init__(module, tokenizer, name, [*find_stacks(encoder), *find_stacks(decoder)])
        bias = getattr(module, "final_logits_bias", None)
        self._bias = self._bias if bias is None else bias[0]
        config = module.config
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

    def check(self, delta: Delta) -> None:
        """Raise GfoError for a Delta that does not fit."""
        super().check(delta)
        late = [layer for layer in delta.layer_prompt if layer >= self.encoder_layers]
        if late:
            raise GfoError(
                f"Delta: layer_prompt in layer {late[0]}, but the soft prompt is in the encoder; give layers "
                f"0 to {self.encoder_layers - 1}"
            )

    def branches(
        self,
        context: Context | None,
        entry: Tensor,
        rows: Rows,
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
            States of the decoder's last token, [C, R, D]; with `stop` the encoder's, [C, R, T, D].
        """
        C, real = len(entry), rows.branch >= 0
        if start >= self.encoder_layers:
            return self._answer_once(entry[0], real, C, change, start - self.encoder_layers)
        last = None if stop is None or stop >= self.encoder_layers else stop
        mask = real.repeat(C, 1).long()
        hidden = self._run(self.stacks[0], entry.flatten(0, 1), change, start, last, attention_mask=mask)
        if stop is not None:
            return hidden.reshape(C, -1, *hidden.shape[1:])
        return self._decode(hidden, real.repeat(C, 1), change)[:, -1].reshape(C, len(real), -1)

    @torch.no_grad()
    def check_branches(self) -> None:
        """Compare an answer's logits with a plain forward pass.

        Raises:
            GfoError: if they differ by more than rounding, so that no result would be right.
        """
        some, ids = self._probe()
        answer = torch.tensor([self._answer], device=self.device)
        plain = self.module(input_ids=ids[None], decoder_input_ids=answer).logits[0, -1, list(some)].float()
        rows = Rows.single(torch.tensor([len(ids)], device=self.device), len(ids))
        entry = self.embed(ids)[None, None]
        self._compare(self.logits(self.branches(None, entry, rows)[0, 0], some), plain)
        output = self.branches(None, entry, rows, stop=self.encoder_layers)
        later = self.branches(None, output.expand(2, -1, -1, -1), rows, start=self.layers - 1)
        self._compare(self.logits(later[1, 0], some), plain)

    def _decode(
        self,
        encoded: Tensor,
        real: Tensor,
        change: Change | None,
        cache: EncoderDecoderCache | None = None,
        start: int = 0,
        hidden: Tensor | None = None,
    ) -> Tensor:
        """The decoder's layers from its `start` on, [rows, T', D]; `hidden` is what enters that layer."""
        stack = self.stacks[1]
        ids = torch.tensor(self._answer, device=self.device).expand(len(encoded), -1)
        with ExitStack() as hooks:
            if hidden is not None:
                hooks.enter_context(stack.entering(start, hidden))
            hooks.enter_context(applied(change, self.module, self._layers))
            out = stack.part(start, stack.size)(
                input_ids=ids,
                encoder_hidden_states=encoded,
                encoder_attention_mask=real.long(),
                past_key_values=cache,
                use_cache=cache is not None,
            )
        return out.last_hidden_state  # type: ignore[no-any-return]

    def _answer_once(
        self, encoded: Tensor, real: Tensor, C: int, change: Change | None, start: int
    ) -> Tensor:
        """The decoder for C candidates over one encoder's output [R, T, D]: last states [C, R, D].

        What does not depend on the candidate comes from one pass over the R rows: the hidden states
        that enter the decoder's layer `start`, and the keys and values of the encoder's output.
        """
        changed = change.delta.modules if change else set()
        shares = not any(CROSS_ATTENTION.search(name) for name in changed)
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        shared = hidden = None
        if start or shares:
            with ExitStack() as hooks:
                seen = hooks.enter_context(self.stacks[1].leaving(start)) if start else []
                self._decode(encoded, real, None, cache)
            hidden = seen[0].repeat(C, 1, 1) if seen else None
        if shares:
            layers = [
                _SharedLayer(layer.keys, layer.values, C) for layer in cache.cross_attention_cache.layers
            ]
            cross = DynamicCache()
            cross.layers = layers
            shared = EncoderDecoderCache(DynamicCache(), cross)
            shared.is_updated = dict.fromkeys(range(len(layers)), True)
        rows = encoded.expand(C, *encoded.shape).flatten(0, 1), real.repeat(C, 1)
        last = self._decode(*rows, change, shared, start, hidden)[:, -1]
        return last.reshape(C, len(real), -1)
