"""Merging: each method against formulas, plain models with merged weights, and what does not fit."""

from __future__ import annotations

import copy
import functools
import json
import warnings

import merges
import numpy as np
import pytest
import torch
import transformers

import gfo
from gfo.core.errors import GfoError
from gfo.core.seeding import stream_seed
from gfo.spaces.parts.merging import METHODS
from gfo.testing import check_space
from gfo.testing.space_contract import SPACE_CHECKS

TOLERANCE = 1e-5
ALL = list(METHODS)
CASES = [("llama", "whole"), ("gpt2", "whole"), ("llama", "adapters")]


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    """(family) -> a tiny model and three checkpoints of it; made once."""

    @functools.cache
    def make(family, kind="whole", **options):
        model = tiny(family)
        folder = tmp_path_factory.mktemp(f"{family}-{kind}")
        return model, getattr(merges, kind)(model, folder, **options)

    return make


def space_of(model, folders, method, **options):
    return gfo.Merge(model, folders[:2] if method == "slerp" else folders, method=method, **options)


def points(space, K=4, seed=0):
    rng = np.random.default_rng(seed)
    if space.domain.integer.any():
        return rng.integers(0, space.N, (K, space.dim)).astype(float)
    return rng.standard_normal((K, space.dim))


def tensors(folders, model, key):
    """The tensors of a name in the folders of whole models, or adapters, in float64."""
    from safetensors.torch import load_file

    if (folders[0] / "model.safetensors").exists():
        return [load_file(folder / "model.safetensors")[key].double().numpy() for folder in folders]
    found, name = [], key.removesuffix(".weight")
    for folder in folders:
        held, config = (
            load_file(folder / "adapter_model.safetensors"),
            json.loads((folder / "adapter_config.json").read_text()),
        )
        own = model.module.get_submodule(name).weight.double()
        A, B = (held.get(f"base_model.model.{name}.lora_{x}.weight") for x in "AB")
        if A is not None:
            own = own + config["lora_alpha"] / config["r"] * B.double() @ A.double()
        found.append(own.numpy())
    return found


def by_hand(space, model, key, base, found, w):
    """A tensor merged by the formulas."""
    method = space.method
    if method in ("linear", "pick"):
        return merges.linear(base, found, w)
    if method == "task_arithmetic":
        return merges.task_arithmetic(base, found, w)
    if method == "ties":
        return merges.ties(base, found, w, space.density)
    if method == "slerp":
        return merges.slerp(*found, w[0])
    name = key.removesuffix(".weight")
    seeds = [stream_seed(space.seed, f"{name} of checkpoint {i}") for i in range(space.N)]
    masks = [
        torch.bernoulli(torch.full(base.shape, space.density), generator=torch.Generator().manual_seed(seed))
        for seed in seeds
    ]
    masks = [mask.numpy() for mask in masks]
    return merges.dare(base, found, w, masks, elect=method == "dare_ties")


@torch.no_grad()
def merged_by_hand(space, model, folders, z):
    """A copy of the transformers model with the weights and biases of a point [d] merged."""
    module, shares = copy.deepcopy(model.module), space.shares(torch.from_numpy(z[None]))[0].double().numpy()
    for i, place in enumerate(space.places):
        for name in place.names:
            part = module.get_submodule(name)
            for key in ("weight", "bias"):
                own = getattr(part, key, None)
                if own is None or (key == "bias" and space.adapters):
                    continue
                base, found = own.double().numpy(), tensors(folders, model, f"{name}.{key}")
                turned = key == "weight" and type(part).__name__ == "Conv1D"
                if turned:  # DARE draws as [out, in]
                    base, found = base.T, [each.T for each in found]
                new = by_hand(space, model, f"{name}.{key}", base, found, shares[i])
                own.copy_(torch.from_numpy((new.T if turned else new).copy()))
    return module


