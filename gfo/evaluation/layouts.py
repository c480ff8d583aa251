"""The two layouts of `gfo.evaluation.plan` as forward passes.

A layout is made for a batch: it computes what all candidates share, which is kept from step to step.
Called with candidates it yields the hidden states that the task reads, chunk by chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from gfo.core.delta import Delta
from gfo.evaluation.endings import wanted_of
from gfo.evaluation.packing import SPARE, groups_of_texts, lay_out, rows_of_branches
from gfo.evaluation.plan import Plan, Row, tiles
from gfo.evaluation.rows import Forks, TokenRows
from gfo.models.apply import Change, context_of
from gfo.models.branches import Context, Forced, Rows

if TYPE_CHECKING:
    from gfo.models.decoder import Decoder
    from gfo.models.frozen import FrozenModel

FORWARD_AND_BACKWARD = 3  # a backward pass counts as two forward passes

Hidden = tuple[slice, int, Tensor]
"""Candidates k, the number of a group of branches b, and their hidden states [k, b, D]; of trees those of the
M places at which the group is read, [k, M, D]."""


@dataclass(frozen=True)
class Shape:
    """What all Deltas of a space have in common.

    Attributes:
        P: tokens of the soft prompt.
        prefix: tokens of the prefix.
        everywhere: whether all tokens depend on the candidate, not the soft prompt's and those behind, or,
            where there is none, the last one alone.
        modules: whether modules change.
        first_layer: the layer below which, and at whose entrance, none does.
        prompt: the soft prompt that all candidates share where first_layer > 0, [1, P, D].
    """

    P: int
    prefix: int
    everywhere: bool
    modules: bool
    first_layer: int
    prompt: Tensor | None

    @classmethod
    def of(cls, delta: Delta, model: FrozenModel) -> Shape:
        """The shape of a space for a model, from any of its Deltas."""
        prompt = None if delta.prompt is None else delta.prompt[:1]
        everywhere = delta.everywhere and not model.unseen(delta)
        return cls(
            delta.prompt_tokens,
            delta.prefix_tokens,
            everywhere,
            bool(delta.modules),
            delta.first_layer,
            prompt,
        )

    def whole(self) -> Shape:
        """The shape with which every candidate computes all layers, of all tokens where modules change."""
        return replace(self, first_layer=0, everywhere=self.everywhere or self.modules)

    def enter(self, model: FrozenModel, rows: TokenRows) -> Tensor:
        """Input embeddings [R, T, D] of rows with the soft prompt that all candidates share."""
        words = rows.embed(model)
        if self.prompt is None:
            return words
        return Change(Delta(prompt=self.prompt), rows.places(1, self.P)[0]).put_prompts(words)


@dataclass
class Meter:
    """Counts tokens times layers.

    Attributes:
        layers: L of the model.
        computed: what went through the model, padding included.
        needed: what the frontiers require.
    """

    layers: int
    computed: int = 0
    needed: int = 0

    def count(self, computed: int, needed: int, layers: int) -> None:
        """Tokens that went through `layers` layers, and go back through them where gradients are kept."""
        passes = FORWARD_AND_BACKWARD if torch.is_grad_enabled() else 1
        self.computed += passes * computed * layers
        self.needed += passes * needed * layers


def parts(K: int, size: int) -> list[slice]:
    """The candidates 0 to K - 1 in parts of at most `size`, as equal as can be."""
    number = -(-K // max(1, size))
    return [slice(i * K // number, (i + 1) * K // number) for i in range(number)]


class ByExample:
    """Contexts are the examples' texts, branches the candidates.

    Args:
        model: a decoder.
        todo: the plan, by example.
        shape: of the space's Deltas.
        most: the most tokens of a forward pass.
        meter: counts what is computed here once.
    """

    def __init__(self, model: Decoder, todo: Plan, shape: Shape, most: int, meter: Meter) -> None:
        self._model, self._shape, self._most = model, shape, most
        self.branches = todo.branches
        self.groups = groups_of_texts(todo, most)
        self._rows = [TokenRows.padded([todo.branches[b] for b in g], model.device) for g in self.groups]
        self.wanted = wanted_of(todo, self.groups, model.device)
        self._forks = [
            Forks.of([todo.trees[b] for b in group], rows.ids.shape[1], model.device)
            for group, rows in zip(self.groups if todo.trees else [], self._rows, strict=bool(todo.trees))
        ]
        self.contexts = [self._context([todo.shared[b] for b in g], meter) for g in self.groups]
        self._entries: list[Tensor] = []
        if shape.first_layer:
            self._entries = [self._lower(i, meter) for i in range(len(self.groups))]
            self.contexts = [context.above(shape.first_layer) for context in self.contexts]

    @property
    def bytes(self) -> int:
        """Memory held."""
        return sum(context.bytes for context in self.contexts) + sum(map(_bytes, self._entries))

    def __call__(self, delta: Delta, meter: Meter) -> Iterator[Hidden]:
        """Hidden states of the delta's K candidates."""
        for i in range(len(self.groups)):
            C, n = self._rows[i].ids.shape
            todo = parts(delta.candidates, self._most // (C * n))
            while todo:
                k = todo.pop(0)
                hidden = self._branches(i, delta.select(k), meter)
                if k.stop - k.start > 1 and not bool(hidden.isfinite().all()):
                    # nan gets through the mask to the others (0 * nan): each alone
                    todo[:0] = [slice(one, one + 1) for one in range(k.start, k.stop)]
                else:
                    yield k, i, self._forks[i].reading(hidden) if self._forks else hidden.transpose(0, 1)

    def _branches(self, i: int, delta: Delta, meter: Meter) -> Tensor:
        """Hidden states [C, K, D] of all candidates behind the texts of a group."""
        rows, start = self._rows[i], self._shape.first_layer
        K, (C, n) = delta.candidates, rows.ids.shape
        R, m = rows_of_branches(K, n, spare=0.0 if delta.modules else SPARE)
        candidate = torch.arange(R * m, device=rows.ids.device).clamp(max=K - 1)  # the last fills up
        place = rows.places(K, self._shape.P)[candidate].transpose(0, 1).reshape(C, R, m * n)
        change = Change(delta, place.flatten(0, 1), cycles=C)
        entry = self._entries[i] if start else rows.embed(self._model)  # (C, n, D)
        entry = entry[:, None, None].expand(-1, R, m, -1, -1).reshape(C * R, m * n, -1)
        if not start:
            entry = change.put_prompts(entry)
        hidden = self._model.branches(
            self.contexts[i],
            entry.view(C, R, *entry.shape[1:]),
            self._lie(i, K, R, m),
            change=change,
            start=start,
        )
        meter.count(C * R * m * n, K * rows.real, meter.layers - start)
        return hidden

    def _lie(self, i: int, K: int, R: int, m: int) -> Rows:
        """How the branches of K candidates lie in R rows of m."""
        if self._forks:
            return self._forks[i].lie(K, R, m)
        rows = self._rows[i]
        n = rows.ids.shape[1]
        column = torch.arange(m * n, device=rows.ids.device).expand(R, -1)
        first = torch.arange(K, device=rows.ids.device) * n  # m * n columns a row: branch j begins at j * n
        return Rows(column // n, column % n, first + rows.length[:, None] - 1)

    def _context(self, texts: list[Row], meter: Meter) -> Context:
        """The texts' keys and values, computed side by side with texts of like length."""
        found = []
        order = tiles([len(text) for text in texts], most_tokens=self._most)
        for tile in order:
            rows = TokenRows.padded([texts[i] for i in tile], self._model.device)
            found.append(self._model.context(rows.embed(self._model), rows.length)[0])
            meter.count(rows.ids.numel(), rows.real, meter.layers)
        stacked = Context.stack(found)
        back = torch.tensor([i for tile in order for i in tile]).argsort()
        return stacked.take(back.to(self._model.device))

    def _lower(self, i: int, meter: Meter) -> Tensor:
        """What enters the first layer that depends on the candidate, [C, n, D]."""
        rows, stop = self._rows[i], self._shape.first_layer
        entry = self._shape.enter(self._model, rows)[:, None]
        meter.count(rows.ids.numel(), rows.real, stop)
        return self._model.branches(self.contexts[i], entry, self._lie(i, 1, 1, 1), stop=stop)[:, 0]


class ByCandidate:
    """Contexts are the candidates with what all examples have in common, branches the examples.

    Args:
        model: any frozen model; only a decoder has contexts, and packs its branches.
        todo: the plan, by candidate.
        shape: of the space's Deltas.
        most: the most tokens of a forward pass.
        meter: counts what is computed here once.
    """

    def __init__(self, model: FrozenModel, todo: Plan, shape: Shape, most: int, meter: Meter) -> None:
        self._model, self._shape, self._most = model, shape, most
        self.branches = todo.branches
        self._decoder = cast("Decoder", model)  # the only kind with contexts
        self._own = TokenRows.padded([todo.own], model.device) if todo.own else None
        self._context = self._common(todo, meter)
        self.groups, self._rows = lay_out(model, todo, most)
        self.wanted = wanted_of(todo, self.groups, model.device)
        self._entries: list[Tensor] = []
        self._own_entry: Tensor | None = None
        if shape.first_layer:
            self._lower(meter)

    @property
    def bytes(self) -> int:
        """Memory held."""
        return (self._context.bytes if self._context else 0) + sum(map(_bytes, self._entries))

    def __call__(self, delta: Delta, meter: Meter) -> Iterator[Hidden]:
        """Hidden states of the delta's K candidates."""
        start, run = self._shape.first_layer, meter.layers - self._shape.first_layer
        for k in parts(delta.candidates, self._most // max(map(_tokens_at_once, self._rows))):
            some, C = delta.select(k), k.stop - k.start
            context = self.context_of(some, meter)
            for i, (rows, lie) in enumerate(self._rows):
                entry = self._entries[i].expand(C, -1, -1, -1) if start else None
                change, entry = self._enter(rows, some, entry)
                hidden = self._model.branches(context, entry, lie, change=change, start=start)
                meter.count(C * rows.ids.numel(), C * rows.real, run)
                if lie.forced is not None:
                    self._count_forced(lie.forced, C, meter)
                yield k, i, hidden

    def _count_forced(self, forced: Forced, C: int, meter: Meter) -> None:
        """Count an encoder-decoder's forced tokens, once in the decoder's layers below the first changed."""
        size = self._model.stacks[-1].size
        once = max(0, self._shape.first_layer - (meter.layers - size))
        meter.count(forced.ids.numel(), forced.real, once)
        meter.count(C * forced.ids.numel(), C * forced.real, size - once)

    @property
    def own_tokens(self) -> int:
        """Tokens of a candidate's context that it computes itself."""
        return 0 if self._own is None else self._own.real

    def context_of(self, delta: Delta, meter: Meter) -> Context | None:
        """What the rows of the delta's K candidates continue: K rows, or None for nothing."""
        context = self._start_of(delta)
        if self._own is None:
            return context
        K, start = delta.candidates, self._shape.first_layer
        entry = None if self._own_entry is None else self._own_entry.expand(K, 1, -1, -1)
        change, entry = self._enter(self._own, delta, entry)
        length = self._own.length.expand(K)
        meter.count(K * self._own.ids.numel(), K * self._own.ids.numel(), meter.layers - start)
        return self._decoder.context(entry[:, 0], length, context, change=change, start=start)[0]

    def leaving(self, i: int, delta: Delta, stop: int, meter: Meter) -> Tensor:
        """What leaves layer `stop - 1`, or is kept of it, of the group i of whole sequences, [K, R, T, D]."""
        rows, lie = self._rows[i]
        if self._shape.first_layer == stop:
            return self._entries[i].expand(delta.candidates, -1, -1, -1)
        change, entry = self._enter(rows, delta, None)
        meter.count(delta.candidates * rows.ids.numel(), delta.candidates * rows.real, stop)
        return self._model.branches(None, entry, lie, change=change, stop=stop)

    def real(self, i: int) -> Tensor:
        """Where the group i has tokens, bool [R, T]."""
        return self._rows[i][1].branch >= 0

    def _enter(self, rows: TokenRows, delta: Delta, entry: Tensor | None) -> tuple[Change, Tensor]:
        """The change of K candidates and what enters the first layer run, [K, R, T, D]."""
        place = rows.places(delta.candidates, self._shape.P)
        change = Change(delta, place.flatten(0, 1))
        if entry is None:
            words = rows.embed(self._model).expand(delta.candidates, -1, -1, -1)
            entry = Change(delta, place).put_prompts(words)
        return change, entry

    def _start_of(self, delta: Delta) -> Context | None:
        """What the candidates' rows continue: their prefix, or what they share."""
        own = context_of(delta, self._model.layers)
        if own is not None:
            return own
        return self._context.expand(delta.candidates) if self._context else None

    def _common(self, todo: Plan, meter: Meter) -> Context | None:
        """The first tokens that do not depend on the candidate."""
        if self._shape.prefix:
            return Context.nothing(self._shape.prefix, self._model.layers, self._model.device)
        if not todo.shared:
            return None
        rows = TokenRows.padded(todo.shared, self._model.device)
        meter.count(rows.ids.numel(), rows.ids.numel(), meter.layers)
        return self._decoder.context(rows.embed(self._model), rows.length)[0]

    def _lower(self, meter: Meter) -> None:
        """What enters the first layer that depends on the candidate: own [1, 1, S, D], groups [R, T, D]."""
        context, stop = self._context, self._shape.first_layer
        if self._own is not None:
            entry = self._shape.enter(self._model, self._own)
            context, hidden = self._decoder.context(entry, self._own.length, context, stop=stop)
            self._own_entry = hidden[:, None]
            meter.count(self._own.ids.numel(), self._own.ids.numel(), stop)
        for rows, lie in self._rows:
            entry = self._shape.enter(self._model, rows)[None]
            self._entries.append(self._model.branches(context, entry, lie, stop=stop))
            meter.count(rows.ids.numel(), rows.real, stop)


def _tokens_at_once(group: tuple[TokenRows, Rows]) -> int:
    """Tokens of a candidate in one of a group's forward passes."""
    rows, lie = group
    return max(rows.ids.numel(), 0 if lie.forced is None else lie.forced.ids.numel())


def _bytes(tensor: Any) -> int:
    return int(tensor.numel() * tensor.element_size())
