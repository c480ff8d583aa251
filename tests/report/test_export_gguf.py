"""GGUF files: they come back as they were written, are as large as measured, or are refused in words."""

from __future__ import annotations

import copy
import json

import gguf
import numpy as np
import pytest
import torch
import transformers

import gfo
from gfo.core.errors import GfoError
from gfo.models.rescaling import rescaled
from gfo.report.export import export
from gfo.spaces.parts.levels import LEVELS

TEXTS = ["Review: the movie is a great joy from the first minute to the last.", "a terrible waste of time"]
FAMILIES = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {"head_dim": 128},
}
LEVELS_OF = ["Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"]


def evaluator_of(model, **options):
    space = gfo.Compression(model, LEVELS_OF, **options)
    return gfo.LocalEvaluator(model, gfo.LanguageModeling([{"text": text} for text in TEXTS]), space)


def points(space, seed=0):
    return np.random.default_rng(seed).integers(0, len(LEVELS_OF), space.domain.d).astype(float)


def logits(module):
    with torch.no_grad():
        return module(input_ids=torch.arange(3, 27)[None]).logits


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_it_comes_back(tiny, family, tied, tmp_path):
    model = tiny(family, intermediate_size=64, tie_word_embeddings=tied, **FAMILIES[family])
    evaluator = evaluator_of(model, calibration=TEXTS)
    space, z = evaluator.space, points(evaluator.space)
    written = export(evaluator, z, "gguf", tmp_path / "out")
    file = tmp_path / "out" / "model.gguf"
    assert file.stat().st_size == space.measure(z[None])["bytes"][0]
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors}
    chosen = json.loads((tmp_path / "out" / "gfo_levels.json").read_text())
    assert chosen["levels"] == space.chosen(z)
    assert chosen["bytes"] == file.stat().st_size
    for name, level in chosen["levels"].items():
        assert kinds[model.gguf.parameters[f"{name}.weight"]] == level
    assert ("output.weight" in kinds) != tied

    scope = {}
    exec(written.load[0], scope)  # what the user is told
    twin = rescaled(model, space.calibration.factors)
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            level = chosen["levels"].get(name.removesuffix(".weight"))
            level = level or ("Q8_0" if "embed" in name or "lm_head" in name else "F32")
            parameter.copy_(LEVELS[level].rounded(parameter))
    assert torch.equal(logits(scope["model"].module), logits(twin))
    other = rescaled(model, {})
    assert float((logits(other) - logits(twin)).abs().max()) > 1e-2  # a control


def test_its_logits_are_the_search_s(tiny, tmp_path):
    """With embeddings as they are, those of the evaluator to rounding."""
    model = tiny("llama", intermediate_size=64)
    evaluator = evaluator_of(model, calibration=TEXTS, embeddings="F32")
    z = points(evaluator.space)
    written = export(evaluator, z, "gguf", tmp_path / "out")
    assert written.notes == ()
    loaded = gfo.load_model(tmp_path / "out" / "model.gguf")
    task = gfo.LanguageModeling([{"text": text} for text in TEXTS])
    again = gfo.LocalEvaluator(loaded, task, gfo.Scaling(loaded, 2))(np.zeros((1, 2)), 0).loss[0]
    own, other = evaluator(np.stack([z, 0 * z]), 0).loss
    assert abs(again - own) < 1e-4 < abs(again - other)
    rounded = export(evaluator_of(model), z, "gguf", tmp_path / "rounded")
    assert "embeddings in Q8_0, which the search did not see" in rounded.notes[0]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_model_in_half_precision(tiny, dtype, tmp_path):
    """The file has what was chosen from the model's weights, which are read in its dtype again."""
    own = tiny("llama", intermediate_size=64)
    own.module.save_pretrained(tmp_path / "own")
    own.tokenizer.save_pretrained(tmp_path / "own")
    model = gfo.load_model(tmp_path / "own", dtype=dtype)
    evaluator = evaluator_of(model, embeddings="F16")
    z = points(evaluator.space)
    export(evaluator, z, "gguf", tmp_path / "out")
    loaded = gfo.load_model(tmp_path / "out" / "model.gguf", dtype=dtype)
    assert loaded.dtype == getattr(torch, dtype)
    for name, level in evaluator.space.chosen(z).items():
        assert torch.equal(
            loaded.weight(name), LEVELS[level].rounded(model.weight(name).float()).to(loaded.dtype)
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_its_keys(tiny, family, tmp_path):
    model = tiny(family, start=True, intermediate_size=64, **FAMILIES[family])
    model.tokenizer.chat_template = "{{ messages[0].content }}"
    try:
        evaluator = evaluator_of(model)
        export(evaluator, points(evaluator.space), "gguf", tmp_path / "out")
    finally:
        model.tokenizer.chat_template = None
    fields = gguf.GGUFReader(tmp_path / "out" / "model.gguf").fields
    found = {name: field.contents() for name, field in fields.items()}
    kind, config = found["general.architecture"], model.config
    assert kind == {"mistral": "llama"}.get(family, family)
    assert found[f"{kind}.rope.freq_base"] == config.rope_parameters["rope_theta"]
    assert found[f"{kind}.block_count"] == model.layers
    assert found[f"{kind}.attention.head_count_kv"] == config.num_key_value_heads
    assert found["tokenizer.ggml.pre"] == "gpt-2"
    assert found["tokenizer.ggml.add_bos_token"] is True
    assert found["tokenizer.chat_template"] == "{{ messages[0].content }}"
    assert len(found["tokenizer.ggml.tokens"]) == model.vocabulary_size
    ids = model.tokenizer.convert_tokens_to_ids(found["tokenizer.ggml.tokens"][3:50])
    assert ids == list(range(3, 50))
    assert found["tokenizer.ggml.token_type"][:4] == [3, 3, 3, 1]
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "out", gguf_file="model.gguf")
    for text in TEXTS:
        assert loaded(text)["input_ids"] == model.tokenizer(text)["input_ids"]


