"""Attention for contexts and their branches, registered as transformers lets anyone do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from gfo.models.structure import hooked

NAME = "gfo_sdpa"


def branch_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """transformers' scaled-dot-product attention with two differences.

    - A mask is as wide as the widest layer's keys: the first tokens, a prefix, may be missing in some layers.
    - On a CPU, heads that share keys and values are not given copies of them, masked or not.

    query [rows, H, T, D_h], key and value [rows, H_kv, S, D_h], mask [rows, 1, T, >= S].
    """
    if attention_mask is not None:
        attention_mask = attention_mask[..., attention_mask.shape[-1] - key.shape[2] :]
    plain = not options.get("dropout") and options.get("position_bias") is None
    if attention_mask is None or query.device.type != "cpu" or not plain:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)  # type: ignore[no-any-return]
    out = torch.nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=attention_mask,
        scale=options.get("scaling"),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out.transpose(1, 2).contiguous(), None


@contextmanager
def own_keys_alone(layers: Iterable[torch.nn.Module], keys: int) -> Iterator[None]:
    """Within, layers get masks of so many keys, the last ones, whatever their attention is."""

    def cut(layer: torch.nn.Module, args: Any, kwargs: Any) -> Any:
        cut_kwargs = {name: _cut(value, keys) for name, value in kwargs.items()}
        return tuple(_cut(value, keys) for value in args), cut_kwargs

    with hooked(*(layer.register_forward_pre_hook(cut, with_kwargs=True) for layer in layers)):
        yield


def _cut(value: Any, keys: int) -> Any:
    """A layer's argument, the last keys' if it is a mask [rows, ., T, keys]."""
    return value[..., -keys:] if getattr(value, "ndim", 0) == 4 else value


AttentionInterface.register(NAME, branch_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


@contextmanager
def attention_of_branches(config: Any) -> Iterator[None]:
    """Within, a model that runs transformers' own "sdpa" runs `branch_attention`; others stay as they are."""
    before = config._attn_implementation
    if before != "sdpa":
        yield
        return
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
