"""A frozen decoder: embeds tokens, runs contexts and their branches, reads chosen logits."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from gfo.core.errors import GfoError
from gfo.models.branches import Context, branch_mask, branch_positions, unrepeated_keys
from gfo.models.families import attention_windows, logit_transform, why_unsupported

CHECKED_TOKENS = 64  # of the vocabulary, in check_branches


class Decoder:
    """A causal language model of transformers with its tokenizer, frozen.

    Attributes:
        name: what the user called it.
        module: the transformers model.
        tokenizer: the transformers tokenizer.
        context_length: the most tokens a sequence may have.
        vocabulary_size: V.
        hidden_size: D, the width of the input embeddings.

    Raises:
        GfoError: for a model whose attention cannot be branched (see `gfo.models.families`).
    """

    def __init__(self, module: Any, tokenizer: Any, name: str = "") -> None:
        self.module = module.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.config = module.config.get_text_config(decoder=True)
        self.name = name or str(module.config.name_or_path) or self.config.model_type
        reason = why_unsupported(self.config)
        self._body = module.base_model
        if reason is None and "position_ids" not in inspect.signature(self._body.forward).parameters:
            reason = "its forward pass takes no position_ids"
        if reason is not None:
            raise GfoError(
                f"model '{self.name}' ({self.config.model_type}) cannot be evaluated in branches: {reason}; "
                "take a decoder with rotary or learned positions, such as Llama, Qwen, Mistral, Gemma, GPT-2"
            )
        self._window, self._mixed_windows = attention_windows(self.config)
        self._logit_scale, self._logit_cap = logit_transform(self.config)
        self._embedding = module.get_input_embeddings()
        self._head = module.get_output_embeddings()
        self.vocabulary_size, self.hidden_size = (int(n) for n in self._embedding.weight.shape)
        self.context_length = int(getattr(self.config, "max_position_embeddings", None) or 2**20)
        self._start = self._start_tokens()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._embedding.weight.device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        """The weights' dtype."""
        return self._embedding.weight.dtype  # type: ignore[no-any-return]

    @property
    def special_tokens(self) -> frozenset[int]:
        """Ids of the tokenizer's special tokens."""
        return frozenset(self.tokenizer.all_special_ids)

    def encode(self, text: str, *, start: bool = False) -> tuple[int, ...]:
        """Token ids of the text, with the model's beginning-of-text tokens in front if `start`."""
        ids = tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else ()
        return self._start + ids if start else ids

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids [...] -> embeddings [..., D]."""
        return self._embedding(ids)  # type: ignore[no-any-return]

    def context(self, embeds: Tensor, length: Tensor, parent: Context | None = None) -> Context:
        """Run C rows and keep their keys and values for branches.

        Args:
            embeds: input embeddings [C, S, D], padded on the right.
            length: real tokens of each row, int [C].
            parent: what the rows continue: a context of C rows, or of one row that all continue.

        Returns:
            A context of C rows: the parent's tokens and the new ones.
        """
        C, S, _ = embeds.shape
        if parent is not None and len(parent.length) != C:
            parent = parent.expand(C)
        position = branch_positions(parent, (C, 1, S), embeds.device)
        cache = DynamicCache() if parent is None else DynamicCache(parent.layers)
        self._forward(embeds, position, S, parent, cache)
        visible = torch.arange(S, device=embeds.device)[None] < length[:, None]
        if parent is not None:
            visible = torch.cat([parent.visible, visible], dim=1)
            position = torch.cat([parent.position, position], dim=1)
            length = parent.length + length
        layers = tuple((layer.keys, layer.values) for layer in cache.layers)
        return Context(layers, visible, position, length)

    def branches(self, context: Context | None, embeds: Tensor, length: Tensor) -> Tensor:
        """Run M branches behind each of C contexts; the hidden state of each branch's last real token.

        Args:
            context: C rows, or None for branches that start from nothing.
            embeds: input embeddings [C, M, n, D], padded on the right.
            length: real tokens of each branch, int [C, M], at least 1.

        Returns:
            Hidden states behind the final norm, [C, M, D].
        """
        C, M, n, D = embeds.shape
        position = branch_positions(context, (C, M, n), embeds.device)
        cache = None if context is None else context.cache()
        hidden = self._forward(embeds.reshape(C, M * n, D), position, n, context, cache)
        hidden = hidden.view(C, M, n, hidden.shape[-1])
        last = (length - 1)[:, :, None, None].expand(-1, -1, 1, hidden.shape[-1])
        return hidden.gather(2, last).squeeze(2)  # (C, M, D)

    def logits(self, hidden: Tensor, vocabulary: Sequence[int]) -> Tensor:
        """float32 logits [..., V'] of the chosen tokens only, from hidden states [..., D]."""
        rows = torch.tensor(vocabulary, device=self.device)
        weight = self._head.weight[rows].float()  # (V', D)
        bias = getattr(self._head, "bias", None)
        logits = torch.nn.functional.linear(
            hidden.float(), weight, None if bias is None else bias[rows].float()
        )
        logits = logits * self._logit_scale
        return logits if self._logit_cap is None else self._logit_cap * torch.tanh(logits / self._logit_cap)

    @torch.no_grad()
    def check_branches(self) -> None:
        """Compare a branch behind a context with one plain forward pass of a few tokens.

        Raises:
            GfoError: if the logits differ by more than rounding, so that no result would be right.
        """
        step = max(1, self.vocabulary_size // CHECKED_TOKENS)
        some = tuple(range(0, self.vocabulary_size, step))[:CHECKED_TOKENS]
        ids = torch.tensor(some[:12], device=self.device)
        plain = self.module(input_ids=ids[None]).logits[0, -1, list(some)].float()
        embeds = self.embed(ids)[None]  # (1, 12, D)
        context = self.context(embeds[:, :7], torch.tensor([7], device=self.device))
        twice = embeds[:, None, 7:].expand(-1, 2, -1, -1)  # the second branch must not see the first
        hidden = self.branches(context, twice, torch.full((1, 2), twice.shape[2], device=self.device))
        error = float((self.logits(hidden[0, 1], some) - plain).abs().max() / plain.std())
        if not error <= (1e-3 if self.dtype == torch.float32 else 0.2):
            raise GfoError(
                f"model '{self.name}' ({self.config.model_type}) cannot be evaluated in branches: its logits "
                f"differ from a plain forward pass by {error:.1g} of their spread; take another decoder"
            )

    def _forward(
        self, embeds: Tensor, position: Tensor, n: int, context: Context | None, cache: DynamicCache | None
    ) -> Tensor:
        """Hidden states [C, M * n, D] behind the final norm."""
        mask: Any = branch_mask(
            context, position, n, None if self._mixed_windows else self._window, embeds.dtype
        )
        if self._mixed_windows:
            sliding = branch_mask(context, position, n, self._window, embeds.dtype)
            mask = {"full_attention": mask, "sliding_attention": sliding}
        with unrepeated_keys(embeds.device):
            out = self._body(
                inputs_embeds=embeds,
                attention_mask=mask,
                position_ids=position,
                past_key_values=cache,
                use_cache=cache is not None,
            )
        return out.last_hidden_state  # type: ignore[no-any-return]

    def _start_tokens(self) -> tuple[int, ...]:
        """The special tokens that the tokenizer puts in front of a text."""
        bare = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        full = self.tokenizer("a")["input_ids"]
        for i in range(len(full) - len(bare) + 1):
            if full[i : i + len(bare)] == bare:
                return tuple(full[:i])
        return ()
