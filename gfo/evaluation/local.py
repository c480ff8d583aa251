"""The evaluator on this machine: K candidates -> K losses, every token computed once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gfo.core.domain import Array
from gfo.core.errors import GfoError
from gfo.core.protocols import Batch, BoundTask, Cost, Evaluation, Scores, SearchSpace, Task
from gfo.evaluation.memory import SHARE_FOR_CONTEXTS, ContextStore, chunk_tokens, free_bytes
from gfo.evaluation.plan import Plan, Sharing, TokenRow, plan, tiles
from gfo.evaluation.rows import PaddedRows
from gfo.models.branches import Context
from gfo.models.decoder import Decoder

TEXT_WASTE = 0.5  # padding of the shared texts, paid once where they are kept; less makes passes too small
MOST_ROW_TOKENS = 256  # branches of one context see each other's masked places: quadratic in this


@dataclass
class _Meter:
    """Counts the tokens of one call."""

    computed: int = 0
    needed: int = 0


class LocalEvaluator:
    """Scores a whole population in one pass over what depends on the candidate.

    Args:
        model: a frozen decoder; its weights are never written.
        task: what to minimise.
        space: decodes search points into soft prompts.
        reuse: False computes every candidate's whole sequences, for comparison.
        chunk_tokens: the most tokens of a forward pass; by default from the free memory.

    Raises:
        GfoError: for a row that is longer, with the soft prompt, than the model's context.
    """

    def __init__(
        self,
        model: Decoder,
        task: Task,
        space: SearchSpace,
        *,
        reuse: bool = True,
        chunk_tokens: int | None = None,
    ) -> None:
        if chunk_tokens is not None and chunk_tokens < 1:
            raise GfoError(f"chunk_tokens = {chunk_tokens} must be at least 1")
        self.model, self.space, self.task = model, space, task.bind(model)
        self._reuse, self._chunk_tokens = reuse, chunk_tokens
        self._store = ContextStore(int(SHARE_FOR_CONTEXTS * free_bytes(model.device)))
        _check_lengths(self.task, self._decode(np.zeros((1, space.domain.d))).shape[1], model.context_length)

    def __call__(self, z: Array, step: int) -> Evaluation:
        """Mean loss of each candidate on the step's batch; z [K, d]; nan where it is not finite."""
        start = time.perf_counter()
        batch = self.task.batch("train", step)
        logits, meter = self._logits(z, batch)
        loss = self.task.loss(logits, batch).mean(dim=1).double().cpu().numpy()
        loss[~np.isfinite(loss)] = np.nan
        return Evaluation(loss, _cost(len(z), meter, start))

    def score(self, z: Array, split: str) -> Scores:
        """Every metric of each candidate on a whole split; z [K, d].

        Raises:
            GfoError: if the task has no such split.
        """
        start = time.perf_counter()
        batch = self.task.all_rows(split)
        logits, meter = self._logits(z, batch)
        return Scores(self.task.score(logits, batch), _cost(len(z), meter, start))

    def logits(self, z: Array, batch: Batch) -> Tensor:
        """float32 logits [K, B, V'] of z [K, d] at the batch's vocabulary."""
        return self._logits(z, batch)[0]

    @torch.no_grad()
    def _logits(self, z: Array, batch: Batch) -> tuple[Tensor, _Meter]:
        prompt = self._decode(z)
        K, P, _ = prompt.shape
        meter = _Meter()
        todo = plan(batch, reuse=self._reuse)
        meter.needed += todo.tokens_for(K, P)
        shared, groups = self._shared(todo, batch, P, meter)
        out = torch.empty(K, len(batch), len(batch.vocabulary), device=self.model.device)
        forward = self._prompt_first if todo.sharing is Sharing.PROMPT_FIRST else self._text_first
        for k, b, hidden in forward(todo, shared, groups, prompt, meter):
            out[k[:, None], b[None, :]] = self.model.logits(hidden, batch.vocabulary)
        return out, meter

    def _text_first(
        self,
        todo: Plan,
        shared: list[Context],
        groups: list[list[int]],
        prompt: Tensor,
        meter: _Meter,
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Contexts are examples, branches are candidates (and no contexts if nothing is shared)."""
        K, P, _ = prompt.shape
        for i, group in enumerate(groups):
            rows = self._rows([todo.branches[b] for b in group], P)
            C, n = rows.ids.shape
            parts = _parts(K, self._branches_at_once(C, n))
            while parts:
                k = parts.pop(0)
                embeds = rows.embed(self.model, prompt[k]).transpose(0, 1)  # (C, M, n, D)
                length = rows.length[:, None].expand(-1, len(k))
                hidden = self.model.branches(shared[i] if shared else None, embeds, length)
                meter.computed += C * len(k) * n
                if len(k) > 1 and not bool(hidden.isfinite().all()):
                    # nan gets through the mask to the others (0 * nan): each alone
                    parts[:0] = k[:, None].unbind()
                else:
                    yield k, torch.tensor(group), hidden.transpose(0, 1)

    def _prompt_first(
        self,
        todo: Plan,
        shared: list[Context],
        groups: list[list[int]],
        prompt: Tensor,
        meter: _Meter,
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Contexts are candidates, branches are examples."""
        K, P, _ = prompt.shape
        padded = [self._rows([todo.branches[b] for b in group], P) for group in groups]
        at_once = max(1, self._tokens_at_once() // max(P, *(rows.ids.numel() for rows in padded)))
        for k in _parts(K, at_once):
            C = len(k)
            length = torch.full((C,), P, device=self.model.device)
            soft = prompt[k].to(self.model.dtype)
            context = self.model.context(soft, length, shared[0] if shared else None)
            meter.computed += C * P
            for group, rows in zip(groups, padded, strict=True):
                embeds = rows.embed(self.model, soft)  # (C, M, n, D)
                hidden = self.model.branches(context, embeds, rows.length[None].expand(C, -1))
                meter.computed += C * rows.ids.numel()
                yield k, torch.tensor(group), hidden

    def _shared(
        self, todo: Plan, batch: Batch, P: int, meter: _Meter
    ) -> tuple[list[Context], list[list[int]]]:
        """The contexts that all candidates share, kept or computed, and the examples of each."""
        lengths = [row.length(P) for row in todo.branches]
        if todo.sharing is Sharing.PROMPT_FIRST:
            groups = tiles(lengths, most_tokens=min(MOST_ROW_TOKENS, self._tokens_at_once()))
            wanted = [[0]] if todo.shared[0] else []
        else:
            groups = self._example_groups(todo, lengths)
            wanted = groups if todo.shared else []
        kept = self._store.get(batch.key)
        if kept is None:
            kept = [self._context([todo.shared[b] for b in group], meter) for group in wanted]
            self._store.put(batch.key, kept)
        return kept, groups

    def _example_groups(self, todo: Plan, lengths: list[int]) -> list[list[int]]:
        """Examples whose branches are of like length, and in it, whose texts are."""
        most = self._tokens_at_once()
        groups = []
        for group in tiles(lengths, most_tokens=most):
            texts = [len(todo.shared[b]) for b in group] if todo.shared else [0] * len(group)
            groups += [[group[i] for i in part] for part in tiles(texts, most_tokens=most, waste=TEXT_WASTE)]
        return groups

    def _context(self, texts: list[tuple[int, ...]], meter: _Meter) -> Context:
        rows = self._rows([TokenRow(head=text) for text in texts], 0)
        meter.computed += rows.ids.numel()
        meter.needed += int(rows.length.sum())
        return self.model.context(self.model.embed(rows.ids), rows.length)

    def _rows(self, rows: list[TokenRow], P: int) -> PaddedRows:
        return PaddedRows.of(rows, P, self.model.device)

    def _decode(self, z: Array) -> Tensor:
        """Soft prompts [K, P, D] of z [K, d]."""
        z = np.asarray(z, dtype=np.float64)
        if z.ndim != 2 or z.shape[1] != self.space.domain.d:
            raise GfoError(f"z has the shape {z.shape}; the evaluator takes (K, {self.space.domain.d})")
        return self.space.decode(torch.from_numpy(z).to(self.model.device)).prompt

    def _tokens_at_once(self) -> int:
        if self._chunk_tokens is None:
            self._chunk_tokens = chunk_tokens(self.model)
        return self._chunk_tokens

    def _branches_at_once(self, C: int, n: int) -> int:
        return max(1, min(MOST_ROW_TOKENS // n, self._tokens_at_once() // (C * n)))


def _parts(K: int, size: int) -> list[Tensor]:
    """The candidates 0 to K - 1 in index tensors of at most `size`."""
    return [torch.arange(start, min(start + size, K)) for start in range(0, K, size)]


def _cost(candidates: int, meter: _Meter, start: float) -> Cost:
    return Cost(candidates, meter.computed, meter.needed, time.perf_counter() - start)


def _check_lengths(task: BoundTask, P: int, most: int) -> None:
    """Raise GfoError for a row that does not fit into the model's context."""
    for split in task.splits:
        batch = task.all_rows(split)
        for i, (before, after) in enumerate(zip(batch.before, batch.after, strict=True), 1):
            length = len(before) + P + len(after)
            if length > most:
                raise GfoError(
                    f"{split} row {i} has {length} tokens with template and soft prompt, the model's context "
                    f"has {most}; shorten or drop the row"
                )
