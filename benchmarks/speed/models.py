"""The models whose speed is measured: loaded, or random weights of a shape, built on the device."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from benchmarks.shared import check_at_least_one, say
from benchmarks.speed.data import DATA_SETS
from gfo.core.errors import GfoError, unknown_name

if TYPE_CHECKING:
    from gfo.models.decoder import Decoder

DEFAULT_MODEL = "smollm2-135m"
DTYPES = ("float32", "bfloat16", "float16")
# LlamaConfig's arguments: SmolLM2's three sizes (Ben Allal et al. 2025), and Llama 7B's (Touvron et al. 2023)
SMOLLM2 = {"vocab_size": 49152, "max_position_embeddings": 8192, "tie_word_embeddings": True}
SHAPES: dict[str, dict[str, Any]] = {
    "135m": {
        **SMOLLM2,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
    "360m": {
        **SMOLLM2,
        "hidden_size": 960,
        "intermediate_size": 2560,
        "num_hidden_layers": 32,
        "num_attention_heads": 15,
        "num_key_value_heads": 5,
    },
    "1.7b": {
        **SMOLLM2,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
    },
    "7b": {
        "vocab_size": 32000,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
    },
}


def add_model_options(add: Callable[..., Any]) -> None:
    """Options that name the model and the device."""
    add("--model", help=f"name, folder or hub id (default {DEFAULT_MODEL})")
    add("--shape", help=f"random weights of a shape instead of a model: {', '.join(SHAPES)}")
    add("--device", default="cpu", choices=("cpu", "cuda"), help="default: %(default)s")
    add("--dtype", default="float32", choices=DTYPES, help="of the weights (default %(default)s)")
    add("--threads", type=int, help="of torch; default: its own choice")
    add("--seed", type=int, default=0, help="of candidates and random tokens (default %(default)s)")


def check_model_options(options: argparse.Namespace) -> None:
    """Raise GfoError for options of `add_model_options` that are wrong or contradict each other."""
    import torch

    check_at_least_one(options, ["threads"])
    if options.seed < 0:
        raise GfoError(f"--seed {options.seed}: must be 0 or more")
    if options.shape is not None and options.shape not in SHAPES:
        raise unknown_name("--shape", options.shape, SHAPES)
    if options.shape is not None and options.model is not None:
        raise GfoError(f"--shape {options.shape}: --model {options.model} has a shape; give one of the two")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise GfoError("--device cuda: torch sees no GPU here; leave --device out to measure on the CPU")


def make_model(options: argparse.Namespace) -> Decoder:
    """The model that the options name."""
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    if options.shape:
        say(f"drawing random weights of the shape {options.shape}")
        return random_decoder(
            options.shape,
            dtype=options.dtype,
            device=options.device,
            seed=options.seed,
            layers=getattr(options, "layers", None),
        )
    name = options.model or DEFAULT_MODEL
    say(f"loading {name}")
    return load_decoder(name, dtype=options.dtype, device=options.device)


def load_decoder(name: str, *, dtype: str, device: str) -> Decoder:
    """A model by name, folder or hub id.

    Raises:
        GfoError: for one that cannot be loaded, or is no decoder.
    """
    from gfo.models.decoder import Decoder
    from gfo.models.loading import load_model

    model = load_model(name, dtype=dtype, device=device)
    if not isinstance(model, Decoder):
        raise GfoError(f"--model {name}: it is no decoder; give one, such as smollm2-135m")
    return model


def random_decoder(shape: str, *, dtype: str, device: str, seed: int, layers: int | None = None) -> Decoder:
    """Random weights of a shape, drawn on the device; its tokenizer knows the templates' words only.

    Args:
        shape: one of SHAPES.
        dtype: of the weights.
        device: "cpu" or "cuda".
        seed: of the weights.
        layers: how many layers, instead of the shape's.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from gfo.models.decoder import Decoder

    config = LlamaConfig(**(SHAPES[shape] | ({} if layers is None else {"num_hidden_layers": layers})))
    before = torch.get_default_dtype()
    torch.manual_seed(seed)
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with torch.device(device):
            module = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    return Decoder(module, word_tokenizer(), f"random-{shape}")


def word_tokenizer() -> Any:
    """A tokenizer that splits the templates' texts into words, blanks and signs, a token each."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = sorted(
        {word for data in DATA_SETS.values() for word in re.findall(r"\w+", data.head + data.tail)}
    )
    vocabulary = {token: i for i, token in enumerate(["<unk>", ":", " ", "\n", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|\W"), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def layer_parameters(model: Decoder) -> int:
    """Numbers in the weights of all layers, without embeddings and head."""
    return sum(p.numel() for stack in model.stacks for layer in stack.layers for p in layer.parameters())


def float32_copy(model: Decoder) -> Decoder | None:
    """The same weights in float32; None if they would take more than half of the free memory."""
    import copy

    from gfo.evaluation.memory import free_bytes
    from gfo.models.decoder import Decoder

    size = 4 * sum(p.numel() for p in model.module.parameters())
    if size > 0.5 * free_bytes(model.device):
        return None
    return Decoder(copy.deepcopy(model.module).float(), model.tokenizer, model.name)
