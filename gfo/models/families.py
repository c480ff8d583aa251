"""What differs between model families, as data: the only place with family names.

Everything that can be read off a transformers config or signature is read there; this table
holds the rest.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from torch import nn

# Factors that a family applies to its logits behind the output embedding, the value is the config's
# attribute; and what configs call caps. logits = cap * tanh(logits * scale / cap).
LOGIT_SCALE = {
    "cohere": "logit_scale",
    "cohere2": "logit_scale",
    "cohere2_moe": "logit_scale",
    "hyperclovax": "logits_scaling",
}
LOGITS_AS_THEY_ARE = frozenset({"aya_vision", "cohere2_vision"})  # heads that do not apply their text model's
LOGIT_DIVISOR = {
    "granite": "logits_scaling",
    "granite_swa": "logits_scaling",
    "granitemoe": "logits_scaling",
    "granitemoe_swa": "logits_scaling",
    "granitemoehybrid": "logits_scaling",
    "granitemoeshared": "logits_scaling",
    "minicpm3": "logits_scaling",
}
LOGIT_SOFTCAP = ("final_logit_softcapping", "logits_soft_cap", "logit_softcap", "output_logit_soft_cap")

# Usual names of linear modules by what they do: groups of patterns (the ends of names, or whole names with
# wildcards); that group is taken whose first pattern a model has before it has another's.
_FUSED = (("qkv_proj",), ("query_key_value",), ("c_attn",), ("Wqkv",), ("kv_proj",), ("in_proj",))
_T5 = ("*SelfAttention", "EncDecAttention")
_DOWN = (
    ("down_proj",),
    ("fc2",),
    ("fc_out",),
    ("mlp.c_proj",),
    ("dense_4h_to_h",),
    ("*[0-9].output.dense",),
    ("lin2",),
    ("wo",),
    ("mlp.Wo",),
    ("ffn_output",),
    ("feed_forward.w2",),
    ("feed_forward.value",),
    ("w_out",),
    ("ffn.2",),
)
USUAL_TARGETS: dict[str, tuple[tuple[str, ...], ...]] = {
    "queries and values": (
        ("kv_b_proj", "q_b_proj", "q_proj"),  # multi-head latent attention
        ("q_proj", "v_proj"),
        ("query", "value"),
        ("query_proj", "value_proj"),
        ("q_lin", "v_lin"),
        tuple(f"{part}.{name}" for part in _T5 for name in "qv"),
        ("attn.q", "attn.v"),
        ("Wq", "Wv"),
        ("project_q", "project_v"),
        ("attention.receptance", "attention.value"),
        *_FUSED,
    ),
    "keys and values": (
        ("kv_b_proj",),
        ("k_proj", "v_proj"),
        ("key", "value"),
        ("key_proj", "value_proj"),
        ("k_lin", "v_lin"),
        tuple(f"{part}.{name}" for part in _T5 for name in "kv"),
        ("attn.k", "attn.v"),
        ("Wk", "Wv"),
        ("project_k", "project_v"),
        *_FUSED,
    ),
    "queries": (
        ("q_b_proj",),
        ("q_proj",),
        ("query",),
        ("query_proj",),
        ("q_lin",),
        tuple(f"{part}.q" for part in _T5),
        ("attn.q",),
        ("Wq",),
        ("project_q",),
        ("attention.receptance",),
        *_FUSED,
    ),
    # the feed-forward network's last matrix
    "down": _DOWN,
    # the matrix whose outputs are the inner activations where they are gated, or the last one
    "feed-forward": (("up_proj",), ("wi_1",), ("feed_forward.w3",), *_DOWN),
    # the first matrix
    "up": (
        ("up_proj",),
        ("gate_up_proj",),
        ("fc1",),
        ("fc_in",),
        ("mlp.c_fc",),
        ("dense_h_to_4h",),
        ("intermediate.dense",),
        ("lin1",),
        ("wi_1",),
        ("wi",),
        ("mlp.Wi",),
        ("ffn",),
        ("feed_forward.w3",),
        ("feed_forward.key",),
        ("w_in.w_1",),
        ("ffn.0",),
    ),
}

# Families whose layers are norm, q, k, v, o, norm, gated feed-forward network, and the places in a layer
# where factors can be moved from columns to what gives their inputs: source -> modules with these columns.
RESCALED_FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
RESCALED_VALUES = "self_attn.v_proj"
RESCALED_PLACES: dict[str, tuple[str, ...]] = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    RESCALED_VALUES: ("self_attn.o_proj",),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.up_proj": ("mlp.down_proj",),
}

# Families that are written as GGUF files, and what those call them; which of their modules may have a bias,
# and the only head size that transformers takes, where it does not read the size from the file.
GGUF_ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
GGUF_BIASES = {"qwen2": ("q_proj", "k_proj", "v_proj")}
GGUF_HEAD_SIZE = {"qwen3": 128}

# Parameters of routed experts, one matrix each, which are no modules.
EXPERTS = re.compile(r"\.(experts|input_linear|output_linear)\.\w+$")

# A layer's feed-forward network, as nearly all families call it.
FEED_FORWARD = "mlp"

# A layer's sub-blocks: the module of each, or the first and the last one of it, by the families' names.
SUB_BLOCK_NAMES: dict[str, tuple[tuple[str, ...], ...]] = {
    "attention": (("self_attn",), ("self_attention",), ("attn",), ("attention",)),
    "feed-forward": (("mlp",), ("feed_forward",), ("ffn",), ("block_sparse_moe",), ("fc1", "fc2")),
}

# Numbers of heads that attentions keep as attributes, and what they are of; and how configs say them.
HEADS_OF_ATTENTION = {
    "num_heads": "queries",
    "num_attention_heads": "queries",
    "num_key_value_heads": "groups",
    "num_key_value_groups": "ratio",
}
HEADS_IN_CONFIG = {"num_attention_heads": "queries", "num_key_value_heads": "groups"}
HEAD_WIDTH_IN_CONFIG = "head_dim"
NEURONS_IN_CONFIG = ("intermediate_size", "ffn_dim", "n_inner")

# Families in whose text models the tokens of an image see each other, and those of a whole prompt do.
WHOLE_IMAGES = frozenset({"gemma3"})
WHOLE_PROMPTS = frozenset({"paligemma"})

# Positions that begin behind the padding token's number, so that a table holds as many less.
POSITIONS_BEHIND_PADDING = frozenset({"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "longformer"})

# Layers' arguments that hold what attention adds to the heads' scores by the key's position.
KEY_BIASES = ("alibi", "position_bias")

KNOWN_LAYER_TYPES = frozenset({"full_attention", "sliding_attention"})  # that masks express


def _factor(config: Any, names: Mapping[str, str]) -> float:
    """The value that a family's config has under its name; 1 of a family without one."""
    name = names.get(config.model_type)
    return 1.0 if name is None else float(getattr(config, name))


