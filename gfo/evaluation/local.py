"""The evaluator on this machine: K candidates -> K losses, every token computed once.

From top to bottom: points are decoded, a batch is laid out (once, what all candidates share with it), what
the task wants is read of the layout's forward passes, and the task makes losses of it.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from gfo.core.compared import Compared
from gfo.core.delta import Delta
from gfo.core.domain import Array
from gfo.core.errors import GfoError, check_at_least_one
from gfo.core.metric import Metric
from gfo.core.protocols import (
    Answers,
    Batch,
    Batches,
    Cost,
    Evaluation,
    Repairing,
    RowTask,
    Scores,
    SearchSpace,
    Task,
)
from gfo.core.recording import recorded
from gfo.evaluation.begins import check_begin, check_places
from gfo.evaluation.chunks import Room
from gfo.evaluation.distance import plain_states, read_divergences
from gfo.evaluation.endings import check_endings, with_longest_ending
from gfo.evaluation.generation import AnswerWriter, begins_with_states, check_length, shape_of
from gfo.evaluation.joining import in_parts, joined, joined_scores
from gfo.evaluation.laying import lay_out_batch
from gfo.evaluation.layouts import ByCandidate, ByExample
from gfo.evaluation.memory import (
    SHARE_FOR_CONTEXTS,
    chunk_tokens,
    empty_cache,
    free_bytes,
    halved,
    kept_tokens,
)
from gfo.evaluation.parts import batches_differ, parts_of
from gfo.evaluation.racing import Racing, check_racing, no_rows, of_rows
from gfo.evaluation.reading import read_log_likelihoods, read_logits
from gfo.evaluation.shape import Meter, Shape
from gfo.evaluation.store import Store
from gfo.evaluation.tower import Tower
from gfo.evaluation.values import measured, measuring_of, scored_values
from gfo.models.checking import exact
from gfo.models.frozen import FrozenModel


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
        racing: how candidates are dropped before they have seen all rows; None for never.
        values: numbers that a step is to give beside the loss: measures of the space, which it gives anyway,
            and metrics of the task on the step's rows.
        part: the most candidates that are evaluated together, as `gfo.Workers` does; None for all of a step.

    Raises:
        GfoError: for a row that is longer, with the soft prompt and the tokens to be generated, than the
            model's context, a soft prompt without a place in the template, a space made for another model,
            a task that wants generated text of an encoder, racing where the loss is no mean of rows or in
            parts, or values that neither task nor space has.
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
        racing: Racing | None = None,
        values: Sequence[str] = (),
        part: int | None = None,
    ) -> None:
        check_at_least_one(chunk_tokens=chunk_tokens, memory=memory, part=part)
        self.model, self.space, self.task = model, space, task.bind(model)
        self._reuse, self._chunk_tokens, self._memory = reuse, chunk_tokens, memory
        self._repairing = space if isinstance(space, Repairing) else None
        if isinstance(space, Repairing):
            self.repair = space.repair  # for the loop, which tells the points that are evaluated
        self._measuring = measuring_of(space)
        if self._measuring is not None:
            self.measure = self._measuring.measure
        self._scored = scored_values(values, self.task, self._measuring, space.domain)
        self._row_task = self.task if isinstance(self.task, RowTask) else None
        self._tokens_kept: int | None = None
        self._store: Store[ByExample | ByCandidate] = Store(
            int(SHARE_FOR_CONTEXTS * free_bytes(model.device))
        )
        self.racing, self._part = racing, part
        self.meter = Meter(model.layers)  # of the last evaluation
        check_racing(racing, part, self._scored)
        self._tower: Tower | None = None
        self._shape = self._checked_shape()
        self._check_rows()
        with model.lock:
            self.model = exact(model, self._extreme_rows())
        if self.model is not model:
            self._shape = self._checked_shape()

    @torch.no_grad()
    def __call__(self, z: Array, step: int) -> Evaluation:
        """Loss of each candidate on the step's batch; z [K, d]; nan where it is not finite."""
        if self._part is not None and len(z) > self._part:
            return joined([self(some, step) for some in in_parts(z, self._part)])
        start = time.perf_counter()
        batch, meter = self.task.batch("train", step), Meter(self.model.layers)
        self.meter = meter
        if self._repairing is not None:
            z = self._repairing.repair(z)
        if self.racing is not None:
            return self._raced(self.racing, z, batch, meter, start)
        answers = self._answers(self._decode(z), batch, meter)
        rows = None if self._row_task is None else self._row_task.row_losses(answers, batch)
        found = self.task.loss(answers, batch) if rows is None else np.mean(rows, axis=1, dtype=np.float64)
        loss = torch.as_tensor(found).double().cpu().numpy().copy()
        loss[~np.isfinite(loss)] = np.nan
        values = {} if self._measuring is None else self._measuring.measure(z)
        if self._scored:
            values = {**values, **self._scores(answers, batch)}
        return Evaluation(loss, meter.cost(len(z), start), values, rows)

    def _scores(self, answers: Answers, batch: Batch | Batches) -> dict[str, Array]:
        """The metrics that a step is to give, [K] each."""
        found = self.task.score(answers, batch)
        return {name: found[name] for name in self._scored}

    def _raced(
        self, racing: Racing, z: Array, batch: Batch | Batches, meter: Meter, start: float
    ) -> Evaluation:
        """Loss of each candidate after a race, z [K, d]; `values` say how many rows each has seen."""
        task = self._row_task
        if task is None or isinstance(batch, Batches):
            raise no_rows(self.task)
        delta = self._decode(z)

        def losses(candidates: Array, rows: Array) -> Array:
            some = of_rows(batch, rows)
            taken = delta.take(torch.from_numpy(candidates).to(self.model.device))
            found = task.row_losses(self._answers(taken, some, meter), some)
            if found is None:
                raise no_rows(self.task)
            return found

        told, rows = racing.race(len(z), len(batch), losses)
        values = measured(self._measuring, z)
        values["rows"] = np.isfinite(rows).sum(axis=1).astype(np.float64)
        return Evaluation(told, meter.cost(len(z), start), values, rows)

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
        delta = self.space.decode(z).to(self.model.device, self.model.dtype)
        found = self.task.loss(self._answers(delta, batch, meter), batch)
        if not (isinstance(found, Tensor) and found.requires_grad):
            raise GfoError(
                "task: its loss has no gradient; take a gradient-free optimizer, or gfo.Classification"
            )
        return found, meter.cost(len(z), start)

    @torch.no_grad()
    def score(self, z: Array, split: str) -> Scores:
        """Every metric of each candidate on a whole split; z [K, d].

        Raises:
            GfoError: if the task has no such split.
        """
        if self._part is not None and len(z) > self._part:
            return joined_scores([self.score(some, split) for some in in_parts(z, self._part)])
        start = time.perf_counter()
        batch, meter = self.task.all_rows(split), Meter(self.model.layers)
        self.meter = meter
        answers = self._answers(self._decode(z), batch, meter)
        metrics = self.task.score(answers, batch)
        rows = {} if self._row_task is None else self._row_task.row_scores(answers, batch)
        return Scores(metrics, meter.cost(len(z), start), rows)

    @torch.no_grad()
    def answers(self, z: Array, batch: Batch | Batches, meter: Meter | None = None) -> Answers:
        """What the model answers a batch, changed as z [K, d] says: see `gfo.core.protocols.Batch`."""
        return self._answers(self._decode(z), batch, meter or Meter(self.model.layers))

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What `score` gives: the task's."""
        return self.task.metrics

    @property
    def batches_differ(self) -> bool:
        """Whether each step has rows of its own."""
        return batches_differ(self.task)

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
            **({} if self._part is None else {"part": self._part}),
        }

    def use(self, settings: Mapping[str, int]) -> None:
        """Decide as another evaluator did."""
        self._chunk_tokens, self._tokens_kept = settings["tokens_at_once"], settings["tokens_kept"]
        self._store.most_bytes, self._part = settings["store_bytes"], settings.get("part", self._part)

    def _decode(self, z: Array) -> Delta:
        """The changes that z [K, d] stands for, in the model's dtype."""
        z = np.asarray(z, dtype=np.float64)
        if z.ndim != 2 or z.shape[1] != len(self.space.domain.low):
            raise GfoError(f"z has the shape {z.shape}; the evaluator takes (K, {self.space.domain.d})")
        if self._repairing is not None:
            z = self._repairing.repair(z)
        points = torch.from_numpy(z).to(self.model.device)
        return self.space.decode(points).to(points.device, self.model.dtype)

    def _answers(self, delta: Delta, batch: Batch | Batches, meter: Meter) -> Answers:
        """What the task wants to know of a batch, of smaller passes where memory runs out.

        One thread at a time: candidates are applied by hooks on the model, which others may share.
        """
        if isinstance(batch, Batches):
            return tuple(self._answers(delta, part, meter) for part in batch.parts)
        if self._tower is not None:
            delta, batch = self._tower.enter(delta, batch, meter, self.tokens_at_once)
        states = self.model.states and not torch.is_grad_enabled()
        while True:
            with self.model.lock:
                try:
                    make = functools.partial(self._lay_out, batch, meter, states)
                    layout = self._store.find((batch.key, states), make, recurs=batch.recurs)
                    meter.laid[(batch.key, states), batch.recurs] = layout
                    if batch.decoding is not None:
                        room = Room(self.tokens_at_once, self.tokens_kept)
                        return AnswerWriter(layout, batch.decoding, room, meter)(delta)
                    if isinstance(batch, Compared):
                        return read_divergences(layout, delta, batch, meter)
                    read = read_log_likelihoods if batch.endings else read_logits
                    return read(layout, delta, batch, meter)
                except (RuntimeError, MemoryError) as error:
                    fewer = halved(self.tokens_at_once, error)
                self._take_less(fewer, meter)

    def _take_less(self, tokens: int, meter: Meter) -> None:
        """Go on with passes of so many tokens, as memory ran out; what was laid out for larger ones goes."""
        self._chunk_tokens, self._tokens_kept = tokens, self.tokens_kept // 2
        self._store.clear()
        meter.laid.clear()
        empty_cache(self.model.device)

    @torch.no_grad()
    def _lay_out(self, batch: Batch, meter: Meter, states: bool) -> ByExample | ByCandidate:
        """The batch laid out, with what all candidates share computed; behind states if they are wanted."""
        if batch.endings:
            check_endings(batch, self.model, self._shape.P, "batch")
        shape = self._shape if self._reuse else self._shape.whole()
        if batch.decoding is not None:
            shape = shape_of(self.model, shape)
            states = states and begins_with_states(self.model)
        most, before = self.tokens_at_once, (meter.computed, meter.needed)
        room = self._store.most_bytes
        layout = lay_out_batch(
            self.model, batch, shape, most, meter, room=room, reuse=self._reuse, states=states
        )
        if isinstance(batch, Compared):
            layout.plain = plain_states(self.model, batch, most, meter, layout.wanted)
        layout.paid = meter.computed - before[0], meter.needed - before[1]
        meter.once = meter.once[0] + layout.paid[0], meter.once[1] + layout.paid[1]
        return layout

    @torch.no_grad()
    def _checked_shape(self) -> Shape:
        """What all changes of the space have in common, if they fit the model."""
        zero = self._decode(np.zeros((1, self.space.domain.d)))
        self._begins = zero.begins
        with self.model.lock:
            self._tower = Tower.of(self.model, zero, once=self._reuse)
            if self._tower is not None:
                return self._tower.shape(zero)
            self.model.check(zero)
            check_begin(zero, self.model)
            return Shape.of(zero, self.model)

    def _extreme_rows(self) -> list[tuple[int, ...]]:
        """The shortest row and the longest of all splits, with words in the soft prompt's places."""
        rows = list(self._probed_rows())
        ends = [min(rows, key=len), max(rows, key=len)] if rows else []
        return list(filter(None, ends))

    def _probed_rows(self) -> Iterator[tuple[int, ...]]:
        """All rows, with words in the soft prompt's places."""
        text = self.model.probe_text.tolist()
        soft = tuple(text[p % len(text)] for p in range(self._shape.P))
        for _, batch in self._batches():
            for before, after in zip(batch.before, batch.after, strict=True):
                yield before + soft + after

    def _check_rows(self) -> None:
        """Raise GfoError for a row that does not fit into the context, or lacks a place or its endings."""
        for split, batch in self._batches():
            self._check_places(batch, split)
            for i in range(len(batch)):
                self._check_length(batch, i, f"{split} row {i + 1}")

    def _check_places(self, batch: Batch, split: str) -> None:
        """Raise GfoError for rows without what the space and the model need in each."""
        P = self._shape.P
        if P and not batch.prompt:
            raise GfoError(
                f"template: it has no {{soft}}, but the space has a soft prompt of {P} tokens; write "
                "{soft} where the prompt goes"
            )
        if batch.endings:
            check_endings(batch, self.model, P, split)
        if self._begins is not None and self.model.causal:
            check_places(self._begins, batch, P, split)

    def _check_length(self, batch: Batch, i: int, where: str) -> None:
        """Raise GfoError for a row of a batch that does not fit into the context, with its answer."""
        length = self._shape.prefix + len(batch.before[i]) + self._shape.P + len(batch.after[i])
        if batch.decoding is not None:
            check_length(self.model, batch.decoding, length, where)
        if batch.endings:
            length = with_longest_ending(self.model, length, batch.endings[i])
        if length > self.model.context_length:
            raise GfoError(
                f"{where} has {length} tokens with template and soft prompt, the model's context has "
                f"{self.model.context_length}; shorten or drop the row"
            )

    def _batches(self) -> Iterator[tuple[str, Batch]]:
        """All rows: the batches that each split is made of, with its name."""
        for split in self.task.splits:
            for batch in parts_of(self.task.all_rows(split)):
                yield split, batch
