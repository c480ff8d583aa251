"""Spaces that start from an adapter of PEFT: decode(0) is the adapter, which PEFT itself wrote."""

from __future__ import annotations

import copy
import json
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gfo import Classification, GfoError, LocalEvaluator, LoRASubspace, SoftPrompt
from gfo.spaces.parts.peft_files import CONFIG, WEIGHTS
from gfo.testing import check_space

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # peft's own, at import
    import peft

DIM = 7
ROWS = [{"text": "a great joy", "label": "a"}, {"text": "bad!", "label": "b"}]
LABELS = {"a": " great", "b": " terrible"}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


def saved(model, config, folder, seed=0):
    """An adapter of random numbers, written by PEFT, and PEFT's model with it."""
    adapted = peft.get_peft_model(copy.deepcopy(model.module), config)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
            assert "lora" in name or "prompt" in name or "token" in name
    adapted.save_pretrained(folder)
    return adapted.eval()


def lora(**options):
    return peft.LoraConfig(**{"r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"]} | options)


@torch.no_grad()
def compare(model, adapted, space, template):
    """gfo at z = 0 is PEFT's forward pass, and elsewhere is not."""
    task = Classification(ROWS, template=template, labels=LABELS)
    evaluator = LocalEvaluator(model, task, space)
    batch = evaluator.task.all_rows("train")
    z = np.vstack([np.zeros(space.dim), np.ones(space.dim)])
    found = evaluator.answers(z, batch)
    expected = torch.empty(len(ROWS), 2)
    for i, (before, after) in enumerate(zip(batch.before, batch.after, strict=True)):
        ids = torch.tensor([before + after])
        logits = adapted(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        expected[i] = logits[0, -1, list(batch.vocabulary)]
    assert float((found[0] - expected).abs().max()) < 1e-4
    assert float((found[1] - expected).abs().max()) > 1e-2  # control


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.self_attn.q_proj": 5}},
        {"target_modules": r".*\.(k_proj|down_proj)", "lora_alpha": 1},
        {"target_modules": "all-linear"},
        {"layers_to_transform": [1]},
        {"init_lora_weights": "gaussian", "lora_dropout": 0.5},
        {"init_lora_weights": "orthogonal", "r": 4},
        {"init_lora_weights": False, "exclude_modules": ["layers.0.self_attn.q_proj"]},
    ],
    ids=lambda o: ",".join(o) or "plain",
)
def test_lora(tiny, tmp_path, options):
    model = tiny("llama")
    adapted = saved(model, lora(**options), tmp_path)
    space = LoRASubspace.from_peft(tmp_path, model, DIM)
    compare(model, adapted, space, "Review: {text} It was")
    hit = {n.removeprefix("base_model.model.") for n, m in adapted.named_modules() if hasattr(m, "lora_A")}
    assert set(space.names) == hit
    assert space.first_layer == min(model.linears[name].layer for name in hit)


