"""Which sub-blocks of a model run: its attentions and feed-forward networks, each opened or closed."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Protocol

import numpy as np

from gfo.core.delta import Delta
from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError
from gfo.core.recording import recorded
from gfo.core.sub_blocks import SUB_BLOCKS, SubBlock
from gfo.spaces.parts.options import Layers, select_layers

if TYPE_CHECKING:
    from torch import Tensor


class HasSize(Protocol):
    """What is asked of a part of a model: see `gfo.models.sub_blocks.Size`."""

    @property
    def parameters(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def multiply_adds(self) -> int: ...
    @property
    def kept(self) -> int: ...


class HasSubBlocks(Protocol):
    """What the space needs of a model."""

    name: str
    layers: int

    @property
    def sub_blocks(self) -> Mapping[SubBlock, HasSize]: ...

    @property
    def size(self) -> HasSize: ...


@recorded
class Structure:
    """A gene for each sub-block: 0 runs it, 1 closes it, so that it adds nothing to the residual stream.

    As the depth pruning of EvoPress (Sieberling et al. 2025, arXiv:2410.14649), where attention and
    feed-forward networks are dropped apart. The evaluator does not run what is closed, and computes once
    what candidates with the same genes up to a layer share.

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

    Attributes:
        places: the sub-blocks, a gene each, from the lowest layer to the highest.
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
    ) -> None:
        self.places = _places(model, dict(zip(SUB_BLOCKS, (attention, feedforward), strict=True)), layers)
        d = len(self.places)
        if closed is not None and not 0 < closed < d:
            raise GfoError(f"space: closed = {closed} must be 1 to {d - 1}: there are {d} sub-blocks")
        self.closed = closed
        names = tuple(map(str, self.places))
        groups = () if closed is None else ((0, d, closed),)
        self.domain = Domain(np.zeros(d), np.ones(d), np.ones(d, bool), names=names, exactly=groups)
        self.dim, self.first_layer = d, min(place.layer for place in self.places)
        sizes = model.sub_blocks
        self._sizes, self._whole = [sizes[place] for place in self.places], model.size

    def decode(self, z: Tensor) -> Delta:
        """z [K, d], each gene 0 or 1 -> gates [K]; decode(0) closes nothing.

        Raises:
            GfoError: for a gene that is neither, rounded.
        """
        gene = z.detach().round()
        wrong = ((gene != 0) & (gene != 1)).nonzero()
        if len(wrong):
            k, i = wrong[0].tolist()
            raise GfoError(
                f"z: gene {i} ({self.places[i]}) of candidate {k} is {float(z[k, i])}; give 0, which runs "
                "the sub-block, or 1, which closes it"
            )
        runs = 1 - gene.float()
        gate = {place: runs[:, i] for i, place in enumerate(self.places)}
        return Delta(gate=gate, first_layer=self.first_layer)

    def repair(self, z: Array) -> Array:
        """z [K, d] -> points with as many closed as `closed` says, [K, d]."""
        z = np.array(z, dtype=np.float64)
        if self.closed is None:
            return z
        for row in _wrong(z, self.closed):
            order = np.lexsort((_tie_breaks(row), -row))
            row[:] = 0.0
            row[order[: self.closed]] = 1.0
        return z

    def measure(self, z: Array) -> dict[str, Array]:
        """What is left of the model where sub-blocks are closed, z [K, d] -> each [K].

        "parameters" and "bytes" in memory, without those of closed sub-blocks (but with the norms in front
        of them); "multiply_adds" of a token, by its matrices, without attention's products of tokens;
        "keys_and_values", the numbers kept of a token.
        """
        closed = np.rint(self.repair(z))
        found = {}
        for name, what in MEASURES.items():
            each = np.array([getattr(size, what) for size in self._sizes], dtype=np.float64)
            found[name] = getattr(self._whole, what) - closed @ each
        return found

    def closed_of(self, z: Array) -> list[str]:
        """The names of the sub-blocks that a point z [d] closes, as the domain has them."""
        closed = np.rint(self.repair(np.asarray(z)[None]))[0]
        return [str(place) for place, gene in zip(self.places, closed, strict=True) if gene]


MEASURES = {
    "parameters": "parameters",
    "bytes": "bytes",
    "multiply_adds": "multiply_adds",
    "keys_and_values": "kept",
}
"""What `measure` calls the sizes of the model's parts."""


def _places(model: HasSubBlocks, wanted: Mapping[str, bool], layers: Layers) -> tuple[SubBlock, ...]:
    """The sub-blocks of the kinds that are wanted in some layers; GfoError if there are none."""
    chosen = set(select_layers(layers, model.layers))
    found = tuple(place for place in model.sub_blocks if place.layer in chosen and wanted[place.kind])
    if not found:
        raise GfoError(
            f"space: no sub-block of model '{model.name}' is chosen; give attention or feedforward, and "
            "layers that have them"
        )
    return found


def _wrong(z: Array, number: int) -> list[Array]:
    """The rows of z [K, d], as views, of whose genes another number is 1."""
    return [row for row in z if np.rint(row).sum() != number]


def _tie_breaks(row: Array) -> Array:
    """Random numbers [d] that depend on the point alone."""
    seed = int.from_bytes(blake2b(row.tobytes(), digest_size=8).digest(), "little")
    return np.random.default_rng(seed).random(len(row))
