"""Adapters written by gfo give the same logits in PEFT's own forward pass as gfo's evaluator."""

from __future__ import annotations

import json

import pytest
from exports import (
    FAMILIES,
    FRONT,
    MIDDLE,
    PLAIN,
    base_of,
    check,
    evaluator_of,
    exported,
    load_peft,
    logits_of,
    rows_of,
    texts_rows,
    two_points,
)
from safetensors import safe_open

from gfo import DiscretePrompt, LoRASubspace, Prefix, ProductSpace, Scaling, SoftPrompt
from gfo.report.export.candidate import PROMPT

DIM = 9
DECODERS = ["llama", "gpt2", "qwen2"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


def round_trip(model, space, template, tmp_path, *, texts=False):
    """Export, load by PEFT, compare. Returns what was written."""
    evaluator, z = evaluator_of(model, space, template), two_points(space)
    written = exported(evaluator, z, "peft", tmp_path / "adapter")
    adapted = load_peft(model, written.folder, tmp_path / "base")
    rows = texts_rows(written.folder) if texts else rows_of(evaluator)
    check(evaluator, logits_of(adapted, model, rows), z)
    return written


def kind_of(written):
    return json.loads((written.folder / "adapter_config.json").read_text())["peft_type"]


@pytest.mark.parametrize("method", ["lora-fa", "lora-xs", "svd", "vera", "tiny"])
@pytest.mark.parametrize("family_name", FAMILIES)
def test_lora(tiny, family_name, method, tmp_path):
    model = tiny(family_name)
    written = round_trip(
        model, LoRASubspace(model, 6 if method == "svd" else DIM, method=method, rank=2), PLAIN, tmp_path
    )
    assert kind_of(written) == "LORA"


@pytest.mark.parametrize("family_name", FAMILIES)
def test_lora_of_chosen_modules_hits_no_others(tiny, family_name, tmp_path):
    model = tiny(family_name)
    names = sorted(model.linears)[::3]
    space = LoRASubspace(model, DIM, targets=names, rank=2)
    written = round_trip(model, space, PLAIN, tmp_path)
    config = json.loads((written.folder / "adapter_config.json").read_text())
    assert config["target_modules"] == names
    adapted = load_peft(model, written.folder, tmp_path / "base")
    hit = sorted(
        name.split("base_model.model.")[1] for name, m in adapted.named_modules() if hasattr(m, "lora_A")
    )
    assert hit == names
    with safe_open(written.folder / "adapter_model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_lora_of_two_ranks(tiny, tmp_path):
    model = tiny("llama")
    parts = [
        LoRASubspace(model, DIM, targets=t, rank=r, alpha=0.5) for t, r in (("q_proj", 1), ("down_proj", 3))
    ]
    round_trip(model, ProductSpace(*parts), PLAIN, tmp_path)


@pytest.mark.parametrize("family_name", FAMILIES)
def test_ia3(tiny, family_name, tmp_path):
    model = tiny(family_name)
    assert kind_of(round_trip(model, Scaling(model, DIM, alpha=0.3), PLAIN, tmp_path)) == "IA3"


@pytest.mark.parametrize("family_name", [*DECODERS, "gpt_neox", "opt"])
def test_prefix(tiny, family_name, tmp_path):
    model = tiny(family_name)
    assert kind_of(round_trip(model, Prefix(model, 3, DIM), PLAIN, tmp_path)) == "PREFIX_TUNING"


@pytest.mark.parametrize("family_name", [*DECODERS, "gemma", "opt"])
def test_soft_prompt_in_front(tiny, family_name, tmp_path):
    model = tiny(family_name)
    assert kind_of(round_trip(model, SoftPrompt(model, 4, DIM), FRONT, tmp_path)) == "PROMPT_TUNING"


@pytest.mark.parametrize(("family_name", "kind"), [("roberta", "PROMPT_TUNING"), ("t5", "TRAINABLE_TOKENS")])
def test_soft_prompt_in_front_without_a_start_token(tiny, tokenizer, family_name, kind, tmp_path):
    from gfo import freeze

    plain = tokenizer()
    plain.add_special_tokens({"mask_token": "</s>"})
    model = freeze(tiny(family_name).module, plain)
    written = round_trip(model, SoftPrompt(model, 4, DIM), FRONT, tmp_path, texts=family_name == "t5")
    assert kind_of(written) == kind


@pytest.mark.parametrize("family_name", DECODERS)
def test_behind_a_start_token_is_not_in_front(tiny, family_name, tmp_path):
    """Prompt tuning would put the prompt in front of <s>, where gfo has it behind."""
    model = tiny(family_name, start=True)
    written = round_trip(model, SoftPrompt(model, 4, DIM), FRONT, tmp_path, texts=True)
    assert kind_of(written) == "TRAINABLE_TOKENS"


@pytest.mark.parametrize("size", [200, 165], ids=["spare rows", "resized"])
@pytest.mark.parametrize("family_name", [*DECODERS, "t5", "gemma", "opt", "bart"])
def test_soft_prompt_in_the_middle(tiny, family_name, size, tmp_path):
    """As new tokens. The tokenizer has 165 tokens: with as many rows the vocabulary is resized."""
    model = tiny(family_name, vocab_size=size)
    assert len(model.tokenizer) == 165
    written = round_trip(model, SoftPrompt(model, 4, DIM), MIDDLE, tmp_path, texts=True)
    assert kind_of(written) == "TRAINABLE_TOKENS"
    assert written.notes == ()
    assert any("resize" in line for line in written.load) == (size == 165)


@pytest.mark.parametrize(("template", "kind"), [(FRONT, "PROMPT_TUNING"), (MIDDLE, "TRAINABLE_TOKENS")])
def test_discrete_prompt(tiny, template, kind, tmp_path):
    model = tiny("llama")
    space = DiscretePrompt(model, 4, number=9)
    assert kind_of(round_trip(model, space, template, tmp_path, texts=template == MIDDLE)) == kind


def test_the_lines_that_load_it(tiny, tmp_path):
    """They run as they are printed."""
    from gfo import freeze

    saved = base_of(tiny("llama", vocab_size=165), tmp_path / "base")
    model = freeze(saved, tiny("llama").tokenizer)
    evaluator = evaluator_of(model, SoftPrompt(model, 4, DIM), MIDDLE)
    z = two_points(evaluator.space)
    written = exported(evaluator, z, "peft", tmp_path / "adapter")
    names = {}
    exec("\n".join(written.load), names)
    template = json.loads((written.folder / PROMPT).read_text())["template"]
    rows = [names["tokenizer"](template.format(text=text))["input_ids"] for text in ("a", "bad!")]
    found = logits_of(names["model"].eval(), model, rows)
    expected = evaluator.answers(z[:1], evaluator.task.all_rows("train"))[0, [0, 2]]
    assert float((found - expected).abs().max()) < 1e-4
