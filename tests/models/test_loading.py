"""`load_model` from folders, and every way it fails; `Decoder` refuses what it cannot branch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
import transformers

from gfo import Decoder, GfoError, GfoWarning, load_model
from gfo.models.continued_rows import ContinuedRows


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny, tokenizer):
    path = tmp_path_factory.mktemp("models") / "tiny-llama"
    tiny("llama").module.save_pretrained(path)
    tokenizer(start=True).save_pretrained(path)
    return path


def copy(folder, to, without=()):
    to.mkdir()
    for file in folder.iterdir():
        if file.name not in without:
            (to / file.name).write_bytes(file.read_bytes())
    return to


def one_line(error):
    message = str(error.value)
    assert "\n" not in message
    return message


def test_folder(folder, tiny):
    model, made = load_model(folder, device="cpu"), tiny("llama", start=True)
    assert isinstance(model, Decoder)
    assert model.name == str(folder)
    assert (model.hidden_size, model.vocabulary_size, model.context_length) == (32, 200, 128)
    assert (model.device.type, model.dtype) == ("cpu", torch.float32)
    state, expected = model.module.state_dict(), made.module.state_dict()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert model.encode("the food", start=True) == (1, *model.encode("the food"))
    assert model.encode("the food") == made.encode("the food")
    assert model.encode("") == ()
    assert model.encode("", start=True) == (1,)
    assert model.special_tokens == {0, 1, 2}
    assert not model.module.training
    assert not any(p.requires_grad for p in model.module.parameters())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtype(folder, dtype):
    model = load_model(str(folder), dtype=dtype, device="cpu")
    assert model.dtype == getattr(torch, dtype)
    hidden = torch.randn(3, 32).to(model.dtype)
    assert model.logits(hidden, (4, 5)).dtype == torch.float32


def test_a_tokenizer_without_start_tokens(tiny):
    model = tiny("gpt2")
    assert model.encode("the food", start=True) == model.encode("the food")
    assert len(model.encode("the food")) > 1


def test_folder_without_weights(folder, tmp_path):
    path = copy(folder, tmp_path / "bare", without=("model.safetensors",))
    with pytest.raises(GfoError) as error:
        load_model(path)
    assert f"model '{path}': transformers cannot load this folder" in one_line(error)
    assert "model.safetensors" in one_line(error)


def test_folder_without_config(folder, tmp_path):
    path = copy(folder, tmp_path / "bare", without=("config.json", "tokenizer_config.json"))
    with pytest.raises(GfoError) as error:
        load_model(path)
    assert f"model '{path}': transformers cannot load this folder" in one_line(error)


def test_folder_with_cut_off_weights(folder, tmp_path):
    path = copy(folder, tmp_path / "cut")
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(GfoError) as error:
        load_model(path)
    assert f"model '{path}': transformers cannot load this folder" in one_line(error)


def test_folder_with_a_tensor_missing(folder, tmp_path):
    """transformers would draw the missing weights at random and warn."""
    from safetensors.torch import load_file, save_file

    path = copy(folder, tmp_path / "less")
    state = load_file(path / "model.safetensors")
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(GfoError) as error:
        load_model(path)
    assert "model.layers.1.mlp.up_proj.weight" in one_line(error)


def test_folder_with_weights_of_another_shape(folder, tmp_path):
    path = copy(folder, tmp_path / "wide")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))
    with pytest.raises(GfoError) as error:
        load_model(path)
    assert f"model '{path}': transformers cannot load this folder" in one_line(error)


def test_folder_with_tied_weights(tiny, tokenizer, tmp_path):
    """A head that is the embedding is not in the file, and not missing."""
    tiny("gpt2").module.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    model = load_model(tmp_path, device="cpu")
    assert model.module.lm_head.weight is model.module.transformer.wte.weight
    assert torch.equal(model.module.lm_head.weight, tiny("gpt2").module.lm_head.weight)


@pytest.mark.parametrize("name", ["smollm2-135", "smolm2-135m", "SmolLM2-135m"])
def test_unknown_name_suggests_the_nearest(name):
    with pytest.raises(GfoError) as error:
        load_model(name)
    message = one_line(error)
    assert f"unknown model '{name}': did you mean 'smollm2-135m'?" in message
    assert "folder" in message


def test_unknown_name_far_from_all():
    with pytest.raises(GfoError) as error:
        load_model("no/such-thing")
    message = one_line(error)
    assert "unknown model 'no/such-thing': known are smollm2-135m" in message
    assert "did you mean" not in message


def test_unknown_dtype(folder):
    with pytest.raises(GfoError) as error:
        load_model(folder, dtype="float23")
    assert "unknown model dtype 'float23': did you mean 'float32'?" in one_line(error)


def test_device_that_is_none(folder):
    with pytest.raises(GfoError) as error:
        load_model(folder, device="gpu7")
    assert one_line(error) == "device = 'gpu7': give auto, cpu, cuda or cuda:N"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_device_that_is_not_here(folder):
    with pytest.raises(GfoError) as error:
        load_model(folder, device="cuda:1")
    assert one_line(error) == "device = 'cuda:1': no CUDA device is available here; give cpu or auto"
    assert load_model(folder, device="auto").device.type == "cpu"


def test_a_family_whose_positions_cannot_be_chosen_is_no_decoder(tokenizer):
    config = transformers.RwkvConfig(vocab_size=200, hidden_size=32, num_hidden_layers=2)
    module = transformers.AutoModelForCausalLM.from_config(config)
    with pytest.raises(GfoError) as error:
        Decoder(module, tokenizer(), "tiny-rwkv")
    message = one_line(error)
    for part in ("model 'tiny-rwkv' (rwkv)", "takes no position_ids", "take gfo.freeze"):
        assert part in message


def test_a_recurrent_family_continues_copies_of_its_states(tmp_path, tokenizer):
    config = transformers.MambaConfig(vocab_size=200, hidden_size=32, state_size=4, num_hidden_layers=1)
    path = tmp_path / "mamba"
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(path)
    tokenizer().save_pretrained(path)
    assert json.loads((path / "config.json").read_text())["model_type"] == "mamba"
    with pytest.warns(
        GfoWarning, match="runs in rows that continue copies of the text's states, which is exact"
    ) as told:
        assert isinstance(load_model(path, device="cpu"), ContinuedRows)
    assert len(told) == 1


@pytest.mark.parametrize(
    "family", ["gemma2", "granite", "cohere2", "llama", "opt", "gpt_neox"], indirect=True
)
def test_logits_of_chosen_words_are_the_full_heads(tiny, family):
    model = tiny(family)
    ids = torch.tensor([[5, 9, 20, 33]])
    with torch.no_grad():
        expected = model.module(ids, use_cache=False).logits[0, -1]
        hidden = model.module.base_model(ids, use_cache=False).last_hidden_state[0, -1]
        found = model.logits(hidden, (7, 150, 3))
    torch.testing.assert_close(found, expected[[7, 150, 3]], rtol=0, atol=5e-5)
    assert float((found - expected[[8, 151, 4]]).abs().max()) > 0.01


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("nanochat", {"final_logit_softcapping": 1.5}),
        ("vaultgemma", {"final_logit_softcapping": 1.5}),
        ("granitemoe", {"logits_scaling": 4.0}),
        ("granitemoeshared", {"logits_scaling": 4.0}),
        ("hyperclovax", {"logits_scaling": 4.0}),
        ("cohere2_moe", {"logit_scale": 0.25}),
    ],
)
def test_factors_and_caps_of_logits(tokenizer, kind, options):
    shape = {
        "vocab_size": 200,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    config = transformers.AutoConfig.for_model(kind, **shape, **options)
    module = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        module.get_output_embeddings().weight.normal_(generator=torch.Generator().manual_seed(0))
        model = Decoder(module, tokenizer())
        ids = torch.tensor([[5, 9, 20, 33]])
        expected = module(ids, use_cache=False).logits[0, -1, :9]
        hidden = module.base_model(ids, use_cache=False).last_hidden_state[0, -1]
    torch.testing.assert_close(model.logits(hidden, range(9)), expected, rtol=1e-5, atol=5e-5)
    bare = hidden @ module.get_output_embeddings().weight[:9].T
    assert float((bare - expected).abs().max()) > 0.1  # control: the factor counts


def test_what_libraries_lack_is_not_told():
    """Of a model that is made, nothing stands on standard error, with torchao installed."""
    made = "from gfo.testing import tiny_model; tiny_model()"
    run = subprocess.run([sys.executable, "-c", made], capture_output=True, text=True, check=True)
    assert run.stderr == ""
