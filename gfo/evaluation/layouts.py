"""The layouts of `gfo.evaluation.plan` as forward passes.

A layout is made for a batch: it computes what all candidates share, which is kept from step to step.
Called with candidates it yields the hidden states that the task reads, chunk by chunk.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from gfo.core.delta import Delta
from gfo.evaluation.endings import wanted_of
from gfo.evaluation.joining import parts
from gfo.evaluation.memory import state_tokens
from gfo.evaluation.packing import SPARE, groups_of_texts, lay_out, rows_of_branches
from gfo.evaluation.plan import Plan, picked, tiles
from gfo.evaluation.rows import Forks, TokenRows
from gfo.evaluation.shape import Meter, Shape
from gfo.models.apply import Change, context_of
from gfo.models.branches import Context, Forced, RowLayout

if TYPE_CHECKING:
    from gfo.models.continued_rows import ContinuedRows
    from gfo.models.decoder import Decoder, Placed
    from gfo.models.frozen import FrozenModel

SPREADS_KEPT = 4  # population sizes of which a layout remembers how the candidates lie

Hidden = tuple[slice | Tensor, int, Tensor]
"""Candidates k (a slice, or their numbers [k, 1]), the number of a group of branches b, and their hidden
states [k, b, D]; of trees those of the M places at which the group is read, [k, M, D]."""


@dataclass(frozen=True)
class Spread:
    """How the branches of K candidates behind a group's C texts lie: the same in every step.

    Attributes:
        R, m: each text's branches lie in R rows of m; the last candidate fills up.
        place: which of the candidates' soft-prompt tokens stands where, int [C * R, m * n].
        lie: the rows behind each text.
        placed: where their tokens stand and what they see; None where the model's own pass knows.
    """

    R: int
    m: int
    place: Tensor
    lie: RowLayout
    placed: Placed | None


class ByExample:
    """Contexts are the examples' texts, branches the candidates.

    Args:
        model: a decoder, or a model that keeps states of texts, whose methods and contexts are of the same
            names: then a row holds one branch, and texts of one length go together.
        todo: the plan, by example.
        shape: of the space's Deltas.
        most: the most tokens of a forward pass.
        meter: counts what is computed here once.
        room: bytes of what may be kept.

    Attributes:
        model, shape: as given.
        branches: of the plan.
        groups: which branches are computed together.
        wanted: of each group, where its branches are trees.
        contexts: of each group's texts; None where there is no room, so that they are computed in each call.
    """

    plain: Sequence[Tensor] = ()  # see `gfo.evaluation.distance`
    paid = (0.0, 0.0)  # tokens times layers that laying out took: computed and needed

    def __init__(
        self, model: Decoder, todo: Plan, shape: Shape, most: int, meter: Meter, *, room: int
    ) -> None:
        self.model, self.shape, self._most, self._room = model, shape, most, room
        self.branches = todo.branches
        self.groups = groups_of_texts(todo, most, held=self._held if model.states else None)
        self._tokens = [TokenRows.padded(picked(todo.branches, g), model.device) for g in self.groups]
        self.wanted = wanted_of(todo, self.groups, model.device)
        self._forks = _forks(todo, self.groups, self._tokens)
        self._spreads: dict[tuple[int, int], Spread] = {}
        self._texts = [picked(todo.shared, g) for g in self.groups]
        self._sizes = [self._size(i) for i in range(len(self.groups))]
        self.contexts: list[Context | None] = []
        self._entries: list[Tensor] = []
        for i in range(len(self.groups)):
            self._compute(i, meter)

    @property
    def bytes(self) -> int:
        """Memory held."""
        held = [context.bytes for context in self.contexts if context] + [t.nbytes for t in self._entries]
        return sum(held) + sum(each.placed.bytes for each in self._spreads.values() if each.placed)

    def __call__(self, delta: Delta, meter: Meter) -> Iterator[Hidden]:
        """Hidden states of the delta's K candidates."""
        K = delta.candidates
        for i in range(len(self.groups)):
            context = self.contexts[i] or self._again(i, meter)
            todo = [*parts(K, self._most // self._sizes[i])]
            while todo:
                k = todo.pop(0)
                some = delta if k == slice(0, K) else delta.select(k)
                hidden = self._branches(i, context, some, meter)
                if k.stop - k.start > 1 and not bool(hidden.isfinite().all()):
                    # nan gets through the mask to the others (0 * nan): each alone
                    todo[:0] = [slice(one, one + 1) for one in range(k.start, k.stop)]
                else:
                    yield k, i, self._forks[i].reading(hidden) if self._forks else hidden.transpose(0, 1)

    def _branches(self, i: int, context: Context, delta: Delta, meter: Meter) -> Tensor:
        """Hidden states [C, K, D] of all candidates behind the texts of a group."""
        tokens, start, K = self._tokens[i], self.shape.first_layer, delta.candidates
        spread = self._spreads.get((i, K)) or self._spread(i, K, context)
        (C, n), R, m = tokens.ids.shape, spread.R, spread.m
        change = Change(delta, spread.place, cycles=C)
        entry = self._entries[i][:, None, None].expand(-1, R, m, -1, -1).reshape(C * R, m * n, -1)
        if not start:
            entry = change.put_prompts(entry)
        entry = entry.view(C, R, m * n, -1)
        lie, placed = spread.lie, spread.placed
        hidden = self.model.branches(context, entry, lie, change=change, start=start, placed=placed)
        meter.count(C * R * m * n, K * tokens.real, meter.layers - start)
        return hidden

    def _size(self, i: int) -> int:
        """Tokens of a candidate behind the texts of a group, and as many as take the memory of its states."""
        states = sum(self._held(len(text)) for text in self._texts[i]) if self.model.states else 0
        return self._tokens[i].ids.numel() + states

    def _held(self, length: int) -> int:
        """As many tokens as take the memory of the states of a text."""
        return state_tokens(cast("ContinuedRows", self.model), length)

    def _spread(self, i: int, K: int, context: Context) -> Spread:
        """How the branches of K candidates behind the texts of a group lie; kept, for a few K."""
        tokens = self._tokens[i]
        C, n = tokens.ids.shape
        R, m = K, 1
        if not self.model.states:
            text = context.visible.shape[1]
            R, m = rows_of_branches(K, n, spare=0.0 if self.shape.modules else SPARE, text=text)
        candidate = torch.arange(R * m, device=tokens.ids.device).clamp(max=K - 1)
        place = tokens.places(K, self.shape.P)[candidate].transpose(0, 1).reshape(C * R, m * n)
        if len(self._spreads) >= SPREADS_KEPT * len(self._tokens):
            self._spreads.clear()
        lie = self._lie(i, K, R, m)
        placed = self.model.place(context, C, lie, self._entries[i].dtype)
        self._spreads[i, K] = Spread(R, m, place, lie, placed)
        return self._spreads[i, K]

    def _lie(self, i: int, K: int, R: int, m: int) -> RowLayout:
        """How the branches of K candidates lie in R rows of m."""
        tokens = self._tokens[i]
        n = tokens.ids.shape[1]
        ids = tokens.ids.repeat(1, m)[:, None].expand(-1, R, -1)
        if self._forks:
            return self._forks[i].lie(K, R, m, ids)
        column = torch.arange(m * n, device=tokens.ids.device).expand(R, -1)
        first = torch.arange(K, device=tokens.ids.device) * n  # m * n columns a row: branch j begins at j * n
        return RowLayout(column // n, column % n, first + tokens.length[:, None] - 1, ids=ids)

    def _compute(self, i: int, meter: Meter) -> None:
        """What all candidates share of a group; of what there is no room for no more than is needed here."""
        start, context = self.shape.first_layer, None
        if self._room > 0 or start:
            context = self._full(i, meter)
        self._entries.append(self._entry(i, context, meter))
        self._room -= self._entries[-1].nbytes
        if context is not None:
            context = context.above(start) if start else context
            self._room -= context.bytes
        self.contexts.append(context if self._room >= 0 else None)

    def texts(self, meter: Meter) -> Iterator[tuple[list[int], Context]]:
        """The groups, each with what is kept of its texts, or computed where there was no room for it."""
        for i, group in enumerate(self.groups):
            yield group, self.contexts[i] or self._again(i, meter)

    def _again(self, i: int, meter: Meter) -> Context:
        """What there was no room for of a group's texts."""
        return self._full(i, meter).above(self.shape.first_layer)

    def _full(self, i: int, meter: Meter) -> Context:
        """Keys and values of a group's texts, each computed once, side by side with those of like length."""
        texts = list(dict.fromkeys(self._texts[i]))
        found = []
        order = tiles(list(map(len, texts)), most_tokens=self._most)
        for tile in order:
            tokens = TokenRows.padded(picked(texts, tile), self.model.device)
            entry = tokens.embed(self.model)
            found.append(self.model.context(entry, tokens.length, ids=tokens.ids)[0])
            meter.count(tokens.ids.numel(), tokens.real, meter.layers)
        stacked = found[0] if len(found) == 1 else Context.stack(found)
        place = {texts[number]: at for at, number in enumerate(itertools.chain(*order))}
        return stacked.take(torch.tensor([place[text] for text in self._texts[i]], device=self.model.device))

    def _entry(self, i: int, context: Context | None, meter: Meter) -> Tensor:
        """What enters the first layer that depends on the candidate, [C, n, D]: at 0 the words."""
        tokens, stop = self._tokens[i], self.shape.first_layer
        if not stop:
            return tokens.embed(self.model)
        entry = self.shape.enter(self.model, tokens)[:, None]
        meter.count(tokens.ids.numel(), tokens.real, stop)
        return self.model.branches(context, entry, self._lie(i, 1, 1, 1), stop=stop)[:, 0]


def _forks(todo: Plan, groups: Sequence[Sequence[int]], tokens: Sequence[TokenRows]) -> list[Forks]:
    """Where the trees of each group fork; none where a plan has no trees."""
    if not todo.trees:
        return []
    return [
        Forks.of(picked(todo.trees, group), rows.ids.shape[1], rows.ids.device)
        for group, rows in zip(groups, tokens, strict=True)
    ]


class ByCandidate:
    """Contexts are the candidates with what all examples have in common, branches the examples.

    Args:
        model: any frozen model; only a decoder has contexts, and packs its branches.
        todo: the plan, by candidate.
        shape: of the space's Deltas.
        most: the most tokens of a forward pass.
        meter: counts what is computed here once.

    Attributes:
        model, shape: as given.
        branches: of the plan.
        groups: which branches are computed together.
        wanted: of each group, where its branches are trees.
    """

    plain: Sequence[Tensor] = ()  # see `gfo.evaluation.distance`
    paid = (0.0, 0.0)  # tokens times layers that laying out took: computed and needed

    def __init__(self, model: FrozenModel, todo: Plan, shape: Shape, most: int, meter: Meter) -> None:
        self.model, self.shape, self._most = model, shape, most
        self.branches = todo.branches
        self._decoder = cast("Decoder", model)  # the only kind with contexts
        self._own = TokenRows.padded([todo.own], model.device) if todo.own else None
        self._context = self._common(todo, meter)
        self.groups, self._laid = lay_out(model, todo, most)
        self.wanted = wanted_of(todo, self.groups, model.device)
        self._at_once = max(map(_tokens_at_once, self._laid), default=1)
        self._entries: list[Tensor] = []
        self._own_entry: Tensor | None = None
        if shape.first_layer:
            self._lower(meter)

    @property
    def bytes(self) -> int:
        """Memory held."""
        return (self._context.bytes if self._context else 0) + sum(t.nbytes for t in self._entries)

    def __call__(self, delta: Delta, meter: Meter) -> Iterator[Hidden]:
        """Hidden states of the delta's K candidates."""
        start, run = self.shape.first_layer, meter.layers - self.shape.first_layer
        K = delta.candidates
        for k in parts(K, self._most // self._at_once):
            some, C = delta if k == slice(0, K) else delta.select(k), k.stop - k.start
            context = self.context_of(some, meter)
            for i, (rows, lie) in enumerate(self._laid):
                entry = self._entries[i].expand(C, -1, -1, -1) if start else None
                change, entry = self._enter(rows, some, entry)
                hidden = self.model.branches(context, entry, lie, change=change, start=start)
                meter.count(C * rows.ids.numel(), C * rows.real, run)
                if lie.forced is not None:
                    self._count_forced(lie.forced, C, meter)
                yield k, i, hidden

    def _count_forced(self, forced: Forced, C: int, meter: Meter) -> None:
        """Count an encoder-decoder's forced tokens, once in the decoder's layers below the first changed."""
        size = self.model.stacks[-1].size
        once = max(0, self.shape.first_layer - (meter.layers - size))
        meter.count(forced.ids.numel(), forced.real, once)
        meter.count(C * forced.ids.numel(), C * forced.real, size - once)

    @property
    def most(self) -> int:
        """The most tokens of a forward pass."""
        return self._most

    def laid(self, i: int) -> tuple[TokenRows, RowLayout]:
        """The rows of the group i, and how branches lie in them."""
        return self._laid[i]

    @property
    def own_tokens(self) -> int:
        """Tokens of a candidate's context that it computes itself."""
        return 0 if self._own is None else self._own.real

    def context_of(self, delta: Delta, meter: Meter) -> Context | None:
        """What the rows of the delta's K candidates continue: K rows, or None for nothing."""
        context = self._start_of(delta)
        if self._own is None:
            return context
        K, start = delta.candidates, self.shape.first_layer
        entry = None if self._own_entry is None else self._own_entry.expand(K, 1, -1, -1)
        change, entry = self._enter(self._own, delta, entry)
        length, ids = self._own.length.expand(K), self._own.ids.expand(K, -1)
        meter.count(K * self._own.ids.numel(), K * self._own.ids.numel(), meter.layers - start)
        return self._decoder.context(entry[:, 0], length, context, ids=ids, change=change, start=start)[0]

    def leaving(self, i: int, delta: Delta, stop: int, meter: Meter) -> Tensor:
        """What leaves layer `stop - 1`, or is kept of it, of the group i of whole sequences, [K, R, T, D]."""
        rows, lie = self._laid[i]
        if self.shape.first_layer == stop:
            return self._entries[i].expand(delta.candidates, -1, -1, -1)
        change, entry = self._enter(rows, delta, None)
        meter.count(delta.candidates * rows.ids.numel(), delta.candidates * rows.real, stop)
        return self.model.branches(None, entry, lie, change=change, stop=stop)

    def real(self, i: int) -> Tensor:
        """Where the group i has tokens, bool [R, T]."""
        return self._laid[i][1].branch >= 0

    def _enter(self, rows: TokenRows, delta: Delta, entry: Tensor | None) -> tuple[Change, Tensor]:
        """The change of K candidates and what enters the first layer run, [K, R, T, D]."""
        place = rows.places(delta.candidates, self.shape.P)
        change = Change(delta, place.flatten(0, 1), changed=rows.changes(delta.candidates))
        if entry is None:
            words = rows.embed(self.model).expand(delta.candidates, -1, -1, -1)
            entry = Change(delta, place).put_prompts(words)
        return change, entry

    def _start_of(self, delta: Delta) -> Context | None:
        """What the candidates' rows continue: their prefix, or what they share."""
        own = context_of(delta, self.model.layers)
        if own is not None:
            return own
        return self._context.expand(delta.candidates) if self._context else None

    def _common(self, todo: Plan, meter: Meter) -> Context | None:
        """The first tokens that do not depend on the candidate."""
        if self.shape.prefix:
            return Context.nothing(self.shape.prefix, self.model.layers, self.model.device)
        if not todo.shared:
            return None
        rows = TokenRows.padded(todo.shared, self.model.device)
        meter.count(rows.ids.numel(), rows.ids.numel(), meter.layers)
        return self._decoder.context(rows.embed(self.model), rows.length, ids=rows.ids)[0]

    def _lower(self, meter: Meter) -> None:
        """What enters the first layer that depends on the candidate: own [1, 1, S, D], groups [R, T, D]."""
        context, stop = self._context, self.shape.first_layer
        if self._own is not None:
            entry = self.shape.enter(self.model, self._own)
            own = self._own
            context, hidden = self._decoder.context(entry, own.length, context, ids=own.ids, stop=stop)
            self._own_entry = hidden[:, None]
            meter.count(self._own.ids.numel(), self._own.ids.numel(), stop)
        for rows, lie in self._laid:
            entry = self.shape.enter(self.model, rows)[None]
            self._entries.append(self.model.branches(context, entry, lie, stop=stop))
            meter.count(rows.ids.numel(), rows.real, stop)


def _tokens_at_once(group: tuple[TokenRows, RowLayout]) -> int:
    """Tokens of a candidate in one of a group's forward passes."""
    rows, lie = group
    return max(rows.ids.numel(), 0 if lie.forced is None else lie.forced.ids.numel())
