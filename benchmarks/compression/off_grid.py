"""The built-in model off the grid of the 4-bit file that it came from, by a rescaling that keeps its logits.

On the grid Q4_1 would be lossless, and every limit above 0.588 of Q8_0's bytes trivial.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from gfo.models.loading import freeze
from gfo.models.rescaling import find_rescalings, rescaled

if TYPE_CHECKING:
    from gfo.models.frozen import FrozenModel

SPREAD = 0.15


def off_grid(model: FrozenModel, seed: int = 0, spread: float = SPREAD) -> FrozenModel:
    """The model with columns of q, k, v, gate, up, down and o multiplied by exp(spread n), n ~ N(0, 1).

    Norms' gains, rows of up and rows of v are divided by the same, so that its logits stay.
    """
    rng = torch.Generator().manual_seed(seed)
    factors = {}
    for place in find_rescalings(model):
        source = model.module.get_submodule(place.source).weight
        factors[place.source] = (spread * torch.randn(len(source), generator=rng)).exp()
    return freeze(rescaled(model, factors), model.tokenizer, f"{model.name}-off-grid")
