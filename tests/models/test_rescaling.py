"""Factors moved between modules: every family that has places computes what it did."""

from __future__ import annotations

import pytest
import torch

import gfo
from benchmarks.compression.off_grid import off_grid

FAMILIES = {"llama": {}, "mistral": {}, "qwen2": {}, "qwen3": {}}


def logits(module):
    with torch.no_grad():
        return module(input_ids=torch.arange(3, 27)[None]).logits


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("spread", [0.15, 1.0])
def test_the_function_stays(tiny, family, spread):
    model = tiny(family)
    moved = off_grid(model, spread=spread)
    change = float((logits(moved.module) - logits(model.module)).abs().max())
    assert change < 1e-4 * float(logits(model.module).std())
    for name, linear in model.linears.items():
        assert linear == moved.linears[name]
        ratio = (moved.weight(name) / model.weight(name)).log()
        assert float(ratio.std()) > 0.5 * spread, name  # a control: each weight has other columns


@pytest.mark.parametrize("place", range(4))
def test_each_place_alone(tiny, place):
    from gfo.models.rescaling import rescaled

    model = tiny("qwen2")
    source = model.rescalings[place].source
    n = len(model.module.get_submodule(source).weight)
    s = torch.linspace(0.5, 2.0, n)
    moved = rescaled(model, {source: s})
    assert float((logits(moved) - logits(model.module)).abs().max()) < 1e-4
    names = dict(model.module.named_parameters())
    changed = {n.removesuffix(".weight") for n, p in moved.named_parameters() if not torch.equal(p, names[n])}
    assert changed - {f"{source}.bias"} == {source, *model.rescalings[place].into}


def test_other_families_have_no_places(tiny):
    assert tiny("gpt2").rescalings == ()
    assert tiny("gemma").rescalings == ()


@pytest.mark.weights
def test_the_built_in_model_leaves_its_grid():
    from gfo.spaces.parts.levels import LEVELS

    model = gfo.load_model("smollm2-135m")
    moved, name = off_grid(model), "model.layers.3.mlp.up_proj"
    lost = {
        m.name: float((LEVELS["Q4_1"].rounded(m.weight(name)) - m.weight(name)).norm())
        for m in (model, moved)
    }
    size = float(model.weight(name).norm())
    assert lost[model.name] < 1e-3 * size
    assert lost[moved.name] > 0.03 * size
