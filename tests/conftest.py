"""Fixtures: tiny random models of many families and a tokenizer, made in memory and the same each time.

- `tiny(family, start=..., seed=..., dtype=..., **config)`: a frozen model; session-wide and cached, so treat
  it as frozen, as gfo does.
- `family`: a test that takes it runs once for each decoder family of FAMILIES.
- `encoder_family`: once for each encoder and encoder-decoder of ENCODERS.
- `tokenizer(start=...)`: a new byte-level BPE tokenizer of about 200 tokens; `start` puts <s> before a text.
"""

from __future__ import annotations

import functools
import os
import random
import signal

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported; no test needs a hub

import hypothesis
import numpy as np
import pytest
import torch
import transformers
from tokenizers import processors

from gfo.models.loading import freeze
from gfo.testing.tiny import draw_weights, token_ids, train_tokenizer

torch.set_num_threads(int(os.environ.get("GFO_TEST_THREADS", "1")))  # see .ci/processors
hypothesis.settings.register_profile("gfo", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("gfo")


def pytest_configure() -> None:
    """Ctrl-C is heard, by what tests start, too; a job that a shell runs with "&" ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup() -> None:
    """Every test draws the same numbers each time, whatever ran before it."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002, the state that nevergrad and pycma draw from
    random.seed(0)


VOCABULARY = 200
SENTENCES = [
    "Review: the movie is a great joy from the first minute to the last. Sentiment: positive",
    "Review: a terrible waste of time, and not even a short one! Sentiment: negative",
    "Is it good or bad? I would say that the food was good, but the service was bad.",
    "Say in one word what the writer thinks about it: great, terrible, or neither?",
]
SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "vocab_size": VOCABULARY,
}
GROUPED = {**SHAPE, "intermediate_size": 48, "num_key_value_heads": 2}
LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]
WINDOW = 6  # shorter than most texts of the tests
# family -> its config class and what its shape adds; the windows are shorter than the texts
FAMILIES = {
    "llama": ("LlamaConfig", GROUPED),
    "gpt2": ("GPT2Config", {**SHAPE, "n_inner": 48}),
    "qwen2": ("Qwen2Config", GROUPED),
    "qwen3": ("Qwen3Config", {**GROUPED, "head_dim": 16}),
    "mistral": ("MistralConfig", {**GROUPED, "sliding_window": WINDOW}),
    "gemma": ("GemmaConfig", {**GROUPED, "head_dim": 16}),
    "gemma2": (
        "Gemma2Config",
        {
            **GROUPED,
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": WINDOW,
            "layer_types": LAYERS,
            "final_logit_softcapping": 3.0,
            "attn_logit_softcapping": 5.0,
        },
    ),
    "gemma3": (
        "Gemma3TextConfig",
        {
            **GROUPED,
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": WINDOW,
            "layer_types": LAYERS,
        },
    ),
    "opt": ("OPTConfig", {**SHAPE, "ffn_dim": 48, "word_embed_proj_dim": 24}),
    "gpt_neox": ("GPTNeoXConfig", {**SHAPE, "intermediate_size": 48}),
    "granite": ("GraniteConfig", {**GROUPED, "logits_scaling": 4.0, "embedding_multiplier": 3.0}),
    "phi": ("PhiConfig", {**GROUPED, "partial_rotary_factor": 0.5}),  # its head has a bias
    "cohere2": (
        "Cohere2Config",
        {**GROUPED, "logit_scale": 0.5, "sliding_window": WINDOW, "layer_types": LAYERS},
    ),
}
ENCODER = {**SHAPE, "intermediate_size": 48, "type_vocab_size": 2}
ENCODERS = {
    "bert": ("BertConfig", ENCODER),
    "roberta": ("RobertaConfig", ENCODER),
    "t5": (
        "T5Config",
        {
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 48,
            "num_layers": 3,
            "num_decoder_layers": 3,
            "num_heads": 4,
            "vocab_size": VOCABULARY,
            "relative_attention_num_buckets": 8,
            "relative_attention_max_distance": 16,
            "decoder_start_token_id": 0,
        },
    ),
    "bart": (
        "BartConfig",
        {
            "d_model": 32,
            "encoder_layers": 3,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "max_position_embeddings": 128,
            "vocab_size": VOCABULARY,
            "decoder_start_token_id": 2,
            "forced_bos_token_id": 1,
        },
    ),
}
AUTO = {"bert": "MaskedLM", "roberta": "MaskedLM", "t5": "Seq2SeqLM", "bart": "Seq2SeqLM"}


def make_tokenizer(*, start=False):
    tokenizer = train_tokenizer(SENTENCES, VOCABULARY, every_byte=False)
    if start:
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
        )
    return tokenizer


def make_encoder_tokenizer():
    """With a mask token, and a token in front of a text and one behind it."""
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"mask_token": "</s>"})  # a token of the vocabulary, for want of room
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A <s>", special_tokens=[("<s>", 1)]
    )
    return tokenizer


@functools.cache
def make_model(family, start=False, seed=0, dtype=torch.float32, **changes):
    config_class, shape = (FAMILIES | ENCODERS)[family]
    config = getattr(transformers, config_class)(**{**shape, **token_ids(), **changes})
    auto = getattr(transformers, f"AutoModelFor{AUTO.get(family, 'CausalLM')}")
    module = auto.from_config(config)
    draw_weights(module, seed)
    tokenizer = make_encoder_tokenizer() if family in ENCODERS else make_tokenizer(start=start)
    return freeze(module.to(dtype), tokenizer, f"tiny-{family}")


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(params=ENCODERS)
def encoder_family(request):
    return request.param


@pytest.fixture(scope="session")
def tiny():
    return make_model


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer
