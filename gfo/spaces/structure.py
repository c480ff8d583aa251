"""Which parts of a model run: attentions and feed-forward networks, their heads, and their widths."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Protocol

import numpy as np

from gfo.core.delta import Delta
from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError
from gfo.core.recording import recorded
from gfo.core.sub_blocks import SUB_BLOCKS, SubBlock
from gfo.spaces.parts.cuts import Cut, HasParts, HasSize, heads_of, latency_of, milliseconds, widths_of
from gfo.spaces.parts.options import Layers, select_layers

if TYPE_CHECKING:
    from torch import Tensor


class HasSubBlocks(HasParts, Protocol):
    """What the space needs of a model."""

    @property
    def size(self) -> HasSize: ...


@recorded
class Structure:
    """A gene for each sub-block: 0 runs it, 1 closes it, so that it adds nothing to the residual stream.

    As the depth pruning of EvoPress (Sieberling et al. 2025, arXiv:2410.14649), where attention and
    feed-forward networks are dropped apart. The evaluator does not run what is closed, and computes once
    what candidates with the same genes up to a layer share. Behind these genes stand those of heads and
    widths, where they are asked for.

    Args:
        model: a frozen model of `gfo.load_model`: a decoder, or an encoder whose norms stand in front of its
            sub-blocks.
        attention: whether attentions have genes.
        feedforward: whether feed-forward networks have genes.
        layers: None for all, "upper" or "lower" for a half, "last", or their numbers. What lies below the
            lowest is computed once for all candidates.
        closed: the number of sub-blocks that are closed; None for any number. Points with another number are
            repaired: the genes nearest to 1 are closed, of equal ones some that depend on the point alone.
            "ga" exchanges a closed sub-block for an open one.
        heads: "groups" for a gene for each head of keys and values, with which its queries' heads fall;
            "queries" for one for each queries' head, keys and values of all kept. 1 closes it. None, the
            default, for no such genes.
        closed_heads: how many of them are closed; None, the default, for any number.
        widths: shares of its neurons that a feed-forward network may keep, 1 and then less and less: a gene
            for each network, the number of its share. None, the default, for no such genes.
        narrower: the sum of these genes; None for any. Points with another are repaired, step by step.
        calibration: texts on which the norm of what neurons give is measured: those of the least norm fall
            first. By default the norm of the columns that read them says so.
        latency: a JSON file of how long parts take on this machine; it is measured and written where there is
            none. `measure` then has "latency".

    Attributes:
        places: the sub-blocks, a gene each, from the lowest layer to the highest.
        cuts: what has genes behind them, attentions and then feed-forward networks.
        closed: as given.

    Raises:
        GfoError: for a model without such sub-blocks, or a number that there are not.
    """

    def __init__(
        self,
        model: HasSubBlocks,
        *,
        attention: bool = True,
        feedforward: bool = True,
        layers: Layers = None,
        closed: int | None = None,
        heads: str | None = None,
        closed_heads: int | None = None,
        widths: Sequence[float] | None = None,
        narrower: int | None = None,
        calibration: Sequence[str] | None = None,
        latency: str | None = None,
    ) -> None:
        chosen = select_layers(layers, model.layers)
        wanted = dict(zip(SUB_BLOCKS, (attention, feedforward), strict=True))
        self.places = tuple(p for p in model.sub_blocks if p.layer in set(chosen) and wanted[p.kind])
        by_head = heads_of(model, chosen, heads)
        by_width = widths_of(model, chosen, widths, calibration)
        self.cuts: tuple[Cut, ...] = (*by_head, *by_width)
        if not self.places and not self.cuts:
            raise _nothing(model)
        self.closed = closed
        parts = [
            _gates(self.places),
            *(Domain.box(0, cut.high, integer=True, names=cut.names) for cut in self.cuts),
        ]
        domain = Domain.joined([part for part in parts if part is not None])
        starts = np.cumsum([len(self.places), *(len(cut.names) for cut in self.cuts)])
        self._slices = [slice(int(a), int(b)) for a, b in itertools.pairwise(starts)]
        ends = [0, int(starts[0]), int(starts[len(by_head)]), domain.d]
        self.domain = dataclasses.replace(
            domain, exactly=tuple(_groups(domain, ends, (closed, closed_heads, narrower)))
        )
        self.dim = domain.d
        self.first_layer = min(place.layer for place in (*self.places, *(cut.place for cut in self.cuts)))
        self._sizes, self._whole = model.sub_blocks, model.size
        self._latency = latency_of(model, latency, self.cuts, heads)

    def decode(self, z: Tensor) -> Delta:
        """z [K, d] -> gates [K] and factors on the inputs of modules; decode(0) closes nothing.

        Raises:
            GfoError: for a gene that is out of its range, rounded.
        """
        genes = z.detach().round()
        self._check(genes, z)
        runs = 1 - genes.float()
        gate = {place: runs[:, i] for i, place in enumerate(self.places)}
        inputs = {
            cut.module: cut.factors(genes[:, some]) for cut, some in zip(self.cuts, self._slices, strict=True)
        }
        return Delta(gate=gate, input_scale=inputs, first_layer=self.first_layer)

    def repair(self, z: Array) -> Array:
        """z [K, d] -> points that keep to `closed`, `closed_heads` and `narrower`, [K, d]."""
        z = np.array(z, dtype=np.float64)
        for start, stop, number in self.domain.exactly:
            high = self.domain.high[start:stop]
            for row in _wrong(z[:, start:stop], number):
                row[:] = _nearest(row, high, number)
        return z

    def measure(self, z: Array) -> dict[str, Array]:
        """What is left of the model where parts are closed, z [K, d] -> each [K].

        "parameters" and "bytes" in memory, without those of closed sub-blocks (but with the norms in front
        of them), heads and neurons; "multiply_adds" of a token, by its matrices, without attention's products
        of tokens; "keys_and_values", the numbers kept of a token. With `latency`, "latency": milliseconds of
        a forward pass of a row of 128 tokens, the sum of its parts'.
        """
        genes = self.domain.clip(self.repair(z))
        closed = genes[:, : len(self.places)]
        whole = {place: closed[:, i] for i, place in enumerate(self.places)}
        cut_off = {cut: cut.closed(genes[:, some]) for cut, some in zip(self.cuts, self._slices, strict=True)}
        found = {}
        for name, what in MEASURES.items():
            found[name] = np.full(len(genes), float(getattr(self._whole, what)))
            for place, gone in whole.items():
                found[name] -= gone * getattr(self._sizes[place], what)
            for cut, number in cut_off.items():
                found[name] -= number * (1 - whole.get(cut.place, 0.0)) * getattr(cut.size, what)
        if self._latency is not None:
            left = {cut.place: cut.all - number for cut, number in cut_off.items()}
            found["latency"] = milliseconds(self._latency, whole, left, len(genes))
        return found

    def closed_of(self, z: Array) -> list[str]:
        """The names of the genes of a point z [d] that close something, as the domain has them.

        Where it is a width, its share follows, as in "width 3: 0.5".
        """
        genes = self.domain.clip(self.repair(np.asarray(z)[None]))[0]
        found = [str(place) for place, gene in zip(self.places, genes, strict=False) if gene]
        for cut, some in zip(self.cuts, self._slices, strict=True):
            found += cut.said(genes[some])
        return found

    def _check(self, genes: Tensor, z: Tensor) -> None:
        """Raise GfoError for a gene out of its range."""
        high = genes.new_tensor(self.domain.high)
        wrong = (~((genes >= 0) & (genes <= high))).nonzero()
        if len(wrong):
            k, i = wrong[0].tolist()
            names, most = self.domain.names or (), int(self.domain.high[i])
            what = (
                f"0 to {most}, the number of a width"
                if most > 1
                else "0, which runs it, or 1, which closes it"
            )
            raise GfoError(f"z: gene {i} ({names[i]}) of candidate {k} is {float(z[k, i])}; give {what}")


MEASURES = {
    "parameters": "parameters",
    "bytes": "bytes",
    "multiply_adds": "multiply_adds",
    "keys_and_values": "kept",
}
"""What `measure` calls the sizes of the model's parts."""