def logit_transform(config: Any, whole: str) -> tuple[float, float | None]:
    """(scale, softcap or None) that the family applies to its logits.

    Args:
        config: of the text model.
        whole: the kind of model that this is a part of, or its own.
    """
    kind = config.model_type
    scale = 1.0 if whole in LOGITS_AS_THEY_ARE else _factor(config, LOGIT_SCALE)
    scale /= _factor(config, LOGIT_DIVISOR)
    tied = kind in ("umt5", "switch_transformers") and config.tie_word_embeddings
    if tied or getattr(config, "scale_decoder_outputs", False):  # T5 with tied embeddings
        scale *= float(config.d_model) ** -0.5
    return scale, next((cap for name in LOGIT_SOFTCAP if (cap := getattr(config, name, None))), None)


def context_length(config: Any) -> int:
    """The most tokens of a sequence; very many where nothing bounds them."""
    length = int(getattr(config, "max_position_embeddings", None) or 2**20)
    if length < 0:  # XLNet's way of saying that nothing bounds them
        return 2**20
    if config.model_type in POSITIONS_BEHIND_PADDING:
        length -= int(config.pad_token_id) + 1
    return length


def why_not_placed(body: nn.Module, config: Any) -> str:
    """Why position ids do not say where a decoder's tokens stand; "" where they do."""
    if "position_ids" not in inspect.signature(body.forward).parameters:
        return "its forward pass takes no position_ids"
    return "its attention counts the keys (ALiBi)" if getattr(config, "alibi", False) else ""


def strange_layers(config: Any) -> str:
    """Kinds of layers that are not attention to all tokens or to a window of them, in words."""
    return ", ".join(sorted(set(getattr(config, "layer_types", None) or ()) - KNOWN_LAYER_TYPES))


def attention_windows(config: Any) -> tuple[int | None, bool]:
    """(window, mixed): the sliding window in tokens or None, and whether only some layers have it."""
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds == {"full_attention"}:
        window = None
    return window, len(kinds) == 2


def feed_forward_of(layer: nn.Module) -> nn.Module | None:
    """A layer's feed-forward network, or None where it has none of the usual name."""
    network = getattr(layer, FEED_FORWARD, None)
    return network if isinstance(network, nn.Module) else None


def sub_block_of(layer: nn.Module, kind: str) -> tuple[nn.Module, nn.Module] | None:
    """The modules by which tokens enter a layer's sub-block and leave it, mostly one; None for none."""
    for names in SUB_BLOCK_NAMES[kind]:
        if all(isinstance(getattr(layer, name, None), nn.Module) for name in names):
            return getattr(layer, names[0]), getattr(layer, names[-1])
    return None


def holds_position_bias(part: nn.Module) -> bool:
    """Whether it is the attention of a first layer, whose position bias all layers behind it use (T5)."""
    return bool(getattr(part, "has_relative_attention_bias", False))


def give_position_bias(part: nn.Module, first: nn.Module) -> None:
    """Make an attention hold the position bias of the first layer's."""
    twin: Any = part
    twin.has_relative_attention_bias = True
    twin.relative_attention_bias = first.relative_attention_bias