@torch.no_grad()
def losses_of(module, model, space, task):
    """The loss of a plain transformers model."""
    twin = gfo.freeze(module, model.tokenizer, check=False)  # of the model, which has passed
    return gfo.LocalEvaluator(twin, task, gfo.Scaling(twin, 2))(np.zeros((1, 2)), 0).loss[0]


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize(("family", "kind"), CASES)
def test_candidates_are_plain_models_with_merged_weights(made, family, kind, method):
    """K at once, one by one and in any chunk; weights by the formulas, in float64."""
    model, folders = made(family, kind)
    folders = folders[:2] if method == "slerp" else folders
    space = gfo.Merge(model, folders, method=method, groups=2, filters=["mlp"])
    task = gfo.Classification(merges.ROWS, template="Review: {text} It was", labels=merges.LABELS)
    z = points(space, 3)
    expected = [losses_of(merged_by_hand(space, model, folders, each), model, space, task) for each in z]
    for options in ({}, {"chunk_tokens": 16}, {"reuse": False}):
        evaluator = gfo.LocalEvaluator(model, task, space, **options)
        assert np.abs(evaluator(z, 0).loss - expected).max() < TOLERANCE
    one = np.concatenate([evaluator(point[None], 0).loss for point in z])
    assert np.abs(one - expected).max() < TOLERANCE
    assert np.ptp(expected) > 100 * TOLERANCE  # a control


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize(("family", "kind"), CASES)
def test_it_keeps_the_contract_of_spaces(made, family, kind, method):
    """But for gradients where signs are elected, which jump."""
    model, folders = made(family, kind)
    make = functools.partial(
        space_of, model, folders, method, groups=3, filters=["q_proj", "mlp"][family == "gpt2" :]
    )
    if method in ("ties", "dare_ties"):
        for name, check in SPACE_CHECKS.items():
            if name != "gradient":
                check(make(), model)
    else:
        check_space(make(), model, same=make(), response=None)
    if method.startswith("dare"):
        one, other = (make(seed=seed).decode(torch.zeros(1, make().dim)) for seed in (0, 1))
        name = next(iter(one.bank))
        weights = [delta.bank[name][1].mixed(delta.bank[name][0][0]) for delta in (one, other)]
        assert not torch.equal(*weights)


@pytest.mark.parametrize("kind", ["whole", "adapters"])
def test_the_start_is_the_mean_and_parents_are_the_checkpoints(made, kind):
    model, folders = made("llama", kind)
    task = gfo.Classification(merges.ROWS, template="Review: {text} It was", labels=merges.LABELS)
    for method in ("linear", "task_arithmetic", "pick", "slerp"):
        space = space_of(model, folders, method)
        evaluator = gfo.LocalEvaluator(model, task, space)
        found = evaluator(space.parents(), 0).loss
        for i, loss in enumerate(found):
            alone = copy.deepcopy(model.module)
            with torch.no_grad():
                for name in model.linears:
                    key = f"{name}.weight"
                    own = tensors(folders, model, key)[i]
                    alone.get_submodule(name).weight.copy_(torch.from_numpy(own))
            assert abs(losses_of(alone, model, space, task) - loss) < TOLERANCE
        assert np.ptp(found) > 100 * TOLERANCE
    w = space_of(model, folders, "linear", groups=3).coefficients(np.zeros(9))
    assert list(w.values()) == pytest.approx([1 / 3] * 9)
    assert next(iter(w)) == f"{folders[0].name}, * of layers 0 to 0"


def test_points_and_sweeps(made):
    model, folders = made("llama")
    space = space_of(model, folders, "task_arithmetic", filters=["self_attn", "gate_proj"], groups=2)
    assert [place.filter for place in space.places] == ["self_attn", "gate_proj", "*"] * 2
    z = space.point([0.5, 0.0, -1.0])
    assert list(space.coefficients(z).values()) == pytest.approx([0.5, 0.0, -1.0] * 6)
    for value, z in zip([0.2, 0.6], space.sweep([0.2, 0.6]), strict=True):
        assert list(space.coefficients(z).values()) == pytest.approx([value] * 18)
    linear = space_of(model, folders, "linear", groups=3)
    any_point = np.random.default_rng(0).standard_normal(linear.dim)
    sums = np.array(list(linear.coefficients(any_point).values())).reshape(3, 3).sum(1)
    assert sums == pytest.approx(1)
    two = gfo.Merge(model, folders[:2])
    assert list(two.coefficients(two.sweep([0.3])[0]).values()) == pytest.approx([0.7, 0.3])
    for wrong, words in (([1.0], "give 3"), ([1.0, 1.0, 1.0], "sum to 1, these to 3")):
        with pytest.raises(GfoError, match=words):
            linear.point(wrong)
    with pytest.raises(
        GfoError, match="'linear' of 3 has no coefficient of one number; take task_arithmetic"
    ):
        linear.sweep([0.5])


