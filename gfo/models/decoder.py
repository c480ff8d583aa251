"""A frozen decoder: runs contexts and the branches behind them, between any two of its layers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from gfo.core.delta import Delta
from gfo.core.errors import GfoError
from gfo.models.apply import Change
from gfo.models.attention import attention_of_branches, own_keys_alone
from gfo.models.branches import Context, RowLayout, Together
from gfo.models.families import attention_windows, feed_forward_of, strange_layers, why_not_placed
from gfo.models.frozen import FrozenModel
from gfo.models.gguf_form import GGUFForm
from gfo.models.last_layer import read_tokens_only
from gfo.models.rescaling import Rescaling, find_rescalings
from gfo.models.shared_attention import may_share
from gfo.models.structure import find_stacks, hooked


@dataclass(frozen=True)
class Placed:
    """Where the tokens of a pass stand and what they see.

    Attributes:
        position: int [rows, T], or [3, rows, T] where images have positions of three axes.
        mask: additive, [rows, 1, T, keys], or one for each kind of layer, as transformers takes them.
        lacking: layers that have only the T tokens' own keys, where others have more.
    """

    position: Tensor
    mask: Any
    lacking: tuple[int, ...] = ()

    @property
    def bytes(self) -> int:
        """Memory held."""
        masks = self.mask.values() if isinstance(self.mask, dict) else [self.mask]
        return int(self.position.nbytes + sum(mask.nbytes for mask in masks))


class Decoder(FrozenModel):
    """A causal language model of transformers; the next word behind the last token is read.

    Attributes:
        last_network: the last layer's feed-forward network, or None where it has none of the usual name.

    Raises:
        GfoError: for a model whose positions cannot be chosen. Of others `gfo.models.checking` finds whether
            branches are right.
    """

    causal = True
    contexts = True
    biased = False
    """Whether positions are told by biases, not by position ids."""

    def __init__(self, module: Any, tokenizer: Any, name: str = "") -> None:
        config = module.config.get_text_config(decoder=True)
        name = name or str(module.config.name_or_path) or config.model_type
        body = module.base_model if config is module.config else module.get_decoder()  # of images and text
        if not self.biased and (reason := why_not_placed(body, config)):
            raise _unbranched(name, config, reason)
        if kinds := strange_layers(config):
            raise _unbranched(name, config, f"it has layers of the kind {kinds}")
        super().__init__(module, tokenizer, name, find_stacks(body, config.num_hidden_layers))
        self._window, self._mixed_windows = attention_windows(self.config)
        self.last_network = feed_forward_of(self._layers[-1])

    @functools.cached_property
    def shares_attention(self) -> bool:
        """Whether sequences that grow can attend to what they share without copies of it."""
        return may_share(self)

    @functools.cached_property
    def rescalings(self) -> tuple[Rescaling, ...]:
        """Where factors can be moved between modules without a change of the function."""
        return find_rescalings(self)

    @functools.cached_property
    def gguf(self) -> GGUFForm:
        """What a GGUF file of the model would be."""
        return GGUFForm(self)

    @functools.cached_property
    def heads(self) -> int:
        """The attention's number of heads, of queries."""
        return int(getattr(self.config, "num_attention_heads", 1))

    def context(
        self,
        entry: Tensor,
        length: Tensor,
        parent: Context | None = None,
        *,
        ids: Tensor | None = None,
        change: Change | None = None,
        start: int = 0,
        stop: int | None = None,
    ) -> tuple[Context, Tensor]:
        """Run C rows and keep their keys and values for branches.

        Args:
            entry: what enters layer `start`, [C, S, D], padded on the right; input embeddings at 0.
            length: real tokens of each row, int [C].
            parent: what the rows continue: a context of C rows, or of one row that all continue.
            ids: the words, int [C, S], 0 in the soft prompt's places; None for no images.
            change: candidates to apply, in C rows.
            start: the first layer run.
            stop: the layer not run any more; None to run all and the final norm.

        Returns:
            A context of C rows, the parent's tokens and the new ones, and what leaves layer `stop - 1`,
            [C, S, D] (without `stop` it means nothing).
        """
        C, S, _ = entry.shape
        if parent is not None and len(parent.length) != C:
            parent = parent.expand(C)
        rows = RowLayout.single(length, S, ids)
        cache = DynamicCache() if parent is None else parent.growing_cache()
        placed = self.place(parent, C, rows, entry.dtype)
        hidden = self._pass(entry[:, None], rows, placed, cache, change, start, stop)[:, 0]
        layers = [(layer.keys, layer.values) if layer.is_initialized else None for layer in cache.layers]
        layers += [None] * (self.layers - len(layers))
        visible, position = rows.position < length[:, None], rows.positions(parent, C)
        own = Context(tuple(layers), visible, position, length, self._shift(parent, ids))
        return (own if parent is None else own.behind(parent)), hidden

    def branches(
        self,
        context: Context | None,
        entry: Tensor,
        rows: RowLayout,
        *,
        change: Change | None = None,
        start: int = 0,
        stop: int | None = None,
        placed: Placed | None = None,
    ) -> Tensor:
        """Run branches behind each of C contexts.

        Args:
            context: C rows, or None for branches that start from nothing.
            entry: what enters layer `start`, [C, R, T, D]; input embeddings at 0.
            rows: how the branches lie in R rows of T tokens.
            change: candidates to apply, in C * R rows, which may part into more (see `gfo.models.gates`).
            start: the first layer run.
            stop: the layer not run any more; None to run all and the final norm.
            placed: what `place` gives for these rows, if it is known.

        Returns:
            Hidden states of the tokens that are read, [C, M, D]; with `stop` those of all, [C, R, T, D].
        """
        cache = None if context is None else context.frozen_cache
        placed = self.place(context, len(entry), rows, entry.dtype) if placed is None else placed
        hidden = self._pass(entry, rows, placed, cache, change, start, stop)
        return rows.reading(hidden.flatten(1, 2)) if stop is None else hidden

    def place(self, context: Context | None, C: int, rows: RowLayout, dtype: torch.dtype) -> Placed:
        """Where tokens stand, and what they see, in rows behind each of C contexts, or of nothing."""
        together, position = None, rows.positions(context, C)
        if self.images is not None:
            shift = None if context is None else context.shift
            position, together = self.stand(position, rows, shift)
        mask = self._masks(partial(rows.mask, context, C, dtype=dtype, together=together))
        return Placed(position, mask, () if context is None else context.lacking)

    def own_keys_alone(self, layers: Sequence[int], keys: int) -> AbstractContextManager[None]:
        """Within, these layers get masks of so many keys, the last ones."""
        return own_keys_alone((self._layers[layer] for layer in layers), keys)

    def mask_of_keys(self, mask: Tensor, position: Tensor) -> Any:
        """What layers are given of a mask [rows, 1, T, keys] of keys that stand at positions [rows, keys]."""
        return mask

    def stand(self, number: Tensor, rows: RowLayout, shift: Tensor | None) -> tuple[Tensor, Together | None]:
        """Where tokens numbered [C * R, T] stand, as `Placed` has it, and which see each other beyond what is
        in front of them; `shift` [C] is that of the contexts."""
        if self.images is None or rows.ids is None:
            return number, None
        tokens = self.images.tokens
        return tokens.positions(number, rows, shift), tokens.together(rows)

    def extend(
        self,
        entry: Tensor,
        position: Tensor,
        mask_of: Callable[[int | None], Any],
        cache: DynamicCache,
        *,
        ids: Tensor | None = None,
        change: Change | None = None,
    ) -> Tensor:
        """Run all layers, with a cache and masks of the caller's.

        Args:
            entry: input embeddings [rows, T, D].
            position: of the tokens, as `Placed` has them.
            mask_of: sliding window, or None for none -> what `mask_of_keys` makes of the mask.
            cache: takes up keys and values, and hands out what is seen.
            ids: the words, int [rows, T]; None for no images.
            change: candidates to apply, in the rows.

        Returns:
            Hidden states [rows, T, D] behind the final norm.
        """
        with ExitStack() as hooks:
            if self.images is not None and ids is not None:
                hooks.enter_context(self.images.tokens.deepened(self._layers, ids))
            return self._run(
                self.stacks[0],
                entry,
                change,
                0,
                None,
                attention_mask=self._masks(mask_of),
                position_ids=position,
                past_key_values=cache,
                use_cache=True,
            )

    @torch.no_grad()
    def unseen(self, delta: Delta) -> bool:
        """See `FrozenModel.unseen`; keys and values are compared, with other outputs of the modules."""
        if not self._in_last_layer(delta):
            return False
        last, names = self.layers - 1, sorted(delta.modules)
        entry, length = self.embed(self.probe_text)[None], torch.tensor([12], device=self.device)
        noise = torch.Generator().manual_seed(0)

        def move(module: Any, args: Any, output: Tensor) -> Tensor:
            return output + torch.randn(output.shape, generator=noise).to(output)

        plain = self.context(entry, length)[0].layers[last]
        with hooked(*(self.module.get_submodule(name).register_forward_hook(move) for name in names)):
            moved = self.context(entry, length)[0].layers[last]
        return all(map(torch.equal, plain or (), moved or ()))

    def _shift(self, parent: Context | None, ids: Tensor | None) -> Tensor | None:
        """The shift of what stands behind the rows' words, int [C, S]; see `Context`."""
        before = None if parent is None else parent.shift
        if self.images is None or ids is None:
            return before
        return self.images.tokens.shift_behind(ids, before)  # type: ignore[no-any-return]

    def _in_last_layer(self, delta: Delta) -> bool:
        """Whether what changes for all tokens are modules of the last layer, and nothing else."""
        if not delta.modules or any(self.lowest_layer(name) != self.layers - 1 for name in delta.modules):
            return False
        return not any(slot.everywhere and not slot.modules for slot in delta.slots)

    @torch.no_grad()
    def check_branches(self) -> None:
        """Compare a branch behind a context with one plain forward pass of a few tokens.

        Raises:
            GfoError: if the logits differ by more than rounding, so that no result would be right.
        """
        some, ids = self.probe_vocabulary, self.probe_text
        plain = self.module(input_ids=ids[None]).logits[0, -1, list(some)].float()
        embeds = self.embed(ids)[None]  # (1, 12, D)
        context, _ = self.context(embeds[:, :7], torch.tensor([7], device=self.device))
        column = torch.arange(10, device=self.device)[None]  # the second branch must not see the first
        rows = RowLayout(column // 5, column % 5, torch.tensor([[9]], device=self.device))
        hidden = self.branches(context, embeds[:, None, 7:].repeat(1, 1, 2, 1), rows)
        self.compare(self.logits(hidden[0, 0], some), plain)

    def _masks(self, mask_of: Callable[[int | None], Any]) -> Any:
        """The mask of the model's window, or one for each kind of layer, as transformers takes them."""
        if not self._mixed_windows:
            return mask_of(self._window)
        return {"full_attention": mask_of(None), "sliding_attention": mask_of(self._window)}

    def _pass(
        self,
        entry: Tensor,
        rows: RowLayout,
        placed: Placed,
        cache: DynamicCache | None,
        change: Change | None,
        start: int,
        stop: int | None,
    ) -> Tensor:
        """Entry [C, R, T, D] -> hidden states [C, R, T, D] that leave layer `stop - 1`, or the final norm.

        Behind the final norm those of tokens that are not read are not the model's.
        """
        with ExitStack() as hooks:
            hooks.enter_context(attention_of_branches(self.config))
            if stop is None:
                hooks.enter_context(read_tokens_only(self.last_network, rows))
            if placed.lacking:
                hooks.enter_context(self.own_keys_alone(placed.lacking, entry.shape[2]))
            if self.images is not None and rows.ids is not None:  # in front of what looks at the layers
                ids = rows.ids.expand(len(entry), *entry.shape[1:3]).flatten(0, 1)
                hooks.enter_context(self.images.tokens.deepened(self._layers, ids))
            hidden = self._run(
                self.stacks[0],
                entry.flatten(0, 1),
                change,
                start,
                stop,
                attention_mask=placed.mask,
                position_ids=placed.position,
                past_key_values=cache,
                use_cache=cache is not None,
            )
        return hidden.reshape(-1, entry.shape[1], *hidden.shape[1:])


def _unbranched(name: str, config: Any, reason: str) -> GfoError:
    return GfoError(
        f"model '{name}' ({config.model_type}) cannot be evaluated in branches: {reason}; take gfo.freeze, "
        "which finds another way"
    )
