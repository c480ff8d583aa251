"""Compression: levels as ggml and HQQ have them, sizes, limits, repairs, and scaled columns."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch

import gfo
from gfo.core.errors import GfoError
from gfo.models.apply import Change, applied
from gfo.models.rescaling import rescaled
from gfo.spaces.parts.knapsack import demoted, knapsack
from gfo.spaces.parts.levels import LEVELS
from gfo.testing import check_space

TEXTS = ["Review: the movie is a great joy from the first minute to the last.", "a terrible waste of time"]
TOLERANCE = 5e-5


@pytest.fixture
def model(tiny):
    return tiny("llama", intermediate_size=64)


def uneven(model, seed=0):
    """A copy whose activations differ in size from column to column, as those of trained models do."""
    rng = torch.Generator().manual_seed(seed)
    module = copy.deepcopy(model.module)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "layernorm" in name:
                parameter.mul_((0.8 * torch.randn(len(parameter), generator=rng)).exp())
    return gfo.freeze(module, model.tokenizer, "uneven")


def tokens(model):
    return torch.tensor([model.encode(TEXTS[0], start=True)[:12], model.encode(TEXTS[0])[-12:]])


@torch.no_grad()
def logits(model, space, z):
    """[K, rows, T, V] of the points z [K, d]."""
    ids, found = tokens(model), []
    for point in torch.from_numpy(np.asarray(z, dtype=np.float64)):
        change = Change(space.decode(point[None]), torch.full(ids.shape, -1))
        with applied(change, model.module, model.all_layers):
            found.append(model.module(input_ids=ids).logits)
    return torch.stack(found)


def divergence(model, space, z):
    """KL to the model of the points z [K, d], in nats a token."""
    with torch.no_grad():
        p = model.module(input_ids=tokens(model)).logits.log_softmax(-1)
    q = logits(model, space, z).log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean((1, 2)).numpy()


def test_types_are_those_of_ggml():
    """By the formulas of ggml's reference quantizers, a block of 32 by hand."""
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    blocks = x.view(-1, 32)

    def half(d):
        return d.half().float()

    d = blocks.abs().amax(1, keepdim=True) / 127
    eight = (blocks / d).round() * half(d)
    assert torch.allclose(LEVELS["Q8_0"].rounded(x), eight.view_as(x), atol=1e-6)
    largest = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
    for name, steps in (("Q4_0", 8), ("Q5_0", 16)):
        d = largest / -steps
        q = (blocks / d + steps + 0.5).trunc().clamp(0, 2 * steps - 1) - steps
        assert torch.allclose(LEVELS[name].rounded(x), (q * half(d)).view_as(x), atol=1e-6), name
    low, high = blocks.amin(1, keepdim=True), blocks.amax(1, keepdim=True)
    for name, steps in (("Q4_1", 15), ("Q5_1", 31)):
        d = (high - low) / steps
        q = ((blocks - low) / d + 0.5).trunc().clamp(0, steps)
        assert torch.allclose(LEVELS[name].rounded(x), (q * half(d) + half(low)).view_as(x), atol=1e-6), name
    assert torch.equal(LEVELS["F32"].rounded(x), x)
    assert torch.equal(LEVELS["F16"].rounded(x), x.half().float())


@pytest.mark.parametrize(("name", "error"), [("HQ4", 0.06105), ("HQ3", 0.13097), ("HQ2", 0.30597)])
def test_half_quadratic_errors_are_those_of_hqq(name, error):
    """The errors that the library hqq 0.2.8 has on these weights, uniform as those of a new linear module."""
    x = torch.rand(256, 512, generator=torch.Generator().manual_seed(0)) - 0.5
    found = float((LEVELS[name].rounded(x) - x).norm() / x.norm())
    assert abs(found - error) < 0.005 * error
    groups = x.view(-1, 64)
    low, step = groups.amin(1, keepdim=True), 0.0
    step = (groups.amax(1, keepdim=True) - low) / (2 ** int(name[2]) - 1)
    nearest = low + step * ((groups - low) / step).round()  # a control: rounding to the nearest is worse
    assert float((nearest - groups).norm() / groups.norm()) > 1.01 * found


def test_rounding_again_changes_nothing():
    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(1))
    for name in ("Q8_0", "Q5_0", "Q4_0", "F16"):
        once = LEVELS[name].rounded(x)
        assert torch.allclose(LEVELS[name].rounded(once), once, atol=1e-6), name
        assert not torch.equal(once, x)


