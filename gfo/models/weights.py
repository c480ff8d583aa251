"""Weights of linear modules, whichever way they lie and however they are kept: as floats, or quantized.

What a quantized module multiplies by is asked of the module, not of a library: torchao's tensors
dequantize themselves; any other module is given the unit vectors. So bitsandbytes, HQQ, GPTQ, AWQ and
what comes after them need no line here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from gfo.core.errors import GfoError
from gfo.models.precision import epsilon

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
ROUNDED_INPUT = 1e-3  # of the outputs' spread: beyond it a module rounds what comes in,
PRODUCTS = 3.0  # if it is also beyond so many times what products are rounded by


def is_transposed(part: nn.Module) -> bool:
    """Whether a linear module's weight is [in, out], as GPT-2's Conv1D has it."""
    return isinstance(part, Conv1D)


def linear_sizes(part: nn.Module) -> tuple[int, int] | None:
    """(in, out) of a linear module, whichever way its weight lies, or None for another.

    A module of a quantization library is one by its sizes; one that holds others, such as an adapter's
    around a linear module, is not.
    """
    if isinstance(part, Conv1D):
        return int(part.weight.shape[0]), int(part.nf)
    if isinstance(part, nn.Linear):
        return part.in_features, part.out_features
    sizes = vars(part).get("in_features"), vars(part).get("out_features")
    whole = all(isinstance(size, int) for size in sizes) and not part._modules
    return sizes if whole else None  # type: ignore[return-value]


def is_quantized(part: nn.Module) -> bool:
    """Whether a linear or embedding module's weight is anything but a matrix of floats."""
    weight: Any = getattr(part, "weight", None)
    return type(weight) not in (Tensor, nn.Parameter) or weight.dtype not in FLOATS


def check_embedding(part: nn.Module, name: str) -> None:
    """Raise GfoError for input embeddings of a model that are quantized, or no table of words."""
    if getattr(part, "weight", None) is None:
        raise GfoError(
            f"model '{name}': its input embeddings are no table of words, so that no prompt can be put among "
            "them; take another model"
        )
    if is_quantized(part):
        raise GfoError(
            f"model '{name}': its input embeddings are quantized, and no prompt can be put among those; "
            "quantize its linear modules alone"
        )


def weight_of(part: nn.Module, dtype: torch.dtype = torch.float32) -> Tensor:
    """The weight of a linear module as [out, in]: a view, or dequantized.

    Args:
        part: the module.
        dtype: of what it is given in the model's forward passes.
    """
    if not is_quantized(part):
        weight: Tensor = part.weight  # type: ignore[assignment]
        return weight.T if is_transposed(part) else weight
    return _dequantized(part, dtype)


@torch.no_grad()
def _dequantized(part: Any, dtype: torch.dtype) -> Tensor:
    """What a quantized module multiplies by, [out, in]."""
    weight: Any = getattr(part, "weight", None)
    if getattr(weight, "dtype", None) in FLOATS:  # a tensor that only looks like floats: torchao's
        return weight.dequantize()  # type: ignore[no-any-return]
    made: Tensor = part(torch.eye(part.in_features, device=_device_of(part), dtype=dtype))
    bias = getattr(part, "bias", None)
    return (made if bias is None else made - bias.to(made)).T.contiguous()


@torch.no_grad()
def rounds_inputs(part: nn.Module, dtype: torch.dtype = torch.float32) -> bool:
    """Whether a module rounds its inputs too (dynamic activation quantization), and so is not linear."""
    sizes = linear_sizes(part)
    if sizes is None or not is_quantized(part):
        return False
    noise = torch.randn(2, sizes[0], generator=torch.Generator().manual_seed(0))
    a, b = noise.to(device := _device_of(part), dtype)
    one, other, both, none = part(torch.stack([a, b, a + b, 0 * a])).float()
    most = max(ROUNDED_INPUT, PRODUCTS * epsilon(dtype, device))
    return bool((one + other - both - none).abs().max() > most * both.std())


def quantized_linears(module: nn.Module) -> dict[str, nn.Module]:
    """Name -> module of the linear modules whose weights are quantized."""
    parts = module.named_modules()
    return {name: part for name, part in parts if linear_sizes(part) is not None and is_quantized(part)}


def put_plain_linears(module: Any, dtype: torch.dtype) -> None:
    """Put linear modules with dequantized weights in the place of quantized ones, and forget how they were.

    Args:
        module: a model of transformers, changed in place; one that is not quantized stays as it is.
        dtype: of the model, and of the new weights.
    """
    for name, part in quantized_linears(module).items():
        module.set_submodule(name, _plain_linear(part, dtype))
    module.hf_quantizer, module.is_quantized = None, False  # else `save_pretrained` refuses, or lies
    for config in (module.config, module.config.get_text_config(decoder=True)):
        vars(config).pop("quantization_config", None)


def _plain_linear(part: nn.Module, dtype: torch.dtype) -> nn.Linear:
    weight, bias = weight_of(part, dtype), getattr(part, "bias", None)
    plain = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    values = {"weight": weight} | ({} if bias is None else {"bias": bias})
    plain.load_state_dict({name: value.to(dtype) for name, value in values.items()}, assign=True)
    return plain.eval().requires_grad_(False)


def _device_of(part: nn.Module) -> torch.device:
    """Where a module's tensors are."""
    return next(tensor.device for tensor in (*part.parameters(), *part.buffers()))
