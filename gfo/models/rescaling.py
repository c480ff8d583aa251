"""Factors that can be moved from the columns of linear modules into what stands in front of them.

Where x enters a linear module, W x = (W diag(s)) (x / s): the columns may be multiplied by s if what gives x
is divided by it. A norm's gain, an up projection's rows (a gated product is linear in them) and the rows of
the values (attention is linear in them) can be. The function stays what it was.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gfo.models.families import RESCALED_FAMILIES, RESCALED_PLACES, RESCALED_VALUES
from gfo.models.structure import names_of

if TYPE_CHECKING:
    from gfo.models.frozen import FrozenModel


@dataclass(frozen=True)
class Rescaling:
    """A place where factors may be moved.

    Attributes:
        source: the module whose outputs are divided by s [n]: a norm, or a linear module.
        into: linear modules that get these outputs; their columns are multiplied.
        heads: (key heads, queries' heads of each, a head's size) where `into` gets the values of key heads,
            each once for every queries' head of its group; else None.
    """

    source: str
    into: tuple[str, ...]
    heads: tuple[int, int, int] | None = None

    def columns(self, s: Tensor) -> Tensor:
        """Factors [n] of the source's outputs -> those of the columns [in]."""
        if self.heads is None:
            return s
        keys, group, size = self.heads
        return s.view(keys, 1, size).expand(keys, group, size).reshape(-1)

    def reduced(self, squares: Tensor) -> Tensor:
        """Mean squares of the columns' inputs [in] -> those of the source's outputs [n]."""
        return squares if self.heads is None else squares.view(self.heads).mean(dim=1).flatten()


def find_rescalings(model: FrozenModel) -> tuple[Rescaling, ...]:
    """The places of a decoder of a known family (see `families`), layer by layer; none of others."""
    if model.config.model_type not in RESCALED_FAMILIES:
        return ()
    keys = int(model.config.num_key_value_heads)
    names = names_of(model.module)
    found = []
    for layer in model.all_layers:
        at = names[id(layer)]
        values = model.linears[f"{at}.self_attn.v_proj"].out_features // keys
        group = model.linears[f"{at}.self_attn.o_proj"].in_features // (keys * values)
        for source, into in RESCALED_PLACES.items():
            heads = (keys, group, values) if source == RESCALED_VALUES else None
            found.append(Rescaling(f"{at}.{source}", tuple(f"{at}.{name}" for name in into), heads))
    return tuple(found)


@torch.no_grad()
def rescaled(model: FrozenModel, factors: Mapping[str, Tensor]) -> Any:
    """A copy of the transformers model with factors moved, which computes the same.

    Args:
        model: a frozen model; unchanged.
        factors: source -> s [n].
    """
    twin = copy.deepcopy(model.module)
    for place in find_rescalings(model):
        if place.source in factors:
            s = factors[place.source].to(model.device, torch.float32)
            source: Any = twin.get_submodule(place.source)
            _multiply(source, 1 / s, dim=0)
            for name in place.into:
                _multiply(twin.get_submodule(name), place.columns(s), dim=1)
    return twin


def _multiply(part: Any, by: Tensor, dim: int) -> None:
    """Multiply a weight's rows (with the bias) or columns, in place; of a norm its gain."""
    weight: nn.Parameter = part.weight
    weight.copy_(weight.float() * (by[:, None] if weight.ndim == 2 and dim == 0 else by))
    if dim == 0 and getattr(part, "bias", None) is not None:
        part.bias.copy_(part.bias.float() * by)
