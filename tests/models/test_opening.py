"""What `load_model` opens beside plain folders, what it passes on, and that all else ends in one line."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_wheel import write_tiny_gguf

from gfo import Classification, GfoError, LocalEvaluator, LoRASubspace, SoftPrompt, freeze, load_model
from gfo.config import make_config
from gfo.report.export import export
from gfo.testing.tiny import draw_weights

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # peft's own, at import
    import peft

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore:.*is_gradient_checkpointing")
IDS = torch.tensor([[5, 9, 20, 33, 7]])
ROWS = [{"text": "a great joy", "label": "a"}, {"text": "bad!", "label": "b"}]
TEMPLATE = "Review: {text}\n{soft}It was"


@pytest.fixture
def folder(tmp_path, tiny, tokenizer):
    path = tmp_path / "tiny-llama"
    tiny("llama").module.save_pretrained(path)
    tokenizer(start=True).save_pretrained(path)
    return path


def said(*args, **options):
    """The one line that loading ends in."""
    with pytest.raises(GfoError) as error:
        load_model(*args, **options)
    message = str(error.value)
    assert "\n" not in message
    return message


@torch.no_grad()
def logits(module):
    return module(input_ids=IDS, use_cache=False).logits[0, -1].float()


def change(folder, name, **values):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# --- what is passed on


def test_dtype_auto_is_that_of_the_files(folder, tiny):
    copy.deepcopy(tiny("llama").module).to(torch.bfloat16).save_pretrained(folder)
    assert load_model(folder, dtype="auto").dtype == torch.bfloat16
    assert load_model(folder).dtype == torch.float32  # control


def test_revision(folder, tiny, tmp_path, monkeypatch):
    """Of a hub id, here in the hub's own cache."""
    import huggingface_hub

    repository = tmp_path / "hub" / "models--me--tiny"
    for revision, snapshot, seed in (("main", "a" * 40, 0), ("v1", "b" * 40, 1)):
        shutil.copytree(folder, repository / "snapshots" / snapshot)
        tiny("llama", seed=seed).module.save_pretrained(repository / "snapshots" / snapshot)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / revision).write_text(snapshot)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    first, second = load_model("me/tiny"), load_model("me/tiny", revision="v1")
    assert torch.equal(logits(first.module), logits(tiny("llama").module))
    assert torch.equal(logits(second.module), logits(tiny("llama", seed=1).module))
    assert not torch.allclose(logits(first.module), logits(second.module), atol=0.1)  # control
    assert "unknown model 'me/tiny'" in said("me/tiny", revision="v2")
    assert "is a folder, which has none" in said(folder, revision="v1")


@pytest.mark.parametrize("device_map", ["cpu", {"": "cpu"}, {"model": "cpu", "lm_head": "cpu"}])
def test_device_map_of_one_device(folder, device_map):
    assert load_model(folder, device_map=device_map).device.type == "cpu"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device_map": {"model": "cpu", "lm_head": "disk"}}, ["'lm_head': 'disk'", "one device"]),
        ({"device_map": {"model": 0, "lm_head": 1}}, ["'lm_head': 1", "one device"]),
        ({"device_map": "gpu7"}, ["device = 'gpu7'", "give auto, cpu"]),
        ({"device_map": "cpu", "device": "cpu"}, ["device = 'cpu' and device_map = 'cpu'", "give one"]),
    ],
)
def test_device_map_of_several_devices(folder, options, words):
    message = said(folder, **options)
    assert all(word in message for word in words), message


def test_a_model_on_several_devices_is_not_frozen(tiny, tokenizer):
    module = copy.deepcopy(tiny("llama").module)
    freeze(module, tokenizer(), "whole")  # control
    module.model.layers[1].to("meta")
    with pytest.raises(GfoError, match="model 'split': it lies on cpu and meta, and gfo runs a model on one"):
        freeze(module, tokenizer(), "split")
    with pytest.raises(GfoError, match="it lies on meta, and"):
        freeze(module.to("meta"), tokenizer(), "nowhere")


