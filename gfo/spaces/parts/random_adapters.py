"""Adapters of random numbers, as large as trained ones: what a merge of those is to be compared with."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gfo.core.checking import checked
from gfo.core.errors import GfoError
from gfo.core.files import absolute, whole_folder
from gfo.core.seeding import stream_seed
from gfo.spaces.parts.peft_files import CONFIG, WEIGHTS

if TYPE_CHECKING:
    from torch import Tensor

A, B = ".lora_A.weight", ".lora_B.weight"


@checked
def random_adapter(folder: str | Path, out: str | Path, *, seed: int = 0) -> Path:
    """Write a LoRA adapter of PEFT with normal random numbers in the place of those of another.

    Each A, and each product B A, has the Frobenius norm of the other's, so that the two change weights by as
    much. Merging such instead of trained adapters did about as well on some tasks (2026, arXiv:2602.12323).

    Args:
        folder: of the adapter.
        out: a new folder.
        seed: of the numbers.

    Returns:
        The new folder.

    Raises:
        GfoError: for a folder without a LoRA, or one to write to that is there.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    folder, target = Path(folder), absolute(out)
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise GfoError(
            f"random_adapter: folder = {folder}: {error}; give a folder with {CONFIG} and {WEIGHTS}"
        ) from None
    if not (folder / CONFIG).is_file() or any(A not in key and B not in key for key in tensors):
        raise GfoError(f"random_adapter: folder = {folder} is no plain LoRA adapter; give one")
    if target.exists():
        raise GfoError(f"random_adapter: out = {out} is there already; name another folder")
    with whole_folder(target) as begun:
        save_file(_redrawn(tensors, seed), begun / WEIGHTS, metadata={"format": "pt"})
        shutil.copy(folder / CONFIG, begun / CONFIG)
    return target


def _redrawn(tensors: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Random matrices of the same norms."""
    found: dict[str, Any] = {}
    for key in sorted(tensors):
        if not key.endswith(A):
            continue
        other = key.removesuffix(A) + B
        a, b = _normal(tensors[key], seed, key), _normal(tensors[other], seed, other)
        a = a * (tensors[key].float().norm() / a.norm())
        wanted = (tensors[other].float() @ tensors[key].float()).norm()
        found[key] = a.to(tensors[key].dtype)
        found[other] = (b * (wanted / (b @ a).norm())).to(tensors[other].dtype)
    return found


def _normal(like: Tensor, seed: int, key: str) -> Tensor:
    """N(0, 1), float32, by a stream of the tensor's name."""
    import torch

    return torch.randn(like.shape, generator=torch.Generator().manual_seed(stream_seed(seed, key)))
