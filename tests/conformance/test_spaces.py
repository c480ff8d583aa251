"""Every space passes the contract, on decoders, encoders and encoder-decoders; unit scales agree."""

from __future__ import annotations

import pytest

from gfo import SoftPrompt, load_model
from gfo.spaces.adapter import Adapter
from gfo.spaces.deep_prompt import DeepPrompt
from gfo.spaces.discrete_prompt import DiscretePrompt
from gfo.spaces.lora_subspace import LoRASubspace
from gfo.spaces.prefix import Prefix
from gfo.spaces.product import ProductSpace
from gfo.spaces.scaling import BiasSpace, Scaling
from gfo.testing import check_space, logit_response

DIM = 9
SPACES = {
    "soft prompt": lambda m, **o: SoftPrompt(m, 4, **o),
    "soft prompt, fastfood": lambda m, **o: SoftPrompt(m, 4, projection="fastfood", **o),
    "soft prompt, sparse": lambda m, **o: SoftPrompt(m, 4, projection="sparse", **o),
    "deep prompt": lambda m, **o: DeepPrompt(m, 4, **o),
    "deep prompt, upper": lambda m, **o: DeepPrompt(m, 4, layers="upper", **o),
    "prefix": lambda m, **o: Prefix(m, 4, **o),
    "lora-fa": lambda m, **o: LoRASubspace(m, method="lora-fa", **o),
    "lora-fa, upper, fastfood": lambda m, **o: LoRASubspace(m, layers="upper", projection="fastfood", **o),
    "lora-xs": lambda m, **o: LoRASubspace(m, method="lora-xs", **o),
    "svd": lambda m, **o: LoRASubspace(m, method="svd", **o),
    "vera": lambda m, **o: LoRASubspace(m, method="vera", **o),
    "tiny": lambda m, **o: LoRASubspace(m, method="tiny", **o),
    "ia3": lambda m, **o: Scaling(m, **o),
    "norm": lambda m, **o: Scaling(m, method="norm", **o),
    "bias": lambda m, **o: BiasSpace(m, **o),
    "adapter": lambda m, **o: Adapter(m, **o),
}
FAMILIES = ("llama", "gpt2", "gemma2", "opt", "bert", "roberta", "t5", "bart")
ENCODERS = FAMILIES[-4:]


def product(model, seed=0):
    parts = (SPACES[name](model, dim=DIM, seed=seed) for name in ("soft prompt", "lora-fa", "ia3"))
    return ProductSpace(*parts)


CASES = [(f, name) for name in SPACES for f in FAMILIES if name != "prefix" or f not in ENCODERS]


@pytest.mark.parametrize(("family_name", "name"), CASES)
def test_contract(tiny, family_name, name):
    model = tiny(family_name)
    make = SPACES[name]
    spaces = [make(model, dim=DIM, seed=seed) for seed in (3, 3, 4)]
    check_space(spaces[0], model, same=spaces[1], other=spaces[2], response=(0.01, 2))


@pytest.mark.parametrize("family_name", FAMILIES)
def test_contract_of_products_and_discrete_prompts(tiny, family_name):
    model = tiny(family_name)
    check_space(product(model), model, same=product(model), other=product(model, 1), response=(0.01, 2))
    discrete = [DiscretePrompt(model, 4, number=9, seed=seed) for seed in (0, 0)]
    check_space(discrete[0], model, same=discrete[1])


@pytest.mark.parametrize("family_name", ["llama", "gpt2", "opt", "bert", "t5"])
def test_unit_scales_agree_on_tiny_models(tiny, family_name):
    """With default alphas, all layers and dense projections: in a factor of 10. (A tiny model's upper half
    is one layer of two or three.)"""
    model = tiny(family_name)
    usual = [
        name for name in SPACES if "," not in name and not (name == "prefix" and family_name in ENCODERS)
    ]
    found = {name: logit_response(SPACES[name](model, dim=DIM), model) for name in usual}
    assert max(found.values()) < 10 * min(found.values()), found
    assert min(found.values()) > 0.05, found


@pytest.mark.weights
def test_unit_scales_agree_with_the_defaults():
    """Each space's default alpha, on the built-in model: in a factor of 10, the soft prompt's among them."""
    model = load_model("smollm2-135m")
    usual = [name for name in SPACES if "fastfood" not in name and "sparse" not in name]
    found = {name: logit_response(SPACES[name](model), model, candidates=4) for name in usual}
    assert all(0.1 <= value <= 1 for value in found.values()), found
    soft = found["soft prompt"]
    assert all(soft / 5 < value < soft * 5 for value in found.values()), found
    # control: a hundredth of the step is another response
    assert logit_response(SPACES["lora-fa"](model), model, candidates=4, size=0.01) < 0.01
