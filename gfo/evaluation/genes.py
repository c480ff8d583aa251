"""Which candidates do the same up to which layer: a trie over layers, as numbers of sorted candidates."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gfo.core.delta import Delta
from gfo.core.domain import Array
from gfo.core.errors import GfoError
from gfo.core.slots import Slot
from gfo.core.sub_blocks import SUB_BLOCKS, SubBlock
from gfo.models.apply import OF_NODES
from gfo.models.frozen import FrozenModel
from gfo.models.gates import Fork, Forks, Open
from gfo.models.narrowing import Narrow


@dataclass(frozen=True)
class Genes:
    """The sub-blocks that K candidates run, sorted so that those are neighbours that share most.

    Attributes:
        order: the candidates in this order, int [K].
        does: what each of them does in a layer's sub-blocks (attention, feed-forward network), sorted, int
            [K, L, 2]: 0 where it is closed, and another number for each set of factors on its inputs.
        parting: the first layer in which each does something else than the one in front of it, int [K]; L for
            none, below the first layer run where what enters it differs.
        apart: the layer from which on each is a node of its own, since other changes differ.
        masked: sub-blocks in which other changes are: they run for all, and are masked.
        shares: of sub-blocks, what each is of its layer's work.
        inputs: module -> factors on what enters it, of the sorted candidates, [K, in].
        sub_blocks: module -> the sub-block that it is in.
        networks: those of the modules that are run for some inputs alone -> the modules that give these.
    """

    order: Array
    does: Array
    parting: Array
    apart: int
    masked: frozenset[SubBlock]
    shares: dict[SubBlock, float]
    inputs: dict[str, Tensor]
    sub_blocks: dict[str, SubBlock]
    networks: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, delta: Delta, model: FrozenModel, start: int) -> Genes:
        """Of candidates whose first layer run is `start`."""
        K, L = delta.candidates, model.layers
        sub_blocks = {name: _sub_block_of(model, name) for name in delta.input_scale}
        does = _does(delta, sub_blocks, (K, L, len(SUB_BLOCKS)))
        apart = _apart(delta, model, start)
        keys = does[..., 0] * (1 + does.max()) + does[..., 1]
        order = np.lexsort(keys.T[::-1])
        keys = keys[order]
        differ = np.ones((K, L + 1), dtype=bool)  # the last column: where none does
        differ[1:, :L] = keys[1:] != keys[:-1]
        parting = differ.argmax(axis=1)
        parting[0] = L
        masked = _masked(delta, model)
        where = torch.from_numpy(order).to(model.device)
        inputs = {name: factors[where] for name, factors in delta.input_scale.items()}
        parting = np.minimum(parting, apart)
        networks = _networks(model, inputs, sub_blocks, masked)
        return cls(order, does[order], parting, apart, masked, _shares(model), inputs, sub_blocks, networks)

    def nodes(self, part: slice, depth: int) -> Array:
        """The node of each of some candidates in front of the layer `depth`, counted from 0, int [k]."""
        parts = self.parting[part] < depth
        parts[0] = False
        return np.asarray(parts.cumsum())

    def reach(self, part: slice, start: int, most: int) -> int:
        """The first layer from `start` on where some candidates are more than so many nodes; L for none."""
        L = self.does.shape[1]
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
                total += self._nodes_run(fork, kind) * self.shares.get(SubBlock(layer, kind), 0.0)
        return total

    def _nodes_run(self, fork: Fork, kind: str) -> float:
        """The nodes that a sub-block runs for; of a network for some inputs alone, that share of them."""
        if kind == SUB_BLOCKS[1] and fork.narrow:
            return sum(narrow.work / self.inputs[name].shape[1] for name, narrow in fork.narrow.items())
        some = fork.open.get(kind)
        return fork.nodes if some is None or some.run is None else len(some.run)

    def _fork(self, part: slice, layer: int, device: torch.device) -> Fork:
        """The nodes of a layer, where those in front of it part."""
        below, here = self.nodes(part, layer), self.nodes(part, layer + 1)
        first = np.flatnonzero(np.diff(here, prepend=-1))  # a candidate of each node
        does, below = self.does[part][first, layer], below[first]
        own = np.arange(len(first))
        attended = own if layer >= self.apart else _groups(below, does[:, 0])
        opens = {}
        for i, (kind, group) in enumerate(zip(SUB_BLOCKS, (attended, own), strict=True)):
            if not does[:, i].all() or len(np.unique(group)) < len(own):
                opens[kind] = _open(does[:, i] > 0, group, SubBlock(layer, kind) in self.masked, device)
        rise = None if np.array_equal(below, own) else torch.from_numpy(below).to(device)
        candidates = torch.from_numpy(first + part.start).to(device)
        inputs = dict(self._inputs(layer, opens, candidates))
        narrow = {
            name: Narrow.of(before, inputs.pop(name))
            for name, before in self.networks.items()
            if name in inputs
        }
        return Fork(rise, len(first), opens, inputs, narrow)

    def _inputs(self, layer: int, opens: dict[str, Open], candidates: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Factors on what enters a layer's modules, of the nodes that their sub-blocks run for.

        Args:
            layer: its number.
            opens: which of its nodes run.
            candidates: one of each node, int [nodes].
        """
        for name, factors in self.inputs.items():
            place = self.sub_blocks[name]
            if place.layer == layer:
                some = opens.get(place.kind)
                yield name, factors[candidates if some is None or some.run is None else candidates[some.run]]


