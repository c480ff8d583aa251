"""Equal parts of a sub-block: heads of an attention, neurons of a feed-forward network.

What a part is follows from sizes alone: the last matrix of a sub-block reads the outputs of heads, or
neurons, one behind the other. Beside its columns, the rows of the other matrices fall that give them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gfo.core.errors import GfoError
from gfo.core.sub_blocks import SUB_BLOCKS, SubBlock
from gfo.models.families import sub_block_of
from gfo.models.sizes import Size
from gfo.models.structure import hooked, names_of
from gfo.models.weights import is_quantized, linear_sizes


class Units(NamedTuple):
    """Equal parts of a sub-block that can be closed one by one.

    Attributes:
        module: the linear module that reads them, one behind the other.
        number: how many there are.
        size: of one.
    """

    module: str
    number: int
    size: Size


class Heads(NamedTuple):
    """How many heads an attention has.

    Attributes:
        queries: heads that have queries.
        groups: heads that have keys and values, each for as many queries' heads.
        width: numbers of each.
    """

    queries: int
    groups: int
    width: int


def units_of(model: Any, place: SubBlock, kind: str) -> Units:
    """The parts of a sub-block: "groups" of heads under a key and value, "queries" heads, or "neurons".

    Raises:
        GfoError: for a sub-block without a last matrix, or of other matrices than those of heads or neurons.
    """
    name = model.last_matrices.get(place)
    if name is None:
        raise _unknown(model, place, "no matrix gives its output")
    last: Any = model.module.get_submodule(name)
    others = _before(model, place, last)
    if kind == "neurons":
        return _neurons(model, place, name, last, others)
    heads = heads_of(model, place)
    number = heads.groups if kind == "groups" else heads.queries
    size = _share(Size.of([last.weight]), number)
    if kind == "queries":  # keys and values stay
        first = others[0]
        return Units(
            name, number, _sum(size, _share(Size.of(first.parameters()), _sizes(first)[1], heads.width))
        )
    size = _sum(size, *(_share(Size.of(part.parameters()), number) for part in others))
    return Units(name, number, size._replace(kept=2 * heads.width if model.contexts else 0))


def heads_of(model: Any, place: SubBlock) -> Heads:
    """The heads of an attention.

    Raises:
        GfoError: if its matrices are not those of queries, keys and values of so many heads.
    """
    name, (queries, groups) = model.last_matrices.get(place), _heads_named(model.config)
    if name is None or not queries or queries % groups:
        raise _unknown(model, place, "its heads are not known")
    last = model.module.get_submodule(name)
    width, rest = divmod(_sizes(last)[0], queries)
    out = sum(_sizes(part)[1] for part in _before(model, place, last))
    if rest or out != (queries + 2 * groups) * width:
        raise _unknown(model, place, f"its matrices give {out} numbers, not those of {queries} heads")
    return Heads(queries, groups, width)


def _heads_named(config: Any) -> tuple[int, int]:
    """How many heads a config says that queries have, and keys and values; 0 where it says nothing."""
    queries = int(getattr(config, "num_attention_heads", 0) or 0)
    return queries, int(getattr(config, "num_key_value_heads", None) or queries)


def _neurons(model: Any, place: SubBlock, name: str, last: Any, others: list[nn.Module]) -> Units:
    """The neurons of a feed-forward network."""
    number = _sizes(last)[0]
    if not others or any(_sizes(part)[1] % number for part in others):
        raise _unknown(model, place, f"its matrices do not give {number} neurons")
    parts = [Size.of([last.weight]), *(Size.of(part.parameters()) for part in others)]
    return Units(name, number, _sum(*(_share(part, number) for part in parts)))


def matrices_of(model: Any, place: SubBlock) -> list[nn.Module]:
    """The linear modules of a sub-block."""
    modules = sub_block_of(model.all_layers[place.layer], place.kind) or ()
    return list({id(part): part for module in modules for part in _linears(module)}.values())


def _before(model: Any, place: SubBlock, last: nn.Module) -> list[nn.Module]:
    """The linear modules of a sub-block without its last one."""
    return [part for part in matrices_of(model, place) if part is not last]


def networks_of(model: Any) -> dict[str, tuple[str, ...]]:
    """The last matrix of each feed-forward network -> those that give its neurons, as many each."""
    names = names_of(model.module)
    networks = {place: last for place, last in model.last_matrices.items() if place.kind == SUB_BLOCKS[1]}
    givers = {last: _giving_neurons(model, place, last) for place, last in networks.items()}
    return {last: tuple(names[id(part)] for part in before) for last, before in givers.items() if before}


def _giving_neurons(model: Any, place: SubBlock, name: str) -> list[nn.Module]:
    """The matrices that give a network's neurons, as many each; none where it is other or quantized."""
    last = model.module.get_submodule(name)
    before = _before(model, place, last)
    alike = all(_sizes(part)[1] == _sizes(last)[0] for part in before)
    return before if alike and not any(map(is_quantized, matrices_of(model, place))) else []


def _sizes(part: nn.Module) -> tuple[int, int]:
    """(in, out) of a linear module."""
    return linear_sizes(part) or (0, 0)


def _share(size: Size, number: int, parts: int = 1) -> Size:
    """What so many of a number of equal parts are of a size."""
    return Size(*(parts * total // number for total in size))


def _sum(*sizes: Size) -> Size:
    """Sizes together."""
    return Size(*map(sum, zip(*sizes, strict=True)))


def _unknown(model: Any, place: SubBlock, why: str) -> GfoError:
    """The error for a sub-block whose parts are not known."""
    what, option = ("heads", "heads") if place.kind == SUB_BLOCKS[0] else ("neurons", "widths")
    return GfoError(
        f"model '{model.name}': {why} in {place}, so that its {what} cannot be closed; leave {option} out"
    )


@torch.no_grad()
def last_matrices(model: Any) -> dict[SubBlock, str]:
    """Sub-block -> the name of the linear module whose output is the sub-block's, found by running it."""
    names = names_of(model.module)
    ends: dict[SubBlock, nn.Module] = {}
    for place in model.sub_blocks:
        if modules := sub_block_of(model.all_layers[place.layer], place.kind):
            ends[place] = modules[-1]
    seen = _outputs(model, [part for end in ends.values() for part in (end, *_linears(end))])
    found = {}
    for place, end in ends.items():
        wanted = seen[id(end)]
        for part in _linears(end):
            if _same_numbers(seen.get(id(part)), wanted):
                found[place] = names[id(part)]
    return found


def _outputs(model: Any, parts: Iterable[nn.Module]) -> dict[int, Tensor]:
    """id(module) -> its output for a few tokens, of those modules that run."""
    seen: dict[int, Tensor] = {}

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        seen[id(module)] = output if isinstance(output, Tensor) else output[0]

    once = {id(part): part for part in parts}
    with model.lock, hooked(*(part.register_forward_hook(keep) for part in once.values())):
        model.hidden_states(model.probe_text[None])
    return seen


def _same_numbers(given: Tensor | None, wanted: Tensor) -> bool:
    """Whether an output holds the numbers of another one in their order, whatever its shape."""
    if given is None or given.numel() != wanted.numel():
        return False
    return torch.equal(given.flatten(), wanted.flatten())


def _linears(part: nn.Module) -> Iterator[nn.Module]:
    """The linear modules in a module, itself among them."""
    return (inner for inner in part.modules() if linear_sizes(inner) is not None)
