"""Merges that leave: plain folders with the tokenizer, and recipes of which mergekit makes the same."""

from __future__ import annotations

import os
import warnings

import merges
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

import gfo
from gfo.core.errors import GfoError
from gfo.models.loading import no_progress_bars
from gfo.report.export import export
from gfo.report.export.recipe import RECIPE

TEMPLATE = "Review: {text} It was"
SAME = 1e-5
METHODS = ["linear", "task_arithmetic", "ties", "slerp", "pick"]


def loaded(tiny, family, folder):
    """A tiny model that has a folder."""
    model = tiny(family)
    path = merges.save(model.module, model.tokenizer, folder / "base")
    with no_progress_bars():
        module = getattr(transformers, type(model.module).__name__).from_pretrained(path)
    return gfo.freeze(module, model.tokenizer, "base", check=False)


def task_of():
    return gfo.Classification(merges.ROWS, template=TEMPLATE, labels=merges.LABELS)


def exported(model, space, folder, form="merged", z=None):
    evaluator = gfo.LocalEvaluator(model, task_of(), space)
    if z is None:
        rng = np.random.default_rng(3)
        whole = bool(space.domain.integer.any())
        z = rng.integers(0, 2, space.dim).astype(float) if whole else rng.standard_normal(space.dim)
    return evaluator, z, export(evaluator, z, form, folder)


@torch.no_grad()
def logits_of(module, model):
    return module(input_ids=torch.tensor([model.encode(merges.ROWS[0]["text"])])).logits


@pytest.mark.parametrize("method", [*METHODS, "dare_ties"])
@pytest.mark.parametrize("kind", ["whole", "adapters"])
def test_a_folder_is_the_candidate(tiny, tmp_path, kind, method):
    model = loaded(tiny, "llama", tmp_path)
    folders = getattr(merges, kind)(model, tmp_path, 2)
    space = gfo.Merge(model, folders, method=method, groups=2, filters=["mlp"])
    evaluator, z, _ = exported(model, space, tmp_path / "out")
    with no_progress_bars():
        module = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    twin = gfo.freeze(module, transformers.AutoTokenizer.from_pretrained(tmp_path / "out"), check=False)
    found = gfo.LocalEvaluator(twin, task_of(), gfo.Scaling(twin, 2))(np.zeros((1, 2)), 0).loss
    expected = evaluator(np.stack([z, 1 - z]), 0).loss
    assert abs(found[0] - expected[0]) < 1e-4
    assert abs(found[0] - expected[1]) > 1e-3  # a control
    written = load_file(tmp_path / "out" / "model.safetensors")
    own = dict(model.module.named_parameters())
    for key, tensor in written.items():
        kept = not any(key.startswith(f"{name}.") for place in space.places for name in place.names)
        assert torch.equal(tensor, own[key]) == kept


