"""Losses and gradients of trained weights, prompts and prefixes against transformers' and PEFT's own."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from examples import LABELS, PLAIN, ROWS, make_task, whole_rows
from torch.nn.functional import cross_entropy

from gfo import Prefix, SoftPrompt
from gfo.baselines import make

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # peft's own, at import
    import peft

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")
P = 3
TOLERANCE = 1e-3  # of the largest entry


def plain_loss(model, module):
    """The mean cross-entropy of the label words behind whole rows, one row at a time."""
    words = [model.encode(word)[0] for word in LABELS.values()]
    losses = []
    for row, ids in zip(ROWS, whole_rows(make_task(PLAIN), model), strict=True):
        ids = torch.tensor([ids])
        logits = module(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -1, words].float()
        losses.append(cross_entropy(logits, torch.tensor([list(LABELS).index(row["label"])])))
    return torch.stack(losses).mean()


def compare(name, found, expected, others):
    scale = float(expected.abs().max())
    assert scale > 1e-4, name
    assert float((found - expected).abs().max()) < TOLERANCE * scale, name
    for other in others:  # controls
        assert float((found - other).abs().max()) > 10 * TOLERANCE * scale, name


def trained_gradients(method):
    """The loss, and the gradients of a training step before they are used."""
    evaluation = method(method.ask(), 0)
    return float(evaluation.loss[0]), [p.grad for p in method.trained.parameters]


@pytest.mark.parametrize("family_name", ["llama", "gpt2", "gemma2", "opt"])
def test_full_fine_tuning(tiny, family_name):
    model = tiny(family_name)
    loss, found = trained_gradients(make("full", model, make_task(PLAIN), dropout=0.0))
    module = copy.deepcopy(model.module).requires_grad_(True)
    expected = plain_loss(model, module)
    expected.backward()
    assert loss == pytest.approx(expected.item(), abs=1e-5)
    names = [name for name, _ in module.named_parameters()]
    gradients = [p.grad for p in module.parameters()]
    assert sum(float(g.abs().max()) > 1e-4 for g in gradients if g is not None) > len(names) / 2
    for name, mine, theirs in zip(names, found, gradients, strict=True):
        if theirs is None or float(theirs.abs().max()) < 1e-4:
            assert mine is None or float(mine.abs().max()) < 1e-4
        else:
            compare(name, mine, theirs, [-mine])


@pytest.mark.parametrize("family_name", ["llama", "gpt2", "gpt_neox"])
def test_lora(tiny, family_name):
    model = tiny(family_name)
    method = make("lora", model, make_task(PLAIN), rank=2, alpha=4, dropout=0.0)
    for i, parameter in enumerate(method.trained.parameters):  # B is 0 at the start, and A's gradient with it
        with torch.no_grad():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)))
    loss, found = trained_gradients(method)
    assert method.trained.model.module.training is False
    modules = method.trained._adapted.peft_config["default"].target_modules
    config = peft.LoraConfig(
        r=2,
        lora_alpha=4,
        target_modules=list(modules),
        fan_in_fan_out=family_name == "gpt2",
        lora_dropout=0.0,
    )
    adapted = peft.get_peft_model(copy.deepcopy(model.module), config)
    theirs = [p for p in adapted.parameters() if p.requires_grad]
    for parameter, mine in zip(theirs, method.trained.parameters, strict=True):
        parameter.data.copy_(mine.data)
    expected = plain_loss(model, adapted)
    expected.backward()
    assert loss == pytest.approx(expected.item(), abs=1e-5)
    assert abs(loss - plain_loss(model, model.module).item()) > 1e-3
    for n, (mine, p) in enumerate(zip(found, theirs, strict=True)):
        compare(n, mine, p.grad, [-p.grad])


@pytest.mark.parametrize("family_name", ["llama", "gpt2", "opt"])
def test_prompt_tuning_in_front_is_peft_s(tiny, family_name):
    model = tiny(family_name)
    space = SoftPrompt(model, P, dim=4)
    loss, (found,) = trained_gradients(make("prompt-tuning", model, make_task("{soft}" + PLAIN), space))
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=P, token_dim=model.hidden_size)
    adapted = peft.get_peft_model(copy.deepcopy(model.module), config)
    (parameter,) = [p for p in adapted.parameters() if p.requires_grad]
    parameter.data.copy_(space.p0)
    expected = plain_loss(model, adapted)
    expected.backward()
    assert loss == pytest.approx(expected.item(), abs=1e-5)
    grad = parameter.grad
    compare("prompt", found.view(P, -1), grad, [grad.roll(1, 0)])


@pytest.mark.parametrize("family_name", ["llama", "gpt2", "opt"])
def test_prefix_tuning_is_peft_s(tiny, family_name):
    model = tiny(family_name)
    space = Prefix(model, P, dim=4)
    loss, (found,) = trained_gradients(make("prefix-tuning", model, make_task(PLAIN), space))
    heads, _, size = space.start[0][0].shape
    config = peft.PrefixTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=P,
        num_layers=model.layers,
        token_dim=heads * size,
        num_attention_heads=heads,
    )
    adapted = peft.get_peft_model(copy.deepcopy(model.module), config)
    (parameter,) = [p for p in adapted.parameters() if p.requires_grad]

    def flat(tensor):
        """[layers, 2, heads, P, size] as PEFT has it: per token k0, v0, k1, v1, ..."""
        return tensor.permute(3, 0, 1, 2, 4).reshape(P, -1)

    start = torch.stack([torch.stack(pair) for pair in space.start])
    parameter.data.copy_(flat(start))
    expected = plain_loss(model, adapted)
    expected.backward()
    assert loss == pytest.approx(expected.item(), abs=1e-5)
    grad = parameter.grad
    compare("prefix", flat(found.view(start.shape)), grad, [grad.roll(1, 0), grad.roll(1, 1)])


def test_prompt_tuning_is_the_identity_space(tiny):
    """A point is what is added to the prompt, number by number."""
    model = tiny("llama")
    space = SoftPrompt(model, P, dim=4)
    method = make("prompt-tuning", model, make_task(), space)
    z = np.random.default_rng(0).standard_normal(method.domain.d)
    prompt = method.judge.space.decode(torch.from_numpy(np.stack([0 * z, z]))).prompt
    assert torch.equal(prompt[0], space.p0)
    torch.testing.assert_close(prompt[1], space.p0 + torch.from_numpy(z).float().view(space.p0.shape))
    assert float((prompt[1] - prompt[0]).abs().max()) > 1
