"""`load_model`: a built-in name, a folder or a hub id -> a frozen model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gfo.core.checking import checked
from gfo.core.errors import GfoError, unknown_name
from gfo.core.registry import entries
from gfo.models.download import BuiltInModel, check_whole, ensure_downloaded

if TYPE_CHECKING:
    from gfo.models.frozen import FrozenModel

WITH_HEAD = ("ForMaskedLM", "ForPreTraining")  # how the names of masked language models end
DTYPES = ("float32", "bfloat16", "float16")


@checked
def load_model(name: str | Path, *, dtype: str = "float32", device: str = "auto") -> FrozenModel:
    """Load a decoder, an encoder or an encoder-decoder, and freeze it.

    What its config names decides: a masked language model or, without a head, a sentence encoder is an
    `Encoder`; a model that is both encoder and decoder an `EncoderDecoder`; all others a `Decoder`.

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
    known = entries("model").get(name)
    source = known.load() if known else name
    if isinstance(source, BuiltInModel):
        folder = ensure_downloaded(name, say=lambda text: print(text, file=sys.stderr))
        check_whole(folder)
        return _load(str(folder), name, getattr(torch, dtype), where)
    return _load(str(source), name, getattr(torch, dtype), where)


@checked
def freeze(module: Any, tokenizer: Any, name: str = "", *, check: bool = True) -> FrozenModel:
    """The `Decoder`, `WholeRows`, `Encoder` or `EncoderDecoder` of a transformers model.

    Args:
        module: the model.
        tokenizer: its tokenizer.
        name: what results call it; by default what its config says.
        check: compare it with plain forward passes of a few tokens, and take the fastest way that equals
            them. False takes the fastest there is, and nothing is compared later on: only for a model that
            has passed.

    Raises:
        GfoError: for a model that gfo cannot evaluate.
    """
    from gfo.models.checking import WAYS, chosen

    kind = (
        "encoder" if module.get_output_embeddings() is None else _kind(module.config, type(module).__name__)
    )
    if check:
        return chosen(kind, module, tokenizer, name)
    model: FrozenModel = WAYS[kind][0](module, tokenizer, name)
    model.checks = False
    return model


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Within, transformers shows none while it loads and saves."""
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            logging.enable_progress_bar()


def _kind(config: Any, architecture: str) -> str:
    """ "decoder", "encoder" or "encoder-decoder", by the config and the class that was saved."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED

    if config.is_encoder_decoder:
        return "encoder-decoder"
    if architecture.endswith(WITH_HEAD):
        return "encoder"
    headless = not any(word in architecture for word in ("CausalLM", "LMHead"))
    return "encoder" if headless and config.model_type in MASKED else "decoder"


def _auto_class(source: str) -> Any:
    """The class of transformers that loads the model with the head it was saved with."""
    from transformers import (
        AutoConfig,
        AutoModel,
        AutoModelForCausalLM,
        AutoModelForMaskedLM,
        AutoModelForSeq2SeqLM,
    )

    config = AutoConfig.from_pretrained(source)
    architecture = (config.architectures or [""])[0]
    kind = _kind(config, architecture)
    if kind == "encoder":
        return AutoModelForMaskedLM if architecture.endswith(WITH_HEAD) else AutoModel
    return AutoModelForSeq2SeqLM if kind == "encoder-decoder" else AutoModelForCausalLM


def _load(source: str, name: str, dtype: object, device: object) -> FrozenModel:
    from safetensors import SafetensorError
    from transformers import AutoTokenizer

    try:
        with no_progress_bars():
            tokenizer = AutoTokenizer.from_pretrained(source)
            module, info = _auto_class(source).from_pretrained(source, dtype=dtype, output_loading_info=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise _cannot_load(name, error) from error
    missing = sorted(info["missing_keys"])
    if missing:  # transformers has drawn them at random
        raise GfoError(
            f"model '{name}': its files lack {len(missing)} weights, {missing[0]} first; save it whole"
        )
    return freeze(module.to(device), tokenizer, name)


def _cannot_load(name: str, error: Exception) -> GfoError:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if Path(name).is_dir():
        return GfoError(f"model '{name}': transformers cannot load this folder: {reason}")
    hint = unknown_name("model", name, entries("model"))
    return GfoError(f"{hint}, or a folder, or a hub id if the hub can be reached ({reason})")


def _device(device: str) -> object:
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        if found.type == "meta":
            raise RuntimeError("it holds no numbers")
    except RuntimeError:
        raise GfoError(f"device = '{device}': give auto, cpu, cuda or cuda:N") from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise GfoError(f"device = '{device}': no CUDA device is available here; give cpu or auto")
    return found
