"""Where a model's layers are, and parts of its forward pass from one layer to another.

A part is the model's own forward pass with fewer layers: shallow copies of the modules that lead to the
list of layers, which hold a shorter list. All weights, and the hooks on them, stay shared.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gfo.core.errors import GfoError
from gfo.models.families import EXPERTS, give_position_bias, holds_position_bias
from gfo.models.weights import linear_sizes

LAYER_TYPES = ("layer_types", "layers_block_type")  # what configs call the kinds of layers, one each


@dataclass(frozen=True)
class LinearInfo:
    """A linear module: its sizes, and the layer it is in (an encoder's layers before its decoder's)."""

    in_features: int
    out_features: int
    layer: int


class Stack:
    """A body's list of layers.

    Args:
        body: the module whose forward pass runs the layers.
        path: the list's name in the body.

    Attributes:
        size: number of layers.
    """

    def __init__(self, body: nn.Module, path: str) -> None:
        self.body, self.path = body, path
        layers: Any = body.get_submodule(path)
        self.layers, self.size = layers, len(layers)
        self._parts: dict[tuple[int, int], Any] = {(0, self.size): body}

    def part(self, start: int, stop: int) -> Any:
        """The body with the layers start to stop - 1 alone."""
        if (start, stop) not in self._parts:
            holder_path, _, name = self.path.rpartition(".")

            def shorten(holder: nn.Module) -> nn.Module:
                twin: Any = _shallow(holder)
                twin._modules[name] = nn.ModuleList(self._with_position_bias(start, stop))
                twin.config = _shortened(twin.config, start, stop)
                return twin  # type: ignore[no-any-return]

            top = _replaced(self.body, holder_path, shorten) if holder_path else shorten(self.body)
            self._parts[start, stop] = top
        return self._parts[start, stop]

    def _with_position_bias(self, start: int, stop: int) -> list[nn.Module]:
        """Layers start to stop - 1; the first has the position bias that the model's first may hand on."""
        layers = list(self.layers[start:stop])
        names = [name for name, part in self.layers[0].named_modules() if holds_position_bias(part)]
        for name in names if start else ():
            layers[0] = _replaced(layers[0], name, _with_bias_of(self.layers[0].get_submodule(name)))
        return layers

    @contextmanager
    def entering(self, start: int, hidden: Tensor) -> Iterator[None]:
        """Within, the layer `start` gets `hidden` [rows, T, D], whatever comes from below."""

        def replace(module: nn.Module, args: Any, kwargs: Any) -> Any:
            return with_hidden(hidden, args, kwargs)

        with hooked(self.layers[start].register_forward_pre_hook(replace, with_kwargs=True)):
            yield

    @contextmanager
    def leaving(self, stop: int) -> Iterator[list[Tensor]]:
        """Within, what the layer `stop - 1` puts out is appended to the list given."""
        seen: list[Tensor] = []

        def keep(module: nn.Module, args: Any, output: Any) -> None:
            seen.append(output if isinstance(output, Tensor) else output[0])

        with hooked(self.layers[stop - 1].register_forward_hook(keep)):
            yield seen


def hidden_of(args: Any, kwargs: Any) -> Tensor:
    """The hidden states [rows, T, D] among a layer's arguments."""
    return args[0] if args else kwargs["hidden_states"]  # type: ignore[no-any-return]


def with_hidden(hidden: Tensor, args: Any, kwargs: Any) -> Any:
    """A layer's arguments with other hidden states."""
    if args:
        return (hidden, *args[1:]), kwargs
    return args, kwargs | {"hidden_states": hidden}


