"""Sparse weights and low rank as levels: by hand, their errors, sizes, runs, folders, bad input."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import transformers

import gfo
from gfo import GfoError
from gfo.report.export import export
from gfo.spaces.parts.levels import LEVELS
from gfo.spaces.parts.weighted import input_norms, low_rank, sparse, two_of_four

TEXTS = ["Review: the movie is a great joy from the first minute to the last.", "a terrible waste of time"]
W = torch.tensor([[1.0, -4.0, 3.0, 2.0], [5.0, 1.0, -2.0, 0.5]])
X = torch.tensor([[3.0, 0.0, 1.0, 2.0], [4.0, 0.1, 0.0, 0.0]])  # norms 5, 0.1, 1, 2
WEIGHTED = ["S25", "S50", "S2:4", "R75", "R50"]


def test_sparse_weights_by_hand():
    """|W| |X| is [5, .4, 3, 4] and [25, .1, 2, 1]."""
    torch.testing.assert_close(input_norms(W, X), torch.tensor([5.0, 0.1, 1.0, 2.0]))
    assert sparse(0.25, W, X).tolist() == [[1, 0, 3, 2], [5, 0, -2, 0.5]]
    assert sparse(0.5, W, X).tolist() == [[1, 0, 0, 2], [5, 0, -2, 0]]
    assert sparse(0.5, W, None).tolist() == [[0, -4, 3, 0], [5, 0, -2, 0]]  # by size alone
    assert two_of_four(W, X).tolist() == [[1, 0, 0, 2], [5, 0, -2, 0]]
    wide = torch.cat([W, torch.tensor([[9.0, 8.0, 7.0, 6.0], [0.1, 0.2, 0.3, 0.4]])], dim=1)
    found = two_of_four(wide, torch.cat([X, torch.ones(2, 4)], dim=1))
    assert found[:, 4:].tolist() == [[9, 8, 0, 0], [0, 0, *wide[1, 6:].tolist()]]
    assert (sparse(0.5, wide, None) != 0).sum(dim=1).tolist() == [4, 4]


def test_low_rank_by_hand():
    """Of a diagonal matrix the singular values are |W_ii| |X_i|: 2 is the last of 10, 6 and 2 by inputs."""
    weight, inputs = torch.diag(torch.tensor([2.0, 3.0, 4.0])), torch.diag(torch.tensor([1.0, 2.0, 2.5]))
    torch.testing.assert_close(low_rank(1.34, weight, inputs), torch.diag(torch.tensor([0.0, 3.0, 4.0])))
    inputs = torch.diag(torch.tensor([9.0, 1.0, 1.0]))  # and 3 the last of 18, 4 and 3 by these
    torch.testing.assert_close(low_rank(1.34, weight, inputs), torch.diag(torch.tensor([2.0, 0.0, 4.0])))
    torch.testing.assert_close(low_rank(1.34, weight, None), torch.diag(torch.tensor([0.0, 3.0, 4.0])))


def test_low_rank_is_the_nearest_of_its_rank():
    """Eckart and Young: no other product of the rank is nearer, inputs weighted by their norms."""
    rng = torch.Generator().manual_seed(0)
    weight = torch.randn(12, 20, generator=rng)
    inputs = torch.randn(50, 20, generator=rng) * torch.logspace(-1, 1, 20)
    norms, found = inputs.norm(dim=0), low_rank(0.5, weight, inputs)
    rank = int(0.5 * 240 / 32)
    assert int(torch.linalg.matrix_rank(found)) == rank
    error = ((weight - found) * norms).norm()
    values = torch.linalg.svdvals(weight * norms)
    torch.testing.assert_close(error, values[rank:].norm())
    assert error < ((weight - low_rank(0.5, weight, None)) * norms).norm()  # a control


def test_bits_and_bytes():
    assert [LEVELS[name].bits for name in WEIGHTED] == [13, 9, 9, 12, 8]
    assert LEVELS["S50"].bytes(64, 64) == 64 * 64 * 9 // 8
    assert not any(LEVELS[name].gguf for name in WEIGHTED)


@pytest.mark.parametrize("family_name", ["llama", "gpt2"])
def test_inputs_decide_in_a_space(tiny, family_name, tmp_path):
    """The bank holds what the functions give for what enters the modules; the folder has it."""
    model = tiny(family_name, hidden_size=64)
    space = gfo.Compression(model, ["F32", "S25", "R75", "S2:4", "R50"], calibration=TEXTS)
    assert [level.name for level in space.levels] == ["F32", "S25", "R75", "S2:4", "R50"]
    plain = gfo.Compression(model, ["F32", "S25", "R75", "S2:4", "R50"])
    name = space.names[-1]
    seen = []
    module = model.module.get_submodule(name)
    handle = module.register_forward_pre_hook(lambda part, args: seen.append(args[0].flatten(0, -2)))
    try:
        for text in TEXTS:
            model.hidden_states(torch.tensor([model.encode(text, start=True)]))
    finally:
        handle.remove()
    inputs, own = torch.cat(seen), model.weight(name)
    torch.testing.assert_close(space.banks[name][1], sparse(0.25, own, inputs))
    torch.testing.assert_close(space.banks[name][2], low_rank(0.75, own, inputs), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(space.banks[name][3], two_of_four(own, inputs))
    assert not torch.equal(plain.banks[name][1], space.banks[name][1])
    assert (space.errors[:, 1:] <= 1.0001 * _errors(space, plain)).mean() > 0.8  # of outputs

    task = gfo.LanguageModeling([{"text": text} for text in TEXTS])
    evaluator = gfo.LocalEvaluator(model, task, space)
    z = np.random.default_rng(0).integers(0, 5, space.domain.d).astype(float)
    written = export(evaluator, z, "merged", tmp_path / "out")
    loaded = gfo.freeze(
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out"), model.tokenizer, "loaded"
    )
    assert written.notes == ()
    again = gfo.LocalEvaluator(loaded, task, gfo.Scaling(loaded, 2))(np.zeros((1, 2)), 0).loss[0]
    own_loss, other = evaluator(np.stack([z, 0 * z]), 0).loss
    assert abs(again - own_loss) < 1e-4 < abs(again - other)
    with pytest.raises(GfoError, match=r"GGUF has no type|none of llama"):
        export(evaluator, z, "gguf", tmp_path / "file")


def _errors(space, plain):
    """|X dW^T|^2 of another space's weights, with this one's inputs."""
    found = np.zeros((space.domain.d, 4))
    for i, name in enumerate(space.names):
        X, own = space.calibration.inputs[name], space._model.weight(name)
        for m in range(1, 5):
            found[i, m - 1] = float((X @ (plain.weight(name, m) - own).T).square().sum()) / len(X)
    return found


def test_beside_levels_that_round(tiny):
    """Their columns are scaled as they would be alone."""
    model = tiny("llama", hidden_size=64, intermediate_size=64)
    both = gfo.Compression(model, ["Q8_0", "S50", "Q4_0", "R50"], calibration=TEXTS)
    alone = gfo.Compression(model, ["Q8_0", "Q4_0"], calibration=TEXTS)
    name = both.names[0]
    assert [level.name for level in both.levels] == ["S50", "Q8_0", "R50", "Q4_0"]
    assert torch.equal(both.banks[name][3], alone.banks[name][1])
    found = gfo.sensitivities(model, gfo.Distance([{"text": text} for text in TEXTS]), both)
    assert np.isfinite(found.costs).all()


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        (["S50", "S2:4"], "both take 9 bits"),
        (["S60", "F32"], "unknown level 'S60'"),
    ],
)
def test_what_does_not_fit_is_refused(tiny, levels, words):
    with pytest.raises(GfoError, match=words):
        gfo.Compression(tiny("llama"), levels)


def test_blocks_of_four(tiny):
    with pytest.raises(GfoError, match=r"'S2:4' wants columns in blocks of 4, .* has 50; leave it out"):
        gfo.Compression(tiny("llama", intermediate_size=50), ["F32", "S2:4"])


@pytest.mark.parametrize("beside", ["low rank", "soft prompt"])
def test_beside_what_recovers_the_loss(tiny, beside):
    """Levels and another change at once are that change of a model whose weights are the levels'."""
    model = tiny("llama", hidden_size=64, intermediate_size=64)
    space = gfo.Compression(model, ["Q8_0", "Q4_0", "S50"], calibration=TEXTS)
    other = gfo.LoRASubspace(model, 5, alpha=1.0)
    if beside == "soft prompt":
        other = gfo.SoftPrompt(model, tokens=2, dim=5)
    rng = np.random.default_rng(0)
    z = np.hstack([rng.integers(0, 3, (3, space.domain.d)), rng.standard_normal((3, 5))])
    task = gfo.LanguageModeling([{"text": text} for text in TEXTS], template="{soft}{text}")
    product = gfo.ProductSpace(space, other)
    found = gfo.LocalEvaluator(model, task, product)(z, 0).loss
    np.testing.assert_array_equal(product.measure(z)["bytes"], space.measure(z[:, : space.domain.d])["bytes"])
    for k in range(3):
        module = copy.deepcopy(model.module)
        with torch.no_grad():
            for i, name in enumerate(space.names):
                module.get_submodule(name).weight.copy_(space.weight(name, int(z[k, i])))
        rounded = gfo.freeze(module, model.tokenizer, "rounded")
        parts = z[k : k + 1, space.domain.d :]
        alone = gfo.LocalEvaluator(rounded, task, other)(parts, 0).loss[0]
        assert found[k] == pytest.approx(alone, abs=5e-5)
    assert np.ptp(found) > 1e-3
