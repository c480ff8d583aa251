"""What a GGUF file of a model is: its keys, the names and order of its tensors, its tokenizer.

The keys are those of ggml's documentation (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), names
of tensors the package `gguf`'s. What a file could not say, or a reader would get wrong, is refused.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gfo.core.errors import GfoError
from gfo.models.families import GGUF_ARCHITECTURES, GGUF_BIASES, GGUF_HEAD_SIZE, attention_windows
from gfo.models.gguf_tokenizer import tokenizer_keys, why_no_tokenizer
from gfo.models.weights import quantized_linears

if TYPE_CHECKING:
    from gfo.models.frozen import FrozenModel

ALIGNMENT = 32  # bytes, that each tensor begins at a multiple of


@dataclass(frozen=True)
class Kept:
    """A tensor of a file.

    Attributes:
        name: in the file.
        shape: as torch has it.
        kind: its GGUF type.
    """

    name: str
    shape: tuple[int, ...]
    kind: str

    @property
    def bytes(self) -> int:
        """Its size."""
        import gguf

        block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[self.kind]]
        return int(np.prod(self.shape)) // int(block) * int(size)


class GGUFForm:
    """How a model is written as a GGUF file.

    Args:
        model: a frozen decoder.
    """

    def __init__(self, model: FrozenModel) -> None:
        self.model = model

    @functools.cached_property
    def refusal(self) -> str | None:
        """Why there is no such file, in words; None where there is."""
        reasons = (*_reasons(self.model), why_no_tokenizer(self.model.tokenizer))
        return next((reason for reason in reasons if reason), None)

    def check(self) -> None:
        """Raise GfoError where there is no such file."""
        if self.refusal:
            raise GfoError(f"export gguf: {self.refusal}; export merged, and convert that folder")

    @property
    def architecture(self) -> str:
        """What the file calls the family."""
        return GGUF_ARCHITECTURES[self.model.config.model_type]

    @functools.cached_property
    def parameters(self) -> dict[str, str]:
        """Name of a parameter of the transformers model -> name in the file; those tied are once there."""
        import gguf

        kind = next(k for k, name in gguf.MODEL_ARCH_NAMES.items() if name == self.architecture)
        table = gguf.get_tensor_name_map(kind, self.model.layers)
        found = {}
        for name, _ in self.model.module.named_parameters():
            stem, _, end = name.rpartition(".")
            found[name] = f"{table.get_name(stem)}.{end}"
        return found

    def arranged(self, name: str, values: NDArray[Any]) -> NDArray[Any]:
        """A parameter's rows in the order of the file: of queries and keys, a llama's pairs that turn."""
        end = name.rpartition("self_attn.")[2]
        if self.architecture != "llama" or not end.startswith(("q_proj", "k_proj")):
            return values
        config = self.model.config
        heads = config.num_attention_heads if end.startswith("q") else config.num_key_value_heads
        halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
        return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)

    def kept(self, kinds: Mapping[str, str], embeddings: str) -> Iterator[tuple[str, Kept]]:
        """All tensors, with the parameters that they are, in the model's order.

        Args:
            kinds: module -> its weight's type; F32 of those that are not there.
            embeddings: the type of the embeddings, and of a head of its own.
        """
        for name, parameter in self.model.module.named_parameters():
            inside = self.model.layer_of(name) is not None
            other = embeddings if parameter.ndim > 1 and not inside else "F32"
            kind = kinds.get(name.removesuffix(".weight"), other)
            yield name, Kept(self.parameters[name], tuple(parameter.shape), kind)

    def size(self, kinds: Mapping[str, str], embeddings: str) -> int:
        """Bytes of the file."""
        return self.header_bytes + sum(padded(kept.bytes) for _, kept in self.kept(kinds, embeddings))

    def rest_bytes(self, modules: Iterable[str], embeddings: str) -> int:
        """Bytes of the file without the weights of some modules."""
        left_out = {f"{name}.weight" for name in modules}
        tensors = (k for name, k in self.kept({}, embeddings) if name not in left_out)
        return self.header_bytes + sum(padded(kept.bytes) for kept in tensors)

    @functools.cached_property
    def header_bytes(self) -> int:
        """Bytes of the file in front of its tensors, which do not depend on their types."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "header.gguf"
            self.begun(path, (kept for _, kept in self.kept({}, "F32"))).close()
            return padded(path.stat().st_size)

    def begun(self, path: Path, tensors: Iterable[Kept]) -> Any:
        """The writer of a file whose keys are written, and whose tensors are to follow in their order."""
        import gguf

        self.check()
        writer = gguf.GGUFWriter(path, self.architecture)
        self._add_keys(writer)
        tokenizer_keys(writer, self.model)
        for kept in tensors:
            kind = gguf.GGMLQuantizationType[kept.kind]
            writer.add_tensor_info(kept.name, kept.shape, np.dtype(np.float32), kept.bytes, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        return writer

    def _add_keys(self, writer: Any) -> None:
        """The sizes of the model."""
        import gguf

        model, config = self.model, self.model.config
        name = Path(model.name).name
        # transformers takes a llama of the very name "mistral" for one with a sliding window
        writer.add_name(name.capitalize() if name == "mistral" else name)
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        writer.add_context_length(model.context_length)
        writer.add_embedding_length(model.hidden_size)
        writer.add_block_count(model.layers)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_key_length(_head_size(config))
        writer.add_value_length(_head_size(config))
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_dimension_count(_head_size(config))
        writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
        writer.add_vocab_size(model.vocabulary_size)


def padded(size: int) -> int:
    """Bytes up to where the next tensor begins."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def _head_size(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _reasons(model: FrozenModel) -> Iterator[str | None]:
    """Why a model's weights cannot be written, if so, the first that is not None."""
    config = model.config
    kind = config.model_type
    if kind not in GGUF_ARCHITECTURES or config is not model.module.config:
        yield f"a model of the family {kind} is none of {', '.join(GGUF_ARCHITECTURES)}"
        return
    if quantized_linears(model.module):
        yield "its weights are quantized already, and would be rounded twice"
    yield from _reasons_of_places(model)
    if config.hidden_act != "silu":
        yield f"its activation function is {config.hidden_act}, and readers take silu"
    usual = config.hidden_size // config.num_attention_heads
    wanted = {"qwen2": usual, **GGUF_HEAD_SIZE}.get(kind, _head_size(config))
    if _head_size(config) != wanted:
        yield f"its heads are of size {_head_size(config)}, and readers take {wanted}"
    yield from _reasons_of_biases(model)


def _reasons_of_places(model: FrozenModel) -> Iterator[str]:
    """Where tokens stand, or which others they see, in ways that a file has no words for."""
    rope = model.config.rope_parameters
    if rope.get("rope_type", "default") != "default" or rope.get("partial_rotary_factor", 1) != 1:
        yield f"its positions are scaled ({rope.get('rope_type')}), which readers lose"
    window = attention_windows(model.config)[0]
    if window is not None and window < model.context_length:
        yield f"its attention has a window of {window} tokens, which the file cannot say"


def _reasons_of_biases(model: FrozenModel) -> Iterator[str]:
    """Biases that a model of the family does not have in a file."""
    kind = model.config.model_type
    for name, _ in model.module.named_parameters():
        if name.endswith(".bias") and not (kind in GGUF_BIASES and name.split(".")[-2] in GGUF_BIASES[kind]):
            yield f"the bias '{name}' has no place in the architecture"
