"""`load_model`: a built-in name, a folder or a hub id -> a frozen `Decoder`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gfo.core.errors import GfoError, unknown_name
from gfo.models.download import BUILT_IN, check_whole, ensure_downloaded

if TYPE_CHECKING:
    from gfo.models.decoder import Decoder

DTYPES = ("float32", "bfloat16", "float16")


def load_model(name: str | Path, *, dtype: str = "float32", device: str = "auto") -> Decoder:
    """Load a decoder and freeze it.

    Args:
        name: a built-in name (`smollm2-135m`, downloaded once and kept), a folder that transformers
            saved, or a hub id.
        dtype: "float32", "bfloat16" or "float16"; losses are float32 in any case.
        device: "cpu", "cuda", "cuda:1", ..., or "auto": the GPU if there is one.

    Raises:
        GfoError: for an unknown name, dtype or device, or weights that are damaged.
    """
    import torch

    if dtype not in DTYPES:
        raise unknown_name("model dtype", dtype, DTYPES)
    where = _device(device)
    name = str(name)
    if name in BUILT_IN:
        folder = ensure_downloaded(name, say=lambda text: print(text, file=sys.stderr))
        check_whole(folder)
        return _load(str(folder), name, getattr(torch, dtype), where)
    return _load(name, name, getattr(torch, dtype), where)


def _load(source: str, name: str, dtype: object, device: object) -> Decoder:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    from gfo.models.decoder import Decoder

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        module, info = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, output_loading_info=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise _cannot_load(name, error) from error
    finally:
        if bars:
            logging.enable_progress_bar()
    missing = sorted(info["missing_keys"])
    if missing:  # transformers has drawn them at random
        raise GfoError(
            f"model '{name}': its files lack {len(missing)} weights, {missing[0]} first; save it whole"
        )
    model = Decoder(module.to(device), tokenizer, name)
    model.check_branches()
    return model


def _cannot_load(name: str, error: Exception) -> GfoError:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if Path(name).is_dir():
        return GfoError(f"model '{name}': transformers cannot load this folder: {reason}")
    hint = unknown_name("model", name, BUILT_IN)
    return GfoError(f"{hint}, or a folder, or a hub id if the hub can be reached ({reason})")


def _device(device: str) -> object:
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise GfoError(f"device = '{device}': give auto, cpu, cuda or cuda:N") from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise GfoError(f"device = '{device}': no CUDA device is available here; give cpu or auto")
    return found
