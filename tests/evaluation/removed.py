"""Copies of transformers models whose sub-blocks are removed, for tests of gates."""

from __future__ import annotations

import copy

import torch
from torch import nn

KINDS = {
    "attention": ("self_attn", "attn", "attention"),
    "feed-forward": ("mlp", "fc2"),
}


class Nothing(nn.Module):
    """In the place of a sub-block: 0 for each token, alone or with None beside it."""

    def __init__(self, alone, size):
        super().__init__()
        self.alone, self.size = alone, size

    def forward(self, x=None, *args, hidden_states=None, **kwargs):
        x = hidden_states if x is None else x
        zeros = torch.zeros(*x.shape[:-1], self.size)
        return zeros if self.alone else (zeros, None)


def without_sub_blocks(model, closed, module=None):
    """A copy of the model's module, or of another one, in which the closed (layer, kind) are `Nothing`."""
    module = copy.deepcopy(model.module if module is None else module)
    names = {id(part): name for name, part in model.module.named_modules()}
    for layer, kind in closed:
        part = module.get_submodule(names[id(model.all_layers[layer])])
        name = next(name for name in KINDS[kind] if hasattr(part, name))
        setattr(part, name, Nothing(kind == "feed-forward", model.config.hidden_size))
    return module


def closed_of(delta, k):
    """The sub-blocks that a candidate of a Delta closes."""
    return [(place.layer, place.kind) for place, runs in delta.gate.items() if not runs[k]]
