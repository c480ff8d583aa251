"""Parts of sub-blocks that fall by genes: heads, each a gene, and neurons, as many as a gene's level says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from gfo.core.domain import Array
from gfo.core.errors import GfoError, check_name
from gfo.core.sub_blocks import SUB_BLOCKS, SubBlock
from gfo.spaces.parts.calibration import module_inputs
from gfo.spaces.parts.measure import HasModules

if TYPE_CHECKING:
    from torch import Tensor

HEADS = ("groups", "queries")


class HasSize(Protocol):
    """What is asked of a part of a model: see `gfo.models.sizes.Size`."""

    @property
    def parameters(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def multiply_adds(self) -> int: ...
    @property
    def kept(self) -> int: ...


class HasLatency(Protocol):
    """How long parts take: see `gfo.models.latency.Latency`."""

    @property
    def rest(self) -> float: ...
    @property
    def parts(self) -> Mapping[SubBlock, Mapping[int, float]]: ...


class HasUnits(Protocol):
    """Equal parts of a sub-block: see `gfo.models.units.Units`."""

    @property
    def module(self) -> str: ...
    @property
    def number(self) -> int: ...
    @property
    def size(self) -> HasSize: ...


class HasParts(HasModules, Protocol):
    """What is asked of a model whose sub-blocks are cut."""

    name: str

    @property
    def sub_blocks(self) -> Mapping[SubBlock, HasSize]: ...
    def units(self, place: SubBlock, kind: str) -> HasUnits: ...
    def latency(self, path: str, units: Mapping[SubBlock, Sequence[int]]) -> HasLatency: ...


@dataclass(frozen=True, eq=False)
class Heads:
    """An attention whose heads have a gene each: 1 closes it.

    Attributes:
        place: the attention.
        module: that which reads the heads.
        units: the heads, or groups of them.
        width: columns of the module for each.
        names: of the genes.
    """

    place: SubBlock
    module: str
    units: int
    size: HasSize
    width: int
    names: tuple[str, ...]

    @property
    def numbers(self) -> tuple[int, ...]:
        """How many heads it may have left."""
        return tuple(range(1, self.units + 1))

    @property
    def high(self) -> list[float]:
        """The highest value of each gene."""
        return [1.0] * self.units

    @property
    def all(self) -> int:
        """How many heads there are."""
        return self.units

    def closed(self, genes: Array) -> Array:
        """How many heads genes [K, n] close, [K]."""
        return np.asarray(genes.sum(axis=1))

    def said(self, genes: Array) -> list[str]:
        """The heads that genes [n] close."""
        return [name for name, gene in zip(self.names, genes, strict=True) if gene]

    def factors(self, genes: Tensor) -> Tensor:
        """Genes [K, n] -> factors on the module's inputs, float32 [K, in]."""
        return (1 - genes.float()).repeat_interleave(self.width, dim=1)


@dataclass(frozen=True, eq=False)
class Widths:
    """A feed-forward network with a gene that says how many of its neurons are left.

    Attributes:
        place: the network.
        module: that which reads the neurons.
        size: of a neuron.
        counts: neurons at each level, the first all of them.
        rank: of each neuron, 0 that which falls last, int [in].
        names: of the gene.
    """

    place: SubBlock
    module: str
    size: HasSize
    counts: tuple[int, ...]
    rank: Tensor
    names: tuple[str, ...]

    @property
    def numbers(self) -> tuple[int, ...]:
        """How many neurons it may have left."""
        return self.counts

    @property
    def all(self) -> int:
        """How many neurons there are."""
        return self.counts[0]

    @property
    def high(self) -> list[float]:
        """The highest value of the gene."""
        return [len(self.counts) - 1.0]

    def closed(self, genes: Array) -> Array:
        """How many neurons genes [K, 1] close, [K]."""
        return np.asarray(self.counts[0] - np.array(self.counts)[genes[:, 0].astype(int)])

    def said(self, genes: Array) -> list[str]:
        """The width of a gene [1], if it is not the whole."""
        left = self.counts[int(genes[0])]
        return [f"{self.names[0]}: {left / self.counts[0]:g}"] if genes[0] else []

    def factors(self, genes: Tensor) -> Tensor:
        """Genes [K, 1] -> factors on the module's inputs, float32 [K, in]."""
        left = self.rank.new_tensor(self.counts)[genes.long()]  # [K, 1]
        return (self.rank < left).float()


