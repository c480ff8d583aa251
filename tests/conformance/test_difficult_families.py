"""Models on which a pass, a head or an input is not what it seems: each is right, and says how it is run."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import torch
from family_models import build, frozen
from test_families import TEXTS, check_change, check_generation, plain_logits, rows_of, task
from transformers import DynamicCache

import gfo
from gfo.models.biased_decoder import BiasedDecoder
from gfo.models.continued_rows import ContinuedRows
from gfo.models.decoder import Decoder
from gfo.models.encoder import Encoder
from gfo.models.encoder_decoder import EncoderDecoder
from gfo.models.prefix_lm import PrefixLM
from gfo.models.probing import check_modules
from gfo.models.structure import hooked
from gfo.models.whole_rows import WholeEncoder, WholeRows

LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
    "rope_theta": 1e4,
    "original_max_position_embeddings": 16,  # one row of the tests is shorter, one longer
}
PER_LAYER = {"hidden_size_per_layer_input": 8}
SHARED = {"num_kv_shared_layers": 2, "layer_types": ["sliding_attention", "full_attention"] * 2}
FASTEST = (Decoder, BiasedDecoder, Encoder, EncoderDecoder, PrefixLM)
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
    "shared keys and values": (("gemma4_text", "causal", PER_LAYER | SHARED), (WholeRows, False, True)),
    "several streams of hidden states": (("gemma3n_text", "causal", PER_LAYER), (WholeRows, False, True)),
    "streams, shared keys": (("gemma3n_text", "causal", PER_LAYER | SHARED), (WholeRows, False, True)),
    "a list for images beside the text's": (("modernvbert", "masked", {}), (Encoder, False, False)),
    "images for some of its layers": (("mllama", "causal", {}), (ContinuedRows, False, False)),
    "text that sees what is behind it": (("paligemma", "images", {}), (PrefixLM, False, False)),
    "a head of several parts": (("distilbert", "masked", {}), (WholeEncoder, False, False)),
    "ALiBi": (("falcon", "causal", {"alibi": True}), (BiasedDecoder, False, False)),
    "rotary, an attention of its own": (("falcon", "causal", {}), (Decoder, False, False)),
}


@pytest.mark.parametrize("name", MODELS)
def test_it_is_right(name):
    (family, mapping, config), expected = MODELS[name]
    model, warning = frozen(build(family, mapping, **config), family, mapping)
    assert (type(model), model.equal_lengths, model.by_ids) == expected
    assert bool(warning) == (expected not in [(kind, False, False) for kind in FASTEST])
    for kind in ("prompt behind", "lora", "bias"):
        check_change(model, kind)
    if model.generates and not isinstance(model, PrefixLM):  # whose answers are causal: test_images
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


@pytest.mark.parametrize("family", ["deepseek_v3", "mimo_v2_flash"])
def test_a_prefix_of_keys_and_values_of_unequal_widths(family):
    """At z = 0 it is its words, written in front; each candidate's is what transformers' own cache gives."""
    model, _ = frozen(build(family), family, "causal")
    space = gfo.Prefix(model, dim=3, init=TEXTS[0], tokens=2)
    keys, values = space.decode(torch.zeros(1, 3)).prefix[0]
    assert keys.shape[-1] != values.shape[-1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gfo.GfoWarning)
        evaluator = gfo.LocalEvaluator(model, task(model, "nowhere"), space)
    batch = evaluator.task.all_rows("train")
    z = np.array([[0.0] * 3, [3.0] * 3])
    found = evaluator.answers(z, batch)
    deltas = [space.decode(torch.from_numpy(point[None])) for point in z]
    for b, row in enumerate(rows_of(batch)):
        plain = [plain_logits(model, row, len(row) - 1, delta) for delta in deltas]
        with torch.no_grad():
            written = model.module(torch.tensor([[*space.init_tokens, *row]])).logits[0, -1]
        for k, logits in enumerate([*plain, written]):
            wanted = logits[list(batch.vocabulary)]
            assert float((found[k % 2, b] - wanted).abs().max()) <= 1e-4 * float(logits.std())
        assert float((plain[0] - plain[1]).abs().max()) > 1e-2 * float(plain[0].std())  # control


@torch.no_grad()
def logits_behind_a_prefix(model, row, prefix):
    """Logits [V] of a row's last token in a plain pass; in layers without a prefix other keys are hidden."""
    S = next(iter(prefix.values()))[0].shape[2]
    cache = DynamicCache()
    for layer in range(model.layers):
        pair = prefix.get(layer) or tuple(torch.full_like(t, 0.5) for t in next(iter(prefix.values())))
        cache.update(*pair, layer)

    def hide(layer, args, kwargs):
        mask = kwargs["attention_mask"].clone()
        seen = mask[0, 0, -1, -1]  # by the last token, itself: what stands there is not what hides
        mask[..., :S] = ~seen if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
        return args, kwargs | {"attention_mask": mask}

    lacking = [part for i, part in enumerate(model.all_layers) if i not in prefix]
    with hooked(*(part.register_forward_pre_hook(hide, with_kwargs=True) for part in lacking)):
        return model.module(input_ids=torch.tensor([row]), past_key_values=cache).logits[0, -1]


@pytest.mark.parametrize(
    ("family", "more"),
    [("gptj", {}), ("falcon", {}), ("falcon", {"alibi": True}), ("bloom", {}), ("mpt", {})],
)
def test_a_prefix_of_some_layers(family, more):
    """Attention of a family's own, too, sees no place for keys that a layer lacks; so do answers."""
    model, _ = frozen(build(family, **more), family, "causal")
    for layers in ([0, 2], "upper"):
        space = gfo.Prefix(model, dim=3, tokens=2, layers=layers)
        z = np.array([[0.0] * 3, [3.0] * 3])
        evaluator = gfo.LocalEvaluator(model, task(model, "nowhere"), space)
        batch = evaluator.task.all_rows("train")
        found = evaluator.answers(z, batch)
        rows = [{"text": text, "answer": "x"} for text in TEXTS]
        options = {"template": "{text} It", "target": "answer", "metric": "exact_match", "max_tokens": 3}
        writer = gfo.LocalEvaluator(model, gfo.Generation(rows, **options), space)
        written = writer.answers(z, writer.task.all_rows("train"))
        for k, b in itertools.product(range(2), range(len(TEXTS))):
            prefix, row = space.decode(torch.from_numpy(z[k : k + 1])).prefix, list(rows_of(batch)[b])
            wanted = logits_behind_a_prefix(model, row, prefix)[list(batch.vocabulary)]
            assert float((found[k, b] - wanted).abs().max()) <= 1e-4 * float(wanted.std())
            for token in written[k][b]:
                assert token == int(logits_behind_a_prefix(model, row, prefix).argmax())
                row.append(token)
        whole = gfo.LocalEvaluator(model, task(model, "nowhere"), gfo.Prefix(model, dim=3, tokens=2))
        assert float((whole.answers(z, batch) - found).abs().max()) > 1e-3  # control
        assert any(map(len, written[0]))
