"""Models with closed sub-blocks leave as folders that transformers loads, smaller where it can be."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers
from exports import PLAIN, check, evaluator_of, exported, logits_of, rows_of

from gfo import GfoError, LoRASubspace, ProductSpace
from gfo.report.export.closed import STRUCTURE
from gfo.spaces.structure import Structure

FAMILIES = [
    "llama",
    "gpt2",
    "qwen2",
    "qwen3",
    "mistral",
    "gemma2",
    "gemma3",
    "opt",
    "gpt_neox",
    "phi",
    "cohere2",
]


def round_trip(model, space, z, folder):
    """Export, load by transformers, compare; what was loaded, and the note."""
    evaluator = evaluator_of(model, space, PLAIN)
    before = {name: t.clone() for name, t in model.module.state_dict().items()}
    written = exported(evaluator, z, "merged", folder)
    assert all(torch.equal(t, before[name]) for name, t in model.module.state_dict().items())
    kind = getattr(transformers, type(model.module).__name__)
    module, info = kind.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    check(evaluator, logits_of(module.eval(), model, rows_of(evaluator)), z)
    return module, written


@pytest.mark.parametrize("name", FAMILIES)
def test_layers_are_left_out(tiny, name, tmp_path):
    model = tiny(name)
    space = Structure(model)
    z = np.array([[0, 1, 1, 1, 0, 0], [0, 0, 0, 1, 0, 1]], dtype=float)
    module, written = round_trip(model, space, z, tmp_path)
    assert module.config.get_text_config().num_hidden_layers == 2
    assert written.notes == ("1 of 3 closed sub-blocks are zeros, which take their room",)
    own = json.loads((written.folder / STRUCTURE).read_text())
    assert own == {"closed": ["feed-forward 0", "attention 1", "feed-forward 1"], "layers_left_out": [1]}
    assert sum(p.numel() for p in module.parameters()) < sum(p.numel() for p in model.module.parameters())


def test_the_file_is_as_large_as_measured(tiny, tmp_path):
    model = tiny("llama", num_hidden_layers=5, hidden_size=64)
    space = Structure(model)
    z = np.zeros((2, 10))
    z[0, 2:6], z[1, :2] = 1, 1
    _, written = round_trip(model, space, z, tmp_path)
    assert not written.notes
    size = (written.folder / "model.safetensors").stat().st_size
    assert size == pytest.approx(space.measure(z)["bytes"][0], rel=0.1)  # its header is a large part of it
    assert size < 0.9 * space.measure(np.zeros((1, 10)))["bytes"][0]


def test_zeros_where_no_layer_is_closed(tiny, tmp_path):
    model = tiny("gpt2")
    z = np.array([[1, 0, 0, 1, 0, 1], [0, 0, 0, 0, 0, 1]], dtype=float)
    module, written = round_trip(model, Structure(model), z, tmp_path)
    assert module.config.n_layer == 3
    assert written.notes == ("3 of 3 closed sub-blocks are zeros, which take their room",)


def test_nothing_and_everything(tiny, tmp_path):
    model = tiny("llama")
    space = Structure(model)
    z = np.array([[0] * 6, [1] * 6], dtype=float)
    written = exported(evaluator_of(model, space, PLAIN), z, "merged", tmp_path / "open")
    assert not written.notes
    module, _ = round_trip(model, space, z[::-1].copy(), tmp_path / "closed")
    assert module.config.num_hidden_layers == 1


def test_a_repaired_point_with_low_rank_changes(tiny, tmp_path):
    model = tiny("qwen2")
    space = ProductSpace(Structure(model, closed=3), LoRASubspace(model, 4, rank=2, alpha=0.5))
    assert space.repair(np.zeros((2, 10)))[:, :6].sum() == 6
    assert space.measure(np.zeros((2, 10)))["bytes"].shape == (2,)
    z = np.random.default_rng(0).standard_normal((2, 10))
    z[:, :6] = [[1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1]]  # not the numbers that are to be closed
    round_trip(model, space, z, tmp_path)


def test_no_adapter_holds_gates(tiny, tmp_path):
    model = tiny("llama")
    with pytest.raises(GfoError, match="PEFT has no adapter for gate"):
        exported(evaluator_of(model, Structure(model), PLAIN), np.zeros((1, 6)), "peft", tmp_path)
