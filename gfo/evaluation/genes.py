"""Which candidates do the same up to which layer: a trie over layers, as numbers of sorted candidates."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from gfo.core.delta import Delta
from gfo.core.domain import Array
from gfo.core.sub_blocks import SUB_BLOCKS, Gates, SubBlock
from gfo.models.frozen import FrozenModel
from gfo.models.gates import Fork, Forks, Open


@dataclass(frozen=True)
class Genes:
    """The sub-blocks that K candidates run, sorted so that those are neighbours that share most.

    Attributes:
        order: the candidates in this order, int [K].
        runs: which of a layer's sub-blocks (attention, feed-forward network) each of them runs, sorted, bool
            [K, L, 2].
        parting: the first layer in which each does something else than the one in front of it, int [K]; L for
            none, below the first layer run where what enters it differs.
        apart: the layer from which on each is a node of its own, since other changes differ.
        masked: sub-blocks in which other changes are: they run for all, and are masked.
        shares: of sub-blocks, what each is of its layer's work.
    """

    order: Array
    runs: Array
    parting: Array
    apart: int
    masked: frozenset[SubBlock]
    shares: dict[SubBlock, float]

    @classmethod
    def of(cls, delta: Delta, model: FrozenModel, start: int) -> Genes:
        """Of candidates whose first layer run is `start`."""
        K, L = delta.candidates, model.layers
        runs = np.ones((K, L, 2), dtype=bool)
        opened = (torch.stack(list(delta.gate.values())) > 0).cpu().numpy()  # the host waits once
        for place, gate in zip(delta.gate, opened, strict=True):
            runs[:, place.layer, SUB_BLOCKS.index(place.kind)] = gate
        apart = _apart(delta, model, start)
        keys = runs[..., 0] + 2 * runs[..., 1].astype(np.int64)
        order = np.lexsort(keys.T[::-1])
        keys, runs = keys[order], runs[order]
        differ = np.ones((K, L + 1), dtype=bool)  # the last column: where none does
        differ[1:, :L] = keys[1:] != keys[:-1]
        parting = differ.argmax(axis=1)
        parting[0] = L
        masked = frozenset(place for name in delta.modules if (place := model.sub_block_of(name)) is not None)
        return cls(order, runs, np.minimum(parting, apart), apart, masked, _shares(model))

    def nodes(self, part: slice, depth: int) -> Array:
        """The node of each of some candidates in front of the layer `depth`, counted from 0, int [k]."""
        parts = self.parting[part] < depth
        parts[0] = False
        return np.asarray(parts.cumsum())

    def reach(self, part: slice, start: int, most: int) -> int:
        """The first layer from `start` on where some candidates are more than so many nodes; L for none."""
        L = self.runs.shape[1]
        return next((layer for layer in range(start, L) if self.nodes(part, layer + 1)[-1] >= most), L)

    def split(self, part: slice, layer: int, most: int) -> Iterator[slice]:
        """Some candidates in parts, as equal as can be, of at most so many nodes in a layer."""
        nodes = self.nodes(part, layer + 1)
        number = int(nodes[-1]) + 1
        pieces = -(-number // most)
        ends = [int(np.searchsorted(nodes, i * number // pieces)) for i in range(pieces + 1)]
        for first, last in itertools.pairwise(ends):
            yield slice(part.start + first, part.start + last)

    def forks(self, part: slice, start: int, stop: int, rows: int, device: torch.device) -> Forks:
        """How some candidates' rows part in the layers start to stop - 1, of R rows each."""
        first = int(self.nodes(part, start)[-1]) + 1
        layers = {layer: self._fork(part, layer, device) for layer in range(start, stop)}
        return Forks(rows, first, layers)

    def work(self, forks: Forks) -> float:
        """Nodes times layers that a pass runs: each sub-block counts as its share of its layer."""
        total = 0.0
        for layer, fork in forks.layers.items():
            for kind in SUB_BLOCKS:
                some = fork.open.get(kind)
                n = fork.nodes if some is None or some.run is None else len(some.run)
                total += n * self.shares.get(SubBlock(layer, kind), 0.0)
        return total

    def _fork(self, part: slice, layer: int, device: torch.device) -> Fork:
        """The nodes of a layer, where those in front of it part."""
        below, here = self.nodes(part, layer), self.nodes(part, layer + 1)
        first = np.flatnonzero(np.diff(here, prepend=-1))  # a candidate of each node
        runs, below = self.runs[part][first, layer], below[first]
        own = np.arange(len(first))
        attended = own if layer >= self.apart else _groups(below, runs[:, 0])
        opens = {}
        for i, (kind, group) in enumerate(zip(SUB_BLOCKS, (attended, own), strict=True)):
            if not runs[:, i].all() or len(np.unique(group)) < len(own):
                opens[kind] = _open(runs[:, i], group, SubBlock(layer, kind) in self.masked, device)
        rise = None if np.array_equal(below, own) else torch.from_numpy(below).to(device)
        return Fork(rise, len(first), opens)


def _apart(delta: Delta, model: FrozenModel, start: int) -> int:
    """The layer from which on candidates differ by other changes; below `start` if they enter so."""
    others = [slot for slot in delta.slots if not isinstance(slot, Gates)]
    prompt = delta.prompt is not None and not start  # else all have the same
    return (
        start - 1
        if prompt
        else min((n for slot in others for n in slot.touched(model)), default=model.layers)
    )


def _shares(model: FrozenModel) -> dict[SubBlock, float]:
    """What each sub-block is of its layer's work: its share of the layer's parameters in sub-blocks."""
    sizes = {place: size.parameters for place, size in model.sub_blocks.items()}
    layer = {n: sum(size for place, size in sizes.items() if place.layer == n) for n in range(model.layers)}
    return {place: size / layer[place.layer] for place, size in sizes.items()}


def _groups(below: Array, runs: Array) -> Array:
    """Numbers of the pairs of a node below and what is run, of sorted nodes: int [n]."""
    changes = (np.diff(below, prepend=below[0]) != 0) | (np.diff(runs.astype(int), prepend=int(runs[0])) != 0)
    return np.asarray(changes.cumsum())


def _open(runs: Array, group: Array, masked: bool, device: torch.device) -> Open:
    """Of nodes, those that a sub-block runs for: one of each group, where it is open."""
    closed = torch.from_numpy(np.flatnonzero(~runs)).to(device)
    if masked:
        return Open(None, closed[:0], closed)
    number, first, inverse = np.unique(np.where(runs, group, -1), return_index=True, return_inverse=True)
    missing = int(number[0] == -1)
    source = torch.from_numpy((inverse - missing).clip(min=0)).to(device)
    return Open(torch.from_numpy(first[missing:]).to(device), source, closed)
