"""Where a model's layers are, and parts of its forward pass from one layer to another.

A part is the model's own forward pass with fewer layers: shallow copies of the modules that lead to the
list of layers, which hold a shorter list. All weights, and the hooks on them, stay shared.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from gfo.core.errors import GfoError


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
        self.layers: Any = body.get_submodule(path)
        self.size = len(self.layers)
        self._parts: dict[tuple[int, int], Any] = {(0, self.size): body}

    def part(self, start: int, stop: int) -> Any:
        """The body with the layers start to stop - 1 alone."""
        if (start, stop) not in self._parts:
            *way, name = self.path.split(".")
            top = holder = _shallow(self.body)
            for step in way:
                holder._modules[step] = _shallow(holder._modules[step])  # type: ignore[arg-type]
                holder = holder._modules[step]  # type: ignore[assignment]
            holder._modules[name] = nn.ModuleList(self.layers[start:stop])
            holder.config = _shortened(holder.config, start, stop)
            self._parts[start, stop] = top
        return self._parts[start, stop]

    @contextmanager
    def entering(self, start: int, hidden: Tensor) -> Iterator[None]:
        """Within, the layer `start` gets `hidden` [rows, T, D], whatever comes from below."""

        def replace(module: nn.Module, args: Any, kwargs: Any) -> Any:
            if args:
                return (hidden, *args[1:]), kwargs
            return args, kwargs | {"hidden_states": hidden}

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


@contextmanager
def hooked(*handles: Any) -> Iterator[None]:
    """Remove the hooks in the end."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def find_stacks(body: nn.Module, sizes: list[int]) -> list[Stack]:
    """The body's lists of layers: the outermost ones of the sizes given, in this order.

    Raises:
        GfoError: if there are others or fewer.
    """
    found: list[str] = []
    for path, module in body.named_modules():
        inner = any(path.startswith(f"{outer}.") for outer in found)
        if isinstance(module, nn.ModuleList) and len(module) in sizes and not inner:
            found.append(path)
    if [len(body.get_submodule(path)) for path in found] != sizes:  # type: ignore[arg-type]
        raise GfoError(
            f"model: {type(body).__name__} should hold lists of {' and '.join(map(str, sizes))} layers, found "
            f"{', '.join(found) or 'none'}; take a model whose layers are in a list"
        )
    return [Stack(body, path) for path in found]


def find_linears(module: nn.Module, layer_of: Callable[[str], int | None]) -> dict[str, LinearInfo]:
    """Name -> sizes and layer of the linear and Conv1D modules inside layers."""
    linears = {}
    for name, part in module.named_modules():
        layer = layer_of(name)
        if layer is None:
            continue
        if isinstance(part, nn.Linear):
            linears[name] = LinearInfo(part.in_features, part.out_features, layer)
        elif isinstance(part, Conv1D):
            linears[name] = LinearInfo(part.weight.shape[0], part.nf, layer)
    return linears


def weight_of(module: nn.Module, name: str) -> Tensor:
    """The weight of a linear module as [out, in]."""
    part: Any = module.get_submodule(name)
    return part.weight.T if isinstance(part, Conv1D) else part.weight  # type: ignore[no-any-return]


def without(module: nn.Module, path: str) -> nn.Module:
    """A shallow copy of the module in which the submodule passes its input on."""
    top = holder = _shallow(module)
    *way, name = path.split(".")
    for step in way:
        holder._modules[step] = _shallow(holder._modules[step])  # type: ignore[arg-type]
        holder = holder._modules[step]  # type: ignore[assignment]
    holder._modules[name] = torch.nn.Identity()
    return top


def _shallow(module: nn.Module) -> nn.Module:
    twin = copy.copy(module)
    twin.__dict__["_modules"] = dict(module._modules)
    return twin


def _shortened(config: Any, start: int, stop: int) -> Any:
    """The config of a body with fewer layers, as far as forward passes read it."""
    config = copy.copy(config)
    if "num_hidden_layers" in config.__dict__:
        config.num_hidden_layers = stop - start
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[start:stop]
    return config
