"""Low-rank subspaces: against weights changed in a copy, norms, oddness, patterns, and bad input."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from gfo import Classification, GfoError, LocalEvaluator
from gfo.spaces.lora_subspace import METHODS, LoRASubspace
from gfo.spaces.parts.forms import singular_vectors

TEXTS = ["a great joy from the first minute", "bad!", "the food was good, but the service was bad."]
ROWS = [{"text": text, "label": label} for text, label in zip(TEXTS, ["b", "a", "a"], strict=True)]
LABELS = {"a": " terrible", "b": " great"}
DIM = 12


def make_space(model, **options):
    return LoRASubspace(model, **{"dim": DIM, "rank": 3, "seed": 1, "alpha": 0.5} | options)


def points(K=3, d=DIM, seed=0):
    return np.random.default_rng(seed).standard_normal((K, d))


def logits(model, space, z):
    task = Classification(ROWS, template="Review: {text} It was", labels=LABELS)
    evaluator = LocalEvaluator(model, task, space)
    return evaluator.answers(z, evaluator.task.all_rows("train"))


@torch.no_grad()
def merged_logits(model, delta):
    """[K, B, V'] of stock forward passes with W + B A written into a copy of the model."""
    tokenizer, out = model.tokenizer, []
    words = [tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in LABELS.values()]
    for k in range(delta.candidates):
        module = copy.deepcopy(model.module)
        for name, (A, B) in delta.lora.items():
            part = module.get_submodule(name)
            part.weight += (B[k] @ A[k]).T if type(part).__name__ == "Conv1D" else B[k] @ A[k]
        for row in ROWS:
            ids = torch.tensor(tokenizer(f"Review: {row['text']} It was")["input_ids"])[None]
            out.append(module(ids).logits[0, -1, words])
    return torch.stack(out).view(delta.candidates, len(ROWS), -1)


@pytest.mark.parametrize("method", METHODS)
def test_equals_merged_weights(tiny, family, method):
    model, z = tiny(family), points()
    space = make_space(model, method=method, rank=4)
    expected = merged_logits(model, space.decode(torch.from_numpy(z)))
    found = logits(model, space, z)
    assert float((found - expected).abs().max()) < 5e-5
    # controls: each candidate, and no change at all
    assert float((found - expected.roll(1, 0)).abs().amax((1, 2)).min()) > 1e-3
    start = logits(model, space, np.zeros((1, DIM)))
    assert float((found - start).abs().amax((1, 2)).min()) > 1e-3
    other = logits(model, make_space(model, method=method, rank=4, seed=2), z)
    assert float((found - other).abs().max()) > 1e-3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("alpha", [0.05, 0.4])
def test_norm_of_the_change(tiny, method, alpha):
    """z ~ N(0, I) changes each weight by alpha of its norm, and decode(0) by nothing."""
    model = tiny("llama")
    space = make_space(model, method=method, dim=27, alpha=alpha, rank=5)
    delta = space.decode(torch.from_numpy(points(3000, 27)))
    square = torch.stack(
        [(B @ A).square().sum((1, 2)) / model.weight(n).square().sum() for n, (A, B) in delta.lora.items()]
    )
    # VeRA's second vector adds VERA_D^2 to the mean square
    expected = alpha * (1.25**0.5 if method == "vera" else 1)
    assert float(square.mean().sqrt()) == pytest.approx(expected, rel=0.2)
    assert not any(bool((B @ A).any()) for A, B in space.decode(torch.zeros(1, 27)).lora.values())
    assert all(A.stride(0) == 0 for A, _ in delta.lora.values())  # one product for all candidates


@pytest.mark.parametrize("method", METHODS)
def test_odd_in_z(tiny, method):
    """All but VeRA are linear; VeRA's odd part is what its first vector does."""
    space = make_space(tiny("llama"), method=method)
    z = torch.from_numpy(points(1))
    up, down = ({n: B @ A for n, (A, B) in space.decode(s * z).lora.items()} for s in (1, -1))
    for name in up:
        odd, even = (up[name] - down[name]).norm(), (up[name] + down[name]).norm()
        assert float(even) <= float(odd) * (1.5 if method == "vera" else 1e-6)
        assert float(odd) > 0


def test_singular_vectors(tiny):
    """Against the full decomposition; signs fixed, so that a rebuilt weight gives the same."""
    weight = torch.randn(40, 25, generator=torch.Generator().manual_seed(0)) @ torch.diag(
        0.85 ** torch.arange(25.0)
    )
    U, S, V = singular_vectors(weight, 4, np.random.default_rng(0))
    expected = torch.linalg.svd(weight, full_matrices=False)
    torch.testing.assert_close(S, expected.S[:4], rtol=1e-4, atol=0)
    top = expected.U[:, :4] * expected.S[:4] @ expected.Vh[:4]
    torch.testing.assert_close(U * S @ V.T, top, rtol=0, atol=1e-3)
    torch.testing.assert_close(U.T @ U, torch.eye(4), rtol=0, atol=1e-5)
    assert all(U[U[:, i].abs().argmax(), i] > 0 for i in range(4))
    other = singular_vectors(weight, 4, np.random.default_rng(1))
    torch.testing.assert_close(other[0], U, rtol=0, atol=1e-3)


def test_lora_xs_stays_between_the_singular_vectors(tiny):
    model = tiny("llama")
    space = make_space(model, method="lora-xs", rank=2)
    name = space.names[0]
    A, B = space.decode(torch.from_numpy(points())).lora[name]
    U, _, Vh = torch.linalg.svd(model.weight(name), full_matrices=False)
    for change in B @ A:
        inside = U[:, :2] @ U[:, :2].T @ change @ Vh[:2].T @ Vh[:2]
        torch.testing.assert_close(inside, change, rtol=0, atol=2e-2 * float(change.abs().max()))
    other = make_space(model, method="lora-fa", rank=2).decode(torch.from_numpy(points())).lora[name]
    outside = other[1][0] @ other[0][0]
    assert float((U[:, :2] @ U[:, :2].T @ outside - outside).norm() / outside.norm()) > 0.5


def test_svd_moves_singular_values_alone(tiny):
    """W + B A has the weight's singular vectors, and its first r values times 1 + alpha |W| / |S_r| z."""
    model = tiny("llama")
    space = make_space(model, method="svd", rank=4, dim=24, projection="identity")
    z = points(2, 24)
    for i, (name, (A, B)) in enumerate(space.decode(torch.from_numpy(z)).lora.items()):
        weight = model.weight(name)
        U, S, Vh = torch.linalg.svd(weight, full_matrices=False)
        step = 0.5 * weight.norm() / S[:4].norm()
        for k in range(2):
            S_new = S.clone()
            S_new[:4] *= 1 + step * torch.from_numpy(z[k, 4 * i : 4 * i + 4]).float()
            expected = U @ torch.diag(S_new) @ Vh - weight
            torch.testing.assert_close(B[k] @ A[k], expected, rtol=0, atol=2e-2 * float(expected.abs().max()))
    off = space.decode(torch.from_numpy(z)).lora[space.names[0]]
    assert float((off[1][0] @ off[0][0] - off[1][1] @ off[0][1]).abs().max()) > 0.1  # control


def test_vera_shares_its_bases(tiny):
    """Modules of one width have the same A; B's columns differ by the vectors alone."""
    space = make_space(tiny("llama"), method="vera", rank=5)
    lora = space.decode(torch.from_numpy(points())).lora
    first, *others = [A[0] for A, _ in lora.values()]
    assert all(torch.equal(first, other) for other in others)
    other = make_space(tiny("llama"), method="vera", rank=5, seed=2)
    assert not torch.equal(first, next(iter(other.decode(torch.zeros(1, DIM)).lora.values()))[0][0])
    ratio = [B[0] / B[1] for _, B in lora.values()]  # b0 d0 / (b1 d1): rank 1
    assert all(float(torch.linalg.svdvals(r)[1:].max() / torch.linalg.svdvals(r)[0]) < 1e-3 for r in ratio)


@pytest.mark.parametrize(
    ("family_name", "ends"),
    [
        ("llama", {"q_proj", "v_proj"}),
        ("gpt2", {"c_attn"}),
        ("gpt_neox", {"query_key_value"}),
        ("bert", {"query", "value"}),
        ("t5", {"q", "v"}),
        ("bart", {"q_proj", "v_proj"}),
    ],
)
def test_usual_targets(tiny, family_name, ends):
    model = tiny(family_name)
    names = make_space(model).names
    assert {name.rsplit(".", 1)[-1] for name in names} == ends
    attentions = 9 if family_name == "t5" else 7 if family_name == "bart" else 3
    assert len(names) == attentions * len(ends)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"targets": "up_proj", "layers": [1]}, ["model.layers.1.mlp.up_proj"]),
        (
            {"targets": "*.1.mlp.*", "dim": 3},
            [f"model.layers.1.mlp.{n}_proj" for n in ("gate", "up", "down")],
        ),
        ({"targets": ["mlp.down_proj", "k_proj"], "layers": [2]}, ["2.self_attn.k_proj", "2.mlp.down_proj"]),
        ({"targets": "model.layers.0.self_attn.o_proj"}, ["model.layers.0.self_attn.o_proj"]),
        ({"layers": "upper"}, [f"{i}.self_attn.{n}_proj" for i in (1, 2) for n in "qv"]),
        ({"layers": "lower"}, [f"{i}.self_attn.{n}_proj" for i in (0, 1) for n in "qv"]),
    ],
)
def test_targets_and_layers(tiny, options, expected):
    model = tiny("llama")
    space = make_space(model, **options)
    assert len(space.names) == len(expected)
    assert all(name.endswith(end) for name, end in zip(space.names, expected, strict=True))
    assert space.first_layer == min(model.layer_of(name) for name in space.names)
    assert space.decode(torch.zeros(1, space.dim)).first_layer == space.first_layer


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"targets": "q_porj"}, ["'q_porj' matches nothing", "q_proj", "down_proj"]),
        ({"targets": []}, ["targets = []", "q_proj"]),
        ({"layers": [3]}, ["layer 3", "0 to 2"]),
        ({"layers": "middle"}, ["layers = 'middle'", "'upper', 'lower', 'last'"]),
        ({"rank": 17}, ["rank = 17", "v_proj' (16 x 32)", "lower it"]),
        ({"rank": 0}, ["rank = 0", "at least 1"]),
        ({"method": "lora"}, ["method of LoRASubspace 'lora'", "lora-fa"]),
        ({"method": "tiny", "rank": 1, "dim": 7}, ["dim = 7", "1 to 6", "6 modules at rank 1"]),
        ({"alpha": 0.0}, ["alpha = 0.0", "positive"]),
        ({"projection": "identity"}, ["dim = 12", "'identity'", "give dim = 432"]),
        ({"method": "svd", "dim": None, "projection": "fast"}, ["unknown projection 'fast'"]),
        ({"projection": "fast"}, ["unknown projection 'fast'", "did you mean 'fastfood'"]),
    ],
)
def test_bad_options(tiny, options, parts):
    with pytest.raises(GfoError) as error:
        make_space(tiny("llama"), **options)
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in parts), str(error.value)


def test_defaults_by_method(tiny):
    model = tiny("llama", num_hidden_layers=4, hidden_size=64)
    sizes = {method: LoRASubspace(model, method=method).dim for method in METHODS}
    assert sizes == {"lora-fa": 200, "lora-xs": 200, "vera": 200, "tiny": 13, "svd": 64}
