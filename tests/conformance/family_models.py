"""A tiny random model of every family in transformers' auto mappings that a short config can build."""

from __future__ import annotations

import functools
import inspect
import json
import re
import warnings
from pathlib import Path

import torch
import transformers
from conftest import VOCABULARY, make_encoder_tokenizer, make_tokenizer
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import gfo
from gfo.testing.tiny import draw_weights

ROOT = Path(__file__).resolve().parents[2]
MAPPINGS = {
    "causal": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "masked": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "seq2seq": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
}
IMAGES = {"images": "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES"}  # tried by name alone
RESULTS = ROOT / "docs" / "families.json"
MOST_PARAMETERS = 2e7
# what configs call their sizes; each config takes those that it has
SIZES = {
    4: "num_hidden_layers num_attention_heads n_layer n_head num_layers num_decoder_layers num_heads "
    "encoder_layers decoder_layers encoder_attention_heads decoder_attention_heads attention_heads n_layers "
    "n_heads num_experts num_local_experts n_routed_experts moe_num_experts linear_num_value_heads "
    "mamba_n_heads mamba_num_heads qk_rope_head_dim linear_num_heads",
    8: "head_dim d_kv qk_nope_head_dim linear_key_head_dim linear_value_head_dim "
    "global_head_dim linear_head_dim mamba_d_state state_size ssm_state_size chunk_size mamba_chunk_size "
    "index_topk block_size",
    32: "hidden_size n_embd d_model emb_dim dim embedding_size lm_head_size attention_hidden_size d_embed "
    "word_embed_proj_dim lru_width hidden_size_global",
    48: "intermediate_size n_inner d_ff encoder_ffn_dim decoder_ffn_dim ffn_dim hidden_dim dff "
    "ffn_hidden_size mm_embed_dim",
    128: "max_position_embeddings n_positions n_ctx",
    VOCABULARY + 8: "vocab_size vocab_size_per_layer_input",
    16: "moe_intermediate_size shared_expert_intermediate_size q_lora_rank kv_lora_rank mamba_d_head "
    "mamba_head_dim index_head_dim laurel_rank expert_ffn_hidden_size entity_emb_size entity_vocab_size",
    10: "v_head_dim",  # unlike the width of keys
    6: "sliding_window attention_window_size attention_window window_size",
    2: "num_key_value_heads num_experts_per_tok moe_k linear_num_key_heads num_global_key_value_heads "
    "mamba_expand index_n_heads eos_token_id moe_topk zero_expert_num",
    1: "n_group topk_group first_k_dense_replace mamba_n_groups n_groups bos_token_id decoder_start_token_id",
    0: "pad_token_id dropout hidden_size_per_layer_input num_kv_shared_layers",
}
SHAPE = {name: size for size, names in SIZES.items() for name in names.split()}
# tokens of images and sounds, behind those of the tokenizer
PLACEHOLDER = re.compile("(image|video|audio)_token_(id|index)$")
TWICE = [2 * i + 1 for i in range(2)]
BERT = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": VOCABULARY + 8,
}
ROPE = {"rope_type": "default", "rope_theta": 1e4}
# what a family needs beside
OVER = {
    "axk2": {"head_dim": 4},
    "deepseek_v32": {"head_dim": 4},
    "glm_moe_dsa": {"head_dim": 4},
    "bailing_hybrid": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "bamba": {"attn_layer_indices": TWICE},
    "blt": {"encoder_hash_byte_group_vocab": 50, "use_cache": False},
    "codegen": {"rotary_dim": 4},
    "cohere_compass_text": {"rope_parameters": {"full_attention": ROPE}},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 1e4},
        "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 48, "moe_top_k": 2},
    },
    "dots1": {"n_shared_experts": 1},
    "dots3_note_text": {
        "shared_experts_intermediate_size": 16,
        "layer_types": ["indexed_attention", "sliding_attention"] * 2,
        "swa_num_attention_heads": 2,
        "swa_num_key_value_heads": 2,
        "swa_q_lora_rank": 16,
        "swa_kv_lora_rank": 16,
        "swa_head_dim": 8,
        "swa_qk_nope_head_dim": 4,
        "swa_qk_rope_head_dim": 4,
        "swa_v_head_dim": 4,
    },
    "encoder-decoder": {"encoder": BERT, "decoder": BERT | {"is_decoder": True, "add_cross_attention": True}},
    "esmc": {"num_key_value_heads": 4},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n_text": {"hidden_size_per_layer_input": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "gptj": {"rotary_dim": 4},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "longcat_flash": {"head_dim": 4},
    "longformer": {"attention_window": 4},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "neomme": {"head_dim": 16},
    "perceiver": {"num_self_attends_per_block": 4, "d_latents": 32, "num_latents": 16},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 8,
        "indexer_compress_ratio": 2,
    },
    "reformer": {
        "axial_pos_shape": [8, 16],
        "axial_pos_embds_dim": [8, 24],
        "attn_layers": ["local", "lsh"] * 2,
        "hash_seed": 0,
    },
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "xlstm": {"hidden_size": 128, "autocast_kernel_dtype": "float32", "max_inference_chunksize": 2**21},
    "zamba": {"attention_hidden_size": 64, "layers_block_type": ["linear_attention", "hybrid"] * 2},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"] * 2},
    "zaya": {"num_experts_per_tok": 1},
}


