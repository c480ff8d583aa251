"""Model folders written by gfo give the same logits in transformers' own forward pass as gfo's evaluator."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from exports import (
    FAMILIES,
    FRONT,
    MIDDLE,
    PLAIN,
    ROWS,
    check,
    evaluator_of,
    exported,
    logits_of,
    rows_of,
    texts_rows,
    two_points,
)

import gfo
from gfo import BiasSpace, DeepPrompt, DiscretePrompt, LoRASubspace, ProductSpace, Scaling, SoftPrompt
from gfo.report.export.candidate import PROMPT

DIM = 9
OTHERS = ["gemma", "gemma2", "opt", "bert", "bart", "gpt_neox", "granite", "phi", "cohere2"]


def round_trip(model, space, template, tmp_path, *, texts=False):
    """Export, load by transformers, compare; the frozen model stays as it is. Returns what was loaded."""
    evaluator, z = evaluator_of(model, space, template), two_points(space)
    before = {name: t.clone() for name, t in model.module.state_dict().items()}
    written = exported(evaluator, z, "merged", tmp_path)
    assert all(torch.equal(t, before[name]) for name, t in model.module.state_dict().items())
    assert len(before) == len(model.module.state_dict())
    module, info = getattr(transformers, type(model.module).__name__).from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    rows = texts_rows(written.folder) if texts else rows_of(evaluator)
    check(evaluator, logits_of(module.eval(), model, rows), z)
    return module


@pytest.mark.parametrize("family_name", [*FAMILIES, *OTHERS])
def test_lora(tiny, family_name, tmp_path):
    model = tiny(family_name)
    round_trip(model, LoRASubspace(model, DIM, rank=2, alpha=0.5), PLAIN, tmp_path)


@pytest.mark.parametrize("family_name", [*FAMILIES, *OTHERS])
def test_ia3(tiny, family_name, tmp_path):
    model = tiny(family_name)
    round_trip(model, Scaling(model, DIM, alpha=0.3), PLAIN, tmp_path)


@pytest.mark.parametrize("family_name", [*FAMILIES, *OTHERS])
def test_norm(tiny, family_name, tmp_path):
    """Gains are weights, or 1 + weights (Gemma); LayerNorm's biases are multiplied too."""
    model = tiny(family_name)
    round_trip(model, Scaling(model, DIM, method="norm", alpha=0.3), PLAIN, tmp_path)


@pytest.mark.parametrize(
    "family_name", ["gpt2", "qwen2", "roberta", "opt", "bert", "bart", "gpt_neox", "phi"]
)
def test_bias(tiny, family_name, tmp_path):
    model = tiny(family_name)
    targets = {"qwen2": ["q_proj", "v_proj"]}.get(family_name)
    round_trip(model, BiasSpace(model, DIM, targets=targets, alpha=0.5), PLAIN, tmp_path)


@pytest.mark.parametrize("size", [200, 165], ids=["spare rows", "resized"])
@pytest.mark.parametrize("template", [FRONT, MIDDLE], ids=["front", "middle"])
@pytest.mark.parametrize("family_name", [*FAMILIES, *OTHERS])
def test_soft_prompt(tiny, family_name, template, size, tmp_path):
    model = tiny(family_name, vocab_size=size)
    module = round_trip(model, SoftPrompt(model, 4, DIM), template, tmp_path, texts=True)
    assert module.config.vocab_size == (200 if size == 200 else 169)
    tied = model.module.config.tie_word_embeddings
    same = module.get_output_embeddings().weight is module.get_input_embeddings().weight
    assert same == tied


def test_new_tokens_are_not_said(tiny, tmp_path):
    model = tiny("gpt2", vocab_size=165)
    module = round_trip(model, SoftPrompt(model, 4, DIM), MIDDLE, tmp_path, texts=True)
    inputs = torch.tensor([texts_rows(tmp_path)[1]])
    options = {"max_new_tokens": 40, "do_sample": True, "temperature": 5.0, "pad_token_id": 0}
    transformers.set_seed(0)
    said = module.generate(inputs, attention_mask=torch.ones_like(inputs), **options)[0, inputs.shape[1] :]
    assert int(said.max()) < 165
    module.generation_config.suppress_tokens = None  # control
    transformers.set_seed(0)
    said = module.generate(inputs, attention_mask=torch.ones_like(inputs), **options)[0, inputs.shape[1] :]
    assert int(said.max()) >= 165


