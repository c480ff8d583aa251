"""A model's sub-blocks, which gates open and close: found by the families' names, and tried."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gfo.core.delta import Delta
from gfo.core.errors import GfoError
from gfo.core.sub_blocks import SUB_BLOCKS, SubBlock
from gfo.models.apply import Change, applied
from gfo.models.families import sub_block_of
from gfo.models.gates import Fork, Forks, Open
from gfo.models.latency import Latency, latency_of
from gfo.models.narrowing import Narrow, every_second
from gfo.models.precision import nearness
from gfo.models.probing import ROWS, evaluating, rows_of
from gfo.models.sizes import Size
from gfo.models.structure import hidden_of, hooked, names_of
from gfo.models.units import Units, last_matrices, networks_of, units_of

SAME = 1e-4  # of their spread: so near are the states of a pass whose rows part to those of one that masks


class HasSubBlocks:
    """What a frozen model says of its sub-blocks."""

    @functools.cached_property
    def sub_blocks(self) -> Mapping[SubBlock, Size]:
        """Sub-block -> its size.

        Raises:
            GfoError: for an encoder-decoder, or a model in whose layers something else adds to the residual
                stream, or stands behind it (as a norm does in post-norm layers).
        """
        return find_sub_blocks(self)

    @functools.cached_property
    def size(self) -> Size:
        """The model's size."""
        return whole_size(self)

    @functools.cached_property
    def skips_sub_blocks(self) -> bool:
        """Whether a pass whose rows part in its layers is right for this model; it is tried."""
        return may_skip(self)

    @functools.cached_property
    def last_matrices(self) -> Mapping[SubBlock, str]:
        """Sub-block -> the name of the linear module whose output is the sub-block's, where one's is."""
        return last_matrices(self)

    @functools.cached_property
    def networks(self) -> Mapping[str, tuple[str, ...]]:
        """The last matrix of each feed-forward network -> those in front, if some neurons can run alone."""
        found = networks_of(self)
        return found if may_narrow(self, found) else {}

    def units(self, place: SubBlock, kind: str) -> Units:
        """Equal parts of a sub-block: see `gfo.models.units.units_of`."""
        return units_of(self, place, kind)

    def latency(self, path: str, units: Mapping[SubBlock, Sequence[int]]) -> Latency:
        """How long its parts take: see `gfo.models.latency.latency_of`."""
        return latency_of(self, path, units)

    def in_sub_blocks(self, names: Iterable[str]) -> bool:
        """Whether all of the modules are in sub-blocks that are known."""
        try:
            return all(self.sub_block_of(name) for name in names)
        except GfoError:
            return False

    def sub_block_of(self, name: str) -> SubBlock | None:
        """The sub-block that a module is in, by its name, or None."""
        return self._sub_block_names.get(name)

    @functools.cached_property
    def _sub_block_names(self) -> dict[str, SubBlock]:
        return _by_name(self)


def find_sub_blocks(model: Any) -> dict[SubBlock, Size]:
    """See `HasSubBlocks.sub_blocks`."""
    if len(model.stacks) > 1:
        raise GfoError(
            f"model '{model.name}' is an encoder-decoder, whose sub-blocks cannot be closed; take a decoder"
        )
    found = _sizes(model)
    whole = [n for n in range(model.layers) if all(SubBlock(n, kind) in found for kind in SUB_BLOCKS)]
    if not whole:
        raise GfoError(
            f"model '{model.name}' ({model.config.model_type}): its layers have no attention and feed-"
            "forward network of names that are known; take another model"
        )
    with model.lock, evaluating(model.module):
        _check_residual(model, found, whole)
    return found


def _sizes(model: Any) -> dict[SubBlock, Size]:
    """The sub-blocks whose names are known, in the layers' order, with their sizes."""
    found: dict[SubBlock, Size] = {}
    kept = model.kept // model.layers if model.contexts else 0
    for number, layer in enumerate(model.all_layers):
        for kind in SUB_BLOCKS:
            modules = sub_block_of(layer, kind) or ()
            parameters = itertools.chain(*map(nn.Module.parameters, modules))
            size = Size.of(parameters, kept * (kind == SUB_BLOCKS[0]))
            found |= {SubBlock(number, kind): size} if modules else {}
    return found


def whole_size(model: Any) -> Size:
    """See `HasSubBlocks.size`: an embedding matrix multiplies nothing, unless it is the head, too."""
    kept = model.kept if model.contexts else 0
    size = Size.of(model.module.parameters(), kept)
    tables = [part.weight for part in model.module.modules() if isinstance(part, nn.Embedding)]
    head = getattr(model.module.get_output_embeddings(), "weight", None)
    lookups = Size.of(table for table in tables if table is not head)
    return size._replace(multiply_adds=size.multiply_adds - lookups.multiply_adds)


