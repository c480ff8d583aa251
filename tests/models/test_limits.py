"""What a model's files ask for is refused before anything is made of it: sizes, files elsewhere, loops."""

import json
import shutil
import tracemalloc

import pytest
import safetensors.numpy

import gfo
from gfo.models.limits import MOST_PARTS, check_counts
from gfo.models.text import check_template


@pytest.fixture
def folder(tmp_path, tiny, tokenizer):
    tiny("llama").module.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    return tmp_path


def change(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    "values",
    [
        {"hidden_size": 10**12},
        {"vocab_size": 10**9, "head_dim": 8},
        {"intermediate_size": 10**9},
        {"model_type": "gpt2", "max_position_embeddings": 10**8},
        {"num_hidden_layers": 10**12},
        {"model_type": "mixtral", "num_local_experts": 10**7},
        {"model_type": "bart", "encoder_layers": 10**400},
        {"text_config": {"num_layers": 10**7}},
    ],
)
def test_absurd_sizes(folder, values):
    gfo.load_model(folder, device="cpu")
    change(folder, **values)
    tracemalloc.start()
    with pytest.raises(gfo.GfoError) as error:
        gfo.load_model(folder, device="cpu")
    assert tracemalloc.get_traced_memory()[1] < 2**28
    tracemalloc.stop()
    assert "\n" not in str(error.value)
    assert "its config has" in str(error.value) or "its config makes" in str(error.value)


@pytest.mark.parametrize("shard", ["../{good}/model.safetensors", "/dev/zero", "", 3, "none", None, ".."])
def test_shards_elsewhere(folder, shard):
    good = folder.parent / f"{folder.name}-good"
    shutil.copytree(folder, good)
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    names = [*safetensors.numpy.load_file(folder / "one.safetensors")]
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, "one.safetensors")}))
    gfo.load_model(folder, device="cpu")
    shard = shard.format(good=good.name) if isinstance(shard, str) else shard
    path.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, shard)}))
    with pytest.raises(
        gfo.GfoError, match=r"index.json names .*, no file in the folder; save the model whole"
    ):
        gfo.load_model(folder, device="cpu")


@pytest.mark.parametrize("change", [list, lambda index: {"weight_map": []}, lambda index: "[" * 10**5])
def test_no_index(folder, change):
    content = change({})
    path = folder / "model.safetensors.index.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(gfo.GfoError, match="save the model whole"):
        gfo.load_model(folder, device="cpu")


def test_adapters_on_each_other(folder):
    """Without an end."""
    other = folder / "other"
    shutil.copytree(folder, other)
    for path, base in ((folder, other), (other, folder)):
        config = {"peft_type": "LORA", "base_model_name_or_path": str(base)}
        (path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(gfo.GfoError, match="is an adapter on itself") as error:
        gfo.load_model(folder, device="cpu")
    assert "\n" not in str(error.value)


def test_a_tokenizer_of_another_model(tiny, tokenizer):
    from tokenizers import Tokenizer

    given = tokenizer()
    spec = json.loads(given.backend_tokenizer.to_str())
    vocabulary = spec["model"]["vocab"]
    spec["model"]["vocab"] = {text: number + 10**6 for text, number in vocabulary.items()}
    given._tokenizer = Tokenizer.from_str(json.dumps(spec))
    with pytest.raises(gfo.GfoError, match="has no embedding for any word of its tokenizer"):
        gfo.freeze(tiny("llama").module, given, "mixed")


def test_the_sizes_of_large_models_are_taken():
    deep = {"num_hidden_layers": 126, "n_routed_experts": 512, "max_position_embeddings": 10**7, "d": 10**6}
    check_counts("large", {**deep, "layer_types": ["full"] * 126, "inner": [{"num_blocks": MOST_PARTS}]})


@pytest.mark.parametrize("text", ["{{ 9**9**9 }}", "{{ 'x' * 10000000 }}", "{{ {'a': 10000000} }}"])
def test_chat_templates_that_compute(text):
    with pytest.raises(ValueError, match="it computes with"):
        check_template(text)
    with pytest.raises(ValueError, match="it computes with"):
        check_template({"default": "{{ messages }}", "tool": text})
    check_template("{% generation %}{{ messages[0].content * 3 }} ** 10000000 {% endgeneration %}")


def test_a_chat_template_without_an_end(tiny, tokenizer, monkeypatch):
    monkeypatch.setattr("gfo.models.text.SECONDS", 0.2)
    model = gfo.freeze(tiny("llama").module, tokenizer())
    many = "{% for i in range(99999) %}"
    model.tokenizer.chat_template = 4 * many + 4 * "{% endfor %}"
    with pytest.raises(
        gfo.GfoError, match=r"chat template does not take these messages \(it takes too long\)"
    ):
        model.chat([{"role": "user", "content": "x"}])
