"""The model as it is, as a space: what prompts without training, and trained weights, are evaluated with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gfo.core.delta import Delta
from gfo.core.domain import Domain


class Unchanged:
    """Every point of one dimension is the model as it is: a factor of 1 on one module's outputs.

    The factor makes every token depend on the candidate, so that nothing is kept from step to step, and what
    the rows of a batch begin with in common is computed once a step.

    Args:
        model: a frozen model.
    """

    def __init__(self, model: Any) -> None:
        self.domain = Domain.unbounded(1)
        self._name, info = next(iter(model.linears.items()))
        self._ones = torch.ones(1, info.out_features, device=model.device)

    def decode(self, z: Tensor) -> Delta:
        """z [K, 1] -> K times no change."""
        return Delta(scale={self._name: self._ones.expand(len(z), -1)})
