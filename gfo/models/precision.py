"""How finely products of matrices are computed: by dtype and device, and by what the process has set.

float32 products may be rounded to fewer bits: by `torch.set_float32_matmul_precision`, the settings named
`fp32_precision`, within autocast, or by a library's own. So it is measured, by one small product.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SIZE = 64  # of the matrices; smaller ones may be multiplied in full where larger ones are not
# what float32 products are rounded to, and the root mean square error from which it is that; the error is
# relative to the products' spread: in full 1.4e-7, in TF32 some 4e-4, in bfloat16 2.3e-3
REDUCED = {"bfloat16": 1.5e-3, "TF32": 1e-4, "bfloat16x3": 2e-6}
EPSILON = {"bfloat16": 2.0**-7, "TF32": 2.0**-10, "bfloat16x3": 2.0**-16}
COARSE = 0.2  # of their spread: so near are numbers computed in two ways where products are no float32's


@torch.no_grad()
def product_error(dtype: torch.dtype, device: torch.device) -> float:
    """The root mean square error of products as linear modules compute them now, over their spread."""
    noise = torch.randn(2, SIZE, SIZE, generator=torch.Generator().manual_seed(0)).to(dtype)
    x, weight = noise.to(device).unbind()
    found = torch.nn.functional.linear(x, weight).cpu().double()
    a, b = noise.double().unbind()
    wanted: Tensor = a @ b.T
    return float((found - wanted).square().mean().sqrt() / wanted.std())


def reduced_to(device: torch.device) -> str | None:
    """What float32 products are rounded to on a device now, "TF32" or "bfloat16"; None where they are not."""
    error = product_error(torch.float32, device)
    return next((name for name, least in REDUCED.items() if error > least), None)


def epsilon(dtype: torch.dtype, device: torch.device) -> float:
    """From 1 to the next number, of the numbers that products of a dtype are computed with now."""
    own = float(torch.finfo(dtype).eps)
    reduced = reduced_to(device) if dtype == torch.float32 else None
    return own if reduced is None else max(own, EPSILON[reduced])


def is_fine(model: Any) -> bool:
    """Whether a frozen model's products are now as fine as float32's, and their inputs not rounded."""
    coarse = epsilon(model.dtype, model.device) > torch.finfo(torch.float32).eps
    return not (coarse or model.rounds_inputs)


def nearness(model: Any, fine: float) -> float:
    """How near numbers must be that a frozen model computes in two ways, as a share of their spread.

    Args:
        model: whose they are.
        fine: what it is in float32.
    """
    return fine if is_fine(model) else max(fine, COARSE)
