"""What cannot be exported says what can; prompts as text; folders; and round trips through from_peft."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import SENTENCES
from exports import FRONT, MIDDLE, PLAIN, ROWS, evaluator_of, exported, two_points
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import gfo
from gfo import (
    BiasSpace,
    Budget,
    DeepPrompt,
    DiscretePrompt,
    GfoError,
    LoRASubspace,
    Prefix,
    ProductSpace,
    Scaling,
    SoftPrompt,
    freeze,
)
from gfo.core.domain import Domain
from gfo.report.export import export, prompt_text
from gfo.report.export.candidate import PROMPT
from gfo.report.words import words_near

DIM = 9


def mixed(model):
    return ProductSpace(SoftPrompt(model, 4, DIM), LoRASubspace(model, DIM))


def with_prefix(model):
    return ProductSpace(Prefix(model, 2, DIM), LoRASubspace(model, DIM))


REFUSED = {
    "deep": (lambda m: DeepPrompt(m, 4, DIM), "peft", ["deep prompt", "layer 0", "SoftPrompt"]),
    "deep, merged": (lambda m: DeepPrompt(m, 4, DIM), "merged", ["deep prompt", "layer 0", "LoRASubspace"]),
    "prefix of some layers": (lambda m: Prefix(m, 2, DIM, layers=[1]), "peft", ["layer 0", "layers=None"]),
    "prefix, merged": (lambda m: Prefix(m, 2, DIM), "merged", ["prefix", "export peft"]),
    "bias": (lambda m: BiasSpace(m, DIM), "peft", ["bias", "LoRASubspace", "Scaling"]),
    "bias, merged": (lambda m: BiasSpace(m, DIM), "merged", ["q_proj", "no bias", "LoRASubspace"]),
    "norms": (lambda m: Scaling(m, DIM, method="norm"), "peft", ["norm", "export merged"]),
    "product": (mixed, "peft", ["prompt and lora", "export merged"]),
    "product with a prefix": (with_prefix, "peft", ["prefix and lora", "search"]),
    "product with a prefix, merged": (with_prefix, "merged", ["prefix"]),
    "no prompt": (lambda m: LoRASubspace(m, DIM), "prompt-text", ["no prompt", "peft or merged"]),
    "no format": (lambda m: LoRASubspace(m, DIM), "onnx", ["unknown format 'onnx'", "merged"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tiny, tmp_path, name):
    make, form, words = REFUSED[name]
    model = tiny("llama")
    space = make(model)
    evaluator = evaluator_of(model, space, MIDDLE)
    with pytest.raises(GfoError) as error:
        exported(evaluator, two_points(space), form, tmp_path / "out")
    text = str(error.value)
    assert all(word in text for word in words), text
    assert "\n" not in text
    assert not (tmp_path / "out").exists()


def test_bias_names_the_modules_that_have_one(tiny, tmp_path):
    """Qwen's queries, keys and values have biases, its feed-forwards none."""
    model = tiny("qwen2")
    space = BiasSpace(model, DIM)
    with pytest.raises(GfoError, match=r"'model.layers.0.mlp.up_proj' has no bias.*k_proj, q_proj, v_proj"):
        exported(evaluator_of(model, space, PLAIN), two_points(space), "merged", tmp_path / "out")


def test_added_tokens_of_a_head_with_a_bias(tiny, tmp_path):
    """PEFT's layer for a tied head leaves out its bias; if it no longer did, this would be allowed."""
    model = tiny("roberta")
    space = SoftPrompt(model, 4, DIM)
    with pytest.raises(GfoError, match=r"drop the bias of 'lm_head.decoder'.*export merged"):
        exported(evaluator_of(model, space, MIDDLE), two_points(space), "peft", tmp_path / "out")