def test_singular_values_of_lora(tiny, tmp_path):
    """ESSA by hand: A and B rebuilt from their decompositions with each singular value times 1 + 0.3 z."""
    model = tiny("llama")
    adapted = saved(model, lora(r=4), tmp_path)
    space = LoRASubspace.from_peft(tmp_path, model, DIM, method="svd")
    compare(model, adapted, space, "Review: {text} It was")
    whole = len(space.names) * 8
    space = LoRASubspace.from_peft(tmp_path, model, whole, method="svd", projection="identity", alpha=0.3)
    plain = LoRASubspace.from_peft(tmp_path, model, DIM).decode(torch.zeros(1, DIM)).lora
    z = torch.randn(3, whole, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for i, (name, (A, B)) in enumerate(space.decode(z).lora.items()):
        (left, S_A, Vh), (U, S_B, right) = (
            torch.linalg.svd(part[0], full_matrices=False) for part in plain[name]
        )
        for k in range(3):
            by = 1 + 0.3 * z[k, 8 * i : 8 * i + 8].float()
            expected = (U * (S_B * by[:4])) @ right @ (left * (S_A * by[4:])) @ Vh
            torch.testing.assert_close(B[k] @ A[k], expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
        start = plain[name][1][0] @ plain[name][0][0]
        assert float((B @ A - start).norm() / start.norm()) > 0.1  # control
    with pytest.raises(GfoError, match="unknown method of from_peft 'svdd': did you mean 'svd'"):
        LoRASubspace.from_peft(tmp_path, model, DIM, method="svdd")


def test_lora_of_conv1d(tiny, tmp_path):
    model = tiny("gpt2")
    adapted = saved(model, lora(target_modules=["c_attn"], fan_in_fan_out=True), tmp_path)
    compare(model, adapted, LoRASubspace.from_peft(tmp_path, model, DIM), "Review: {text} It was")


def test_contract_of_lora(tiny, tmp_path):
    model = tiny("llama")
    saved(model, lora(), tmp_path)
    spaces = [LoRASubspace.from_peft(tmp_path, model, DIM, seed=seed) for seed in (0, 0, 1)]
    check_space(spaces[0], model, same=spaces[1], other=spaces[2], response=(0.01, 2))


def test_steps_are_a_share_of_the_weights(tiny, tmp_path):
    """z ~ N(0, I) moves each weight by alpha of its norm from the adapter's, whatever the adapter's A."""
    model = tiny("llama")
    saved(model, lora(), tmp_path)
    space = LoRASubspace.from_peft(tmp_path, model, 200, alpha=0.3)
    z = torch.randn(50, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start, moved = space.decode(torch.zeros(1, 200)), space.decode(z)
    for name, (A, B) in moved.lora.items():
        A0, B0 = start.lora[name]
        norm = (B @ A - B0 @ A0).square().sum((1, 2)).mean().sqrt() / model.weight(name).norm()
        assert float(norm) == pytest.approx(0.3, rel=0.15)


def test_prompt_tuning(tiny, tmp_path):
    model = tiny("llama")
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    adapted = saved(model, config, tmp_path)
    space = SoftPrompt.from_peft(tmp_path, model, DIM)
    compare(model, adapted, space, "{soft}Review: {text} It was")
    prompt = load_file(tmp_path / WEIGHTS)["prompt_embeddings"]
    assert torch.equal(space.decode(torch.zeros(1, DIM)).prompt[0], prompt)


@pytest.mark.parametrize("family_name", ["llama", "gemma", "t5"])
def test_trainable_tokens(tiny, tmp_path, family_name):
    """Their rows, times what the model multiplies rows by, are the prompt."""
    model = tiny(family_name)
    adapted = saved(model, peft.TrainableTokensConfig(token_indices=[190, 191, 192]), tmp_path)
    space = SoftPrompt.from_peft(tmp_path, model, DIM)
    wanted = adapted.get_base_model().get_input_embeddings()(torch.tensor([190, 191, 192]))
    assert torch.allclose(space.decode(torch.zeros(1, DIM)).prompt[0], wanted, atol=1e-5)
    assert not torch.allclose(wanted, model.embed(torch.tensor([190, 191, 192])), atol=1e-1)


def test_prompts_of_encoder_decoders_are_the_encoders(tiny, tmp_path):
    """PEFT keeps as many rows again for the decoder, and does not use them."""
    model = tiny("t5")
    (tmp_path / CONFIG).write_text(json.dumps({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3}))
    rows = torch.randn(6, model.hidden_size, generator=torch.Generator().manual_seed(0))
    save_file({"prompt_embeddings": rows}, tmp_path / WEIGHTS)
    space = SoftPrompt.from_peft(tmp_path, model, DIM)
    assert torch.equal(space.decode(torch.zeros(1, DIM)).prompt[0], rows[:3])


def change_config(**values):
    def change(folder):
        config = json.loads((folder / CONFIG).read_text()) | values
        (folder / CONFIG).write_text(json.dumps(config))

    return change


def change_tensors(change):
    def write(folder):
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)

    return write


Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
HEAD = "base_model.model.lm_head.lora_{}.weight"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / WEIGHTS).unlink(), ["no adapter can be read", WEIGHTS]),
        (lambda folder: (folder / CONFIG).write_text("[]"), ["no adapter can be read", CONFIG]),
        (lambda folder: (folder / WEIGHTS).write_text("x"), ["no adapter can be read"]),
        (change_config(peft_type="IA3"), ["of the kind IA3", "not LoRA"]),
        (change_config(use_dora=True), ["use_dora", "merge"]),
        (change_config(bias="all"), ["bias", "merge"]),
        (change_config(r=None), ["number r"]),
        # another start than 0 changes the weights below as PEFT loads it
        (change_config(init_lora_weights="pissa"), ["init_lora_weights = 'pissa'", "merge"]),
        (change_config(init_lora_weights="pissa_niter_4"), ["init_lora_weights = 'pissa_niter_4'"]),
        (change_config(init_lora_weights="olora"), ["init_lora_weights = 'olora'"]),
        (change_config(init_lora_weights="corda"), ["init_lora_weights = 'corda'"]),
        (change_config(init_lora_weights="loftq"), ["init_lora_weights = 'loftq'"]),
        (change_config(lora_alpha=True), ["number lora_alpha", "True"]),
        (change_config(lora_alpha="6"), ["number lora_alpha", "'6'"]),
        (change_config(lora_alpha=float("nan")), ["number lora_alpha", "nan"]),
        (change_config(r=True), ["number r", "True"]),
        (change_config(r=3.0), ["number r", "3.0"]),
        (change_config(rank_pattern={"q_proj": True}), ["number r", "q_proj = True"]),
        (change_config(alpha_pattern={"q_proj": "2"}), ["number lora_alpha", "q_proj = '2'"]),
        (change_config(alpha_pattern=[3]), ["alpha_pattern = [3]"]),
        (change_config(use_rslora="no"), ["use_rslora = 'no'"]),
        (change_config(use_qalora=True), ["use_qalora = True"]),
        (change_config(target_parameters=["w"]), ["target_parameters = ['w']"]),
        (change_config(alora_invocation_tokens=["a"]), ["alora_invocation_tokens = ['a']"]),
        (change_config(of_next_year={"scale": 2}), ["of_next_year = {'scale': 2}", "merge"]),
        (change_config(r=4), ["(3, 32)", "(4, 32)"]),
        (change_config(target_modules=["q_proj", "v_proj", "k_proj"]), ["lacks", "k_proj.lora_A"]),
        (change_config(target_modules=r"(", rank_pattern={}), ["target_modules", "pattern"]),
        (change_tensors(lambda t: t.pop(Q.format("A"))), ["lacks", "q_proj.lora_A"]),
        (change_tensors(lambda t: t.update(more=torch.ones(2))), ["has more", "means nothing"]),
        (
            change_tensors(lambda t: t.update({HEAD.format(x): torch.ones(3, 3) for x in "AB"})),
            ["'lm_head' is no linear module"],
        ),
        (change_tensors(lambda t: t.update({Q.format("A"): torch.ones(3, 31)})), ["(3, 31)", "(3, 32)"]),
        (change_tensors(lambda t: t[Q.format("A")].zero_()), ["A of", "is 0"]),
        (
            lambda folder: [change_tensors(dict.clear)(folder), change_config(target_modules=[])(folder)],
            ["changes no module"],
        ),
    ],
)
def test_bad_lora(tiny, tmp_path, spoil, words):
    model = tiny("llama")
    saved(model, lora(), tmp_path)
    LoRASubspace.from_peft(tmp_path, model, DIM)
    spoil(tmp_path)
    with pytest.raises(GfoError) as error:
        LoRASubspace.from_peft(tmp_path, model, DIM)
    text = str(error.value)
    assert all(word in text for word in [str(tmp_path), *words]), text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (change_config(peft_type="LORA"), ["of the kind LORA", "prompt tuning"]),
        (change_config(modules_to_save=["lm_head"]), ["modules_to_save = ['lm_head']"]),
        (change_config(of_next_year=7), ["of_next_year = 7"]),
        (change_config(num_virtual_tokens=5), ["(4, 32)", "(5, 32)"]),
        (change_tensors(lambda t: t.update(prompt_embeddings=torch.ones(4, 31))), ["(4, 31)", "(4, 32)"]),
        (change_tensors(lambda t: t.update(more=torch.ones(2))), ["has more"]),
        (change_tensors(dict.clear), ["lacks prompt_embeddings"]),
        (change_config(peft_type="TRAINABLE_TOKENS", token_indices=[1]), ["lacks", "trainable_tokens_delta"]),
    ],
)
def test_bad_prompt(tiny, tmp_path, spoil, words):
    model = tiny("llama")
    saved(model, peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4), tmp_path)
    SoftPrompt.from_peft(tmp_path, model, DIM)
    spoil(tmp_path)
    with pytest.raises(GfoError) as error:
        SoftPrompt.from_peft(tmp_path, model, DIM)
    assert all(word in str(error.value) for word in [str(tmp_path), *words]), str(error.value)


