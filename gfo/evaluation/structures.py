"""A batch laid out for candidates with gates: whole rows, computed once for those that share their genes.

A gate that is closed changes all tokens in the layers behind it, so that no token in front is the frozen
model's: there are no contexts. What is shared is by whom: candidates with equal genes up to a layer are one
there (see `gfo.models.gates`). Where those of a layer are more than a pass may have, they go on in parts from
there, so that nothing is computed twice whatever the memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gfo.core.delta import Delta
from gfo.evaluation.genes import Genes
from gfo.evaluation.layouts import ByCandidate, Hidden
from gfo.evaluation.shape import Meter
from gfo.models.apply import Change


class ByGenes(ByCandidate):
    """Branches are whole rows, computed for the nodes of the candidates' trie."""

    def __call__(self, delta: Delta, meter: Meter) -> Iterator[Hidden]:
        """Hidden states of the delta's K candidates, of which those that share most come together."""
        genes = Genes.of(delta, self.model, self.shape.first_layer)
        order = torch.from_numpy(genes.order).to(self.model.device)
        walk = _Walk(self, genes, delta.take(order), meter)
        for i in range(len(self._laid)):
            for part, hidden in walk(i):
                yield order[part, None], i, hidden

    def enter(self, i: int, delta: Delta, nodes: int) -> Tensor:
        """What enters the first layer run of a group's rows, [nodes, R, T, D]."""
        if self.shape.first_layer:
            return self._entries[i].expand(nodes, -1, -1, -1)
        rows = self._laid[i][0]
        if nodes == 1:
            delta = delta.select(slice(1))
        words = rows.embed(self.model).expand(nodes, -1, -1, -1)
        return Change(delta, rows.places(nodes, self.shape.P)).put_prompts(words)


class _Walk:
    """Passes over the trie of sorted candidates, depth first."""

    def __init__(self, layout: ByGenes, genes: Genes, delta: Delta, meter: Meter) -> None:
        self._layout, self._genes, self._delta, self._meter = layout, genes, delta, meter

    def __call__(self, i: int) -> Iterator[tuple[slice, Tensor]]:
        """Parts of the candidates with their states of what is read of the group i, [k, M, D]."""
        tokens = self._layout.laid(i)[0].ids.numel()
        most = max(1, self._layout.most // tokens)
        return self._on(i, slice(0, self._delta.candidates), self._layout.shape.first_layer, None, most)

    def _on(
        self, i: int, part: slice, start: int, entry: Tensor | None, most: int
    ) -> Iterator[tuple[slice, Tensor]]:
        """The same of some candidates, whose nodes enter the layer `start` as `entry` [nodes, R, T, D]."""
        genes = self._genes
        stop = genes.reach(part, start, most)
        if stop == self._meter.layers:
            hidden = self._run(i, part, start, None, entry)
            yield part, hidden[torch.from_numpy(genes.nodes(part, stop)).to(hidden.device)]
            return
        if stop > start:
            entry = self._run(i, part, start, stop, entry)
        nodes = genes.nodes(part, stop)
        for some in genes.split(part, stop, most):
            first, last = nodes[some.start - part.start], nodes[some.stop - part.start - 1]
            yield from self._on(i, some, stop, None if entry is None else entry[first : last + 1], most)

    def _run(self, i: int, part: slice, start: int, stop: int | None, entry: Tensor | None) -> Tensor:
        """Some layers of the group's rows: states of all tokens, or without `stop` of what is read."""
        rows, lie = self._layout.laid(i)
        model, delta, meter = self._layout.model, self._delta.select(part), self._meter
        forks = self._genes.forks(
            part, start, meter.layers if stop is None else stop, len(lie.branch), model.device
        )
        if entry is None:
            entry = self._layout.enter(i, delta, forks.nodes)
        place = rows.places(delta.candidates, self._layout.shape.P).flatten(0, 1)
        change = Change(delta, place, forks=forks)
        work = self._genes.work(forks)
        meter.count(rows.ids.numel(), rows.real, work)
        return model.branches(None, entry, lie, change=change, start=start, stop=stop)
