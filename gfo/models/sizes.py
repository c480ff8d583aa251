"""How large parts of a model are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor


class Size(NamedTuple):
    """How large a part of a model is.

    Attributes:
        parameters: of its modules.
        bytes: that they take in memory.
        multiply_adds: of a token: the parameters that are in matrices (of routed experts all of them).
        kept: numbers that are kept of a token where its keys and values are; 0 where none are.
    """

    parameters: int
    bytes: int
    multiply_adds: int
    kept: int = 0

    @classmethod
    def of(cls, tensors: Iterable[Tensor], kept: int = 0) -> Size:
        """Of parameters, each of which counts once."""
        own = list({id(t): t for t in tensors}.values())
        matrices = sum(t.numel() for t in own if t.ndim > 1)
        return cls(sum(t.numel() for t in own), sum(t.nbytes for t in own), matrices, kept)