def test_no_weight_is_made_of_adapters_and_a_is_shared(made):
    model, folders = made("llama", "adapters")
    space = space_of(model, folders, "task_arithmetic")
    delta = space.decode(torch.zeros(5, space.dim))
    assert [slot.name for slot in delta.slots] == ["lora"]
    for A, B in delta.lora.values():
        assert A.stride(0) == 0
        assert A.shape[1] == B.shape[2] == 2 + 3 + 4


def test_what_is_read_is_that_of_one_module(made):
    """Files are read once a module, however many candidates there are, and nothing of others is kept."""
    model, folders = made("llama")
    space = space_of(model, folders, "ties")
    read, real = [], space._found[0].weight
    space._found[0].weight = lambda name: read.append(name) or real(name)
    task = gfo.Classification(merges.ROWS, template="{text} It was", labels=merges.LABELS)
    gfo.LocalEvaluator(model, task, space, reuse=False)(points(space), 0)
    assert len(read) <= 2 * len(model.linears)  # the check of an evaluator's first rows, and the pass
    assert len(space._reader._found[1]) == 3


def weights_of(space):
    """The merged weights of a point."""
    bank = space.decode(torch.from_numpy(points(space, 1))).bank
    return [made.mixed(shares[0]) for shares, made in bank.values()]


def test_checkpoints_in_shards_and_in_bfloat16(made, tmp_path):
    model, _ = made("llama")
    folders = merges.whole(model, tmp_path, dtype=torch.bfloat16)
    whole = gfo.Merge(model, folders)
    before = weights_of(whole)

    for folder in folders:
        module = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
        (folder / "model.safetensors").unlink()
        module.save_pretrained(folder, max_shard_size="20KB")
        assert len(list(folder.glob("*.safetensors"))) > 1
    with pytest.raises(GfoError, match=r"model.safetensors cannot be read .*; put it back"):
        weights_of(whole)
    for one, other in zip(before, weights_of(gfo.Merge(model, folders)), strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)


def test_skipping_is_a_product_with_structure(made):
    model, folders = made("llama")
    space = gfo.ProductSpace(gfo.Merge(model, folders, method="pick"), gfo.Structure(model, closed=1))
    task = gfo.Classification(merges.ROWS, template="{text} It was", labels=merges.LABELS)
    result = gfo.tune(
        model,
        task,
        space,
        optimizer="ga",
        options={"population": 6},
        budget=gfo.Budget(evaluations=12),
        progress=False,
    )
    assert np.isfinite(result.loss)
    assert result.z[3:].sum() == 1


@pytest.mark.parametrize("optimizer", ["cma", "ga", "snes", "pso", "sa", "random", "nsga2"])
def test_optimizers_take_it(made, optimizer):
    model, folders = made("llama", "adapters")
    rows = merges.ROWS
    task = gfo.Classification(rows, template="{text} It was", labels=merges.LABELS)
    for method in ("task_arithmetic", "pick"):
        if optimizer in ("cma", "snes", "pso") and method == "pick":
            continue
        objectives = {"objectives": ["loss", "accuracy"]} if optimizer == "nsga2" else {}
        result = gfo.tune(
            model,
            task,
            space_of(model, folders, method),
            optimizer=optimizer,
            budget=gfo.Budget(evaluations=24),
            progress=False,
            **objectives,
        )
        assert np.isfinite(result.loss)


def test_content_tells_whether_a_run_is_the_same(made, tmp_path):
    from gfo.core.recording import arguments_of

    model, folders = made("llama")
    one, other = gfo.Merge(model, folders), gfo.Merge(model, merges.whole(model, tmp_path, seed=7))
    assert arguments_of(one) == arguments_of(gfo.Merge(model, folders))
    assert arguments_of(one) != arguments_of(other)
    assert [path.name for path in one.checkpoints] == [path.name for path in other.checkpoints]


