"""The evaluator on this machine: K candidates -> K losses, every token computed once."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from typing import TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from gfo.core.delta import Delta
from gfo.core.domain import Array
from gfo.core.errors import GfoError
from gfo.core.metric import Metric
from gfo.core.protocols import (
    Answers,
    Batch,
    Batches,
    Cost,
    Decoding,
    Evaluation,
    Scores,
    SearchSpace,
    Task,
    Tokens,
)
from gfo.core.recording import recorded
from gfo.evaluation.endings import check_endings, with_endings, with_longest_ending
from gfo.evaluation.generation import Generation, Room, check_length, shape_of
from gfo.evaluation.layouts import ByCandidate, ByExample, Meter, Shape
from gfo.evaluation.memory import SHARE_FOR_CONTEXTS, Store, chunk_tokens, free_bytes, halving, kept_tokens
from gfo.evaluation.plan import plan
from gfo.models.decoder import Decoder
from gfo.models.frozen import FrozenModel

T = TypeVar("T")


@recorded
class LocalEvaluator:
    """Scores a whole population in one pass over what depends on the candidate.

    Args:
        model: a frozen model; its weights are never written.
        task: what to minimise.
        space: decodes search points into changes of the model.
        reuse: False computes every candidate's whole sequences, for comparison.
        chunk_tokens: the most tokens of a forward pass; by default from the memory. It is halved when
            memory runs out.
        memory: bytes that a forward pass may take; by default a quarter of what is free.

    Raises:
        GfoError: for a row that is longer, with the soft prompt and the tokens to be generated, than the
            model's context, a soft prompt without a place in the template, a space made for another model,
            or a task that wants generated text of an encoder.
    """

    def __init__(
        self,
        model: FrozenModel,
        task: Task,
        space: SearchSpace,
        *,
        reuse: bool = True,
        chunk_tokens: int | None = None,
        memory: int | None = None,
    ) -> None:
        for name, value in (("chunk_tokens", chunk_tokens), ("memory", memory)):
            if value is not None and value < 1:
                raise GfoError(f"{name} = {value} must be at least 1")
        self.model, self.space, self.task = model, space, task.bind(model)
        self._reuse, self._chunk_tokens, self._memory = reuse, chunk_tokens, memory
        self._tokens_kept: int | None = None
        self._store: Store[ByExample | ByCandidate] = Store(
            int(SHARE_FOR_CONTEXTS * free_bytes(model.device))
        )
        zero = self._decode(np.zeros((1, space.domain.d)))
        model.check(zero)
        self._shape = Shape.of(zero, model)
        self._check_rows()

    @torch.no_grad()
    def __call__(self, z: Array, step: int) -> Evaluation:
        """Loss of each candidate on the step's batch; z [K, d]; nan where it is not finite."""
        start = time.perf_counter()
        batch, meter = self.task.batch("train", step), Meter(self.model.layers)
        found = self.task.loss(self._answers(self._decode(z), batch, meter), batch)
        loss = torch.as_tensor(found).double().cpu().numpy().copy()
        loss[~np.isfinite(loss)] = np.nan
        return Evaluation(loss, _cost(len(z), meter, start))

    @torch.enable_grad()
    def loss_tensor(self, z: Tensor, step: int) -> tuple[Tensor, Cost]:
        """Loss [K] of z [K, d] on the step's batch, differentiable, and what it and its backward pass cost.

        A token that gradients go through counts three times: a backward pass counts as two forward passes.
        What all candidates share is computed once, without gradients.

        Raises:
            GfoError: for a task whose loss has no gradient.
        """
        start = time.perf_counter()
        batch, meter = self.task.batch("train", step), Meter(self.model.layers)
        found = self.task.loss(self._answers(self._changes(z), batch, meter), batch)
        if not (isinstance(found, Tensor) and found.requires_grad):
            raise GfoError(
                "task: its loss has no gradient; take a gradient-free optimizer, or gfo.Classification"
            )
        return found, _cost(len(z), meter, start)

    @torch.no_grad()
    def score(self, z: Array, split: str) -> Scores:
        """Every metric of each candidate on a whole split; z [K, d].

        Raises:
            GfoError: if the task has no such split.
        """
        start = time.perf_counter()
        batch, meter = self.task.all_rows(split), Meter(self.model.layers)
        answers = self._answers(self._decode(z), batch, meter)
        return Scores(self.task.score(answers, batch), _cost(len(z), meter, start))

    @torch.no_grad()
    def answers(self, z: Array, batch: Batch | Batches) -> Answers:
        """What the model answers a batch, changed as z [K, d] says: see `gfo.core.protocols.Batch`."""
        return self._answers(self._decode(z), batch, Meter(self.model.layers))

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What `score` gives: the task's."""
        return self.task.metrics

    @property
    def tokens_at_once(self) -> int:
        """The most tokens of a forward pass."""
        if self._chunk_tokens is None:
            self._chunk_tokens = chunk_tokens(self.model, self._memory)
        return self._chunk_tokens

    @property
    def tokens_kept(self) -> int:
        """The most tokens whose keys and values are kept while texts are generated."""
        if self._tokens_kept is None:
            self._tokens_kept = kept_tokens(self.model, self._memory)
        return self._tokens_kept

    def settings(self) -> dict[str, int]:
        """What the memory decided, and with it how losses are rounded and tokens counted."""
        return {
            "tokens_at_once": self.tokens_at_once,
            "tokens_kept": self.tokens_kept,
            "store_bytes": self._store.most_bytes,
        }

    def use(self, settings: Mapping[str, int]) -> None:
        """Decide as another evaluator did."""
        self._chunk_tokens, self._tokens_kept = settings["tokens_at_once"], settings["tokens_kept"]
        self._store.most_bytes = settings["store_bytes"]

    def _answers(self, delta: Delta, batch: Batch | Batches, meter: Meter) -> Answers:
        if isinstance(batch, Batches):
            return tuple(self._answers(delta, part, meter) for part in batch.parts)
        if batch.decoding is not None:
            return self._generated(delta, batch, batch.decoding, meter)
        if batch.endings:
            return self._log_likelihoods(delta, batch, meter)
        return self._logits(delta, batch, meter)

    def _logits(self, delta: Delta, batch: Batch, meter: Meter) -> Tensor:
        """float32 logits [K, B, V'] at the batch's vocabulary."""
        wanted = self.model.vocabulary_size if batch.vocabulary is None else len(batch.vocabulary)
        out = torch.empty(delta.candidates, len(batch), wanted, device=self.model.device)
        shape = self._shape if self._reuse else self._shape.whole()

        def read(layout: ByExample | ByCandidate) -> Tensor:
            for k, i, hidden in layout(delta, meter):
                out[k, layout.groups[i]] = self.model.logits(hidden, batch.vocabulary)
            return out

        return self._laid_out(batch, shape, meter, read)

    def _log_likelihoods(self, delta: Delta, batch: Batch, meter: Meter) -> Tensor:
        """float32 log-likelihoods [K, B, m] of the batch's endings in nats, -inf where a row has fewer."""
        check_endings(batch, self.model, self._shape.P, "batch")
        size = delta.candidates, len(batch), max(map(len, batch.endings))
        out = torch.full((size[0], size[1] * size[2]), -torch.inf, device=self.model.device)
        if not out.numel():
            return out.view(size)
        shape = self._shape if self._reuse else self._shape.whole()

        def read(layout: ByExample | ByCandidate) -> Tensor:
            for k, i, hidden in layout(delta, meter):
                wanted = layout.wanted[i]
                out[k, wanted.answers] = wanted.sums(self.model.log_likelihood(hidden, wanted.tokens))
            return out.view(size)

        return self._laid_out(batch, shape, meter, read)

    @torch.no_grad()
    def _generated(
        self, delta: Delta, batch: Batch, decoding: Decoding, meter: Meter
    ) -> list[list[Tokens] | None]:
        """Per candidate B generated answers, None for a failed one."""
        shape = shape_of(self.model, self._shape if self._reuse else self._shape.whole())

        def read(layout: ByExample | ByCandidate) -> list[list[Tokens] | None]:
            room = Room(self.tokens_at_once, self.tokens_kept)
            return Generation(self.model, layout, shape, decoding, room, meter)(delta)

        return self._laid_out(batch, shape, meter, read)

    def _laid_out(
        self, batch: Batch, shape: Shape, meter: Meter, read: Callable[[ByExample | ByCandidate], T]
    ) -> T:
        """What `read` makes of the batch's layout, of smaller passes where memory runs out."""

        def run(most: int) -> T:
            make = functools.partial(self._layout, batch, shape, most, meter)
            return read(self._store.find(batch.key, make, recurs=batch.recurs))

        def smaller(most: int) -> None:
            self._chunk_tokens, self._tokens_kept = most, self.tokens_kept // 2
            self._store.clear()  # which is laid out for larger passes

        return halving(run, self.tokens_at_once, smaller=smaller)

    @torch.no_grad()
    def _layout(self, batch: Batch, shape: Shape, most: int, meter: Meter) -> ByExample | ByCandidate:
        """The batch laid out, with what all candidates share computed."""
        everywhere, causal = shape.everywhere, self.model.causal
        todo = plan(batch, shape.P, everywhere=everywhere, causal=causal, reuse=self._reuse)
        if batch.endings:
            todo = with_endings(todo, batch, self.model, most if self._reuse else 0)
        if todo.by_example:
            return ByExample(cast(Decoder, self.model), todo, shape, most, meter)
        return ByCandidate(self.model, todo, shape, most, meter)

    def _decode(self, z: Array) -> Delta:
        """The changes that z [K, d] stands for, in the model's dtype."""
        z = np.asarray(z, dtype=np.float64)
        if z.ndim != 2 or z.shape[1] != self.space.domain.d:
            raise GfoError(f"z has the shape {z.shape}; the evaluator takes (K, {self.space.domain.d})")
        return self._changes(torch.from_numpy(z).to(self.model.device))

    def _changes(self, z: Tensor) -> Delta:
        return self.space.decode(z).to(self.model.device, self.model.dtype)

    def _check_rows(self) -> None:
        """Raise GfoError for a row that does not fit into the context, or has no place for the prompt."""
        P, most = self._shape.P, self.model.context_length
        for split, batch in ((s, b) for s in self.task.splits for b in _parts(self.task.all_rows(s))):
            if P and not batch.prompt:
                raise GfoError(
                    f"template: it has no {{soft}}, but the space has a soft prompt of {P} tokens; write "
                    "{soft} where the prompt goes"
                )
            if batch.endings:
                check_endings(batch, self.model, P, split)
            for i, (before, after) in enumerate(zip(batch.before, batch.after, strict=True), 1):
                length = self._shape.prefix + len(before) + P + len(after)
                if batch.decoding is not None:
                    check_length(self.model, batch.decoding, length, f"{split} row {i}")
                if batch.endings:
                    length = with_longest_ending(self.model, length, batch.endings[i - 1])
                if length > most:
                    raise GfoError(
                        f"{split} row {i} has {length} tokens with template and soft prompt, the model's "
                        f"context has {most}; shorten or drop the row"
                    )


def _parts(batch: Batch | Batches) -> list[Batch]:
    """The batches that a batch is made of."""
    return [batch] if isinstance(batch, Batch) else [b for part in batch.parts for b in _parts(part)]


def _cost(candidates: int, meter: Meter, start: float) -> Cost:
    """Tokens that went through some layers count as that share of a token."""
    computed, needed = (-(-n // meter.layers) for n in (meter.computed, meter.needed))
    return Cost(candidates, computed, needed, time.perf_counter() - start)