@pytest.mark.parametrize("make", [LoRASubspace, SoftPrompt])
def test_sizes(tiny, tmp_path, make):
    model = tiny("llama")
    kinds = {
        SoftPrompt: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=1),
        LoRASubspace: lora(),
    }
    saved(model, kinds[make], tmp_path)
    with pytest.raises(GfoError, match="dim = 5000"):
        make.from_peft(tmp_path, model, 5000)
    with pytest.raises(GfoError, match="alpha = 0"):
        make.from_peft(tmp_path, model, 5, alpha=0)


def test_what_is_not_known_but_not_set_is_harmless(tiny, tmp_path):
    """As newer versions of PEFT write their own options, at their defaults."""
    model = tiny("llama")
    adapted = saved(model, lora(), tmp_path)
    change_config(of_next_year=None, of_the_year_after=False, and_more={}, revision="x")(tmp_path)
    compare(model, adapted, LoRASubspace.from_peft(tmp_path, model, DIM), "Review: {text} It was")


def test_pissa_is_not_what_its_matrices_say(tiny, tmp_path):
    """The reason for the refusal: PEFT's own logits with it are far from W + s B A."""
    model = tiny("llama")
    config = lora(init_lora_weights="pissa")
    adapted = peft.get_peft_model(copy.deepcopy(model.module), config)
    adapted.save_pretrained(tmp_path)
    with pytest.raises(GfoError, match="init_lora_weights = 'pissa'"):
        LoRASubspace.from_peft(tmp_path, model, DIM)
    ids = torch.tensor([[5, 9, 20]])
    plain = model.module(ids).logits
    assert torch.allclose(adapted(ids).logits, plain, atol=1e-3)  # untrained, PEFT's is the model
    change_config(init_lora_weights=True)(tmp_path)
    space = LoRASubspace.from_peft(tmp_path, model, DIM)
    delta = space.decode(torch.zeros(1, DIM))
    assert min(float((B @ A).norm()) for A, B in delta.lora.values()) > 0.1  # W + s B A is not