def refused(model, folders, words, **options):
    with pytest.raises(GfoError, match=words) as error:
        gfo.Merge(model, folders, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "tie"}, "unknown method of Merge 'tie': did you mean 'ties'"),
        ({"method": "slerp"}, "SLERP is between two, 3 are given"),
        ({"density": 0.5}, "density = 0.5: 'linear' keeps all; leave it out"),
        ({"method": "ties", "density": 0.0}, "density = 0.0 must be above 0"),
        ({"method": "ties", "density": 1.5}, "density = 1.5 must be above 0 and at most 1"),
        ({"groups": 4}, "groups = 4 must be 1 to 3"),
        ({"groups": 0}, "groups = 0 must be 1 to 3"),
        ({"filters": ["attention"]}, "'attention' is first in no module's name; give some of .*self_attn"),
        ({"filters": ["mlp", "mlp"]}, "give each once"),
        ({"filters": ["q_proj", "self_attn.q"]}, "'self_attn.q' is first in no module's name"),
        ({"spread": 0.0}, "spread = 0.0 must be a positive number"),
    ],
)
def test_options_that_cannot_be_are_refused(made, options, words):
    model, folders = made("llama")
    refused(model, folders, words, **options)


def test_checkpoints_that_do_not_fit_are_refused(made, tiny, tmp_path):
    model, folders = made("llama")
    _, some = made("llama", "adapters")
    refused(model, folders[:1], "give two folders or more")
    refused(model, [], "give two folders or more")
    refused(model, [folders[0], tmp_path / "none"], "there is no folder .*none; check the path")
    refused(model, [folders[0], folders[1], folders[0]], "is given twice")
    refused(model, [folders[0], some[0]], "is an adapter, and .* none")
    (tmp_path / "empty").mkdir()
    refused(model, [folders[0], tmp_path / "empty"], "empty has no weights that can be read")
    (tmp_path / "empty" / "model.safetensors").write_bytes(b"")
    refused(model, [folders[0], tmp_path / "empty"], "empty has no weights that can be read")
    for name, family, changes in (
        ("wide", "llama", {"intermediate_size": 64}),
        ("long", "llama", {"num_hidden_layers": 2}),
        ("many", "llama", {"vocab_size": 210}),
        ("other", "gpt2", {}),
    ):
        other = tiny(family, **changes)
        folder = merges.save(other.module, other.tokenizer, tmp_path / name)
        refused(model, [folders[0], folder], f"{name} has .*(no tensor|as) .*give checkpoints of the model")
    wrong = merges.save(model.module, gfo.testing.tiny_model().tokenizer, tmp_path / "tokens")
    refused(model, [folders[0], wrong], "tokens has a tokenizer with other tokens than 'tiny-llama'")
    (tmp_path / "tokens" / "tokenizer.json").write_text("{")
    refused(model, [folders[0], wrong], "tokenizer.json cannot be read")
    wide = tiny("llama", intermediate_size=64)
    refused(wide, some, "checkpoints: .*adapter-0: A and B of .*down_proj' are")