def test_it_keeps_the_contract_of_spaces(model):
    levels = ["Q4_0", "Q8_0", "Q5_0"]
    space = gfo.Compression(model, levels, limit=0.6)
    check_space(space, model, same=gfo.Compression(model, levels, limit=0.6))
    assert [level.name for level in space.levels] == ["Q8_0", "Q5_0", "Q4_0"]
    assert space.domain.names == tuple(model.linears)
    assert space.domain.integer.all()


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "opt", "bert", "roberta", "t5", "bart"])
def test_other_families_keep_it_too(tiny, family):
    model = tiny(family)
    fit = [name for name, linear in model.linears.items() if linear.in_features % 32 == 0]
    space = gfo.Compression(model, ["F32", "Q8_0", "Q4_0"], targets=fit, embeddings="F32", limit=0.9)
    check_space(space, model)
    assert space.rest_bytes > 0
    assert space.measure(np.zeros((1, space.domain.d)))["bits"][0] == 32
    bank = space.banks[fit[0]]
    assert bank[0].data_ptr() == model.weight(fit[0]).data_ptr()  # no copy of what is there


def test_weights_are_the_rounded_ones(model):
    """As copies of the model with weights replaced, K at once, one by one and in any chunk."""
    space = gfo.Compression(model, ["Q8_0", "Q5_0", "Q4_0"])
    z = np.random.default_rng(0).integers(0, 3, (4, space.domain.d)).astype(float)
    rows = [{"text": text} for text in TEXTS]
    task = gfo.LanguageModeling(rows, dev=rows)
    expected = []
    for point in z:
        module = copy.deepcopy(model.module)
        for name, level in space.chosen(point).items():
            part = module.get_submodule(name)
            part.weight.data = LEVELS[level].rounded(part.weight.data)
        twin = gfo.freeze(module, model.tokenizer)
        nothing = gfo.Scaling(twin, 2)
        expected.append(gfo.LocalEvaluator(twin, task, nothing)(np.zeros((1, 2)), 0).loss[0])
    for options in ({}, {"chunk_tokens": 16}, {"reuse": False}):
        evaluator = gfo.LocalEvaluator(model, task, space, **options)
        assert np.abs(evaluator(z, 0).loss - expected).max() < TOLERANCE
        one = np.concatenate([evaluator(point[None], 0).loss for point in z])
        assert np.abs(one - expected).max() < TOLERANCE
    assert np.ptp(expected) > 100 * TOLERANCE  # a control


def test_a_weight_is_made_once_and_when_it_is_chosen(model, monkeypatch):
    space = gfo.Compression(model, ["Q8_0", "Q4_0"])
    made = []
    real = space.weight
    for name, bank in space.banks.items():
        bank.make = lambda m, name=name: made.append((name, m)) or real(name, m)
    zero = np.zeros((3, space.domain.d))
    logits(model, space, zero), logits(model, space, zero)
    assert sorted(made) == sorted((name, 0) for name in space.names)
    name = space.names[0]
    shares, bank = space.decode(torch.zeros(1, space.domain.d)).bank[name]
    assert bank.mixed(shares[0]) is bank[0]


