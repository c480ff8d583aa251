"""The rivals of `speed.py`: the same losses of the same candidates on the same rows, four ways.

serial: one candidate per forward pass over whole padded sequences with the full output head, as
Black-Box Tuning (Sun et al. 2022) and MeZO (Malladi et al. 2023) do it. stacked: the same with
candidates on the batch axis. plain: no candidates, only stock forward passes over as many tokens as
gfo computes, the ceiling. All three call transformers' own forward pass, without a cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from speed_workloads import Setting
from torch import Tensor

from gfo.core.domain import Array
from gfo.evaluation.local import MOST_ROW_TOKENS, LocalEvaluator
from gfo.evaluation.plan import Sharing, TokenRow, plan, tiles
from gfo.evaluation.rows import PaddedRows

Rival = Callable[[], Array | None]  # the candidates' losses [K], or None if it has no candidates


def usual_rivals(it: Setting, evaluator: LocalEvaluator) -> dict[str, Rival]:
    """The rivals by name; `evaluator` keeps what it computes once from call to call."""
    whole = WholeSequences(it)
    batches = plain_batches(it)
    return {
        "gfo": lambda: evaluator(it.z, 0).loss,
        "serial": lambda: whole.losses(len(it.batch)),
        "stacked": lambda: whole.losses(max(1, it.chunk_tokens // whole.length)),
        "plain": lambda: plain(it, batches),
    }


class WholeSequences:
    """Whole sequences, padded on the right, through the stock model with its full output head."""

    def __init__(self, it: Setting) -> None:
        self._it, batch = it, it.batch
        whole = [TokenRow(b, True, a) for b, a in zip(batch.before, batch.after, strict=True)]
        self._rows = PaddedRows.of(whole, it.workload.prompt_tokens, it.model.device)
        self._last = self._rows.length - 1  # (B,)
        self.length = self._rows.ids.shape[1]  # T
        self._mask = torch.arange(self.length, device=it.model.device) <= self._last[:, None]  # (B, T)
        self.tokens = len(it.z) * self._rows.ids.numel()

    @torch.no_grad()
    def losses(self, at_once: int) -> Array:
        """Losses [K], `at_once` sequences in a forward pass."""
        it, B = self._it, len(self._last)
        prompts = it.prompts()
        K = len(prompts)
        read = []
        for start in range(0, K * B, at_once):
            pairs = torch.arange(start, min(start + at_once, K * B), device=it.model.device)
            k, b = pairs // B, pairs % B
            logits: Tensor = it.model.module(
                inputs_embeds=self._embed(prompts, k, b),
                attention_mask=self._mask[b].long(),
                use_cache=False,
            ).logits  # (N, T, V)
            answer = logits[torch.arange(len(pairs)), self._last[b]]  # (N, V)
            read.append(answer[:, list(it.batch.vocabulary)].float())
        losses = it.bound.loss(torch.cat(read).view(K, B, -1), it.batch)
        mean: Array = losses.mean(dim=1).double().cpu().numpy()
        return mean

    def _embed(self, prompts: Tensor, k: Tensor, b: Tensor) -> Tensor:
        """Input embeddings [N, T, D] of candidates k and rows b, both [N]."""
        words = self._it.model.embed(self._rows.ids[b])
        slot = self._rows.slot[b]  # (N, T)
        soft = prompts.to(words.dtype)[k[:, None], slot.clamp(min=0)]
        return torch.where((slot >= 0)[..., None], soft, words)


def plain_batches(it: Setting) -> list[tuple[int, int]]:
    """(sequences, tokens each) of the forward passes of `plain`: as many tokens as gfo computes."""
    todo, P, K = plan(it.batch), it.workload.prompt_tokens, len(it.z)
    lengths = [row.length(P) for row in todo.branches]
    prompt_first = todo.sharing is Sharing.PROMPT_FIRST
    most = min(MOST_ROW_TOKENS, it.chunk_tokens) if prompt_first else it.chunk_tokens
    batches = list(_fill(K, P, it.chunk_tokens)) if prompt_first else []
    for tile in tiles(lengths, most_tokens=most):
        n = max(lengths[b] for b in tile)
        batches += _fill(K * len(tile), n, it.chunk_tokens)
    return batches


def _fill(sequences: int, n: int, chunk_tokens: int) -> Iterator[tuple[int, int]]:
    """Sequences of n tokens in forward passes of at most `chunk_tokens`."""
    at_once = max(1, chunk_tokens // n)
    for start in range(0, sequences, at_once):
        yield min(at_once, sequences - start), n


@torch.no_grad()
def plain(it: Setting, batches: list[tuple[int, int]]) -> None:
    """Stock forward passes without a mask or a cache, and the label words' rows of the head."""
    body: Any = it.model.module.base_model
    words = torch.from_numpy(np.concatenate([np.asarray(a) for a in it.batch.after]))
    for sequences, n in batches:
        ids = words.to(it.model.device).repeat(sequences * n // len(words) + 1)[: sequences * n]
        hidden = body(input_ids=ids.view(sequences, n), use_cache=False).last_hidden_state
        it.model.logits(hidden[:, -1], it.batch.vocabulary)