def test_toml_passes_everything_on(folder, monkeypatch):
    found = {}
    monkeypatch.setattr("gfo.models.loading.load_model", lambda **options: found.update(options))
    task = {"template": "{text}", "labels": {"a": "b"}, "train": "gfo:sentiment/train.jsonl"}
    given = {
        "revision": "v1",
        "device_map": {"": "cpu"},
        "quantization_config": {"quant_method": "torchao", "quant_type": "int8"},
        "gguf_file": "x.gguf",
        "dtype": "auto",
        "name": str(folder),
    }
    values = {"task": task, "budget": {"evaluations": 1}}
    make_config(values | {"model": given}, "c").model.load()
    assert {key: found[key] for key in given} == given
    config = make_config(values | {"model": {"name": "x"}}, "c")
    assert set(config.record()["model"]) == {"name", "dtype", "device"}  # as runs of before have it
    with pytest.raises(GfoError, match="did you mean 'quantization_config'"):
        make_config(values | {"model": {"quantisation_config": {}}}, "c")


# --- what else is opened


def test_gguf(tmp_path):
    """The user's own file, by its path or by its name in a folder; merged exports of it are plain folders."""
    write_tiny_gguf(tmp_path / "tiny.gguf")
    transformers_own = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf")
    for model in (load_model(tmp_path / "tiny.gguf"), load_model(tmp_path, gguf_file="tiny.gguf")):
        assert model.dtype == torch.float32
        assert torch.allclose(logits(model.module), logits(transformers_own), atol=1e-5)
        model.module.save_pretrained(tmp_path / "plain")
    assert "quantization_config" not in json.loads((tmp_path / "plain" / "config.json").read_text())
    assert "no-such.gguf" in said(tmp_path, gguf_file="no-such.gguf")
    twice = said(tmp_path / "tiny.gguf", quantization_config={"load_in_8bit": True})
    assert "leave quantization_config out" in twice
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(20))
    assert "transformers cannot load" in said(tmp_path / "broken.gguf")


TEXT = {
    "vocab_size": 200,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MROPE = {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}}