def test_deep_prompt_behind_a_norm(tiny, tmp_path):
    """RoBERTa norms its embeddings, so what is added behind that is no other embedding."""
    model = tiny("roberta")
    space = DeepPrompt(model, 4, DIM, layers=[0])
    with pytest.raises(GfoError, match=r"deep prompt.*where embeddings enter it as they are"):
        exported(evaluator_of(model, space, MIDDLE), two_points(space), "merged", tmp_path / "out")


def test_folders(tiny, tmp_path):
    model = tiny("llama")
    space = LoRASubspace(model, DIM)
    evaluator, z = evaluator_of(model, space, PLAIN), two_points(space)
    (tmp_path / "empty").mkdir()
    exported(evaluator, z, "peft", tmp_path / "empty")
    with pytest.raises(GfoError, match=r"empty: it is not empty"):
        exported(evaluator, z, "peft", tmp_path / "empty")
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "x"):
        with pytest.raises(GfoError, match=r"not empty|cannot write there"):
            exported(evaluator, z, "merged", path)


def test_a_function_has_no_model(tmp_path):
    domain = Domain.unbounded(3)
    result = gfo.minimize(
        gfo.optimizers.make("random", domain=domain, seed=0),
        lambda z: (z**2).sum(1),
        budget=Budget(evaluations=40),
    )
    for call in (lambda: result.export_peft(tmp_path / "x"), result.prompt_text):
        with pytest.raises(GfoError, match="without a model"):
            call()


@pytest.mark.parametrize("template", [FRONT, MIDDLE], ids=["prompt tuning", "trainable tokens"])
@pytest.mark.parametrize("family_name", ["llama", "gpt2", "gemma", "t5"])
def test_soft_prompts_come_back(tiny, tmp_path, family_name, template):
    model = tiny(family_name)
    space = SoftPrompt(model, 4, DIM)
    z = two_points(space)
    exported(evaluator_of(model, space, template), z, "peft", tmp_path / "out")
    again = SoftPrompt.from_peft(tmp_path / "out", model, DIM)
    first, other = space.decode(torch.from_numpy(z)).prompt
    found = again.decode(torch.zeros(1, DIM)).prompt[0]
    assert torch.allclose(found, first, atol=1e-6)
    assert not torch.allclose(found, other, atol=1e-2)


@pytest.mark.parametrize("method", ["lora-fa", "lora-xs", "vera", "tiny"])
@pytest.mark.parametrize("family_name", ["llama", "gpt2", "roberta", "t5"])
def test_low_rank_changes_come_back(tiny, tmp_path, family_name, method):
    model = tiny(family_name)
    space = LoRASubspace(model, DIM, method=method, rank=2)
    z = two_points(space)
    exported(evaluator_of(model, space, PLAIN), z, "peft", tmp_path / "out")
    again = LoRASubspace.from_peft(tmp_path / "out", model, DIM).decode(torch.zeros(1, DIM))
    wanted, other = (space.decode(torch.from_numpy(z[i : i + 1])) for i in (0, 1))
    assert list(again.lora) == list(wanted.lora)
    for name, (A, B) in again.lora.items():
        A0, B0 = wanted.lora[name]
        assert torch.equal(A[0], A0[0])
        assert torch.equal(B[0], B0[0])
        assert not torch.equal(B[0], other.lora[name][1][0])


def test_results_export_themselves(tiny, tmp_path):
    """The result's own point, through the methods of a result."""
    model = tiny("llama")
    space = SoftPrompt(model, 4, DIM)
    task = gfo.Classification(
        [{"text": "good", "label": "a"}], template="{text}{soft}", labels={"a": " great", "b": " terrible"}
    )
    result = gfo.tune(model, task, space, budget=Budget(evaluations=20), progress=False)
    written = result.export_peft(tmp_path / "peft")
    again = SoftPrompt.from_peft(written.folder, model, DIM).decode(torch.zeros(1, DIM)).prompt
    assert torch.allclose(again, space.decode(torch.from_numpy(result.z[None])).prompt)
    assert (result.export_merged(tmp_path / "merged").folder / "model.safetensors").exists()
    assert len(result.prompt_text().splitlines()) == 6  # a header, 4 tokens, the warning