def _by_name(model: Any) -> dict[str, SubBlock]:
    """Name of a module in a sub-block -> that."""
    names = names_of(model.module)
    found: dict[str, SubBlock] = {}
    for place in model.sub_blocks:
        for part in sub_block_of(model.all_layers[place.layer], place.kind) or ():
            top = names[id(part)]
            found |= {f"{top}.{name}".rstrip("."): place for name, _ in part.named_modules()}
    return found


@torch.no_grad()
def _check_residual(model: Any, places: Mapping[SubBlock, Size], whole: Iterable[int]) -> None:
    """Raise GfoError if a layer that has both sub-blocks, closed, gives other than what enters it."""
    seen: dict[int, bool] = {}

    def watch(number: int) -> Any:
        def hook(layer: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            left = output if isinstance(output, Tensor) else output[0]
            seen[number] = torch.equal(hidden_of(args, kwargs), left)

        return hook

    closed = Change(
        Delta(gate=dict.fromkeys(places, torch.zeros(1, device=model.device))),
        torch.full((1, 1), -1, device=model.device),
    )
    layers = model.all_layers
    hooks = (layers[n].register_forward_hook(watch(n), with_kwargs=True) for n in whole)
    with applied(closed, model.module, layers), hooked(*hooks):
        model.branches(None, *rows_of(model))
    wrong = [number for number in whole if not seen.get(number)]
    if wrong:
        raise GfoError(
            f"model '{model.name}' ({model.config.model_type}): with its attention and feed-forward network "
            f"closed, layer {wrong[0]} still changes what enters it; take a model whose layers add the two "
            "and nothing else"
        )


@torch.no_grad()
def may_skip(model: Any) -> bool:
    """See `HasSubBlocks.skips_sub_blocks`: all four ways through each layer in turn, from one node."""
    places = list(model.sub_blocks)
    gate = {place: torch.tensor([1.0, 0.0, 1.0], device=model.device) for place in places}
    gate |= {place: torch.tensor([1.0, 1.0, 0.0], device=model.device) for place in places[1::3]}
    gate |= {place: torch.zeros(3, device=model.device) for place in places[2::5]}
    return _is_the_same(model, Delta(gate=gate), 1, _spread(gate, model.layers))


@torch.no_grad()
def may_narrow(model: Any, networks: Mapping[str, tuple[str, ...]]) -> bool:
    """Whether networks that run some neurons alone give what they give with 0 in the others' places."""
    factors = every_second({name: model.linears[name].in_features for name in networks}, model.device)
    layers = {}
    for name, before in networks.items():
        narrow = {name: Narrow.of(before, factors[name])}
        layers[model.layer_of(name)] = Fork(None, 2, {}, narrow=narrow)
    return bool(factors) and _is_the_same(model, Delta(input_scale=factors), 2, layers)


def _is_the_same(model: Any, delta: Delta, nodes: int, layers: Mapping[int, Fork]) -> bool:
    """Whether a pass whose rows part gives the states of one of all candidates' rows."""
    entry, rows = rows_of(model)
    K = delta.candidates
    place = torch.full((K * ROWS, 1), -1, device=model.device)
    delta = delta.to(model.device, model.dtype)
    with model.lock, evaluating(model.module):
        try:
            wanted = model.branches(None, entry.expand(K, -1, -1, -1), rows, change=Change(delta, place))
            forks = Forks(len(rows.branch), nodes, layers)
            entered = entry.expand(nodes, -1, -1, -1)
            found = model.branches(None, entered, rows, change=Change(delta, place, forks=forks))
        except Exception:  # of any kind: then sub-blocks are run and their outputs masked, which is right
            return False
    most = nearness(model, SAME)
    return found.shape == wanted.shape and float((found - wanted).abs().max() / wanted.std()) <= most


def _spread(gate: Mapping[SubBlock, Tensor], layers: int) -> dict[int, Fork]:
    """The forks of candidates that all part in front of the first layer."""
    found = {}
    for number in range(layers):
        opens = {
            kind: _open(gate[SubBlock(number, kind)]) for kind in SUB_BLOCKS if SubBlock(number, kind) in gate
        }
        K = len(next(iter(gate.values())))
        rise = None if number else torch.zeros(K, dtype=torch.long, device=next(iter(gate.values())).device)
        found[number] = Fork(rise, K, opens)
    return found


def _open(runs: Tensor) -> Open:
    """Of nodes that are candidates, the open ones."""
    open_ = runs > 0
    return Open(open_.nonzero()[:, 0], (open_.cumsum(0) - 1).clamp(min=0), (~open_).nonzero()[:, 0])
