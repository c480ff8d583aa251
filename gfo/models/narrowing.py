"""Feed-forward networks of which nodes run some neurons alone: products of fewer rows and columns.

Nodes of equal width go together. The matrices in front give the rows of the neurons that are left, 0 in the
place of others, and the last one reads their columns alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gfo.models.weights import weight_of


@dataclass(frozen=True)
class Narrow:
    """The neurons that a network's m nodes run.

    Attributes:
        before: names of the matrices that give the neurons.
        parts: nodes, int, and the neurons that they run, int, both in order.
        nodes: m.
    """

    before: tuple[str, ...]
    parts: Sequence[tuple[Tensor, Tensor]]
    nodes: int

    @classmethod
    def of(cls, before: tuple[str, ...], factors: Tensor) -> Narrow:
        """Of factors of 0 and 1 on what the last matrix reads, [m, in]."""
        different, which = torch.unique(factors, dim=0, return_inverse=True)
        parts = [
            ((which == i).nonzero().flatten(), row.nonzero().flatten()) for i, row in enumerate(different)
        ]
        return cls(before, parts, len(factors))

    @property
    def work(self) -> float:
        """Neurons that are run, of all nodes."""
        return float(sum(len(nodes) * len(kept) for nodes, kept in self.parts))

    def forwards(self, module: nn.Module, last: str) -> Iterator[tuple[nn.Module, Callable[..., Any]]]:
        """The modules, each with the forward pass that takes the place of its own."""
        for name in self.before:
            part = module.get_submodule(name)
            yield part, partial(_give, part, self)
        part = module.get_submodule(last)
        yield part, partial(_read, part, self)


def _give(part: Any, narrow: Narrow, x: Tensor) -> Tensor:
    """The rows of neurons that are left, 0 in the place of others."""
    weight, rows = weight_of(part), x.reshape(narrow.nodes, -1, x.shape[-1])
    y = x.new_zeros(*rows.shape[:2], len(weight))
    for nodes, kept in narrow.parts:
        bias = None if part.bias is None else part.bias[kept]
        some = rows if len(nodes) == narrow.nodes else rows[nodes]
        found = torch.nn.functional.linear(some, weight[kept], bias)
        y[nodes[:, None], :, kept] = found.permute(0, 2, 1)
    return y.view(*x.shape[:-1], len(weight))


def _read(part: Any, narrow: Narrow, x: Tensor) -> Tensor:
    """The product with the columns of neurons that are left."""
    weight, rows = weight_of(part), x.reshape(narrow.nodes, -1, x.shape[-1])
    y = x.new_empty(*rows.shape[:2], len(weight))
    for nodes, kept in narrow.parts:
        some = rows if len(nodes) == narrow.nodes else rows[nodes]
        y[nodes] = torch.nn.functional.linear(some[..., kept], weight[:, kept], part.bias)
    return y.view(*x.shape[:-1], len(weight))


def every_second(sizes: Mapping[str, int], device: Any) -> dict[str, Tensor]:
    """Module -> factors of two nodes, of which one runs every second neuron: to try it."""
    return {
        name: torch.stack([torch.arange(n, device=device) % 2, torch.ones(n, device=device)]).float()
        for name, n in sizes.items()
    }
