"""Models on which a pass, a head or an input is not what it seems: each is right, and says how it is run."""

from __future__ import annotations

import pytest
from family_models import build, frozen
from test_families import check_change, check_generation

import gfo
from gfo.models.decoder import Decoder
from gfo.models.encoder import Encoder
from gfo.models.encoder_decoder import EncoderDecoder
from gfo.models.probing import check_modules
from gfo.models.whole_rows import WholeEncoder, WholeRows

LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
    "rope_theta": 1e4,
    "original_max_position_embeddings": 16,  # one row of the tests is shorter, one longer
}
PER_LAYER = {"hidden_size_per_layer_input": 8}
# name -> family, mapping, config, class, whether only rows of one length go together, whether by token ids
MODELS = {
    "longrope across its threshold": (
        ("phi3", "causal", {"rope_parameters": LONGROPE, "original_max_position_embeddings": 16}),
        (WholeRows, True, False),
    ),
    "padding leaks": (("convbert", "masked", {}), (Encoder, True, False)),
    "a scale of tied embeddings": (("umt5", "seq2seq", {}), (EncoderDecoder, False, False)),
    "no per-layer inputs": (("gemma4_text", "causal", {}), (Decoder, False, False)),
    "per-layer inputs": (("gemma4_text", "causal", PER_LAYER), (WholeRows, False, True)),
    "a head of several parts": (("distilbert", "masked", {}), (WholeEncoder, False, False)),
    "ALiBi": (("falcon", "causal", {"alibi": True}), (WholeRows, False, False)),
    "rotary, an attention of its own": (("falcon", "causal", {}), (Decoder, False, False)),
}


@pytest.mark.parametrize("name", MODELS)
def test_it_is_right(name):
    (family, mapping, config), expected = MODELS[name]
    model, warning = frozen(build(family, mapping, **config), family, mapping)
    assert (type(model), model.equal_lengths, model.by_ids) == expected
    assert bool(warning) == (expected not in [(Decoder, False, False), (EncoderDecoder, False, False)])
    for kind in ("prompt behind", "lora", "bias"):
        check_change(model, kind)
    if model.generates:
        check_generation(model)


@pytest.mark.parametrize("family", ["deepseek_v3", "gptj", "xglm"])
def test_generation_with_an_attention_of_its_own(family):
    """Outside of transformers' interface, or with keys and values of different widths."""
    model, _ = frozen(build(family), family, "causal")
    assert type(model) is Decoder
    check_generation(model)


def test_a_module_that_is_never_called_is_refused():
    model, _ = frozen(build("mamba"), "mamba", "causal")
    never = next(name for name in model.linears if name.endswith("dt_proj"))
    with pytest.raises(gfo.GfoError, match="is never called in a forward pass"):
        check_modules(model, [never])
    check_modules(model, [name for name in model.linears if name.endswith("in_proj")])


def test_a_check_that_is_left_out():
    module = build("phi3", rope_parameters=LONGROPE, original_max_position_embeddings=16)
    tokenizer = frozen(build("llama"), "llama", "causal")[0].tokenizer
    model = gfo.freeze(module, tokenizer, check=False)
    assert type(model) is Decoder
    assert not model.checks