def test_sizes_and_limits(model):
    space = gfo.Compression(model, ["Q8_0", "Q5_0", "Q4_0"], limit=0.72)
    for i, name in enumerate(space.names):
        weights = model.weight(name).numel()
        assert space.sizes[i].tolist() == [weights * 34 // 32, weights * 22 // 32, weights * 18 // 32]
    whole = space.sizes[:, 0].sum()
    assert space.limit_bytes == space.rest_bytes + 0.72 * whole
    assert gfo.Compression(model, ["Q8_0", "Q4_0"], limit=space.limit_bytes).limit_bytes == space.limit_bytes
    rng = np.random.default_rng(0)
    z = rng.integers(0, 3, (200, space.domain.d)).astype(float) * rng.integers(0, 2, (200, 1))
    repaired = space.repair(z)
    fits = space.measure(z)["bytes"] <= space.limit_bytes
    assert 0 < fits.sum() < len(z)
    assert np.array_equal(repaired[fits], z[fits])
    assert (space.measure(repaired)["bytes"] <= space.limit_bytes).all()
    assert (repaired >= z).all()
    assert space.domain.contains(repaired).all()
    assert np.array_equal(space.repair(repaired), repaired)
    assert space.measure(np.zeros((1, space.domain.d)))["bits"][0] == 8.5


def test_repairs_follow_the_sensitivity(model):
    d = len(model.linears)
    costs = np.zeros((d, 2))
    costs[:, 1] = np.arange(d, 0, -1)
    space = gfo.Compression(model, ["Q8_0", "Q4_0"], limit=0.95, sensitivity=costs)
    repaired = space.repair(np.zeros((1, d)))[0]
    ratio = costs[:, 1] / (space.sizes[:, 0] - space.sizes[:, 1])
    assert repaired[ratio.argmin()] == 1
    assert repaired[ratio.argmax()] == 0
    other = gfo.Compression(model, ["Q8_0", "Q4_0"], limit=0.95, sensitivity=costs[::-1].copy())
    assert not np.array_equal(other.repair(np.zeros((1, d)))[0], repaired)  # a control


@pytest.mark.parametrize("seed", range(5))
def test_the_knapsack_is_brute_force(seed):
    rng = np.random.default_rng(seed)
    costs = rng.random((7, 3)) * [[0, 1, 3]]
    sizes = (rng.integers(1, 40, (7, 1)) * np.array([[34, 22, 18]])) * 32
    for share in (0.53, 0.6, 0.75, 1.0):
        limit = share * sizes[:, 0].sum()
        every = np.array(list(itertools.product(range(3), repeat=7)))
        size = sizes[np.arange(7), every].sum(1)
        cost = np.where(size <= limit, costs[np.arange(7), every].sum(1), np.inf)
        choice = knapsack(costs, sizes, limit)
        assert sizes[np.arange(7), choice].sum() <= limit
        assert costs[np.arange(7), choice].sum() == pytest.approx(cost.min())
        greedy = demoted(np.zeros(7, dtype=int), costs, sizes, limit)
        assert sizes[np.arange(7), greedy].sum() <= limit
        assert costs[np.arange(7), greedy].sum() >= cost.min() - 1e-12


def test_the_knapsack_keeps_the_limit_where_units_are_coarse(monkeypatch):
    from gfo.spaces.parts import knapsack as module

    rng = np.random.default_rng(0)
    costs, sizes = rng.random((9, 3)).cumsum(axis=1), rng.integers(1000, 9000, (9, 3))
    sizes = -np.sort(-sizes, axis=1)
    limit = 0.7 * sizes[:, 0].sum()
    exact = knapsack(costs, sizes, limit)
    monkeypatch.setattr(module, "MOST_UNITS", 50)
    coarse = knapsack(costs, sizes, limit)
    taken = sizes[np.arange(9), coarse].sum()
    assert taken <= limit
    assert costs[np.arange(9), exact].sum() <= costs[np.arange(9), coarse].sum()


@pytest.mark.weights
def test_scaled_columns_lose_half_as_much():
    """SmolLM2 off its grid, all modules in Q4_0: .356 nats a token by rounding, .147 with scaled columns."""
    from benchmarks.compression.off_grid import off_grid

    model = off_grid(gfo.load_model("smollm2-135m"))
    texts = [row["text"] for row in gfo.datasets.load("gfo:sentiment/train.jsonl")]
    at = {"targets": ["q_proj", "k_proj", "v_proj", "o_proj"]}
    spaces = [gfo.Compression(model, ["Q8_0", "Q4_0"], calibration=c, **at) for c in (None, texts[:40])]
    plain, scaled = (divergence(model, s, np.ones((1, s.domain.d)))[0] for s in spaces)
    assert scaled < 0.7 * plain


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_scaled_columns_round_better_and_fold(tiny, family):
    more = {"sliding_window": None} if family == "mistral" else {}
    model = uneven(tiny(family, intermediate_size=64, **more))
    ends = np.array([[0.0], [1.0]]) * np.ones((1, len(model.linears)))
    plain = gfo.Compression(model, ["Q8_0", "Q4_0"])
    scaled = gfo.Compression(model, ["Q8_0", "Q4_0"], calibration=TEXTS)
    errors, before = scaled.errors[:, 1], output_errors(plain, scaled)
    assert errors.sum() < 0.9 * before.sum()
    assert (errors < before).mean() > 0.7

    twin = rescaled(model, scaled.calibration.factors)  # the function stays as it was
    with torch.no_grad():
        folded = twin(input_ids=tokens(model)).logits
        own = model.module(input_ids=tokens(model)).logits
    assert float((folded - own).abs().max()) < TOLERANCE * float(own.std())
    assert sum(bool(s.std() > 0) for s in scaled.calibration.factors.values()) > 6  # of 12 places
    for name in scaled.names:  # and plain rounding of its weights is what the space has chosen
        part = twin.get_submodule(name)
        part.weight.data = LEVELS["Q4_0"].rounded(part.weight.data)
    with torch.no_grad():
        folded = twin(input_ids=tokens(model)).logits
    chosen = logits(model, scaled, ends[1:])[0]
    assert float((folded - chosen).abs().max()) < 1e-4 * float(own.std())


def output_errors(plain, scaled):
    """The errors of outputs of plain rounding, on the texts of the other."""
    found = []
    for name in plain.names:
        change = plain.banks[name][1] - plain._model.weight(name)
        inputs = scaled.calibration.inputs[name]
        found.append(float((inputs @ change.T).square().sum()) / len(inputs))
    return np.array(found)


def test_a_merged_folder_has_the_chosen_weights(model, tmp_path):
    import transformers

    rows = [{"text": text} for text in TEXTS]
    space = gfo.Compression(model, ["Q8_0", "Q5_0", "Q4_0"], calibration=TEXTS)
    evaluator = gfo.LocalEvaluator(model, gfo.LanguageModeling(rows), space)
    from gfo.report.export import export

    z = np.random.default_rng(0).integers(0, 3, space.domain.d).astype(float)
    export(evaluator, z, "merged", tmp_path / "out")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        found = loaded(input_ids=tokens(model)).logits
    assert float((found - logits(model, space, z[None])[0]).abs().max()) < TOLERANCE
    with pytest.raises(GfoError, match="PEFT has no adapter for bank"):
        export(evaluator, z, "peft", tmp_path / "peft")


def test_beside_a_lora(model):
    """What compression lost may be searched for: the product is that of copies, changed and compressed."""
    space = gfo.Compression(model, ["Q8_0", "Q4_0"])
    lora = gfo.LoRASubspace(model, dim=3, alpha=0.5)
    product = gfo.ProductSpace(space, lora)
    z = np.hstack([np.ones((1, space.domain.d)), np.random.default_rng(0).standard_normal((1, 3))])
    together = logits(model, product, z)[0]
    module = copy.deepcopy(model.module)
    for name in space.names:
        part = module.get_submodule(name)
        part.weight.data = LEVELS["Q4_0"].rounded(part.weight.data)
        if name in (delta := product.decode(torch.from_numpy(z))).lora:
            A, B = delta.lora[name]
            part.weight.data += B[0] @ A[0]
    with torch.no_grad():
        assert float((module(input_ids=tokens(model)).logits - together).abs().max()) < TOLERANCE
    assert (
        float((logits(model, product, np.hstack([z[:, :-3], 0 * z[:, -3:]]))[0] - together).abs().max())
        > 1e-3
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"levels": ["Q4_0", "Q80"]}, "unknown level 'Q80': did you mean 'Q8_0'"),
        ({"levels": ["Q4_0"]}, "levels = .*give two or more of"),
        ({"levels": ["Q4_0", "HQ4"]}, "both take 4.5 bits a weight; give one"),
        ({"levels": ["Q4_0", "Q4_0"]}, "both take 4.5 bits"),
        (
            {"levels": ["HQ3", "Q8_0"]},
            "'HQ3' wants columns in blocks of 64, .* has 32; leave it out of targets",
        ),
        (
            {"limit": 0.5},
            "limit = 0.5: with Q4_0 everywhere the file has .* a share of 0.529; raise the limit",
        ),
        ({"limit": 20000}, "limit = 20,000: with Q4_0 everywhere"),
        ({"limit": -1.0}, "limit = -1.0 must be a share above 0, or bytes"),
        ({"limit": float("nan")}, "limit = nan; give a number"),
        ({"targets": "c_proj"}, "'c_proj' matches nothing"),
        ({"embeddings": "Q2_K"}, "unknown type of embeddings 'Q2_K'"),
        ({"calibration": ["", ""]}, "calibration: the texts have no tokens"),
        ({"sensitivity": [[0.0, 1.0]]}, r"sensitivity of shape \[1, 2\] must be finite numbers \[21, 3\]"),
    ],
)
def test_what_does_not_fit_is_refused(model, options, words):
    with pytest.raises(GfoError, match=words) as error:
        gfo.Compression(model, **{"levels": ["Q8_0", "Q5_0", "Q4_0"], **options})
    assert "\n" not in str(error.value)


def test_families_without_places_for_factors_say_so(tiny):
    with pytest.raises(GfoError, match="where factors of columns can be moved"):
        gfo.Compression(tiny("gpt2", n_inner=64), ["Q8_0", "Q4_0"], calibration=TEXTS)
    with pytest.raises(GfoError, match=r"'Q8_0' wants columns in blocks of 32, '.*down_proj' has 48"):
        gfo.Compression(tiny("llama"), ["Q8_0", "Q4_0"])
