"""Several spaces at once, and the blocks that a space's dimensions fall into."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gfo.core.delta import Delta
from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError
from gfo.core.protocols import Measuring, Repairing, SearchSpace
from gfo.core.recording import recorded
from gfo.core.slots import Slot

if TYPE_CHECKING:
    from torch import Tensor


@recorded
class ProductSpace:
    """Spaces side by side: z is cut into theirs, and their changes act together.

    Args:
        spaces: two or more, made for one model.

    Attributes:
        blocks: the dimensions of each space, cut further where it has blocks of its own: sizes for the
            optimizer "blockwise".

    It has `measure`, and `repair`, where one of its spaces has: sums of what those of them give that do.

    Raises:
        GfoError: if two spaces change the same thing, have soft prompts (or prefixes) of unequal length, or
            change modules from different places on.
    """

    def __init__(self, *spaces: SearchSpace) -> None:
        import torch

        if len(spaces) < 2:
            raise GfoError(f"ProductSpace: {len(spaces)} spaces given; give two or more")
        self.spaces = spaces
        self.domain = joined([space.domain for space in spaces])
        self.dim = self.domain.d
        self.blocks = tuple(block for space in spaces for block in blocks_of(space))
        self._sizes = [space.domain.d for space in spaces]
        if any(isinstance(space, Measuring) for space in spaces):
            self.measure = self._measured
        if any(isinstance(space, Repairing) for space in spaces):
            self.repair = self._repaired
        _check([space.decode(torch.zeros(1, space.domain.d)) for space in spaces])

    def decode(self, z: Tensor) -> Delta:
        """z [K, d] -> K candidates; differentiable where the spaces are; decode(0) is where all start."""
        import torch

        parts = zip(self.spaces, torch.split(z, self._sizes, dim=1), strict=True)
        deltas = [space.decode(part) for space, part in parts]
        places: dict[type[Slot], dict[Any, Any]] = {}
        for slot in _slots(deltas):
            places.setdefault(type(slot), {}).update(slot.at)
        slots = (kind(at) for kind, at in places.items())
        begins = next((delta.begins for delta in deltas if delta.begins), None)
        return Delta(*slots, first_layer=min(delta.first_layer for delta in deltas), begins=begins)

    def _parts(self, z: Array) -> list[Array]:
        """The spaces' parts of points [K, d]."""
        return np.split(z, np.cumsum(self._sizes)[:-1], axis=1)

    def _measured(self, z: Array) -> dict[str, Array]:
        """See `gfo.core.protocols.Measuring`."""
        found: dict[str, Array] = {}
        for space, part in zip(self.spaces, self._parts(z), strict=True):
            for name, values in space.measure(part).items() if isinstance(space, Measuring) else ():
                found[name] = found[name] + values if name in found else values
        return found

    def _repaired(self, z: Array) -> Array:
        """See `gfo.core.protocols.Repairing`."""
        return np.hstack(
            [
                space.repair(part) if isinstance(space, Repairing) else part
                for space, part in zip(self.spaces, self._parts(z), strict=True)
            ]
        )


def joined(domains: Sequence[Domain]) -> Domain:
    """Domains one behind the other."""
    return Domain.joined(domains)


def blocks_of(space: SearchSpace) -> tuple[int, ...]:
    """Sizes of the consecutive blocks of a space's dimensions, for the optimizer "blockwise".

    One a layer for `DeepPrompt`, one a space (or more) for `ProductSpace`, else one.
    """
    return tuple(getattr(space, "blocks", (space.domain.d,)))


def _check(deltas: list[Delta]) -> None:
    """Raise GfoError for Deltas that cannot be merged."""
    _check_places(deltas)
    _check_lengths(deltas)
    _check_begins(deltas)


def _slots(deltas: list[Delta]) -> Iterator[Slot]:
    """What the Deltas change, one behind the other."""
    return itertools.chain.from_iterable(delta.slots for delta in deltas)


def _check_places(deltas: list[Delta]) -> None:
    """Raise GfoError for two that change the same thing."""
    seen: dict[type[Slot], set[Any]] = {}
    for slot in _slots(deltas):
        places = seen.setdefault(type(slot), set())
        twice = sorted(places & set(slot.at))
        if twice:
            raise GfoError(f"ProductSpace: two spaces change the {slot.name} of {twice[0]!r}; {slot.remedy}")
        places |= set(slot.at)


def _check_lengths(deltas: list[Delta]) -> None:
    """Raise GfoError for prompts, or prefixes, of unequal length."""
    for what in ("prompt_tokens", "prefix_tokens"):
        lengths = sorted({getattr(delta, what) for delta in deltas} - {0})
        if len(lengths) > 1:
            raise GfoError(f"ProductSpace: {what} are {lengths}; give all spaces the same number of tokens")


def _check_begins(deltas: list[Delta]) -> None:
    """Raise GfoError for modules that are changed from different places on."""
    begins = {delta.begins for delta in deltas if delta.modules}
    if len(begins) > 1:
        found = sorted("the start" if begin is None else begin.place for begin in begins)
        raise GfoError(
            f"ProductSpace: begins differs, {' and '.join(found)}; give all spaces of modules the same place"
        )
