"""Heads and widths: candidates equal copies of the model without those heads and neurons."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from changes import DIM, Changes, changed_module
from removed import closed_of, without_sub_blocks
from test_gates import LABELS, PLAIN, ROWS, TOLERANCE, K, all_logits, difference

import gfo
from gfo import Classification, Compression, Delta, LocalEvaluator, ProductSpace
from gfo.core.sub_blocks import SubBlock
from gfo.spaces.structure import Structure

CUT = ["llama", "qwen2", "qwen3", "mistral", "gemma2", "opt"]  # queries, keys and values apart
ZEROS = ["gpt2", "gpt_neox", "phi", "cohere2"]
WIDTHS = [1.0, 0.75, 0.5, 0.1]
ATTENTION, NETWORK = ("self_attn", "attn", "attention"), ("mlp",)
LAST = ("o_proj", "out_proj", "c_proj", "dense", "down_proj", "fc2", "dense_4h_to_h")


def points(space, K=K, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.integers(0, space.domain.high + 1, (K, space.domain.d)).astype(float)
    z[1], z[2], z[4] = 0, space.domain.high, z[0]
    z[5] = z[3]
    z[5, -1] = (z[3, -1] + 1) % (space.domain.high[-1] + 1)
    return z


def named(layer, names):
    return next((getattr(layer, name) for name in names if hasattr(layer, name)), layer)


def cut_rows(part, kept):
    """A linear module without some of its outputs."""
    if isinstance(part, torch.nn.Linear):
        part.weight = torch.nn.Parameter(part.weight[kept])
        part.out_features = len(kept)
    else:
        part.weight = torch.nn.Parameter(part.weight[:, kept])
        part.nf = len(kept)
    if part.bias is not None:
        part.bias = torch.nn.Parameter(part.bias[kept])


def cut_columns(part, kept):
    """A linear module without some of its inputs."""
    linear = isinstance(part, torch.nn.Linear)
    part.weight = torch.nn.Parameter(part.weight[:, kept] if linear else part.weight[kept])


def without_groups(part, kept, groups):
    """An attention in place, with those groups of heads alone."""
    width = part.k_proj.out_features // groups

    def rows(out):
        return torch.arange(out).view(groups, -1)[kept].flatten()

    last = named(part, LAST)
    cut_columns(last, rows(part.q_proj.out_features))
    for name in ("q_proj", "k_proj", "v_proj"):
        cut_rows(getattr(part, name), rows(getattr(part, name).out_features))
    if hasattr(part, "num_heads"):
        part.num_heads = part.k_proj.out_features // width


def without_neurons(part, kept):
    """A feed-forward network in place, with those neurons alone."""
    for name in ("gate_proj", "up_proj", "fc1", "c_fc", "dense_h_to_4h"):
        if hasattr(part, name):
            cut_rows(getattr(part, name), kept)
    cut_columns(named(part, LAST), kept)


def zero_columns(part, closed):
    last = named(part, LAST)
    weight = last.weight.detach().clone()
    (weight if not isinstance(last, torch.nn.Linear) else weight.T)[closed] = 0
    last.weight = torch.nn.Parameter(weight)


@torch.no_grad()
def reference(model, space, delta, k, slices, module=None):
    """A copy of the model without what candidate k closes."""
    module = copy.deepcopy(model.module if module is None else module)
    names = {id(part): name for name, part in model.module.named_modules()}
    for cut in space.cuts:
        layer = module.get_submodule(names[id(model.all_layers[cut.place.layer])])
        kept = delta.input_scale[cut.module][k] > 0
        if cut.place.kind == "feed-forward":
            part = layer if hasattr(layer, "fc1") else named(layer, NETWORK)
            without_neurons(part, kept.nonzero().flatten())
            continue
        part = named(layer, ATTENTION)
        if slices and kept.any():
            without_groups(part, kept.view(cut.units, -1)[:, 0].nonzero().flatten(), cut.units)
        else:
            zero_columns(part, ~kept)
    return without_sub_blocks(model, closed_of(delta, k), module)


@torch.no_grad()
def slow_logits(model, space, z, slices, cuts=None, change=False):
    words = [model.encode(word)[0] for word in LABELS.values()]
    delta = space.decode(torch.from_numpy(z))
    out = torch.empty(len(z), len(ROWS), len(words))
    for k in range(len(z)):
        other = Delta(lora=delta.select(slice(k, k + 1)).lora) if change else None
        changed = changed_module(model, other) if change else None
        module = reference(model, cuts or space, delta, k, slices, changed)
        for b, row in enumerate(ROWS):
            ids = torch.tensor([model.encode(PLAIN.format(**row), start=True)])
            out[k, b] = module(input_ids=ids, use_cache=False).logits[0, -1, words]
    return out


def check(model, space, z, expected):
    ways = {
        "at once": all_logits(model, space, z),
        "one by one": torch.cat([all_logits(model, space, z[k : k + 1]) for k in range(len(z))]),
        "masked": all_logits(model, space, z, reuse=False),
        "another order": all_logits(model, space, z[::-1].copy()).flip(0),
        **{f"chunks of {n}": all_logits(model, space, z, chunk_tokens=n) for n in (16, 64, 200)},
    }
    for name, logits in ways.items():
        assert difference(logits, expected) < TOLERANCE, name
        assert difference(logits, expected.roll(1, 0)) > 0.02, name  # controls
        assert difference(logits, expected.roll(1, 1)) > 0.02, name


@pytest.mark.parametrize("family_name", CUT + ZEROS)
def test_heads_and_widths_equal_a_model_without_them(tiny, family_name):
    model = tiny(family_name)
    space = Structure(model, heads="groups", widths=WIDTHS, calibration=[PLAIN.format(**ROWS[1])])
    assert len({cut.module for cut in space.cuts}) == 6
    z = points(space)
    check(model, space, z, slow_logits(model, space, z, family_name in CUT))


@pytest.mark.parametrize("options", [{"heads": "queries"}, {"widths": WIDTHS}, {"heads": "groups"}])
def test_without_genes_of_sub_blocks(tiny, options):
    model = tiny("qwen3")
    space = Structure(model, attention=False, feedforward=False, **options)
    assert not space.places
    z = points(space)
    check(model, space, z, slow_logits(model, space, z, options.get("heads") != "queries"))


@pytest.mark.parametrize("layers", ["last", "upper"])
def test_in_some_layers(tiny, layers):
    model = tiny("llama")
    space = Structure(model, attention=False, feedforward=False, layers=layers, heads="groups", widths=WIDTHS)
    z = points(space)
    check(model, space, z, slow_logits(model, space, z, True))


@pytest.mark.parametrize("first", [0, 1])
def test_with_low_rank_changes(tiny, first):
    model = tiny("llama")
    structure = Structure(model, heads="groups", widths=WIDTHS)
    space = ProductSpace(structure, Changes(model, ["lora"], first=first))
    z = np.hstack([points(structure), np.random.default_rng(1).standard_normal((K, DIM))])
    expected = slow_logits(model, space, z, False, structure, change=True)
    for options in ({}, {"chunk_tokens": 60}, {"reuse": False}):
        assert difference(all_logits(model, space, z, **options), expected) < TOLERANCE
    assert difference(expected[0], expected[4]) > 1e-3  # the same genes, other changes


def test_with_levels_of_weights(tiny):
    model = tiny("llama", hidden_size=64, intermediate_size=64)
    structure = Structure(model, heads="groups", widths=WIDTHS)
    compression = Compression(model, ["Q8_0", "Q4_0"])
    space = ProductSpace(structure, compression)
    rng = np.random.default_rng(1)
    z = np.hstack([points(structure), rng.integers(0, 2, (K, compression.domain.d))])
    shared, masked = (all_logits(model, space, z, reuse=reuse) for reuse in (True, False))
    assert difference(shared, masked) < TOLERANCE
    assert difference(shared[1], all_logits(model, compression, z[1:2, structure.domain.d :])[0]) < TOLERANCE
    assert difference(shared, shared.roll(1, 0)) > 0.02


@pytest.mark.parametrize("slots", [["prompt"], ["prefix"]])
def test_with_prompts_and_prefixes(tiny, slots):
    model = tiny("llama")
    structure = Structure(model, heads="groups", widths=WIDTHS)
    space = ProductSpace(structure, Changes(model, slots))
    z = np.hstack([points(structure), np.random.default_rng(1).standard_normal((K, DIM))])
    template = "Review: {text}\n{soft}Sentiment:"
    expected = all_logits(model, space, z, template, reuse=False)
    alone = all_logits(model, Changes(model, slots), z[:, structure.domain.d :], template, reuse=False)
    assert difference(expected[1], alone[1]) < TOLERANCE  # the second candidate closes nothing
    assert difference(expected[0], alone[0]) > 0.02
    for options in ({}, {"chunk_tokens": 60}):
        assert difference(all_logits(model, space, z, template, **options), expected) < TOLERANCE


def test_generated_text(tiny):
    model = tiny("llama")
    space = Structure(model, heads="groups", widths=WIDTHS)
    z = points(space)[[0, 2, 3]]
    rows = ROWS[1:3]
    task = gfo.Generation(
        [{"text": row["text"], "target": "a joy"} for row in rows],
        template="Review: {text}\nWords:",
        max_tokens=3,
        metric="rouge1",
    )
    evaluator = LocalEvaluator(model, task, space)
    batch = evaluator.task.all_rows("train")
    found, delta = evaluator.answers(z, batch), space.decode(torch.from_numpy(z))
    for k in range(len(z)):
        module = reference(model, space, delta, k, True)
        for b, row in enumerate(rows):
            ids = list(model.encode(f"Review: {row['text']}\nWords:", start=True))
            begin = len(ids)
            for _ in range(3):
                with torch.no_grad():
                    token = int(module(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
                if token in batch.decoding.stop:
                    break
                ids.append(token)
            assert found[k][b] == tuple(ids[begin:])
    assert found[1] != found[2]


def cost_of(model, space, z, **options):
    task = Classification(ROWS[:1], template=PLAIN, labels=LABELS)
    return LocalEvaluator(model, task, space, **options)(z, 0).cost.forward_tokens


def test_equal_genes_are_computed_once(tiny):
    """Candidates that cut alike are one; the upper layers alone run for those that differ there."""
    model = tiny("llama")
    space = Structure(model, attention=False, feedforward=False, heads="groups", widths=WIDTHS)
    one = np.zeros((1, space.domain.d))
    alike = np.repeat(one, 5, axis=0)
    assert cost_of(model, space, alike) == cost_of(model, space, one)
    assert cost_of(model, space, alike, reuse=False) == 5 * cost_of(model, space, one, reuse=False)
    alike[:, -1] = [0, 1, 2, 3, 3]  # widths of the last layer
    share = model.sub_blocks[SubBlock(2, "feed-forward")].parameters
    share /= share + model.sub_blocks[SubBlock(2, "attention")].parameters
    left = sum(model_share(space, gene) for gene in (1, 2, 3))
    expected = cost_of(model, space, one) * (1 + left * share / 3)
    assert cost_of(model, space, alike) == pytest.approx(expected, abs=1)


def model_share(space, gene):
    """Of a network's neurons that a level of width runs."""
    cut = space.cuts[-1]
    return cut.counts[gene] / cut.counts[0]
