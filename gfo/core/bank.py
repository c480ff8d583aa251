"""A few weights of one module that all candidates share, such as its levels of quantization."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from torch import Tensor


class Bank:
    """M weights [out, in] of one module, each made when it is first asked for, and kept.

    It has no axis of candidates: what belongs to those is the choice beside it, see `gfo.core.slots.Banks`.

    Args:
        make: m -> the weight m, a tensor [out, in] on the model's device and in its dtype, always the same.
        size: M.
        shape: (out, in).
    """

    def __init__(self, make: Callable[[int], Tensor], size: int, shape: tuple[int, int]) -> None:
        self.make, self.size, self.shape = make, size, shape
        self._made: dict[int, Tensor] = {}

    @classmethod
    def of(cls, weights: Tensor) -> Self:
        """The bank of weights that are there, [M, out, in]."""
        M, out, columns = weights.shape
        return cls(weights.__getitem__, M, (out, columns))

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, m: int) -> Tensor:
        """The weight m, [out, in], and no copy of it."""
        if m not in self._made:
            self._made[m] = self.make(m)
        return self._made[m]

    def mixed(self, shares: Tensor) -> Tensor:
        """sum_m shares[m] W_m, [out, in], of shares [M]; a weight itself where its share is 1 and alone."""
        found = shares.nonzero().flatten().tolist()
        if len(found) == 1 and shares[found[0]] == 1:
            return self[found[0]]
        parts = [shares[m] * self[m] for m in found] or [0 * self[0]]
        return sum(parts[1:], parts[0])
