"""Sub-blocks of a copy of a model that are really smaller: matrices without closed heads and neurons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gfo.core.errors import GfoError
from gfo.core.sub_blocks import SUB_BLOCKS, SubBlock
from gfo.models.families import HEADS_OF_ATTENTION
from gfo.models.structure import names_of
from gfo.models.units import Heads, heads_of, matrices_of
from gfo.models.weights import is_transposed, linear_sizes, weight_of


def evenly(kept: Tensor, heads: Heads) -> tuple[int, int] | None:
    """(groups, queries' heads of each) that are left of an attention, or None if groups keep unequal numbers.

    Args:
        kept: which of its queries' heads are left, bool [queries].
        heads: of the attention.
    """
    numbers = kept.view(heads.groups, -1).sum(dim=1)
    left = {int(number) for number in numbers if number > 0}
    return (int((numbers > 0).sum()), left.pop()) if len(left) == 1 else None


@torch.no_grad()
def shrink(twin: Any, model: Any, place: SubBlock, kept: Tensor) -> None:
    """Leave heads or neurons out of a sub-block of a copy of the model.

    Args:
        twin: the copy, or one of the module under `under`.
        model: the frozen model that it is a copy of.
        place: the sub-block.
        kept: which of the queries' heads, or neurons, are left, bool.

    Raises:
        GfoError: where the matrices are not those of queries, keys and values apart, or of neurons.
    """
    names = names_of(model.module)
    last = model.last_matrices[place]
    columns, rows = _kept(model, place, kept)
    for part in matrices_of(model, place):
        name, out = names[id(part)], (linear_sizes(part) or (0, 0))[1]
        if name == last:
            _keep(twin.get_submodule(name), columns, of_rows=False)
        elif out in rows:
            _keep(twin.get_submodule(name), rows[out], of_rows=True)
        else:
            raise GfoError(
                f"model '{model.name}': '{name}' of {place} gives {out} numbers, of unknown heads or neurons;"
                " leave heads and widths out"
            )


def tell_heads(part: nn.Module, groups: int, queries: int) -> None:
    """Tell an attention how many heads it has now, where it keeps such numbers."""
    numbers = {"queries": groups * queries, "groups": groups, "ratio": queries}
    for name, what in HEADS_OF_ATTENTION.items():
        if isinstance(getattr(part, name, None), int):
            setattr(part, name, numbers[what])


def _kept(model: Any, place: SubBlock, kept: Tensor) -> tuple[Tensor, Mapping[int, Tensor]]:
    """The columns of the last matrix that are left, and outputs of a matrix -> its rows that are."""
    if place.kind == SUB_BLOCKS[1]:
        columns = kept.nonzero().flatten()
        return columns, {len(kept): columns}
    heads = heads_of(model, place)
    groups = kept.view(heads.groups, -1).any(dim=1)
    columns, keys = (some.repeat_interleave(heads.width).nonzero().flatten() for some in (kept, groups))
    return columns, {heads.groups * heads.width: keys, heads.queries * heads.width: columns}


def _keep(part: Any, index: Tensor, *, of_rows: bool) -> None:
    """Keep some rows or columns of a linear module's weight, and rows of its bias."""
    weight = weight_of(part)[index] if of_rows else weight_of(part)[:, index]
    transposed = is_transposed(part)
    part.weight = nn.Parameter((weight.T if transposed else weight).contiguous(), requires_grad=False)
    if of_rows and part.bias is not None:
        part.bias = nn.Parameter(part.bias[index].clone(), requires_grad=False)
    out, inputs = weight.shape
    names = {"nf": out, "nx": inputs} if transposed else {"out_features": out, "in_features": inputs}
    for name, number in names.items():
        setattr(part, name, number)
