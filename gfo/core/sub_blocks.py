"""Sub-blocks of a model's layers, and the slot that opens and closes them."""

from __future__ import annotations

from typing import NamedTuple

from gfo.core.errors import GfoError
from gfo.core.slots import HasParts, Slot

SUB_BLOCKS = ("attention", "feed-forward")


class SubBlock(NamedTuple):
    """A part of a layer whose output is added to the residual stream: its attention or feed-forward network.

    Attributes:
        layer: counted from 0.
        kind: "attention" or "feed-forward".
    """

    layer: int
    kind: str

    def __str__(self) -> str:
        return f"{self.kind} {self.layer}"


class Gates(Slot, name="gate"):
    """`SubBlock` -> [K], 1 for candidates that run it, 0 where it adds nothing to the residual stream.

    With it closed, a branch's norms behind the sub-block go, too.
    """

    everywhere = True
    at_rest = 1.0
    remedy = "give them different layers, or one attention and the other feed-forward networks"

    @property
    def lasting(self) -> bool:
        """True."""
        return True

    def touched(self, model: HasParts) -> list[int]:
        """The layers that change."""
        return [place.layer for place in self.at]

    def check(self, model: HasParts) -> None:
        """Raise GfoError for a sub-block that the model lacks."""
        for place in self.at:
            if place not in model.sub_blocks:
                raise GfoError(
                    f"Delta: a gate of {tuple(place)}, but '{model.name}' has the sub-blocks "
                    f"{', '.join(SUB_BLOCKS)} of layers 0 to {model.layers - 1}; give one of them"
                )
