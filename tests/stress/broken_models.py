"""Model folders that are broken or hostile, made from a good one; as a script, it opens those it is told.

Each kind of CASES is a function of a good folder's copy, a source of random numbers and a number, which
changes files in it.
"""

from __future__ import annotations

import functools
import json
import os
import pickle
import resource
import shutil
import struct
import sys
from pathlib import Path

from figures import Outcomes

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
TOKENIZER_CONFIG, INDEX = "tokenizer_config.json", "model.safetensors.index.json"
MARKER = "GFO_STRESS_MARKER"  # the variable that names a file, which code of a folder would write
ROOM = 6 * 2**30  # bytes of address space beside what the process has when it begins
CODE = f'import os\nopen(os.environ["{MARKER}"], "w").close()\n'
EVIL = f"""{CODE}
from transformers import LlamaConfig as EvilConfig, LlamaForCausalLM as EvilModel
from transformers import PreTrainedTokenizerFast as EvilTokenizer
"""
SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "vocab_size", "max_position_embeddings", "head_dim",
)  # fmt: skip
HUGE = (10**12, 10**9, 10**6, 10**30, 0, -1)
WRONG = (
    None, True, -1, 0, 10**12, 1e300, "", "x", "auto", "../x", [], [1], [[]], {}, {"x": 1}, "eager",
    "flash_attention_2",
    "kernels-community/flash-attn", "float16", "nothing",
)  # fmt: skip
KEYS = (
    "model_type", "architectures", "dtype", "torch_dtype", "hidden_act", "rope_parameters", "rope_scaling",
    "rms_norm_eps",
    "initializer_range", "tie_word_embeddings", "use_cache", "attention_bias", "attention_dropout",
    "pad_token_id",
    "eos_token_id", "bos_token_id", "attn_implementation", "_attn_implementation", "quantization_config",
    "transformers_weights", "is_encoder_decoder", "layer_types", "sliding_window", "text_config", "auto_map",
    "is_decoder", "transformers_version", "_name_or_path", "pretraining_tp", "id2label", "num_labels",
    "gradient_checkpointing", "return_dict", "output_attentions", "chunk_size_feed_forward", "mlp_bias",
    "tokenizer_class", "custom_pipelines", "sub_configs", "base_model_tp_plan",
)  # fmt: skip
OTHER_TYPES = (
    "gpt2", "bert", "t5", "mamba", "mixtral", "clip", "whisper", "llava", "gemma3n", "bloom", "evil", "",
    "opt",
    "rwkv", "encoder-decoder", "qwen3_5_text", "falcon", "dbrx",
)  # fmt: skip
TEMPLATES = (
    "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    "{% for i in range(10**9) %}x{% endfor %}",
    "{{ 9**9**9 }}",
    "{{ 'x' * 10**11 }}",
    "{{ ('x' * 99999999) | length }}{{ messages }}",
    "{{ messages.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''.__class__ }}{{ cycler.__init__.__globals__.os.system('touch ' ~ marker) }}",
    "{{ raise_exception('a\nb') }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{{ messages[10**6].content }}",
    "{% for message in messages %}{{ message.content }}{% endfor %}",
    "{% for message in messages %}{{ message.content | upper }}\x1b[2J{% endfor %}",
    "{% while %}",
    "{{",
    "",
    "{{ lipsum(n=10**8) }}",
    "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "{{ strftime_now('%Y' * 1000000) }}{{ messages[0].content }}",
)


def tensors(path):
    """A file's header, and the bytes behind it."""
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def put(path, header, data, size=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if size is None else size) + text + data)


def change_json(path, **changes):
    """Other values of some keys; `...` takes a key away."""
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))


def link_out(path, outside):
    path.unlink(missing_ok=True)
    path.symlink_to(outside)


class Evil:
    """What a pickle makes: a call of open, which writes the marker."""

    def __reduce__(self):
        return open, (os.environ[MARKER], "w")