def _does(delta: Delta, sub_blocks: dict[str, SubBlock], shape: tuple[int, int, int]) -> Array:
    """See `Genes.does`, of candidates in their own order."""
    does = np.ones(shape, dtype=np.int64)
    for name, factors in delta.input_scale.items():
        layer, kind = sub_blocks[name]
        rows = factors.detach().cpu().numpy().reshape(len(factors), -1)
        own = does[:, layer, SUB_BLOCKS.index(kind)]
        _, number = np.unique(np.column_stack([own, rows]), axis=0, return_inverse=True)
        does[:, layer, SUB_BLOCKS.index(kind)] = 1 + number.reshape(-1)
    if delta.gate:
        opened = (torch.stack(list(delta.gate.values())) > 0).cpu().numpy()  # the host waits once
        for place, gate in zip(delta.gate, opened, strict=True):
            does[:, place.layer, SUB_BLOCKS.index(place.kind)] *= gate
    return does


def _networks(
    model: FrozenModel,
    inputs: dict[str, Tensor],
    sub_blocks: dict[str, SubBlock],
    masked: frozenset[SubBlock],
) -> dict[str, tuple[str, ...]]:
    """See `Genes.networks`: those whose factors are all 0 or 1, where nothing else changes."""
    alone = {name: x for name, x in inputs.items() if sub_blocks[name] not in masked}
    whole = {name for name, x in alone.items() if bool(((x == 0) | (x == 1)).all())}
    return {name: model.networks[name] for name in whole if name in model.networks}


def _masked(delta: Delta, model: FrozenModel) -> frozenset[SubBlock]:
    """See `Genes.masked`."""
    places = {model.sub_block_of(name) for slot in _others(delta) for name in slot.modules}
    return frozenset(place for place in places if place is not None)


def _others(delta: Delta) -> list[Slot]:
    """The changes that are not of nodes."""
    return [slot for slot in delta.slots if not isinstance(slot, OF_NODES)]


def _sub_block_of(model: FrozenModel, name: str) -> SubBlock:
    """The sub-block of a module whose inputs have factors.

    Raises:
        GfoError: for one that is in none.
    """
    place = model.sub_block_of(name)
    if place is None:
        raise GfoError(f"Delta: input_scale of '{name}', which is in no sub-block; take modules of some")
    return place


def _apart(delta: Delta, model: FrozenModel, start: int) -> int:
    """The layer from which on candidates differ by other changes; below `start` if they enter so."""
    others = _others(delta)
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


def _groups(below: Array, does: Array) -> Array:
    """Numbers of the pairs of a node below and what is done, of sorted nodes: int [n]."""
    changes = (np.diff(below, prepend=below[0]) != 0) | (np.diff(does, prepend=does[0]) != 0)
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
