"""Soft prompts: the start, the scale, the projection, gradients, and bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gfo import GfoError, SoftPrompt
from gfo.core.protocols import SearchSpace
from gfo.core.seeding import stream
from gfo.spaces.parts.projection import PROJECTIONS

D = 32  # of the tiny models


@pytest.fixture(scope="module")
def model(tiny):
    return tiny("llama", start=True)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_is_a_search_space(model):
    space = SoftPrompt(model, tokens=4, dim=10)
    assert isinstance(space, SearchSpace)
    assert (space.domain.d, space.domain.bounded) == (10, False)
    delta = space.decode(normal(3, 10))
    assert delta.prompt.shape == (3, 4, D)
    assert delta.prompt.dtype == torch.float32
    assert delta.candidates == 3
    part = delta.select(slice(1, 3)).prompt
    assert torch.equal(part, delta.prompt[1:3])
    assert part.data_ptr() == delta.prompt[1].data_ptr()


@pytest.mark.parametrize("init", [None, "the food was good", torch.randn(6, D)])
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_zero_is_the_start_exactly(model, init, projection):
    space = SoftPrompt(model, tokens=6, dim=20, init=init, projection=projection, alpha=3.0)
    assert torch.equal(space.decode(torch.zeros(2, 20)).prompt, space.p0.expand(2, -1, -1))
    assert not torch.equal(space.decode(torch.ones(1, 20)).prompt[0], space.p0)


@pytest.mark.parametrize("projection", PROJECTIONS)
@pytest.mark.parametrize("alpha", [0.5, 2.0])
@pytest.mark.parametrize("dim", [10, 250])
def test_unit_scale(model, projection, alpha, dim):
    """z ~ N(0, 1) moves each coordinate by alpha times the spread of the words, whatever d."""
    space = SoftPrompt(model, tokens=8, dim=dim, alpha=alpha, projection=projection)
    change = space.decode(normal(4000, dim)).prompt - space.p0
    spread = float(model.embed(torch.arange(model.vocabulary_size)).std())
    # 256 coordinates with row norms of relative variance about 2/d beside 4,000 points
    error = 4 * np.sqrt(2 / dim / (8 * D)) / 2 + 4 / np.sqrt(2 * 4000 * min(dim, 8 * D))
    assert float(change.std()) == pytest.approx(alpha * spread, rel=error)
    assert abs(float(change.mean())) < 0.05 * alpha * spread
    assert error < 0.08


def test_linear_in_z(model):
    space = SoftPrompt(model, tokens=2, dim=7)
    a, b = normal(2, 1, 7)
    ends = [space.decode(z).prompt - space.p0 for z in (a, b, 2 * a - 3 * b)]
    torch.testing.assert_close(ends[2], 2 * ends[0] - 3 * ends[1])
    assert float((ends[0] - ends[1]).abs().max()) > 0.1


def test_gradient(model):
    space = SoftPrompt(model, tokens=2, dim=7)
    z = normal(3, 7).requires_grad_()
    weight = torch.randn(3, 2, D, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((weight * space.decode(z).prompt).sum(), z)
    columns = torch.stack([space.decode(e[None]).prompt[0] - space.p0 for e in torch.eye(7)])  # (d, P, D)
    expected = torch.einsum("kpw,dpw->kd", weight, columns)
    torch.testing.assert_close(gradient.float(), expected, rtol=1e-4, atol=1e-5)
    assert float(gradient.abs().min()) > 0


@pytest.mark.parametrize("projection", PROJECTIONS)
@pytest.mark.parametrize("d", [4, 300])
def test_projections_have_variance_one_over_d(projection, d):
    A = PROJECTIONS[projection](np.random.default_rng(0), 2000, d)
    assert (A.shape, A.dtype) == ((2000, d), np.float32)
    assert A.var() * d == pytest.approx(1, rel=5 * np.sqrt(2 / A.size))
    assert abs(A.mean()) * np.sqrt(d) < 5 / np.sqrt(A.size)
    if projection == "uniform":
        assert np.abs(A).max() <= np.sqrt(3 / d) * (1 + 1e-6)
        assert np.abs(A).max() > 0.99 * np.sqrt(3 / d)
    else:
        assert np.abs(A).max() > 3 / np.sqrt(d)


@pytest.mark.parametrize("tokens", [1, 3, 4, 5, 9])
def test_text_is_repeated_or_cut(model, tokens):
    text = "the food was good"
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert 3 < len(ids) < 9
    space = SoftPrompt(model, tokens=tokens, dim=5, init=text)
    expected = (ids * 9)[:tokens]
    assert space.init_tokens == tuple(expected)
    assert torch.equal(space.p0, model.embed(torch.tensor(expected)))


def test_embeddings_are_taken_as_they_are(model):
    given = torch.randn(3, D)
    space = SoftPrompt(model, tokens=3, dim=5, init=given)
    expected = given.clone()
    given += 1  # the space keeps its own
    assert torch.equal(space.p0, expected)
    assert space.init_tokens is None
    assert torch.equal(SoftPrompt(model, tokens=3, dim=5, init=expected.numpy()).p0, expected)


def test_random_words_are_ordinary(tiny, model):
    spaces = [SoftPrompt(model, tokens=60, dim=5, seed=seed) for seed in range(10)]
    words = [word for space in spaces for word in space.init_tokens]
    assert not set(words) & model.special_tokens
    assert max(words) > 0.9 * len(model.tokenizer)
    assert min(words) < 0.1 * model.vocabulary_size
    assert torch.equal(spaces[0].p0, model.embed(torch.tensor(spaces[0].init_tokens)))


def test_the_seed_fixes_start_and_projection(model):
    z = normal(2, 6)

    def prompt(**options):
        return SoftPrompt(model, **{"tokens": 4, "dim": 6, "seed": 3} | options).decode(z).prompt

    assert torch.equal(prompt(), prompt())
    assert not torch.equal(prompt(), prompt(seed=4))
    assert not torch.equal(prompt(init="good"), prompt(init="good", seed=4))  # the projection alone
    # numpy's and torch's global generators are neither read nor moved
    torch.manual_seed(0)
    state = torch.get_rng_state()
    prompt()
    assert torch.equal(torch.get_rng_state(), state)


def test_the_projection_is_its_stream_times_the_scale(model):
    space = SoftPrompt(model, tokens=4, dim=6, seed=3, alpha=0.5)
    A = PROJECTIONS["gaussian"](stream(3, "projection"), 4 * D, 6)
    torch.testing.assert_close(space.project.A, torch.from_numpy(A) * space.scale)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"tokens": 0}, ["tokens = 0", "at least 1"]),
        ({"tokens": -1}, ["tokens = -1", "at least 1"]),
        ({"tokens": 2, "dim": 65}, ["dim = 65", "1 to 64", "2 tokens x 32", "lower dim or raise tokens"]),
        ({"dim": 0}, ["dim = 0", "1 to 256"]),
        ({"alpha": 0.0}, ["alpha = 0.0", "positive"]),
        ({"alpha": -1.0}, ["alpha = -1.0", "positive"]),
        ({"alpha": float("nan")}, ["alpha = nan", "give a number"]),
        ({"alpha": float("inf")}, ["alpha = inf", "positive"]),
        ({"projection": "gausian"}, ["projection 'gausian'", "did you mean 'gaussian'?"]),
        ({"init": ""}, ["init = ''", "no tokens", "give some text"]),
        ({"init": "☃"}, ["init = '☃'", "no tokens"]),
        ({"init": torch.zeros(7, D)}, ["(7, 32)", "(8, 32)"]),
        ({"init": torch.zeros(8, D, 1)}, ["(8, 32, 1)", "(8, 32)"]),
        ({"seed": -1}, ["seed = -1", "0 or more"]),
    ],
)
def test_bad_options(model, options, parts):
    with pytest.raises(GfoError) as error:
        SoftPrompt(model, **{"dim": 50} | options)
    message = str(error.value)
    assert "\n" not in message
    assert all(part in message for part in parts), message


def test_the_largest_dimension(model):
    assert SoftPrompt(model, tokens=2, dim=64).decode(torch.ones(1, 64)).prompt.shape == (1, 2, D)
