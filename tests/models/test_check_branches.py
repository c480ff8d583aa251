"""`load_model` compares branches with a plain forward pass, and refuses a model where they differ."""

import pytest
import torch
from transformers import AutoModelForCausalLM, BertConfig

import gfo
from gfo.models.decoder import Decoder


def test_every_family_passes(tiny, family):
    tiny(family).check_branches()


def test_half_precision_passes(tiny):
    tiny("llama", dtype=torch.bfloat16).check_branches()


def test_an_encoder_in_a_decoders_place_is_refused(tokenizer):
    """BERT without `is_decoder` sees the whole text, which branches cannot give."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    torch.manual_seed(0)
    module = AutoModelForCausalLM.from_config(BertConfig(vocab_size=200, is_decoder=False, **sizes))
    with pytest.raises(gfo.GfoError, match="differ from a plain forward pass"):
        Decoder(module, tokenizer(), "bert").check_branches()


def test_a_wrong_logit_factor_is_caught(tiny):
    right = tiny("granite")
    wrong = Decoder(right.module, right.tokenizer, "granite")
    wrong._logit_scale = 1.0
    with pytest.raises(gfo.GfoError, match="differ from a plain forward pass"):
        wrong.check_branches()