def test_what_is_loaded_is_compared_first(tiny, tmp_path, monkeypatch):
    from gfo.report.export import merged

    model = loaded(tiny, "llama", tmp_path)
    space = gfo.Merge(model, merges.whole(model, tmp_path, 2))
    real = merged._save

    def damaged(thing, folder):
        if hasattr(thing, "lm_head"):
            thing.model.norm.weight = torch.nn.Parameter(1.1 * thing.model.norm.weight)
        real(thing, folder)

    monkeypatch.setattr(merged, "_save", damaged)
    with pytest.raises(GfoError, match="what transformers loads is not 'base' with these weights merged"):
        exported(model, space, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_adapters_leave_as_one_adapter(tiny, tmp_path):
    model = loaded(tiny, "llama", tmp_path)
    space = gfo.Merge(model, merges.adapters(model, tmp_path), method="task_arithmetic", filters=["mlp"])
    evaluator, z, _ = exported(model, space, tmp_path / "out", "peft")
    start = gfo.LoRASubspace.from_peft(tmp_path / "out", model, dim=2)
    found = gfo.LocalEvaluator(model, task_of(), start)(np.zeros((1, 2)), 0).loss
    assert found == pytest.approx(evaluator(z[None], 0).loss, abs=1e-5)


def mergekit():
    """The package, without what it warns of as it is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("mergekit")
        from mergekit.config import MergeConfiguration
        from mergekit.merge import run_merge
        from mergekit.options import MergeOptions
    return MergeConfiguration, run_merge, MergeOptions


def made_by_mergekit(recipe, folder):
    """The tensors that mergekit makes of a recipe."""
    import yaml

    MergeConfiguration, run_merge, MergeOptions = mergekit()
    options = MergeOptions(
        copy_tokenizer=False,
        write_model_card=False,
        random_seed=0,
        lazy_unpickle=True,
        quiet=True,
        device="cpu",
        num_threads=1,
        lora_merge_cache=str(folder.parent / "cache"),
    )
    config = MergeConfiguration.model_validate(yaml.safe_load(recipe.read_text()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run_merge(config, str(folder), options)
    return {k: v for path in folder.glob("*.safetensors") for k, v in load_file(path).items()}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_mergekit_makes_the_same_of_the_recipe(tiny, tmp_path, monkeypatch, family, method):
    """All tensors, those too that are not merged; and another point is another model."""
    mergekit()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = loaded(tiny, family, tmp_path)
    folders = merges.whole(model, tmp_path, 2 if method == "slerp" else 3)
    if method == "slerp":  # which takes all else from one of the two
        folders[0] = tmp_path / "base"
    space = gfo.Merge(model, folders, method=method, groups=2, filters=["attn", "mlp"])
    exported(model, space, tmp_path / "out")
    ours = load_file(tmp_path / "out" / "model.safetensors")
    theirs = made_by_mergekit(tmp_path / "out" / RECIPE, tmp_path / "theirs")
    assert compared(ours, theirs) < SAME
    other = space.parents()[1]
    exported(model, space, tmp_path / "other", z=other)
    assert compared(load_file(tmp_path / "other" / "model.safetensors"), theirs) > 100 * SAME


def compared(ours, theirs):
    """The largest difference of tensors, by their names without the body's."""
    found = {key.removeprefix("transformer."): tensor for key, tensor in theirs.items()}
    keys = {key: key.removeprefix("transformer.") for key in ours}
    assert set(keys.values()) <= set(found) | {"lm_head.weight"}
    return max(float((tensor - found[keys[key]]).abs().max()) for key, tensor in ours.items())


@pytest.mark.parametrize("method", ["linear", "ties", "slerp"])
def test_mergekit_makes_the_same_of_adapters(tiny, tmp_path, monkeypatch, method):
    mergekit()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = loaded(tiny, "llama", tmp_path)
    folders = merges.adapters(model, tmp_path, 2)
    space = gfo.Merge(model, folders, method=method, filters=["mlp"])
    exported(model, space, tmp_path / "out")
    ours = load_file(tmp_path / "out" / "model.safetensors")
    assert compared(ours, made_by_mergekit(tmp_path / "out" / RECIPE, tmp_path / "theirs")) < SAME


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties"])
def test_dare_is_mergekits_with_the_same_draws(tiny, tmp_path, name):
    """Tensor by tensor, torch's generator set to what each checkpoint's part is drawn by."""
    mergekit()
    from mergekit import sparsify
    from mergekit.merge_methods.generalized_task_arithmetic import get_mask

    from gfo.core.seeding import stream_seed

    model = loaded(tiny, "llama", tmp_path)
    space = gfo.Merge(model, merges.whole(model, tmp_path), method=name, density=0.4, seed=5)
    z = np.random.default_rng(0).standard_normal(space.dim)
    shares = space.shares(torch.from_numpy(z[None]))[0, 0]
    bank = space.decode(torch.from_numpy(z[None])).bank
    for module in list(model.linears)[:5]:
        base, changes = model.weight(module), []
        for i, checkpoint in enumerate(space._found):
            torch.manual_seed(stream_seed(5, f"{module} of checkpoint {i}"))
            change = checkpoint.weight(module) - base
            changes.append(sparsify.bernoulli(change, 0.4, sparsify.RescaleNorm.l1) * shares[i])
        parts = torch.stack(changes)
        mask = get_mask(parts) if name == "dare_ties" else 1
        theirs = base + (parts * mask).sum(0)
        found = bank[module][1].mixed(bank[module][0][0])
        assert float((found - theirs).abs().max()) < SAME
        assert float((found - base).abs().max()) > 100 * SAME


def test_recipes_that_cannot_be_are_told(tiny, tmp_path):
    model = loaded(tiny, "llama", tmp_path)
    folders = merges.whole(model, tmp_path, 2)
    *_, written = exported(model, gfo.Merge(model, folders, method="slerp"), tmp_path / "a")
    assert written.notes == (
        "there is no recipe for mergekit: its SLERP takes all else from one of the two, not the model",
    )
    assert not os.path.exists(tmp_path / "a" / RECIPE)
    *_, written = exported(model, gfo.Merge(model, folders, method="dare_ties"), tmp_path / "b")
    assert "another sample" in written.notes[0]
    plain = tiny("llama")
    *_, written = exported(plain, gfo.Merge(plain, folders), tmp_path / "c")
    assert "made in memory" in written.notes[0]