def test_all_at_once(tiny, tmp_path):
    model = tiny("gpt2")
    space = ProductSpace(
        SoftPrompt(model, 4, DIM),
        LoRASubspace(model, DIM, rank=2, alpha=0.3),
        Scaling(model, DIM, alpha=0.2),
        BiasSpace(model, DIM),
    )
    round_trip(model, space, MIDDLE, tmp_path, texts=True)


@pytest.mark.parametrize("family_name", ["llama", "gpt2", "t5", "opt"])
def test_deep_prompt_of_the_first_layer(tiny, family_name, tmp_path):
    """What is added at layer 0's entrance goes into the prompt, where embeddings enter as they are."""
    model = tiny(family_name, **({"word_embed_proj_dim": 32} if family_name == "opt" else {}))
    round_trip(model, DeepPrompt(model, 4, DIM, layers=[0], alpha=0.5), MIDDLE, tmp_path, texts=True)


def test_discrete_prompt(tiny, tmp_path):
    model = tiny("llama")
    round_trip(model, DiscretePrompt(model, 4, number=9), MIDDLE, tmp_path, texts=True)


def test_gfo_loads_it_again(tiny, tmp_path):
    """As a model of its own, with the exported template."""
    model = tiny("qwen2", vocab_size=165)
    evaluator = evaluator_of(model, SoftPrompt(model, 4, DIM), MIDDLE)
    z = two_points(evaluator.space)
    exported(evaluator, z, "merged", tmp_path)
    template = json.loads((tmp_path / PROMPT).read_text())["template"]
    again = gfo.load_model(tmp_path)
    task = gfo.Classification(ROWS, template=template, labels={"bad": " terrible", "good": " great"})
    other = gfo.LocalEvaluator(again, task, LoRASubspace(again, 5))
    found = other.score(torch.zeros(1, 5).numpy(), "train").metrics["loss"]
    expected = evaluator.score(z, "train").metrics["loss"]
    assert found[0] == pytest.approx(expected[0], abs=1e-5)
    assert found[0] != pytest.approx(expected[1], abs=1e-3)


@torch.no_grad()
def test_sentence_encoder(tiny, tmp_path):
    """A BERT without a head: the mean of the last hidden states, against the label texts' by gfo."""
    masked = tiny("bert")
    model = gfo.freeze(masked.module.bert, masked.tokenizer)
    task = gfo.Classification(ROWS, template=MIDDLE, labels={"bad": "a bad one", "good": "a good one"})
    evaluator = gfo.LocalEvaluator(model, task, SoftPrompt(model, 4, DIM))
    z = two_points(evaluator.space)
    exported(evaluator, z, "merged", tmp_path)
    module = transformers.BertModel.from_pretrained(tmp_path, add_pooling_layer=False).eval()
    hidden = [module(torch.tensor([ids])).last_hidden_state.mean(1) for ids in texts_rows(tmp_path)]
    found = model.logits(torch.cat(hidden), evaluator.task.all_rows("train").vocabulary)
    expected = evaluator.answers(z, evaluator.task.all_rows("train"))
    assert float((found - expected[0]).abs().max()) < 1e-4
    assert float((found - expected[1]).abs().max()) > 0.1


@pytest.mark.parametrize("family_name", ["llama", "gemma"])
def test_half_precision_is_told(tiny, family_name, tmp_path):
    model = tiny(family_name, dtype=torch.bfloat16)
    evaluator = evaluator_of(model, SoftPrompt(model, 4, DIM), MIDDLE)
    z = two_points(evaluator.space)
    written = exported(evaluator, z, "merged", tmp_path)
    assert len(written.notes) == 1
    assert "rounded" in written.notes[0]
    module = getattr(transformers, type(model.module).__name__).from_pretrained(tmp_path).eval()
    assert module.dtype == torch.bfloat16
    found = logits_of(module, model, texts_rows(tmp_path)).float()
    expected = evaluator.answers(z, evaluator.task.all_rows("train"))
    assert float((found - expected[0]).abs().max()) < 0.2
    assert float((found - expected[1]).abs().max()) > 0.5
