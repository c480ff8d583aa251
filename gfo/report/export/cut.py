"""Closed heads and neurons in a folder of the model: left out where as many are in each layer, else zeros.

A family's config says one number of heads and one of neurons for all layers. Whether it can say another one
than the model has is tried, as with layers that are left out.
"""

from __future__ import annotations

import functools
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

    def beside(self, other: Smaller) -> Smaller:
        """Both left out."""
        return Smaller({**self.kept, **other.kept}, {**self.config, **other.config})

    def put(self, twin: Any, model: FrozenModel) -> None:
        """Leave the parts out of a copy of the model, and its config."""
        for place, kept in self.kept.items():
            shrink(twin, model, place, kept)
        config = twin.config.get_text_config(decoder=True)
        for name, number in self.config.items():
            setattr(config, name, number)


def cut_parts(delta: Delta, model: FrozenModel) -> dict[SubBlock, Tensor]:
    """Sub-block -> which inputs of its last matrix a single candidate keeps, bool, where some are closed."""
    if not delta.input_scale:
        return {}
    places = {name: place for place, name in model.last_matrices.items()}
    closed = {name: factors[0] for name, factors in delta.input_scale.items() if _closes(factors[0])}
    return {places[name]: factors > 0 for name, factors in closed.items() if name in places}


def _closes(factors: Tensor) -> bool:
    """Whether factors are zeros and ones, and some of them zeros."""
    zeros = (factors == 0) | (factors == 1)
    return bool(zeros.all()) and not bool(factors.all())


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
    there = [place for place in model.last_matrices if place.layer not in removed]
    kinds = sorted({place.kind for place in parts}, key=SUB_BLOCKS.index)
    tried = [_of_kind(kind, model, there, parts, closed) for kind in kinds]
    found = [some for some in tried if some.kept]
    for i in range(len(found)):
        yield functools.reduce(Smaller.beside, found[i:])
    yield Smaller()


def _of_kind(
    kind: str,
    model: FrozenModel,
    there: Sequence[SubBlock],
    parts: Mapping[SubBlock, Tensor],
    closed: Sequence[SubBlock],
) -> Smaller:
    """What of the sub-blocks of a kind can be left out; nothing where heads are fused, or unknown."""
    places = [place for place in there if place.kind == kind]
    if not places:
        return Smaller()
    try:
        return WAYS[kind](model, places, parts, closed)
    except GfoError:
        return Smaller()


def _neurons(
    model: FrozenModel,
    places: Sequence[SubBlock],
    parts: Mapping[SubBlock, Tensor],
    closed: Sequence[SubBlock],
) -> Smaller:
    """The neurons that are left, where they are as many in each network."""
    sizes = {place: model.linears[model.last_matrices[place]].in_features for place in places}
    bound = _bound(sizes, parts, closed)
    numbers = {int(which.sum()) for which in bound.values()}
    if len(numbers) != 1 or numbers <= set(sizes.values()):
        return Smaller()
    number = numbers.pop()
    free = {place: torch.arange(size) < number for place, size in sizes.items()}
    names = [name for name in NEURONS_IN_CONFIG if hasattr(model.config, name)]
    return Smaller({**free, **bound}, dict.fromkeys(names, number))


def _heads(
    model: FrozenModel,
    places: Sequence[SubBlock],
    parts: Mapping[SubBlock, Tensor],
    closed: Sequence[SubBlock],
) -> Smaller:
    """The heads that are left, where they are as many in each attention."""
    heads = {place: heads_of(model, place) for place in places}
    bound = _bound({place: some.queries for place, some in heads.items()}, parts, closed)
    numbers = {evenly(which, heads[place]) for place, which in bound.items()}
    first = heads[places[0]]
    left = next(iter(numbers), None)
    if len(numbers) != 1 or left is None or left == (first.groups, first.queries // first.groups):
        return Smaller()
    groups, queries = left
    some = torch.arange(first.queries).view(first.groups, -1)
    free = ((some // some.shape[1] < groups) & (some % some.shape[1] < queries)).flatten()
    has = {"queries": groups * queries, "groups": groups}
    config = {name: has[what] for name, what in HEADS_IN_CONFIG.items() if hasattr(model.config, name)}
    return Smaller(dict.fromkeys(places, free) | bound, config | {HEAD_WIDTH_IN_CONFIG: first.width})


WAYS = dict(zip(SUB_BLOCKS, (_heads, _neurons), strict=True))


def _bound(
    numbers: Mapping[SubBlock, int], parts: Mapping[SubBlock, Tensor], closed: Sequence[SubBlock]
) -> dict[SubBlock, Tensor]:
    """Sub-block -> which of its heads, or neurons, are open, bool, where just these must be kept."""
    whole = {place: torch.ones(number, dtype=torch.bool) for place, number in numbers.items()}
    opened = {place: parts.get(place, every).view(len(every), -1)[:, 0] for place, every in whole.items()}
    return {place: some for place, some in opened.items() if place not in closed and bool(some.any())}


def notes_on_cuts(parts: Mapping[SubBlock, Tensor], left_out: Smaller) -> list[str]:
    """What to mind of closed heads and neurons that are still there."""
    zeros = {place.kind for place in parts.keys() - left_out.kept.keys()}
    words = {SUB_BLOCKS[0]: "heads", SUB_BLOCKS[1]: "neurons"}
    kinds = [word for kind, word in words.items() if kind in zeros]
    if not kinds:
        return []
    return [f"closed {' and '.join(kinds)} are zeros, which take their room"]