@pytest.mark.parametrize(
    ("family", "config", "words"),
    [
        ("gpt2", {"n_inner": 64}, "of the family gpt2 is none of llama, mistral, qwen2, qwen3"),
        ("gemma", {"intermediate_size": 64}, "of the family gemma is none of"),
        ("mistral", {"intermediate_size": 64}, "has a window of 6 tokens"),
        ("llama", {"intermediate_size": 64, "hidden_act": "gelu"}, "its activation function is gelu"),
        ("llama", {"intermediate_size": 64, "attention_bias": True}, "the bias '.*q_proj.bias' has no place"),
        ("llama", {"intermediate_size": 64, "mlp_bias": True}, "the bias '.*gate_proj.bias' has no place"),
        ("qwen3", {"intermediate_size": 64}, "its heads are of size 16, and readers take 128"),
    ],
)
def test_what_a_file_cannot_say_is_refused(tiny, family, config, words, tmp_path):
    evaluator = evaluator_of(tiny(family, **config))
    z = points(evaluator.space)
    assert evaluator.space.measure(z[None])["bytes"][0] > 0  # it is measured all the same
    with pytest.raises(GfoError, match=words) as error:
        export(evaluator, z, "gguf", tmp_path / "out")
    assert "\n" not in str(error.value)
    assert "export merged" in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "rope", [{"rope_type": "linear", "factor": 2.0}, {"rope_type": "default", "partial_rotary_factor": 0.5}]
)
def test_scaled_positions_are_refused(tiny, rope, tmp_path):
    module = copy.deepcopy(tiny("llama", intermediate_size=64).module)
    module.config.rope_parameters = {**rope, "rope_theta": 10000.0}
    model = gfo.freeze(module, tiny("llama").tokenizer, "scaled", check=False)
    evaluator = evaluator_of(model)
    with pytest.raises(GfoError, match="its positions are scaled"):
        export(evaluator, points(evaluator.space), "gguf", tmp_path / "out")


def test_other_tokenizers_are_refused(tiny, tokenizer, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    module = tiny("llama", intermediate_size=64).module
    metaspace = tokenizer()
    metaspace.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(200)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    level = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", eos_token="w1")
    for given, said in ((metaspace, "splits texts in a way"), (level, "is WordLevel and not byte-level BPE")):
        evaluator = evaluator_of(gfo.freeze(module, given, "other"))
        with pytest.raises(GfoError, match=said):
            export(evaluator, points(evaluator.space), "gguf", tmp_path / "out")


def test_other_spaces_and_levels_are_refused(tiny, tmp_path):
    model = tiny("llama", intermediate_size=64)
    task = gfo.LanguageModeling([{"text": text} for text in TEXTS])
    lora = gfo.LocalEvaluator(model, task, gfo.LoRASubspace(model, 3))
    with pytest.raises(GfoError, match="a GGUF file holds what Compression found; export merged"):
        export(lora, np.ones(3), "gguf", tmp_path / "out")
    space = gfo.Compression(model, ["Q8_0", "HQ4"], targets="down_proj")
    evaluator = gfo.LocalEvaluator(model, task, space)
    with pytest.raises(GfoError, match="GGUF has no type for the level HQ4 of 'model"):
        export(evaluator, np.ones(3), "gguf", tmp_path / "out")
    export(evaluator, np.zeros(3), "gguf", tmp_path / "out")  # a control


def test_a_file_that_does_not_come_back_is_not_kept(tiny, tmp_path, monkeypatch):
    from gfo.models.gguf_form import GGUFForm

    evaluator = evaluator_of(tiny("llama", intermediate_size=64))
    monkeypatch.setattr(GGUFForm, "arranged", lambda self, name, values: values)  # rows not permuted
    with pytest.raises(GfoError, match="read again, the file's logits differ by"):
        export(evaluator, points(evaluator.space), "gguf", tmp_path / "out")
    assert not list(tmp_path.iterdir())
