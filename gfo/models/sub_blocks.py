"""A model's sub-blocks, which gates open and close: found by the families' names, and tried."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gfo.core.delta import Delta
from gfo.core.errors import GfoError
from gfo.core.sub_blocks import SUB_BLOCKS, SubBlock
from gfo.models.apply import Change, applied
from gfo.models.families import sub_block_of
from gfo.models.gates import Fork, Forks, Open
from gfo.models.probing import ROWS, evaluating, rows_of
from gfo.models.structure import hidden_of, hooked

SAME = 1e-4  # of their spread: so near are the states of a pass whose rows part to those of one that masks


class Size(NamedTuple):
    """How large a part of a model is.

    Attributes:
        parameters: of its modules.
        bytes: that they take in memory.
        multiply_adds: of a token: the parameters that are in matrices (of routed experts all of them).
        kept: numbers that are kept of a token where its keys and values are; 0 where none are.
    """

    parameters: int
    bytes: int
    multiply_adds: int
    kept: int = 0

    @classmethod
    def of(cls, tensors: Iterable[Tensor], kept: int = 0) -> Size:
        """Of parameters, each of which counts once."""
        own = list({id(t): t for t in tensors}.values())
        matrices = sum(t.numel() for t in own if t.ndim > 1)
        return cls(sum(t.numel() for t in own), sum(t.nbytes for t in own), matrices, kept)


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
    found: dict[SubBlock, Size] = {}
    kept = model.kept // model.layers if model.contexts else 0
    for number, layer in enumerate(model.all_layers):
        for kind in SUB_BLOCKS:
            modules = sub_block_of(layer, kind) or ()
            size = Size.of((p for part in modules for p in part.parameters()), kept * (kind == SUB_BLOCKS[0]))
            found |= {SubBlock(number, kind): size} if modules else {}
    whole = [n for n in range(model.layers) if all(SubBlock(n, kind) in found for kind in SUB_BLOCKS)]
    if not whole:
        raise GfoError(
            f"model '{model.name}' ({model.config.model_type}): its layers have no attention and feed-"
            "forward network of names that are known; take another model"
        )
    with model.lock, evaluating(model.module):
        _check_residual(model, found, whole)
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
    names = {id(part): name for name, part in model.module.named_modules()}
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
    entry, rows = rows_of(model)
    gate = {place: torch.tensor([1.0, 0.0, 1.0], device=model.device) for place in places}
    gate |= {place: torch.tensor([1.0, 1.0, 0.0], device=model.device) for place in places[1::3]}
    gate |= {place: torch.zeros(3, device=model.device) for place in places[2::5]}
    delta = Delta(gate=gate)
    place = torch.full((3 * ROWS, 1), -1, device=model.device)
    with model.lock, evaluating(model.module):
        try:
            wanted = model.branches(None, entry.expand(3, -1, -1, -1), rows, change=Change(delta, place))
            forks = Forks(len(rows.branch), 1, _spread(gate, model.layers))
            found = model.branches(None, entry, rows, change=Change(delta, place, forks=forks))
        except Exception:  # of any kind: then sub-blocks are run and their outputs masked, which is right
            return False
    most = SAME * torch.finfo(model.dtype).eps / torch.finfo(torch.float32).eps
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
