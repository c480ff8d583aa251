"""Against PEFT's own forward pass with the same numbers: LoRA, prompt tuning and prefix tuning."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from changes import DIM, PREFIX, Changes, P

from gfo import Classification, LocalEvaluator

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # peft's own, at import
    import peft

K = 3
TOLERANCE = 5e-5
LABELS = {"bad": " terrible", "good": " great"}
TEXTS = ["a", "a great joy from the first minute to the last", "bad!", "the food was good"]
ROWS = [
    {"text": text, "label": label} for text, label in zip(TEXTS, ["good", "good", "bad", "good"], strict=True)
]
PLAIN = "Review: {text}\nSentiment:"
FAMILIES = ["llama", "gpt2", "qwen2", "mistral", "gpt_neox", "opt"]


def points():
    return np.random.default_rng(0).standard_normal((K, DIM))


def gfo_logits(model, space, template, z):
    task = Classification(ROWS, template=template, labels=LABELS)
    evaluator = LocalEvaluator(model, task, space)
    return evaluator.answers(z, evaluator.task.all_rows("train"))


@torch.no_grad()
def peft_logits(model, make, space, z):
    """[K, B, V'] of whole rows, one candidate and one row at a time; make(delta) gives the PEFT model."""
    words = [model.encode(word)[0] for word in LABELS.values()]
    out = torch.empty(len(z), len(ROWS), len(words))
    for k in range(len(z)):
        adapted = make(space.decode(torch.from_numpy(z[k : k + 1]))).eval()
        for b, row in enumerate(ROWS):
            ids = torch.tensor([model.encode(PLAIN.format(**row), start=True)])
            out[k, b] = adapted(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -1, words]
    return out


def compare(model, make, space, template):
    z = points()
    expected = peft_logits(model, make, space, z)
    found = gfo_logits(model, space, template, z)
    assert float((found - expected).abs().max()) < TOLERANCE
    assert float((found - expected.roll(1, 0)).abs().max()) > 1e-2  # controls
    assert float((found - expected.roll(1, 1)).abs().max()) > 1e-2


def fill(parameters, values):
    """Put values [name -> tensor] into the parameters; every one must be there."""
    parameters = dict(parameters)
    for name, value in values.items():
        parameters[name].data.copy_(value)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("family", FAMILIES, indirect=True)
@pytest.mark.parametrize("first", [0, 1], ids=["all layers", "upper layers"])
def test_lora(tiny, family, first):
    model = tiny(family)
    space = Changes(model, ["lora"], first=first)

    def make(delta):
        modules = sorted(delta.lora)
        config = peft.LoraConfig(
            r=2, lora_alpha=2, target_modules=modules, fan_in_fan_out=family == "gpt2", lora_dropout=0.0
        )
        adapted = peft.get_peft_model(copy.deepcopy(model.module), config)
        values = {}
        for name, (A, B) in delta.lora.items():
            values[f"base_model.model.{name}.lora_A.default.weight"] = A[0]
            values[f"base_model.model.{name}.lora_B.default.weight"] = B[0]
        fill(adapted.named_parameters(), values)
        return adapted

    compare(model, make, space, PLAIN)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("family", FAMILIES, indirect=True)
def test_prompt_tuning(tiny, family):
    model = tiny(family)
    space = Changes(model, ["prompt"])

    def make(delta):
        config = peft.PromptTuningConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=P, token_dim=model.hidden_size
        )
        adapted = peft.get_peft_model(copy.deepcopy(model.module), config)
        fill(adapted.named_parameters(), {"prompt_encoder.default.embedding.weight": delta.prompt[0]})
        return adapted

    compare(model, make, space, "{soft}" + PLAIN)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("family", FAMILIES, indirect=True)
def test_prefix_tuning(tiny, family):
    model = tiny(family)
    space = Changes(model, ["prefix"])

    def make(delta):
        heads, size = delta.prefix[0][0].shape[1], delta.prefix[0][0].shape[3]
        config = peft.PrefixTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=PREFIX,
            num_layers=model.layers,
            token_dim=heads * size,
            num_attention_heads=heads,
        )
        adapted = peft.get_peft_model(copy.deepcopy(model.module), config)
        # per token k0, v0, k1, v1, ...
        flat = [
            t[0].transpose(0, 1).reshape(PREFIX, -1) for n in range(model.layers) for t in delta.prefix[n]
        ]
        fill(adapted.named_parameters(), {"prompt_encoder.default.embedding.weight": torch.cat(flat, 1)})
        return adapted

    compare(model, make, space, PLAIN)