def test_adapters_of_another_base_are_told(made, tmp_path):
    model, _ = made("llama")
    folders = merges.adapters(model, tmp_path, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gfo.Merge(model, folders)
    for folder, base in zip(folders, ["tiny-llama", "someone/else"], strict=True):
        config = json.loads((folder / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = base
        (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.warns(gfo.GfoWarning, match="adapter-1 says that it is an adapter of someone/else, not of"):
        gfo.Merge(model, folders)


def test_controls_are_scored(made, tmp_path):
    model, folders = made("llama", "adapters")
    rows = merges.ROWS
    task = gfo.Classification(rows, rows, rows, template="{text} It was", labels=merges.LABELS)
    space = space_of(model, folders, "task_arithmetic", groups=2)
    found = gfo.merge_controls(model, task, space, sweep=[0.1, 0.4])
    assert list(found.points)[:5] == ["mean", *space.labels, "unchanged"]
    best = min(found.sweep, key=found.sweep.get)
    assert list(found.points)[5] == f"all at {best:g}"
    evaluator = gfo.LocalEvaluator(model, task, space)
    for name, z in found.points.items():
        loss = evaluator.score(z[None], "test").metrics["loss"][0]
        assert found.scores[name]["test"]["loss"] == pytest.approx(loss, abs=1e-6)
    plain = gfo.LocalEvaluator(model, task, gfo.Scaling(model, 2)).score(np.zeros((1, 2)), "test")
    assert found.scores["unchanged"]["test"]["loss"] == pytest.approx(plain.metrics["loss"][0], abs=1e-6)
    assert "adapter-0" in str(found)
    linear = gfo.merge_controls(model, task, space_of(model, folders, "linear"), splits=["dev"])
    assert linear.sweep == {}
    assert list(linear.scores["mean"]) == ["dev"]


def test_random_adapters_are_as_large(made, tmp_path):
    from gfo.spaces.parts.peft_files import read_lora

    model, folders = made("llama", "adapters")
    one, again, other = (
        gfo.random_adapter(folders[0], tmp_path / name, seed=seed)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    trained, drawn, same, more = (read_lora(folder, model)[0] for folder in (folders[0], one, again, other))
    for name, (A, B) in trained.items():
        a, b = drawn[name]
        assert float((b @ a).norm()) == pytest.approx(float((B @ A).norm()), rel=1e-4)
        assert float(a.norm()) == pytest.approx(float(A.norm()), rel=1e-4)
        assert torch.equal(a, same[name][0])
        assert not torch.equal(a, more[name][0])
        assert float(((b @ a) * (B @ A)).sum().abs()) < 0.5 * float((B @ A).norm()) ** 2
    for folder, out, words in (
        (tmp_path, tmp_path / "d", "give a folder with adapter_config.json"),
        (folders[0], tmp_path / "a", "is there already"),
    ):
        with pytest.raises(GfoError, match=words):
            gfo.random_adapter(folder, out)


def test_a_config_has_it_and_the_command_line_exports(made, tmp_path, monkeypatch, capfd):
    """From a folder of the model, with paths relative to where it was started; resumed from elsewhere."""
    from gfo import config

    model, _ = made("llama")
    merges.save(model.module, model.tokenizer, tmp_path / "base")
    merges.whole(model, tmp_path, 2)
    rows = "\n".join(json.dumps(row) for row in merges.ROWS)
    (tmp_path / "rows.jsonl").write_text(rows)
    (tmp_path / "merge.toml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gfo.GfoWarning)  # the same rows in all splits
        result = config.load_config(tmp_path / "merge.toml").run(tmp_path / "run", progress=False)
        assert np.isfinite(result.loss)
        monkeypatch.chdir("/")
        held = config.load_config(tmp_path / "run" / "config.json")
        assert held.space.checkpoints == [str(tmp_path / f"whole-{i}") for i in range(2)]
        command = ["export", str(tmp_path / "run"), "--format", "merged", "--out", str(tmp_path / "out")]
        assert exit_code(command) == 0
    assert (tmp_path / "out" / "mergekit.yaml").read_text().startswith("merge_method: ties\nbase_model:")
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab()
    wrong = CONFIG.replace("whole-1", "whole-7")
    (tmp_path / "wrong.toml").write_text(wrong)
    monkeypatch.chdir(tmp_path)
    assert exit_code(["tune", str(tmp_path / "wrong.toml"), "--out", str(tmp_path / "other")]) == 2
    assert "checkpoints: there is no folder" in capfd.readouterr().err


def exit_code(arguments):
    from gfo.cli import main

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["gfo", *arguments])
        try:
            main()
        except SystemExit as end:
            return end.code or 0
    return 0


CONFIG = """
[model]
name = "base"

[task]
kind = "classification"
train = "rows.jsonl"
dev = "rows.jsonl"
template = "Review: {text} It was"
labels = { bad = " terrible", good = " great" }

[space]
kind = "merge"
checkpoints = ["whole-0", "whole-1"]
method = "ties"
density = 0.5
filters = ["self_attn", "mlp"]

[optimizer]
name = "cma"

[budget]
evaluations = 20
"""
