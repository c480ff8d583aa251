"""Several spaces at once, and the blocks that a space's dimensions fall into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from gfo.core.delta import Delta
from gfo.core.domain import Domain
from gfo.core.errors import GfoError
from gfo.core.protocols import SearchSpace
from gfo.core.recording import recorded

if TYPE_CHECKING:
    from torch import Tensor

SLOTS = [field.name for field in fields(Delta) if field.name not in ("prompt", "first_layer")]


@recorded
class ProductSpace:
    """Spaces side by side: z is cut into theirs, and their changes act together.

    Args:
        spaces: two or more, made for one model.

    Attributes:
        blocks: the dimensions of each space, cut further where it has blocks of its own: sizes for the
            optimizer "blockwise".

    Raises:
        GfoError: if two spaces change the same thing, or have soft prompts (or prefixes) of unequal length.
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
        _check([space.decode(torch.zeros(1, space.domain.d)) for space in spaces])

    def decode(self, z: Tensor) -> Delta:
        """z [K, d] -> K candidates; differentiable where the spaces are; decode(0) is where all start."""
        import torch

        parts = zip(self.spaces, torch.split(z, self._sizes, dim=1), strict=True)
        deltas = [space.decode(part) for space, part in parts]
        slots: dict[str, Any] = {
            slot: {name: value for delta in deltas for name, value in getattr(delta, slot).items()}
            for slot in SLOTS
        }
        prompt = next((delta.prompt for delta in deltas if delta.prompt is not None), None)
        return Delta(prompt=prompt, first_layer=min(delta.first_layer for delta in deltas), **slots)


def joined(domains: Sequence[Domain]) -> Domain:
    """Domains one behind the other."""
    parts = [(domain.low, domain.high, domain.integer) for domain in domains]
    return Domain(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def blocks_of(space: SearchSpace) -> tuple[int, ...]:
    """Sizes of the consecutive blocks of a space's dimensions, for the optimizer "blockwise".

    One a layer for `DeepPrompt`, one a space (or more) for `ProductSpace`, else one.
    """
    return tuple(getattr(space, "blocks", (space.domain.d,)))


def _check(deltas: list[Delta]) -> None:
    """Raise GfoError for Deltas that cannot be merged."""
    if sum(delta.prompt is not None for delta in deltas) > 1:
        raise GfoError(
            "ProductSpace: two spaces have a soft prompt; keep one (DeepPrompt moves its own at layer 0)"
        )
    for slot in SLOTS:
        seen: set[Any] = set()
        for delta in deltas:
            names: Mapping[Any, Any] = getattr(delta, slot)
            twice = sorted(seen & set(names))
            if twice:
                raise GfoError(
                    f"ProductSpace: two spaces change the {slot} of {twice[0]!r}; give them different "
                    "targets or layers"
                )
            seen |= set(names)
    for what in ("prompt_tokens", "prefix_tokens"):
        lengths = sorted({getattr(delta, what) for delta in deltas} - {0})
        if len(lengths) > 1:
            raise GfoError(f"ProductSpace: {what} are {lengths}; give all spaces the same number of tokens")