Cut = Heads | Widths


def heads_of(model: HasParts, layers: Iterable[int], kind: str | None) -> list[Heads]:
    """The attentions of some layers, cut by heads; none for None.

    Raises:
        GfoError: for an unknown kind, or attentions whose heads are not known.
    """
    if kind is None:
        return []
    check_name("heads", kind, HEADS)
    found, word = [], "heads" if kind == "groups" else "head"
    for place in _of_kind(model, layers, SUB_BLOCKS[0]):
        units = model.units(place, kind)
        names = tuple(f"{word} {place.layer}.{i}" for i in range(units.number))
        width = model.linears[units.module].in_features // units.number
        found.append(Heads(place, units.module, units.number, units.size, width, names))
    return found


def widths_of(
    model: HasParts, layers: Iterable[int], widths: Sequence[float] | None, texts: Sequence[str] | None
) -> list[Widths]:
    """The feed-forward networks of some layers, cut by levels of width; none for None.

    Neurons fall in the order of the norm of what they give on texts, the least first; without texts, of the
    columns that read them.

    Raises:
        GfoError: for shares that are not 1 and then less and less, or networks whose neurons are not known.
    """
    if widths is None:
        if texts is not None:
            raise GfoError("space: calibration is for the order of neurons; give widths, or leave it out")
        return []
    _check_widths(widths)
    places = _of_kind(model, layers, SUB_BLOCKS[1])
    units = {place: model.units(place, "neurons") for place in places}
    ranks = _ranks(model, [some.module for some in units.values()], texts)
    found = []
    for place, some in units.items():
        counts = tuple(max(1, round(share * some.number)) for share in widths)
        names = (f"width {place.layer}",)
        found.append(Widths(place, some.module, some.size, counts, ranks[some.module], names))
    return found


def _of_kind(model: HasParts, layers: Iterable[int], kind: str) -> list[SubBlock]:
    """The sub-blocks of a kind in some layers."""
    chosen = set(layers)
    return [place for place in model.sub_blocks if place.layer in chosen and place.kind == kind]


def _check_widths(widths: Sequence[float]) -> None:
    """Raise GfoError for widths that are not 1 and then less and less, above 0."""
    falls = all(a > b for a, b in zip(widths, [*widths[1:], 0.0], strict=True))
    if len(widths) < 2 or widths[0] != 1 or not falls:
        raise GfoError(
            f"space: widths = {list(widths)}: give 1 and then smaller and smaller shares above 0, such as "
            "[1.0, 0.75, 0.5]"
        )


def _ranks(model: HasParts, names: Sequence[str], texts: Sequence[str] | None) -> dict[str, Tensor]:
    """Module -> the rank of each of its inputs by its norm, 0 the largest, int [in]."""
    if texts is None:
        norms = {name: model.weight(name).float().norm(dim=0) for name in names}
    else:
        norms = {name: x.norm(dim=0) for name, x in module_inputs(model, names, texts).items()}
    return {name: (-norm).argsort(stable=True).argsort() for name, norm in norms.items()}


def latency_of(
    model: HasParts, path: str | None, cuts: Sequence[Cut], heads: str | None
) -> HasLatency | None:
    """How long sub-blocks take with what may be left of them, by a file; None without.

    Raises:
        GfoError: for heads of queries, of which keys and values stay.
    """
    if path is None:
        return None
    if heads == "queries":
        raise GfoError("space: latency is known of heads = 'groups' alone; give those, or leave latency out")
    numbers: dict[SubBlock, Sequence[int]] = dict.fromkeys(model.sub_blocks, (1,))
    return model.latency(path, numbers | {cut.place: cut.numbers for cut in cuts})


def milliseconds(
    latency: HasLatency, closed: Mapping[SubBlock, Array], left: Mapping[SubBlock, Array], K: int
) -> Array:
    """How long K candidates take, [K].

    Args:
        latency: of the parts.
        closed: sub-block -> which candidates close it, [K]; none closes another.
        left: sub-block -> how many of its heads or neurons they keep, [K]; all of another.
        K: the candidates.
    """
    total = np.full(K, latency.rest)
    for place, times in latency.parts.items():
        numbers = left.get(place, np.full(K, max(times)))
        each = np.array([times.get(int(n), 0.0) for n in numbers])  # without any head nothing is left of it
        total += each * (1 - closed.get(place, np.zeros(K)))
    return total