def cut_weights(folder, rng, i):
    content = (folder / WEIGHTS).read_bytes()
    at = (0, 3, 8, 9, 200, len(content) - 1, len(content) // 2)[i % 7]
    (folder / WEIGHTS).write_bytes(content[:at])


def flip_weights(folder, rng, i):
    content = bytearray((folder / WEIGHTS).read_bytes())
    size = struct.unpack("<Q", content[:8])[0]
    at = rng.randrange(8 + size) if i % 3 else rng.randrange(len(content))
    content[at] ^= 1 << rng.randrange(8)
    (folder / WEIGHTS).write_bytes(bytes(content))


def header_length(folder, rng, i):
    header, data = tensors(folder / WEIGHTS)
    size = (0, 2**64 - 1, 2**63, 2**32, 99_999_999, len(json.dumps(header)) + 1)[i % 6]
    put(folder / WEIGHTS, header, data, size)


def header_text(folder, rng, i):
    _, data = tensors(folder / WEIGHTS)
    put(
        folder / WEIGHTS,
        (b"[" * 10**6, b"{}", b"[]", b"null", b'{"a":' * 10**5, b"\xff" * 99, b"9" * 9999)[i % 7],
        data,
    )


def header_entries(folder, rng, i):
    header, data = tensors(folder / WEIGHTS)
    name = rng.choice([name for name in header if name != "__metadata__"])
    entry, other = header[name], header[rng.choice([name for name in header if name != "__metadata__"])]
    begin, end = entry["data_offsets"]
    changes = (
        {"data_offsets": other["data_offsets"]},
        {"data_offsets": [-begin - 1, end]},
        {"data_offsets": [begin, 2**63]},
        {"data_offsets": [end, begin]},
        {"data_offsets": []},
        {"dtype": "F16"},
        {"dtype": "I32"},
        {"dtype": "F99"},
        {"shape": [10**12]},
        {"shape": [-1, 3]},
        {"shape": [*entry["shape"], 2]},
        {"shape": entry["shape"][::-1] if len(set(entry["shape"])) > 1 else [1, *entry["shape"]]},
        {"shape": [2**32, 2**32, 2**32]},
    )
    entry.update(changes[i % len(changes)])
    put(folder / WEIGHTS, header, data)


def other_weights(folder, rng, i):
    import torch
    from safetensors.torch import load_file, save_file

    state = load_file(folder / WEIGHTS)
    name = rng.choice(sorted(state))
    if i % 8 == 0:
        del state[name]
    elif i % 8 == 1:
        state = {f"other.{key}": value for key, value in state.items()}
    elif i % 8 in (2, 3, 4):
        state[name] = torch.full_like(state[name], (torch.nan, torch.inf, 3e38)[i % 8 - 2])
    elif i % 8 == 5:
        state = {key: torch.zeros_like(value) for key, value in state.items()}
    elif i % 8 == 6:
        state[name] = state[name].to((torch.int64, torch.bool, torch.complex64)[i // 8 % 3])
    else:
        state[name] = state[name][..., :1].clone()
    save_file(state, folder / WEIGHTS, metadata={"format": ("pt", "tf", "x")[i // 8 % 3]})


def config_text(folder, rng, i):
    whole = (folder / CONFIG).read_text()
    texts = (
        "", "[]", "null", "{", "3", "[" * 10**5, '{"a":' * 10**4 + "1" + "}" * 10**4,
        whole[: len(whole) // 2], "{}",
        '{"model_type": "llama"}', whole.replace("32", "9" * 5000, 1), "\xff\x00", whole.replace('"', "'"),
    )  # fmt: skip
    (folder / CONFIG).write_text(texts[i % len(texts)], encoding="latin-1")


def sizes(folder, rng, i):
    name, value = SIZES[i % len(SIZES)], HUGE[i // len(SIZES) % len(HUGE)]
    change_json(folder / CONFIG, **{name: value})


def config_keys(folder, rng, i):
    change_json(folder / CONFIG, **{KEYS[i % len(KEYS)]: rng.choice(WRONG)})


def missing_keys(folder, rng, i):
    keys = sorted(json.loads((folder / CONFIG).read_text()))
    change_json(folder / CONFIG, **{keys[i % len(keys)]: ...})


def other_types(folder, rng, i):
    change_json(folder / CONFIG, model_type=OTHER_TYPES[i % len(OTHER_TYPES)], architectures=None)


def huge_of_others(folder, rng, i):
    """Sizes under the names of other families."""
    name, key = (
        ("gpt2", "n_layer"), ("gpt2", "n_positions"), ("mixtral", "num_local_experts"), ("bert",
        "num_hidden_layers"),
        ("t5", "num_layers"), ("qwen3_moe", "num_experts"), ("bart", "encoder_layers"), ("mamba",
        "num_hidden_layers"),
        ("bloom", "n_layer"), ("gemma3", "num_hidden_layers"), ("gpt2", "n_ctx"), ("bert",
        "max_position_embeddings"),
    )[i % 12]  # fmt: skip
    config = {"model_type": name, key: 10**9}
    inner = {"model_type": "gemma3", "text_config": {"num_hidden_layers": 10**9}}
    (folder / CONFIG).write_text(json.dumps(inner if name == "gemma3" else config))


def quantized(folder, rng, i):
    method = ("bitsandbytes", "gptq", "awq", "torchao", "fp8", "nothing", "mxfp4", "hqq")[i % 8]
    change_json(
        folder / CONFIG, quantization_config={"quant_method": method, "bits": 10**9, "load_in_4bit": True}
    )


def small_vocabulary(folder, rng, i):
    """Tokens that no embedding has."""
    from safetensors.torch import load_file, save_file

    state = load_file(folder / WEIGHTS)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        state[name] = state[name][: 300 - 290 * (i % 2)].clone()
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    change_json(folder / CONFIG, vocab_size=300 - 290 * (i % 2))


def tokenizer_text(folder, rng, i):
    whole = (folder / TOKENIZER).read_text()
    texts = (
        "",
        "{}",
        "[]",
        "[" * 10**5,
        whole[: len(whole) // 2],
        '{"version": "9.9"}',
        whole.replace('"BPE"', '"EPB"'),
    )
    if i % 8 == 7:
        (folder / TOKENIZER).unlink()
    else:
        (folder / TOKENIZER).write_text(texts[i % 8])


def flip_tokenizer(folder, rng, i):
    name = (TOKENIZER, TOKENIZER_CONFIG)[i % 2]
    content = bytearray((folder / name).read_bytes())
    for _ in range(3):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    (folder / name).write_bytes(bytes(content))


def tokenizer_parts(folder, rng, i):
    values = json.loads((folder / TOKENIZER).read_text())
    vocabulary = values["model"]["vocab"]
    changes = (
        lambda: vocabulary.update({key: n + 10**6 for key, n in vocabulary.items()}),
        vocabulary.clear,
        lambda: vocabulary.update(dict.fromkeys(vocabulary, 7)),
        lambda: values["model"]["merges"].append(["nothing", "known"]),
        lambda: values["added_tokens"].append(
            values["added_tokens"][0] | {"id": 2**31, "content": "<far>", "special": True}
        ),
        lambda: values.update(normalizer={"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "b"}),
        lambda: values.update(normalizer={"type": "Replace", "pattern": {"Regex": "("}, "content": "b"}),
        lambda: values.update(normalizer={"type": "Replace", "pattern": {"String": "a"},
        "content": "a" * 9999}),
        lambda: values.update(
            pre_tokenizer={"type": "Split", "pattern": {"Regex": "(x*)*y"}, "behavior": "Isolated",
            "invert": False}
        ),
        lambda: values.update(
            post_processor={
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A",
                "type_id": 0}}],
                "pair": [],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [10**9], "tokens": ["<s>"]}},
            }
        ),
        lambda: values.update(truncation={"max_length": 0, "strategy": "LongestFirst", "stride": 0,
        "direction": "Right"}),
        lambda: values.update(decoder=None, pre_tokenizer=None),
        lambda: values.update(padding={"strategy": {"Fixed": 10**5}, "direction": "Left",
        "pad_to_multiple_of": None,
                                       "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"}),
    )  # fmt: skip
    changes[i % len(changes)]()
    (folder / TOKENIZER).write_text(json.dumps(values))


def tokenizer_keys(folder, rng, i):
    changes = (
        {"tokenizer_class": "EvilTokenizer"}, {"tokenizer_class": "LlamaTokenizer"}, {"tokenizer_class": 3},
        {"tokenizer_class": "T5Tokenizer"}, {"model_max_length": "x"}, {"model_max_length": -1},
        {"bos_token": 3},
        {"eos_token": {"__type": "AddedToken"}}, {"pad_token": "<new>"}, {"eos_token": None},
        {"extra_special_tokens": 3},
        {"added_tokens_decoder": {"999999999": {"content": "<x>"}}}, {"tokenizer_file": "../outside/mine"},
        {"clean_up_tokenization_spaces": "x"}, {"add_prefix_space": "x"}, {"backend": "evil"},
        {"padding_side": "x"},
        {"bos_token": "\ud800"}, {"vocab_file": "/dev/zero"}, {"fix_mistral_regex": True},
    )  # fmt: skip
    change_json(folder / TOKENIZER_CONFIG, **changes[i % len(changes)])


def chat_templates(folder, rng, i):
    template = TEMPLATES[i % len(TEMPLATES)].replace("marker", f"'{os.environ[MARKER]}'")
    if i % 2:
        (folder / "chat_template.jinja").write_text(template)
    else:
        change_json(folder / TOKENIZER_CONFIG, chat_template=template)


def strange_chat_templates(folder, rng, i):
    if i % 4 == 0:
        (folder / "chat_template.jinja").mkdir()
    else:
        change_json(folder / TOKENIZER_CONFIG, chat_template=(3, [{"name": "x"}], {"default": 3})[i % 4 - 1])


def code(folder, rng, i):
    """Files of code, and every place that may name them."""
    for name in (
        "modeling_evil",
        "configuration_evil",
        "tokenization_evil",
        "__init__",
        "sitecustomize",
        "torch",
    ):
        (folder / f"{name}.py").write_text(EVIL)
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(EVIL)
    model = {
        "AutoConfig": "configuration_evil.EvilConfig",
        "AutoModelForCausalLM": "modeling_evil.EvilModel",
        "AutoModel": "modeling_evil.EvilModel",
        "AutoTokenizer": ["tokenization_evil.EvilTokenizer", "tokenization_evil.EvilTokenizer"],
    }
    if i % 8 in (0, 1):
        change_json(folder / CONFIG, auto_map=model, model_type=("evil", "llama")[i % 8])
    elif i % 8 == 2:
        change_json(folder / TOKENIZER_CONFIG, auto_map=model, tokenizer_class="EvilTokenizer")
    elif i % 8 == 3:
        change_json(
            folder / CONFIG,
            auto_map={key: f"other/repo--{value}" for key, value in model.items()},
            model_type="e",
        )
    elif i % 8 == 4:
        change_json(
            folder / CONFIG, architectures=["modeling_evil.EvilModel"], custom_generate="custom_generate"
        )
    elif i % 8 == 5:
        (folder / "adapter_config.json").write_text(
            json.dumps({"peft_type": "LORA", "auto_mapping": {"base_model_class": "EvilModel",
            "parent_library": "modeling_evil"},
                        "base_model_name_or_path": str(folder)})
        )  # fmt: skip
    elif i % 8 == 6:
        change_json(folder / "generation_config.json", custom_generate=str(folder), trust_remote_code=True)
    else:
        change_json(folder / CONFIG, trust_remote_code=True, auto_map=model, model_type="evil")


def pickles(folder, rng, i):
    import torch
    from safetensors.torch import load_file

    state = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    name = folder / "pytorch_model.bin"
    if i % 6 == 0:
        torch.save(state, name)
    elif i % 6 == 1:
        torch.save({**state, "evil": Evil()}, name)
    elif i % 6 == 2:
        name.write_bytes(pickle.dumps(Evil()))
    elif i % 6 == 3:
        torch.save(state, name)
        name.write_bytes(name.read_bytes()[:-999])
    elif i % 6 == 4:
        (folder / "pytorch_model.bin.index.json").write_text(
            json.dumps({"metadata": {}, "weight_map": dict.fromkeys(state, "evil.bin")})
        )
        torch.save({**state, "evil": Evil()}, folder / "evil.bin")
    else:
        (folder / WEIGHTS).write_bytes(pickle.dumps(Evil()))


def indices(folder, rng, i):
    header, _ = tensors(folder / WEIGHTS)
    names = [name for name in header if name != "__metadata__"]
    maps = (
        dict.fromkeys(names, "../outside/model.safetensors"),
        dict.fromkeys(names, "model-00001-of-00002.safetensors"),
        dict.fromkeys(names, str(folder.parent / "outside" / "model.safetensors")),
        dict.fromkeys(names, "/dev/zero"),
        dict.fromkeys(names, ""),
        dict.fromkeys(names, 3),
        dict.fromkeys(names[: len(names) // 2], "model-00001.safetensors"),
        {},
    )
    shutil.copy(folder / WEIGHTS, folder / "model-00001.safetensors")
    (folder / WEIGHTS).unlink()
    index = {"metadata": {"total_size": 10**30}, "weight_map": maps[i % 10 % len(maps)]}
    (folder / INDEX).write_text("[" * 10**5 if i % 10 == 8 else json.dumps([] if i % 10 == 9 else index))


def links(folder, rng, i):
    """To nothing, to itself, to what is no such file, to a device, to a good file outside."""
    name = (WEIGHTS, CONFIG, TOKENIZER, TOKENIZER_CONFIG, "generation_config.json")[i % 5]
    outside = folder.parent / "outside"
    link_out(
        folder / name,
        (outside / "none", folder / name, outside / "mine", Path("/dev/zero"), outside / name)[i // 5 % 5],
    )


def no_files(folder, rng, i):
    """Directories, pipes and nothing where files should be."""
    name = (WEIGHTS, CONFIG, TOKENIZER, TOKENIZER_CONFIG, "generation_config.json")[i % 5]
    (folder / name).unlink()
    if i // 5 % 3 == 0:
        (folder / name).mkdir()
    elif i // 5 % 3 == 1:
        os.mkfifo(folder / name)
    else:
        (folder / name).touch()


def ggufs(folder, rng, i):
    good = (folder.parent / "tiny.gguf").read_bytes()
    broken = bytearray(good)
    if i % 6 in (0, 1):
        broken = broken[: (20, len(good) // 2)[i % 6]]
    elif i % 6 == 2:
        broken[8:24] = struct.pack("<QQ", 2**60, 2**60)
    elif i % 6 in (3, 4):
        broken[rng.randrange(24, len(broken) // 4)] ^= 1 << rng.randrange(8)
    (folder / "broken.gguf").write_bytes(bytes(broken))


def adapters(folder, rng, i):
    outside = folder.parent / "outside"
    base = (str(outside), "../outside", "/dev/zero", "", 3, str(folder), "no/such", None)[i % 8]
    config = {"peft_type": "LORA", "base_model_name_or_path": base, "r": 2, "target_modules": ["q_proj"]}
    more = ({}, {"r": 10**9}, {"peft_type": "EVIL"}, {"target_modules": "(a+)+$"}, {"modules_to_save": 3})[
        i // 8 % 5
    ]
    (folder / "adapter_config.json").write_text(json.dumps(config | more))
    if i % 3 == 0:
        (folder / "adapter_model.bin").write_bytes(pickle.dumps(Evil()))
    elif i % 3 == 1:
        shutil.copy(folder / WEIGHTS, folder / "adapter_model.safetensors")


def generation_configs(folder, rng, i):
    name = folder / "generation_config.json"
    texts = (
        "", "[]", "[" * 10**5, '{"eos_token_id": "x"}', '{"max_length": -1, "do_sample": "x"}',
        '{"eos_token_id": [999999999]}', '{"temperature": -1, "do_sample": true}',
        '{"max_new_tokens": 1e300}',
        '{"cache_implementation": "evil"}', '{"watermarking_config": 3}', '{"num_beams": 1000000000}',
        '{"stop_strings": [3]}',
    )  # fmt: skip
    name.write_text(texts[i % len(texts)])


# kind -> how many of a whole run
CASES = {
    cut_weights: 7, flip_weights: 14, header_length: 6, header_text: 7, header_entries: 13, other_weights: 12,
    config_text: 13, sizes: 40, config_keys: 40, missing_keys: 12, other_types: 18, huge_of_others: 12,
    quantized: 8,
    small_vocabulary: 2, tokenizer_text: 8, flip_tokenizer: 10, tokenizer_parts: 13, tokenizer_keys: 20,
    chat_templates: 20, strange_chat_templates: 4, code: 8, pickles: 6, indices: 10, links: 25, no_files: 15,
    ggufs: 6,
    adapters: 16, generation_configs: 12,
}  # fmt: skip


def use(folder):
    """Open it as a user does: a search, what the model writes, and an export."""
    import gfo

    gguf = folder / "broken.gguf"
    model = gfo.load_model(gguf if gguf.exists() else folder, device="cpu")
    rows = [
        {"text": f"it is {word}", "label": "+-"[i % 2]}
        for i, word in enumerate(["good", "bad", "ok", "aaaaaaaa"] * 2)
    ]
    asked = (
        "Say {text}{soft}"
        if model.tokenizer.chat_template is None
        else [{"role": "user", "content": "Say {text}{soft}"}]
    )
    budget = gfo.Budget(evaluations=2)
    labels = {"+": " good", "-": " bad"}
    space = gfo.SoftPrompt(model, tokens=2, dim=3)
    tasks = [
        gfo.Classification(rows, rows[:4], template=asked, labels=labels, batch_size=2),
        gfo.Generation(
            rows, template=asked, target="label", metric="exact_match", max_tokens=2, batch_size=2
        ),
    ]
    for task in tasks:
        options = {"population": 2}
        result = gfo.tune(
            model, task, space, optimizer="random", options=options, budget=budget, progress=False
        )
    result.export_merged(folder / "merged")


def open_all():
    """For each folder named by a line: a line of JSON with what came of it."""
    import torch

    from gfo.testing.tiny import tiny_model

    torch.set_num_threads(1)
    tiny_model()  # so that all is imported
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, taken + ROOM))
    for folder in Path(sys.argv[1]).read_text().splitlines():
        found = Outcomes()
        found.of(functools.partial(use, Path(folder)), Path(folder).name)
        shutil.rmtree(Path(folder) / "merged", ignore_errors=True)
        kinds = {
            "counts": dict(found.counts),
            "lines": sorted(found.lines),
            "bad": found.bad,
            "slowest": found.slowest,
        }
        print(json.dumps(kinds), flush=True)


if __name__ == "__main__":
    open_all()