IMAGES = {  # as many layers as the text's decoder has
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
ENDS = {"image_token_id": 5, "video_token_id": 6, "vision_start_token_id": 7, "vision_end_token_id": 8}
QWEN = {"depth": 3, "num_heads": 2, "patch_size": 8, "embed_dim": 16, "hidden_size": 32}
IMAGE_TEXT = {
    "llava": {"vision_config": {**IMAGES, "model_type": "clip_vision_model"}, "image_token_index": 5},
    "qwen2_vl": {"text_config": {**TEXT, **MROPE}, "vision_config": QWEN, **ENDS},
    "smolvlm": {"vision_config": IMAGES, "text_config": {**TEXT, "model_type": "llama"}, "image_token_id": 5},
    "mistral3": {
        "vision_config": {**IMAGES, "head_dim": 8, "model_type": "pixtral"},
        "text_config": {**TEXT, "model_type": "mistral"},
        "image_token_index": 5,
    },
    "internvl": {
        "vision_config": IMAGES | {"image_size": [16, 16], "patch_size": [8, 8]},
        "text_config": {**TEXT, "model_type": "qwen2"},
        "image_token_id": 5,
    },
    "gemma3": {"vision_config": IMAGES, "text_config": {**TEXT, "head_dim": 8}, "image_token_index": 5},
}


@pytest.mark.parametrize("kind", IMAGE_TEXT)
def test_models_of_images_and_text(kind, tokenizer, tmp_path):
    """Rows of text: losses are those of the whole model's plain forward pass."""
    config = transformers.AutoConfig.for_model(kind, **{"text_config": TEXT, **IMAGE_TEXT[kind]})
    module = transformers.AutoModelForImageTextToText.from_config(config)
    draw_weights(module, 0)
    module.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    model = load_model(tmp_path)
    assert model.layers == 3
    assert model.layer_of(next(iter(model.linears))) == 0
    task = Classification(ROWS, template=TEMPLATE, labels={"a": " great", "b": " terrible"})
    evaluator = LocalEvaluator(model, task, SoftPrompt(model, 2, 5))
    z = np.stack([np.zeros(5), np.ones(5)])
    batch = evaluator.task.all_rows("train")
    found = evaluator.answers(z, batch)
    prompts = evaluator.space.decode(torch.from_numpy(z)).prompt.float()
    for k, prompt in enumerate(prompts):
        for i, (before, after) in enumerate(zip(batch.before, batch.after, strict=True)):
            words = [model.embed(torch.tensor(part)) for part in (before, after)]
            embeds = torch.cat([words[0], prompt, words[1]])[None]
            with torch.no_grad():
                plain = model.module(inputs_embeds=embeds).logits[0, -1, list(batch.vocabulary)]
            assert float((found[k, i] - plain).abs().max()) < 1e-4
    assert float((found[0] - found[1]).abs().max()) > 1e-2  # control


@torch.no_grad()
def test_adapters_of_models_of_images_and_text(tokenizer, tmp_path):
    """What an export says loads it again, and its logits are gfo's."""
    config = transformers.AutoConfig.for_model("llava", text_config=TEXT, **IMAGE_TEXT["llava"])
    module = transformers.AutoModelForImageTextToText.from_config(config)
    draw_weights(module, 0)
    module.save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    model = load_model(tmp_path / "model")
    task = Classification(ROWS, template="Review: {text} It was", labels={"a": " great", "b": " terrible"})
    evaluator = LocalEvaluator(model, task, LoRASubspace(model, 5, alpha=0.3))
    written = export(evaluator, np.ones(5), "peft", tmp_path / "adapter")
    names = {}
    exec("\n".join(written.load), names)
    batch = evaluator.task.all_rows("train")
    found = evaluator.answers(np.stack([np.ones(5), np.zeros(5)]), batch)
    for i, (before, after) in enumerate(zip(batch.before, batch.after, strict=True)):
        ids = torch.tensor([before + after])
        plain = names["model"].eval()(input_ids=ids).logits[0, -1, list(batch.vocabulary)]
        assert float((found[0, i] - plain).abs().max()) < 1e-4
        assert float((found[1, i] - plain).abs().max()) > 1e-2  # control


def adapter(model, config, folder, base):
    adapted = peft.get_peft_model(copy.deepcopy(model.module), config)
    generator = torch.Generator().manual_seed(0)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    adapted.save_pretrained(folder)
    change(folder, "adapter_config.json", base_model_name_or_path=str(base))
    return adapted.eval()


@pytest.mark.parametrize(
    "config",
    [
        peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], use_dora=True),
        peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    ],
    ids=["dora", "ia3"],
)
def test_adapter_folders_are_merged(folder, tiny, tmp_path, config):
    model = tiny("llama")
    adapted = adapter(model, config, tmp_path / "adapter", folder)
    found = load_model(tmp_path / "adapter")
    assert torch.allclose(logits(found.module), logits(adapted), atol=1e-4)
    assert not torch.allclose(logits(found.module), logits(model.module), atol=1e-1)  # control
    assert not any("base_layer" in name for name in found.linears)
    assert LoRASubspace(found, 5).names == LoRASubspace(model, 5).names