@contextmanager
def hooked(*handles: Any) -> Iterator[None]:
    """Remove the hooks in the end."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def names_of(module: nn.Module) -> dict[int, str]:
    """id(part) -> the name of each module in it."""
    return {id(part): name for name, part in module.named_modules()}


def find_stacks(body: nn.Module, size: int | None = None) -> list[Stack]:
    """The body's list of layers: the outermost one of the size given, or the only one a text runs through.

    Raises:
        GfoError: if there are others or none.
    """
    found = _outermost(path for path, part in _lists(body) if size in (None, len(part)))
    if size is None and len(found) > 1:  # such as one for images beside that for text
        return [find_layers(body)]
    if len(found) != 1:
        wanted = "layers" if size is None else f"{size} layers"
        raise GfoError(
            f"model: {type(body).__name__} should hold one list of {wanted}, found "
            f"{', '.join(found) or 'none'}; take a model whose layers are in a list"
        )
    return [Stack(body, found[0])]


def find_layers(module: nn.Module) -> Stack:
    """The list of layers of a whole model that a text runs through.

    Raises:
        GfoError: if there are several, of which not just one has as many as the config says, or none.
    """
    lists = {name: part for name, part in _lists(module) if part}
    ran = _run_of(module, lists)
    if len(ran) > 1:  # such as projections in front of the layers
        ran = _as_many_as_named(module, lists, ran) or ran
    if len(ran) != 1:
        raise GfoError(
            f"model: a text runs through {len(ran)} lists of modules "
            f"({', '.join(sorted(ran)) or 'none'}); take a model whose layers are in one list"
        )
    return Stack(module, ran.pop())


def _as_many_as_named(module: nn.Module, lists: Mapping[str, nn.ModuleList], names: set[str]) -> set[str]:
    """The names of the lists with as many layers as the config says."""
    config: Any = module.config
    size = getattr(config.get_text_config(), "num_hidden_layers", None)
    return {name for name in names if len(lists[name]) == size}


def _run_of(module: nn.Module, lists: Mapping[str, nn.ModuleList]) -> set[str]:
    """The names of the lists, none of them in another, that a text runs through."""
    ran: set[str] = set()
    handles = [
        part.register_forward_pre_hook(lambda *_, name=name: ran.add(name), with_kwargs=True)
        for name in _outermost(lists)
        for part in lists[name]
    ]
    ids = torch.arange(3, 7, device=next(module.parameters()).device)
    with torch.no_grad(), hooked(*handles):
        module(input_ids=ids[None])
    return ran


def _lists(module: nn.Module) -> Iterator[tuple[str, nn.ModuleList]]:
    """The lists of modules in a module, outer ones first, with their names."""
    for name, part in module.named_modules():
        if isinstance(part, nn.ModuleList):
            yield name, part


def _outermost(names: Iterable[str]) -> list[str]:
    """The names, outer ones first, that are in no other one of them."""
    found: list[str] = []
    for name in names:
        if not any(name.startswith(f"{outer}.") for outer in found):
            found.append(name)
    return found


def find_linears(module: nn.Module, layer_of: Callable[[str], int | None]) -> dict[str, LinearInfo]:
    """Name -> sizes and layer of the linear modules inside layers."""
    linears = {}
    for name, part in module.named_modules():
        layer = layer_of(name)
        sizes = None if layer is None else linear_sizes(part)
        if layer is not None and sizes is not None:
            linears[name] = LinearInfo(*sizes, layer)
    return linears


def find_experts(module: nn.Module, layer_of: Callable[[str], int | None]) -> dict[str, int]:
    """Name -> layer of the parameters that hold a layer's routed experts, one matrix each: no modules."""
    found = {}
    for name, parameter in module.named_parameters():
        layer = layer_of(name)
        if layer is not None and parameter.ndim == 3 and EXPERTS.search(name):
            found[name] = layer
    return found


def outputs_of(module: nn.Module, names: Sequence[str], run: Callable[[], object]) -> dict[str, Tensor]:
    """What the submodules of these names put out while the module is run.

    Raises:
        GfoError: for one that is not called, or does not put out a tensor: nothing can be changed there.
    """
    kept: dict[str, Any] = {}

    def keeping(name: str) -> Callable[..., None]:
        return lambda part, args, output: kept.update({name: output})

    with hooked(*(module.get_submodule(name).register_forward_hook(keeping(name)) for name in names)):
        run()
    for name in names:
        if not isinstance(kept.get(name), Tensor):
            why = f"gives a {type(kept[name]).__name__}" if name in kept else "is not called"
            raise GfoError(
                f"module '{name}' {why} in the model's forward pass, so that nothing can be changed there; "
                "leave it out of targets"
            )
    return kept


def without(module: nn.Module, path: str) -> nn.Module:
    """A shallow copy of the module in which the submodule passes its input on."""
    return _replaced(module, path, lambda _: nn.Identity())


def _replaced(module: nn.Module, path: str, change: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """A shallow copy of the module with another submodule in the path."""
    top = holder = _shallow(module)
    *way, name = path.split(".")
    for step in way:
        holder._modules[step] = _shallow(holder._modules[step])  # type: ignore[arg-type]
        holder = holder._modules[step]  # type: ignore[assignment]
    holder._modules[name] = change(holder._modules[name])  # type: ignore[arg-type]
    return top


def _with_bias_of(first: nn.Module) -> Callable[[nn.Module], nn.Module]:
    def change(attention: nn.Module) -> nn.Module:
        twin = _shallow(attention)
        give_position_bias(twin, first)
        return twin

    return change


def _shallow(module: nn.Module) -> nn.Module:
    twin = copy.copy(module)
    twin.__dict__["_modules"] = dict(module._modules)
    return twin


def _shortened(config: Any, start: int, stop: int) -> Any:
    """The config of a body with fewer layers, as far as forward passes read it."""
    before, config = config, copy.copy(config)
    if "num_hidden_layers" in config.__dict__:
        config.num_hidden_layers = stop - start
    derived = {}
    for name in LAYER_TYPES:
        kinds = getattr(before, name, None)
        if kinds and name in config.__dict__:
            setattr(config, name, kinds[start:stop])
        elif kinds:  # a property, or another name of one
            derived[name] = kinds[start:stop]
    if derived:
        config.__class__ = type(type(config).__name__, (type(config),), derived)
    return config
