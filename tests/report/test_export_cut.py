"""Folders without closed heads and neurons: really smaller where the config can say it, else zeros."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_export_closed import round_trip

from gfo import LoRASubspace, ProductSpace
from gfo.report.export.closed import STRUCTURE
from gfo.spaces.structure import Structure

WIDTHS = [1.0, 0.5, 0.25]
SAY_HEADS = ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3"]
SAY_WIDTHS = [*SAY_HEADS, "gpt2", "opt", "gpt_neox", "phi", "cohere2"]


def size(module):
    return sum(p.numel() for p in module.parameters())


def space_of(model, **options):
    return Structure(model, attention=False, feedforward=False, **options)


@pytest.mark.parametrize("name", SAY_WIDTHS)
def test_equal_widths_are_left_out(tiny, name, tmp_path):
    model = tiny(name)
    space = space_of(model, widths=WIDTHS)
    module, written = round_trip(model, space, np.array([[1, 1, 1], [0, 1, 2]], dtype=float), tmp_path)
    assert not written.notes
    assert size(module) == space.measure(np.ones((1, 3)))["parameters"][0] < size(model.module)
    own = json.loads((written.folder / STRUCTURE).read_text())
    assert set(own["config"].values()) == {24}
    assert all(len(kept) == 24 for kept in own["kept_inputs"].values())


@pytest.mark.parametrize("name", SAY_HEADS)
def test_equal_heads_are_left_out(tiny, name, tmp_path):
    model = tiny(name)
    space = space_of(model, heads="groups", widths=WIDTHS)
    z = np.array([[1, 0, 0, 1, 1, 0, 2, 2, 2], [0] * 8 + [1]], dtype=float)  # other heads in each layer
    module, written = round_trip(model, space, z, tmp_path)
    assert not written.notes
    assert size(module) == space.measure(z)["parameters"][0] < size(model.module)
    assert module.config.get_text_config().num_key_value_heads == 1


def test_equal_heads_of_queries(tiny, tmp_path):
    model = tiny("llama")
    space = space_of(model, heads="queries")
    z = np.array([[1, 0, 0, 1] * 3, [0] * 11 + [1]], dtype=float)
    module, written = round_trip(model, space, z, tmp_path)
    assert not written.notes
    assert module.config.num_attention_heads == module.config.num_key_value_heads == 2
    assert size(module) == space.measure(z)["parameters"][0]


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "phi"])
def test_unequal_numbers_are_zeros(tiny, name, tmp_path):
    model = tiny(name)
    space = space_of(model, heads="groups", widths=WIDTHS)
    z = np.zeros((2, space.domain.d))
    z[0, [0, -2, -1]], z[1, 0] = 1, 1
    module, written = round_trip(model, space, z, tmp_path)
    assert size(module) == size(model.module)
    assert written.notes == ("closed heads and neurons are zeros, which take their room",)


def test_widths_alone_where_heads_are_unequal(tiny, tmp_path):
    model = tiny("llama")
    space = space_of(model, heads="groups", widths=WIDTHS)
    z = np.array([[1, 0, 0, 0, 0, 0, 1, 1, 1], [0] * 9], dtype=float)
    z[1, 0] = 1
    module, written = round_trip(model, space, z, tmp_path)
    assert module.config.intermediate_size == 24
    assert written.notes == ("closed heads are zeros, which take their room",)


def test_heads_that_the_config_does_not_take_are_zeros(tiny, tmp_path):
    """Six heads of a hidden size of 64 are refused by transformers; widths go all the same."""
    model = tiny("llama", hidden_size=64, num_attention_heads=8, num_key_value_heads=4)
    space = space_of(model, heads="groups", widths=WIDTHS)
    z = np.zeros((2, space.domain.d))
    z[0, [0, 4, 8]], z[0, 12:], z[1, 1] = 1, 1, 1
    module, written = round_trip(model, space, z, tmp_path)
    assert (module.config.num_attention_heads, module.config.intermediate_size) == (8, 24)
    assert written.notes == ("closed heads are zeros, which take their room",)


def test_with_closed_sub_blocks_and_layers(tiny, tmp_path):
    """A closed network may have any width; a layer of which both are closed is left out."""
    model = tiny("qwen2")
    space = Structure(model, heads="groups", widths=WIDTHS)
    z = np.zeros((2, space.domain.d))
    z[0, [0, 2, 3, 6, 9, 10]] = 1  # attention 0, layer 1; heads that matter in layers 1 and 2
    z[0, 12:], z[1, 1] = [1, 0, 1], 1
    module, written = round_trip(model, space, z, tmp_path)
    config = module.config
    assert (config.num_hidden_layers, config.intermediate_size, config.num_key_value_heads) == (2, 24, 1)
    assert written.notes == ("1 of 3 closed sub-blocks are zeros, which take part of their room",)


def test_with_low_rank_changes(tiny, tmp_path):
    model = tiny("llama")
    structure = space_of(model, heads="groups", widths=WIDTHS)
    space = ProductSpace(
        structure, LoRASubspace(model, 4, rank=2, alpha=0.5, targets=["down_proj", "o_proj"])
    )
    z = np.hstack([[[1, 0, 1, 0, 0, 1, 1, 1, 1], [0] * 9], np.random.default_rng(0).standard_normal((2, 4))])
    module, written = round_trip(model, space, z, tmp_path)
    assert not written.notes
    assert size(module) == structure.measure(z[:1, :9])["parameters"][0]


@pytest.mark.parametrize("closed", [[0, 1, 2, 3], []])
def test_a_file_is_as_large_as_measured(tiny, closed, tmp_path):
    """To 1 % where headers vanish; without what the tiny models leave out."""
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8}
    model = tiny("llama", **sizes, num_key_value_heads=4)
    space = Structure(model, heads="groups", widths=WIDTHS)
    z = np.zeros((2, space.domain.d))
    z[0, closed] = 1
    for layer in range(4):  # two heads' groups of four
        z[0, [8 + 4 * layer + layer, 8 + 4 * layer + (layer + 1) % 4]] = 1
    z[0, -4:], z[1, -1] = 1, 1
    _, written = round_trip(model, space, z, tmp_path)
    assert not written.notes
    found = (written.folder / "model.safetensors").stat().st_size
    whole, wanted = space.measure(np.vstack([np.zeros_like(z[:1]), z[:1]]))["bytes"]
    assert found == pytest.approx(wanted, rel=0.01)
    assert wanted < 0.8 * whole