def test_adapters_that_cannot_be_merged(folder, tiny, tokenizer, tmp_path):
    prompt = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    adapted = adapter(tiny("llama"), prompt, tmp_path / "a", folder)
    assert "of the kind PROMPT_TUNING" in said(tmp_path / "a")
    lora = peft.LoraConfig(r=2, target_modules=["q_proj"])
    adapter(tiny("llama"), lora, tmp_path / "c", folder)
    change(tmp_path / "c", "adapter_config.json", alora_invocation_tokens=[5])
    assert "it is an activated LoRA" in said(tmp_path / "c")
    adapter(tiny("llama"), lora, tmp_path / "b", folder)
    tensors = load_file(tmp_path / "b" / "adapter_model.safetensors")
    tensors.pop(min(tensors))
    save_file(tensors, tmp_path / "b" / "adapter_model.safetensors")
    assert "missing adapter keys" in said(tmp_path / "b")
    change(tmp_path / "b", "adapter_config.json", base_model_name_or_path=None)
    assert "names no base model" in said(tmp_path / "b")
    change(tmp_path / "b", "adapter_config.json", base_model_name_or_path=str(tmp_path / "gone"))
    assert f"model '{tmp_path / 'gone'}' of the adapter '{tmp_path / 'b'}'" in said(tmp_path / "b")
    for wrapped in (adapted, peft.get_peft_model(copy.deepcopy(tiny("llama").module), lora)):
        with pytest.raises(GfoError, match=r"it is a PeftModel.*; merge its adapter"):
            freeze(wrapped, tokenizer())


# --- what is never run, and what ends in a line


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_of_a_folder_is_not_run(folder, tmp_path, monkeypatch, file):
    """Whatever standard input says."""
    mark = tmp_path / "ran"
    (folder / "evil.py").write_text(
        f"open({str(mark)!r}, 'w').close()\nimport transformers\n"
        "class Evil(transformers.LlamaConfig): model_type = 'evil'\n"
        "class EvilTokenizer(transformers.PreTrainedTokenizerFast): pass\n"
    )
    if file == "config.json":
        change(folder, file, model_type="evil", auto_map={"AutoConfig": "evil.Evil"})
    else:
        names = {"AutoTokenizer": ["evil.EvilTokenizer", "evil.EvilTokenizer"]}
        change(folder, file, tokenizer_class="EvilTokenizer", auto_map=names)
    monkeypatch.setattr("builtins.input", lambda *args: "y")
    message = said(folder)
    assert "it brings code of its own, which gfo never runs" in message
    assert not mark.exists()
    one = transformers.AutoConfig if file == "config.json" else transformers.AutoTokenizer
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    one.from_pretrained(folder, trust_remote_code=True)
    assert mark.exists()  # control


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("config.json", '{"model_type": 5}'),
        ("config.json", "[1]"),
        ("config.json", '{"model_type": "llama", "hidden_size": "x", "num_attention_heads": 0}'),
        ("config.json", '{"model_type": "llama", "num_attention_heads": 0}'),
        ("config.json", '{"model_type": "llama", "rope_parameters": 3}'),
        ("config.json", '{"model_type": "llama", "hidden_act": "no-such"}'),
        ("config.json", '{"model_type": "llama", "quantization_config": {"quant_method": "awq"}}'),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", '{"version": "1.0", "model": 3}'),
        ("tokenizer_config.json", "[]"),
        ("generation_config.json", "7"),
        ("model.safetensors", ""),
        ("model.safetensors.index.json", "{}"),
        ("adapter_config.json", "3"),
    ],
)
def test_broken_folders(folder, file, text):
    if file == "model.safetensors.index.json":
        (folder / "model.safetensors").unlink()
    (folder / file).write_text(text)
    assert f"model '{folder}'" in said(folder)


def test_a_name_that_is_not_there_is_answered_without_retries():
    """Also where the hub cannot be reached, as behind this address at which nothing listens."""
    lines = [
        "import gfo",
        "for name in ('smolm2-135', 'no/such-thing'):",
        "    try: gfo.load_model(name)",
        "    except gfo.GfoError as error: print(error)",
    ]
    environment = os.environ | {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], env=environment, capture_output=True, text=True, check=True
    )
    first, second = done.stdout.splitlines()
    assert "unknown model 'smolm2-135': did you mean 'smollm2-135m'?" in first
    assert "unknown model 'no/such-thing': known are" in second
    assert "Retry" not in done.stdout + done.stderr