def _gates(places: Sequence[SubBlock]) -> Domain | None:
    """The genes of sub-blocks; None without any."""
    return Domain.box(0, 1, len(places), integer=True, names=tuple(map(str, places))) if places else None


def _nothing(model: HasSubBlocks) -> GfoError:
    return GfoError(
        f"space: no sub-block of model '{model.name}' is chosen; give attention or feedforward, and "
        "layers that have them"
    )


def _groups(
    domain: Domain, ends: Sequence[int], numbers: Sequence[int | None]
) -> Iterator[tuple[int, int, int]]:
    """`Domain.exactly` of the genes of sub-blocks, heads and widths, which end there.

    Raises:
        GfoError: for a number of which there are not more.
    """
    names = ("closed", "closed_heads", "narrower")
    what = ("{} sub-blocks", "{} heads, or groups of them", "{} steps down in widths")
    for i, number in enumerate(numbers):
        most = int(domain.high[ends[i] : ends[i + 1]].sum())
        if number is not None and not 0 < number < most:
            there = what[i].format(most)
            raise GfoError(f"space: {names[i]} = {number} must be 1 to {most - 1}: there are {there}")
        if number is not None:
            yield ends[i], ends[i + 1], number


def _wrong(z: Array, number: int) -> list[Array]:
    """The rows of z [K, d], as views, whose genes have another sum."""
    return [row for row in z if np.rint(row).sum() != number]


def _nearest(row: Array, high: Array, number: int) -> Array:
    """Whole genes [d] of a sum, near a row's: the highest rise, or the lowest fall, a step at a time."""
    if (high == 1).all():
        order = np.lexsort((_tie_breaks(row), -row))
        return np.isin(np.arange(len(row)), order[:number]).astype(np.float64)
    levels, ties = np.clip(np.rint(row), 0, high), _tie_breaks(row)
    while (lacks := number - levels.sum()) != 0:
        way = np.sign(lacks)
        room = levels < high if way > 0 else levels > 0
        i = np.lexsort((ties, -way * (row - levels), ~room))[0]
        levels[i] += way
    return np.asarray(levels)


def _tie_breaks(row: Array) -> Array:
    """Random numbers [d] that depend on the point alone."""
    seed = int.from_bytes(blake2b(row.tobytes(), digest_size=8).digest(), "little")
    return np.random.default_rng(seed).random(len(row))
