"""Closed heads and neurons in a folder of the model: left out where as many are in each layer, else zeros.

A family's config says one number of heads and one of neurons for all layers. Whether it can say another one
than the model has is tried, as with layers that are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gfo.core.delta import Delta
from gfo.core.errors import GfoError
from gfo.core.sub_blocks import SUB_BLOCKS, SubBlock
from gfo.models.families import HEAD_WIDTH_IN_CONFIG, HEADS_IN_CONFIG, NEURONS_IN_CONFIG
from gfo.models.shrinking import evenly, shrink
from gfo.models.units import heads_of

if TYPE_CHECKING:
    from gfo.models.frozen import FrozenModel


@dataclass(frozen=True)
class Smaller:
    """What is left out of all layers alike.

    Attributes:
        kept: sub-block -> the queries' heads, or neurons, that it keeps, bool.
        config: what the config says then.
    """

    kept: Mapping[SubBlock, Tensor] = field(default_factory=dict)
    config: Mapping[str, int] = field(default_factory=dict)

    def put(self, twin: Any, model: FrozenModel) -> None:
        """Leave the parts out of a copy of the model, and its config."""
        for place, kept in self.kept.items():
            shrink(twin, model, place, kept)
        config = twin.config.get_text_config(decoder=True)
        for name, number in self.config.items():
            setattr(config, name, number)


def cut_parts(delta: Delta, model: FrozenModel) -> dict[SubBlock, Tensor]:
    """Sub-block -> which inputs of its last matrix a single candidate keeps, bool, where some are closed."""
    places = {name: place for place, name in model.last_matrices.items()} if delta.input_scale else {}
    found = {}
    for name, factors in delta.input_scale.items():
        zeros = (factors[0] == 0) | (factors[0] == 1)
        if name in places and bool(zeros.all()) and not bool(factors[0].all()):
            found[places[name]] = factors[0] > 0
    return found


def smaller(
    model: FrozenModel, parts: Mapping[SubBlock, Tensor], closed: Sequence[SubBlock], removed: Sequence[int]
) -> Iterator[Smaller]:
    """What can be left out of all layers that stay: heads and neurons, neurons alone, nothing.

    Args:
        model: the frozen model.
        parts: see `cut_parts`.
        closed: sub-blocks that are closed as a whole, and so may keep any number.
        removed: layers that are left out.
    """
    found = []
    for kind, of_kind in zip(SUB_BLOCKS, (_heads, _neurons), strict=True):
        places = [place for place in model.last_matrices if place.kind == kind and place.layer not in removed]
        if any(place.kind == kind for place in parts) and places:
            try:
                found.append(of_kind(model, places, parts, closed))
            except GfoError:  # of a family whose heads are fused, or unknown
                continue
    found = [some for some in found if some.kept]
    for i in range(len(found)):
        kept = {place: which for some in found[i:] for place, which in some.kept.items()}
        yield Smaller(kept, {name: n for some in found[i:] for name, n in some.config.items()})
    yield Smaller()


def _neurons(
    model: FrozenModel,
    places: Sequence[SubBlock],
    parts: Mapping[SubBlock, Tensor],
    closed: Sequence[SubBlock],
) -> Smaller:
    """The neurons that are left, where they are as many in each network."""
    sizes = {place: model.linears[model.last_matrices[place]].in_features for place in places}
    whole = {place: parts.get(place, torch.ones(size, dtype=torch.bool)) for place, size in sizes.items()}
    bound = [place for place in places if place not in closed and bool(whole[place].any())]
    numbers = {int(whole[place].sum()) for place in bound}
    if len(numbers) != 1 or numbers <= set(sizes.values()):
        return Smaller()
    number = numbers.pop()
    kept = {
        place: whole[place] if place in bound else torch.arange(sizes[place]) < number for place in places
    }
    names = [name for name in NEURONS_IN_CONFIG if hasattr(model.config, name)]
    return Smaller(kept, dict.fromkeys(names, number))


def _heads(
    model: FrozenModel,
    places: Sequence[SubBlock],
    parts: Mapping[SubBlock, Tensor],
    closed: Sequence[SubBlock],
) -> Smaller:
    """The heads that are left, where they are as many in each attention."""
    heads = {place: heads_of(model, place) for place in places}
    whole = {
        place: parts[place].view(some.queries, -1)[:, 0]
        if place in parts
        else torch.ones(some.queries).bool()
        for place, some in heads.items()
    }
    bound = [place for place in places if place not in closed and bool(whole[place].any())]
    numbers = {evenly(whole[place], heads[place]) for place in bound}
    first = heads[places[0]]
    left = next(iter(numbers), None)
    if len(numbers) != 1 or left is None or left == (first.groups, first.queries // first.groups):
        return Smaller()
    groups, queries = left
    some = torch.arange(first.queries).view(first.groups, -1)
    free = ((some // some.shape[1] < groups) & (some % some.shape[1] < queries)).flatten()
    kept = {place: whole[place] if place in bound else free for place in places}
    has = {"queries": groups * queries, "groups": groups}
    config = {name: has[what] for name, what in HEADS_IN_CONFIG.items() if hasattr(model.config, name)}
    return Smaller(kept, config | {HEAD_WIDTH_IN_CONFIG: first.width})


def notes_on_cuts(parts: Mapping[SubBlock, Tensor], left_out: Smaller) -> list[str]:
    """What to mind of closed heads and neurons that are still there."""
    zeros = [place for place in parts if place not in left_out.kept]
    words = {SUB_BLOCKS[0]: "heads", SUB_BLOCKS[1]: "neurons"}
    kinds = [word for kind, word in words.items() if any(place.kind == kind for place in zeros)]
    if not kinds:
        return []
    return [f"closed {' and '.join(kinds)} are zeros, which take their room"]
