"""`load_model`: a built-in name, a folder, a GGUF file or a hub id -> a frozen model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gfo.core.checking import checked
from gfo.core.errors import GfoError, check_name, shown
from gfo.models.opening import find_source, kind_of, no_progress_bars, open_model, open_processor

if TYPE_CHECKING:
    import torch

    from gfo.models.frozen import FrozenModel

__all__ = ["freeze", "load_model", "no_progress_bars"]

BY_TRANSFORMERS = ("auto", "balanced", "balanced_low_0", "sequential")  # ways of device_map
DTYPES = ("float32", "bfloat16", "float16", "auto")


@checked
def load_model(
    name: str | Path,
    *,
    dtype: str = "float32",
    device: str = "auto",
    revision: str | None = None,
    device_map: str | int | Mapping[str, str | int] | None = None,
    quantization_config: Any = None,
    gguf_file: str | None = None,
) -> FrozenModel:
    """Load a decoder, an encoder or an encoder-decoder, and freeze it.

    What its config names decides: a masked language model or, without a head, a sentence encoder is an
    `Encoder`; a model that is both encoder and decoder an `EncoderDecoder`; all others a `Decoder`, of
    models of images and text the part that reads text. Code that a folder brings is never run.

    Args:
        name: a built-in name (`smollm2-135m`, downloaded once and kept), a folder that transformers
            saved, one of a PEFT adapter (which is merged into the model that it was made for), a GGUF
            file, or a hub id.
        dtype: "float32", "bfloat16" or "float16", or "auto" for that of the files; losses are float32 in
            any case.
        device: "cpu", "cuda", "cuda:1", ..., or "auto": the GPU if there is one.
        revision: of a hub id: a branch, a tag or a commit.
        device_map: transformers' name for the device; all of the model must come to lie on one.
        quantization_config: of transformers, or its keys as a mapping: the weights are quantized as they
            are loaded.
        gguf_file: the name of a GGUF file in the folder or repository; it is dequantized.

    Raises:
        GfoError: for an unknown name, dtype or device, weights that are damaged, or whatever else
            transformers cannot load.
    """
    import torch

    check_name("model dtype", dtype, DTYPES)
    place = _place(device, device_map)
    source = find_source(str(name), revision, gguf_file)
    kept = dtype if dtype == "auto" else getattr(torch, dtype)
    module, tokenizer = open_model(source, kept, place, quantization_config)
    processor, why = open_processor(source, module)
    model = freeze(module, tokenizer if processor is None else processor, str(name))
    model.without_images = why or model.without_images
    return model


@checked
def freeze(module: Any, tokenizer: Any, name: str = "", *, check: bool = True) -> FrozenModel:
    """The `Decoder`, `ContinuedRows`, `WholeRows`, `Encoder` or `EncoderDecoder` of a transformers model.

    Args:
        module: the model.
        tokenizer: its tokenizer; of a model of images and text its processor, if rows are to hold images.
        name: what results call it; by default what its config says.
        check: compare it with plain forward passes of a few tokens, and take the fastest way that equals
            them. False takes the fastest that can be built, and nothing is compared later on: only for a
            model that has passed.

    Raises:
        GfoError: for a model that gfo cannot evaluate.
    """
    from gfo.models.checking import chosen, unchecked
    from gfo.models.images import Images

    processor = tokenizer if hasattr(tokenizer, "image_processor") else None
    tokenizer = tokenizer if processor is None else processor.tokenizer
    _check_given(module, tokenizer)
    _check_plain(module, name)
    _check_one_device(module, name)
    kind = (
        "encoder" if module.get_output_embeddings() is None else kind_of(module.config, type(module).__name__)
    )
    model = (chosen if check else unchecked)(kind, module, tokenizer, name)
    if processor is not None:
        model.images = Images(model, processor)
    return model


def _check_given(module: Any, tokenizer: Any) -> None:
    """Raise GfoError for what is no model, or no tokenizer, of transformers."""
    for name, value, has in (
        ("module", module, "get_input_embeddings"),
        ("tokenizer", tokenizer, "get_vocab"),
    ):
        if isinstance(value, type) or not hasattr(value, has):
            raise GfoError(
                f"freeze: {name} = {shown(value)}; give a {name.replace('module', 'model')} of transformers"
            )


def _check_plain(module: Any, name: str) -> None:
    """Raise GfoError for a model of PEFT's, whose modules are not where the model's are."""
    if hasattr(module, "get_base_model"):
        raise GfoError(
            f"model '{name}': it is a {type(module).__name__}; merge its adapter (merge_and_unload), give "
            "the adapter's folder to gfo.load_model, or start a space from that (from_peft)"
        )


def _check_one_device(module: torch.nn.Module, name: str) -> None:
    """Raise GfoError for a model of which parts lie elsewhere, or nowhere."""
    found = sorted({str(tensor.device) for tensor in (*module.parameters(), *module.buffers())})
    if len(found) != 1 or found == ["meta"]:
        raise GfoError(
            f"model '{name}': it lies on {' and '.join(found)}, and gfo runs a model on one device; load it "
            "with device = one of them, in a smaller dtype or quantized if it is too large"
        )


def _place(device: str, device_map: Any) -> Any:
    """A device of torch, or a text for transformers to place the model by."""
    if device_map is None:
        return _device(device)
    if device != "auto":
        raise GfoError(f"device = '{device}' and device_map = {device_map!r}; give one of them")
    one = _only_device(device_map)
    return one if one in BY_TRANSFORMERS else _device(one)  # `freeze` looks where those came to lie


def _only_device(device_map: Any) -> str:
    """The one place that a device_map names."""
    devices = device_map.values() if isinstance(device_map, Mapping) else [device_map]
    names = {f"cuda:{each}" if isinstance(each, int) else str(each) for each in devices}
    if len(names) != 1:
        raise GfoError(
            f"device_map = {device_map!r}: gfo runs a model on one device; give device, and a smaller dtype "
            "or a quantization_config if it is too large"
        )
    return names.pop()


def _device(device: str) -> object:
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = _named_device(device)
    if found.type == "cuda" and not torch.cuda.is_available():
        raise GfoError(f"device = '{device}': no CUDA device is available here; give cpu or auto")
    return found


def _named_device(device: str) -> torch.device:
    """The device of a name, wherever it is; GfoError for what is none, or holds no numbers."""
    import torch

    try:
        found = torch.device(device)
        if found.type == "meta":
            raise RuntimeError("it holds no numbers")
    except RuntimeError:
        raise GfoError(f"device = '{device}': give auto, cpu, cuda or cuda:N") from None
    return found