def names(mapping):
    """Family -> class, of a mapping."""
    return dict(getattr(modeling_auto, (MAPPINGS | IMAGES)[mapping]))


def config_of(family, mapping="causal", **more):
    """A small config, its parts' configs small too."""
    config_class = getattr(transformers, names(mapping)[family]).config_class or CONFIG_MAPPING[family]
    over = OVER.get(config_class.model_type, {}) | more
    config = _filled(config_class, over, is_decoder=mapping == "causal")
    if mapping == "seq2seq" and getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = 1
    return config


def _filled(config_class, over, **sizes):
    known = set(inspect.signature(config_class.__init__).parameters)
    for base in config_class.__mro__:
        known |= set(getattr(base, "__annotations__", {}))
    if "kv_lora_rank" in known:  # multi-head latent attention
        sizes["num_key_value_heads"] = SHAPE["num_attention_heads"]
    values = {name: size for name, size in (SHAPE | sizes).items() if name in known} | over
    values |= {name: VOCABULARY for name in known if PLACEHOLDER.match(name)}
    for name, part in (getattr(config_class, "sub_configs", None) or {}).items():
        if part is transformers.AutoConfig:  # whatever it is by default
            part = type(getattr(config_class(), name, None))
        if issubclass(part, transformers.PretrainedConfig) and name not in over:
            values[name] = _filled(part, OVER.get(part.model_type, {}))
    return config_class(**values)


class NotBuiltError(Exception):
    """A short config does not make the model."""


def _made(family, mapping, more):
    made = getattr(transformers, names(mapping)[family])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as that of tensors without elements
        config = config_of(family, mapping, **more)
        with torch.device("meta"):
            size = sum(p.numel() for p in made(config).parameters())
        if size > MOST_PARAMETERS:
            raise NotBuiltError(f"{size / 1e6:.0f} million parameters")
        with torch.random.fork_rng():  # what is not drawn below is the same each time, too
            torch.manual_seed(0)
            module = made(config).eval()
    draw_weights(module, 0)
    return module


def build(family, mapping="causal", **more):
    """A tiny random transformers model.

    Raises:
        NotBuiltError: if a short config does not make one that takes a text.
    """
    try:
        module = _made(family, mapping, more)
        ids = torch.arange(3, 15)[None]
        two = {"decoder_input_ids": ids[:, :3]} if mapping == "seq2seq" else {}
        other = torch.cat([ids[:, -1:], ids[:, 1:]], dim=1)
        with torch.no_grad():
            logits, moved = (module(input_ids=row, **two).logits for row in (ids, other))
    except NotBuiltError:
        raise
    except Exception as error:
        line = next(iter(str(error).strip().splitlines()), "")
        raise NotBuiltError(f"{type(error).__name__}: {line}") from error
    if logits.ndim != 3 or not bool(logits.isfinite().all()):
        raise NotBuiltError("its logits are no finite numbers of each token")
    if torch.equal(logits[0, 1:], moved[0, 1:]):
        raise NotBuiltError("no token's logits depend on the first token, as it runs on a CPU")
    return module


def frozen(module, family, mapping):
    """The frozen model, and the warning that came with it or ""."""
    tokenizer = make_tokenizer() if mapping in ("causal", "images") else make_encoder_tokenizer()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", gfo.GfoWarning)
        model = gfo.freeze(module, tokenizer, family)
    assert len(found) <= 1
    return model, str(found[0].message) if found else ""


@functools.cache
def families():
    """(family, mapping) of all, one of each class."""
    seen, found = set(), []
    for mapping in MAPPINGS:
        for family, made in names(mapping).items():
            if (made, mapping == "causal") not in seen:
                seen.add((made, mapping == "causal"))
                found.append((family, mapping))
    return found


def way(family, mapping):
    """How a family is evaluated, in a line of the table: way, reason."""
    try:
        module = build(family, mapping)
    except NotBuiltError as error:
        return "not tried", str(error)
    try:
        model, warning = frozen(module, family, mapping)
    except gfo.GfoError as error:
        return "refused", str(error)
    kinds = {"WholeRows": "whole rows", "ContinuedRows": "copied states"}
    text = "branches" if model.contexts else kinds.get(type(model).__name__, "whole sequences")
    if model.by_ids:
        text += ", by token ids"
    if model.equal_lengths:
        text += ", one length a pass"
    return text, warning.rpartition(" (why: ")[2].removesuffix(")")


def table():
    """Rows of family, mapping, way and reason, of all, as docs/families.json holds them."""
    rows = [[family, mapping, *way(family, mapping)] for family, mapping in families()]
    return "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"
