"""Delta: K batched modifications of a model, the only thing that spaces and models share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Delta:
    """K candidates as changes of one frozen model.

    Attributes:
        prompt: soft prompts in the model's input-embedding space, [K, P, D].
    """

    prompt: Tensor

    @property
    def candidates(self) -> int:
        """K."""
        return int(self.prompt.shape[0])

    def slice(self, start: int, stop: int) -> Delta:
        """The candidates start to stop, as views."""
        return Delta(prompt=self.prompt[start:stop])
