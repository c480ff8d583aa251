"""The contract of a space sees what is wrong: each broken one fails the check it should."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gfo import SoftPrompt
from gfo.core.delta import Delta
from gfo.core.domain import Domain
from gfo.spaces.lora_subspace import LoRASubspace
from gfo.spaces.scaling import Scaling
from gfo.testing import SPACE_CHECKS, check_space, logit_response


@pytest.fixture(scope="module")
def model(tiny):
    return tiny("llama")


class Broken:
    """A space whose decode is changed."""

    def __init__(self, space, decode):
        self.domain, self._space, self._decode = space.domain, space, decode

    def decode(self, z):
        return self._decode(self._space, z)


class Started(Broken):
    """A prompt that declares where it starts."""

    def __init__(self, model, decode):
        space = SoftPrompt(model, 3, 6)
        super().__init__(space, decode)
        self.starts_from = Delta(prompt=space.p0[None])


class EvenLoRA:
    """Both factors from z, as plain LoRA would have it."""

    def __init__(self, model):
        self.domain = Domain.unbounded(6)
        self._space = LoRASubspace(model, 6, rank=2)
        rng = torch.Generator().manual_seed(0)
        self._A = {
            name: torch.randn(2 * model.linears[name].in_features, 6, generator=rng)
            for name in self._space.names
        }

    def decode(self, z):
        delta = self._space.decode(z)
        lora = {
            name: ((z.float() @ self._A[name].T).view(len(z), 2, -1), B)
            for name, (_, B) in delta.lora.items()
        }
        return Delta(lora=lora, first_layer=delta.first_layer)


def prompts(change):
    return lambda model: Broken(
        SoftPrompt(model, 3, 6), lambda space, z: Delta(prompt=change(space.decode(z).prompt, z))
    )


def changed_in_place(space, z):
    z += 1
    return space.decode(z)


def drawing(prompt, z):
    np.random.rand()  # noqa: NPY002
    return prompt


def too_high(space, z):
    return Delta(*space.decode(z).slots, first_layer=2)


BROKEN = {
    "float64": (prompts(lambda p, z: p.double()), "float32"),
    "nan": (prompts(lambda p, z: p / 0 * 0), "finite"),
    "one candidate for all": (prompts(lambda p, z: p[:1]), "gives 1 candidates"),
    "z changed": (lambda m: Broken(SoftPrompt(m, 3, 6), changed_in_place), "must not change z"),
    "first layer too high": (lambda m: Broken(LoRASubspace(m, 6), too_high), "first_layer = 2"),
    "not the start": (
        lambda m: Broken(Scaling(m, 6), lambda space, z: space.decode(z + 0.1)),
        "every scale must be 1",
    ),
    "LoRA not from 0": (
        lambda m: Broken(LoRASubspace(m, 6), lambda space, z: space.decode(z + 0.1)),
        "every lora must be 0",
    ),
    "not the start declared": (
        lambda m: Started(m, lambda space, z: space.decode(z + 0.1)),
        r"decode\(0\) must be what `starts_from`",
    ),
    "start by candidate": (
        prompts(lambda p, z: p + torch.arange(len(p))[:, None, None]),
        r"decode\(0\) must be the same for all K",
    ),
    "random": (prompts(lambda p, z: p + torch.randn(()) * (z != 0).any()), "same for the same z|alike"),
    "global generator": (prompts(drawing), "global generator of numpy"),
    "batch mean": (prompts(lambda p, z: p - 0.1 * (p - p[:1])), "must be that of each"),
    "no dependence": (
        prompts(lambda p, z: (p - p).detach() + 1.0),
        "logits of its own",
    ),
    "gradient cut": (prompts(lambda p, z: p.detach() + 0 * z.sum()), "autograd and finite differences"),
    "no gradient": (prompts(lambda p, z: p.detach()), "must be differentiable"),
    "even": (EvenLoRA, "z and -z must not do the same"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_spaces_are_caught(model, name):
    make, words = BROKEN[name]
    with pytest.raises((AssertionError, ValueError), match=words):
        check_space(make(model), model, response=None)


def test_whole_spaces_pass(model):
    """A control: what the broken ones are made from."""
    for space in (SoftPrompt(model, 3, 6), LoRASubspace(model, 6, rank=2), Scaling(model, 6)):
        check_space(Broken(space, lambda space, z: space.decode(z)), model, response=None)
    check_space(Started(model, lambda space, z: space.decode(z)), model, response=None)


@pytest.mark.parametrize(("factor", "fails"), [(1.0, False), (0.02, True), (50.0, True)])
def test_scale(model, factor, fails):
    space = LoRASubspace(model, 6)
    scaled = Broken(space, lambda space, z: space.decode(factor * z))
    if fails:
        with pytest.raises(AssertionError, match="must be unit scale"):
            check_space(scaled, model)
    else:
        check_space(scaled, model)


def test_seeds(model):
    spaces = [SoftPrompt(model, 3, 6, seed=seed) for seed in (0, 0, 1)]
    check_space(spaces[0], model, same=spaces[1], other=spaces[2], response=None)
    with pytest.raises(AssertionError, match="equal seeds"):
        check_space(spaces[0], model, same=spaces[2], response=None)
    with pytest.raises(AssertionError, match="another seed"):
        check_space(spaces[0], model, other=spaces[1], response=None)


def test_response_is_its_formula(model):
    """Against stock forward passes of prompts written out."""
    from gfo.testing import space_contract as contract

    space = SoftPrompt(model, 3, 6)
    z = np.random.default_rng(0).standard_normal((2, 6))
    prompts = space.decode(torch.from_numpy(np.vstack([np.zeros((1, 6)), z]))).prompt
    tokens = list(range(0, model.vocabulary_size, max(1, model.vocabulary_size // 64)))
    logits = torch.empty(3, len(contract.TEXTS), len(tokens))
    for b, text in enumerate(contract.TEXTS):
        left, right = (model.embed(torch.tensor(model.encode(t))) for t in (text, contract.BEHIND))
        for k in range(3):
            embeds = torch.cat([left, prompts[k], right])[None]
            with torch.no_grad():
                logits[k, b] = model.module(inputs_embeds=embeds).logits[0, -1, tokens]
    ratio = (logits[1:] - logits[:1]).std(-1) / logits[:1].std(-1)
    found = logit_response(space, model, candidates=2)
    assert found == pytest.approx(float(ratio.square().mean().sqrt()), rel=1e-4)
    assert logit_response(space, model, candidates=2, size=0.01) < 0.1 * found
    assert len(SPACE_CHECKS) == 5