def test_text_of_a_discrete_prompt(tiny, tmp_path):
    model = tiny("llama")
    space = ProductSpace(LoRASubspace(model, DIM), DiscretePrompt(model, 3, number=9))
    evaluator = evaluator_of(model, space, MIDDLE)
    z = np.hstack([np.ones((1, DIM)), [[1.0, 4.0, 2.0]]])
    wanted = space.spaces[1].text([1, 4, 2])
    assert prompt_text(evaluator, z[0]) == wanted
    assert wanted != space.spaces[1].text([1, 4, 3])
    written = exported(evaluator, z, "prompt-text", tmp_path / "out")
    assert (written.folder / "prompt.txt").read_text() == wanted + "\n"


def test_nearest_words(tiny):
    """The embeddings of words, a little moved and stretched, are nearest to those words."""
    model = tiny("llama")
    ids = model.encode("the food was good")
    words = model.embed(torch.tensor(ids))
    moved = 3 * (words + 0.01 * torch.ones_like(words))
    cosine = torch.nn.functional.cosine_similarity(moved, words).tolist()
    wanted = [f"{model.tokenizer.decode([i])!r} {c:.2f}" for i, c in zip(ids, cosine, strict=True)]
    assert [row[1] for row in words_near(model, moved, 1).rows] == wanted
    two = words_near(model, moved, 2)
    assert [len(row) for row in two.rows] == [len(two.header)] * len(ids) == [3] * len(ids)
    space = SoftPrompt(model, len(ids), DIM, init="the food was good")
    text = prompt_text(evaluator_of(model, space, MIDDLE), np.zeros(DIM))
    assert "not to believe" in text
    assert "' food' 1.00" in text


@pytest.mark.parametrize("scheme", ["first", "always"])
def test_tokens_that_whole_texts_do_not_have_are_told(tiny, tmp_path, scheme):
    """Some tokenizers put a blank behind each special token, which running text has not."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    trainer = trainers.BpeTrainer(vocab_size=190, special_tokens=["<pad>"], show_progress=False)
    bpe.train_from_iterator(SENTENCES, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>")
    model = freeze(tiny("llama").module, tokenizer)
    space = SoftPrompt(model, 4, DIM)
    evaluator = evaluator_of(model, space, MIDDLE)
    batch = evaluator.task.all_rows("train")
    written = exported(evaluator, two_points(space), "merged", tmp_path / "out")
    values = json.loads((written.folder / PROMPT).read_text())
    loaded = PreTrainedTokenizerFast.from_pretrained(written.folder)
    soft = loaded.convert_tokens_to_ids(values["soft_tokens"])
    same = [
        tuple(loaded(values["template"].format(**row))["input_ids"]) == (*before, *soft, *after)
        for row, before, after in zip(ROWS, batch.before, batch.after, strict=True)
    ]
    assert set(same) == {scheme == "first"}
    assert len(written.notes) == (scheme == "always")
    if scheme == "always":
        assert "other tokens" in written.notes[0]
        assert "4 of 4 rows" in written.notes[0]
        assert values["note"] == written.notes[0]


def test_braces_and_names_that_are_taken(tiny, tokenizer, tmp_path):
    """The template's own braces stay, and new tokens have names that the vocabulary has not."""
    tokens = tokenizer()
    tokens.add_tokens(["<soft_1>"])
    model = freeze(tiny("llama").module, tokens)
    space = SoftPrompt(model, 2, DIM)
    evaluator = evaluator_of(model, space, "{{x}} {text} {soft}:")
    export(evaluator, np.ones(DIM), "merged", tmp_path)
    values = json.loads((tmp_path / PROMPT).read_text())
    assert values["template"] == "{{x}} {text} <soft1_0><soft1_1>:"
    assert values["words"] == {"bad": " terrible", "good": " great"}
