"""EGGROLL: what it evaluates and how it moves, against dense float64 sums, and its replay to the bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from examples import make_task

import gfo
from gfo.baselines import make
from gfo.baselines.eggroll import Places
from gfo.optimizers.fitness_shaping import z_scores

N, SIGMA, LR = 6, 0.02, 0.05
FAMILIES = ["llama", "gpt2", "gemma", "bert"]  # GPT-2: transposed, with biases; Gemma: 1 + gain
PLAIN = "Review: {text}\nSentiment:"


def task_for(model):
    return make_task(PLAIN + (" {mask}" if model.mask else ""))


def made(model, **options):
    given = {"population": N, "sigma": SIGMA, "lr": LR, "seed": 3} | options
    return make("eggroll", model, task_for(model), **given)


def dense(method):
    """The directions E_1 ... E_{N/2} of a step, each in float64 and like its parameter."""
    places, population = method._places, method.population
    found = []
    for name, (A, B) in population.matrices.items():
        E = torch.einsum("por,pri->poi", B.double(), A.double())
        found.append(E.mT if places.transposed[name] else E)
    found += [n.double() for n in population.biases.values()]
    for name, n in population.gains.items():
        gain, *bias = places.gains[name]
        found.append(n.double() * (gain.double() + places.offsets[name]))
        found += [n.double() * b.double() for b in bias]
    return found


def plain_losses(model, method, directions, signs):
    """Each candidate's loss, by writing its weights into the model that computes."""
    centre = [p.detach().clone() for p in method.trained.parameters]
    losses = []
    for sign in signs:
        for p in range(N // 2):
            for parameter, value, E in zip(method.trained.parameters, centre, directions, strict=True):
                parameter.data.copy_(value.double() + sign * SIGMA * E[p])
            losses.append(method.judge(method.recommend()[None], 0).loss[0])
    for parameter, value in zip(method.trained.parameters, centre, strict=True):
        parameter.data.copy_(value)
    return losses


@pytest.mark.parametrize("family_name", FAMILIES)
@pytest.mark.parametrize("rank", [1, 2])
def test_a_step_is_the_dense_one_in_float64(tiny, family_name, rank):
    model = tiny(family_name)
    method = made(model, rank=rank, decay=2.0)
    start = [p.detach().double().clone() for p in method.trained.parameters]
    for number in range(2):
        before = [theta.double().clone() for theta in method._theta]
        evaluation = method(method.ask(), number)
        directions = dense(method)
        losses = plain_losses(model, method, directions, (1, -1))
        np.testing.assert_allclose(evaluation.loss, losses, atol=2e-5)
        assert np.ptp(evaluation.loss) > 1e-3  # control
        method.tell(method.ask(), evaluation.loss)
        s = torch.from_numpy(z_scores(evaluation.loss))
        for theta, old, first, E, parameter in zip(
            method._theta, before, start, directions, method.trained.parameters, strict=True
        ):
            signed = torch.cat([E, -E])
            mean = (s.view(-1, *[1] * (E.ndim - 1)) * signed).mean(0)
            moved = old + LR * math.sqrt(N) * mean
            expected = moved - LR * 2.0 * (moved - first)
            torch.testing.assert_close(theta.double(), expected, atol=3e-4 * LR, rtol=1e-5)
            assert torch.equal(parameter, theta)
        assert max(float((t - b).abs().max()) for t, b in zip(method._theta, before, strict=True)) > 1e-3


def test_the_update_is_along_the_direction_evaluated(tiny):
    """One pair: the centre moves along W_1 - W_2, towards the better."""
    model = tiny("llama")
    method = made(model, population=2, vectors=False)
    method(method.ask(), 4)
    before = [theta.clone() for theta in method._theta]
    delta = method.population.decode(torch.tensor([[0.0], [1.0]]))
    method.tell(method.ask(), np.array([1.0, 3.0]))
    for (name, (A, B)), theta, old in zip(delta.lora.items(), method._theta, before, strict=True):
        evaluated = B[0] @ A[0]
        torch.testing.assert_close(B[1] @ A[1], -evaluated, msg=name)
        torch.testing.assert_close(theta - old, LR * math.sqrt(2) * evaluated / SIGMA, atol=1e-6, rtol=1e-3)


def test_noise_differs_between_steps_places_and_seeds(tiny):
    method, other = made(tiny("llama")), made(tiny("llama"), seed=4)
    flat = []
    for step, each in ((0, method), (1, method), (0, other)):
        each.population.draw(step)
        A = torch.cat([A.flatten() for A, _ in each.population.matrices.values()])
        assert abs(float(A.std()) - 1) < 0.02
        flat.append(A)
    assert float(torch.corrcoef(torch.stack(flat)).fill_diagonal_(0).abs().max()) < 0.04
    alike = [
        A.flatten()
        for A, _ in method.population.matrices.values()
        if A.shape == next(iter(method.population.matrices.values()))[0].shape
    ]
    assert float(torch.corrcoef(torch.stack(alike)).fill_diagonal_(0).abs().max()) < 0.6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_replay_the_centre_to_the_bit(tiny, dtype):
    model = tiny("gpt2", dtype=dtype)
    method = made(model, decay=1.0)
    for number in range(4):
        method.tell(method.ask(), method(method.ask(), number).loss)
        if number == 1:
            method.trained.keep()
    state = method.state_dict()
    assert {key: np.size(value) for key, value in state.items()} == {"steps": 4, "losses": 4 * N, "kept": 1}
    again = made(model, decay=1.0)
    assert not torch.equal(again._theta[0], method._theta[0])  # control
    for _ in range(2):  # also of one that has moved
        again.load_state_dict(state)
        assert all(map(torch.equal, again._theta, method._theta))
        assert all(map(torch.equal, again.trained.parameters, method.trained.parameters))
        assert all(map(torch.equal, again.weights._kept[2], method.weights._kept[2]))
        assert np.array_equal(again.recommend(), method.recommend())
    state["losses"] = state["losses"] * [[1], [1], [1], [-1]]
    again.load_state_dict(state)
    assert not torch.equal(again._theta[0], method._theta[0])  # control


def test_failed_and_equal_candidates(tiny):
    method = made(tiny("llama"))
    start = [theta.clone() for theta in method._theta]
    method(method.ask(), 0)
    for loss in (np.full(N, np.nan), np.ones(N)):
        method.tell(method.ask(), loss)
        assert all(map(torch.equal, method._theta, start))
    method.tell(method.ask(), np.array([np.nan, *range(N - 1)]))
    assert all(theta.isfinite().all() for theta in method._theta)
    assert not torch.equal(method._theta[0], start[0])


def test_decay_alone_draws_to_the_start(tiny):
    method = made(tiny("llama"), decay=4.0)
    start = [p.clone() for p in method._theta]
    for theta in method._theta:
        theta.add_(1.0)
    method(method.ask(), 0)
    method.tell(method.ask(), np.ones(N))
    for theta, first in zip(method._theta, start, strict=True):
        torch.testing.assert_close(theta, first + 1 - LR * 4)


def test_what_is_perturbed(tiny):
    model = tiny("gpt2")
    before = [p.clone() for p in model.module.parameters()]
    whole, few = Places(model, None, True), Places(model, ["c_fc"], False)
    assert set(whole.matrices) == set(model.linears)
    assert whole.biases
    assert len(whole.gains) == 2 * model.layers
    assert not few.biases
    assert not few.gains
    assert all(name.endswith("c_fc") for name in few.matrices)
    assert Places(tiny("gemma"), None, True).offsets != Places(model, None, True).offsets
    assert all(map(torch.equal, before, model.module.parameters()))


def test_a_search_lowers_the_loss_and_leaves_the_model_alone(tiny):
    model = tiny("llama")
    before = [p.clone() for p in model.module.parameters()]
    options = {"population": 16, "sigma": 0.02, "lr": 0.01}
    result = gfo.baselines.run(
        "eggroll",
        model,
        make_task(PLAIN),
        budget=gfo.Budget(evaluations=320),
        options=options,
        progress=False,
    )
    assert result.score("test")["accuracy"] == 1
    assert result.scores["before"]["test"]["accuracy"] < 1
    assert result.history[0].evaluations == 16
    assert all(map(torch.equal, before, model.module.parameters()))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"population": 7}, "population = 7 must be even"),
        ({"population": 0}, "population = 0 must be even"),
        ({"rank": 0}, "rank = 0 must be at least 1"),
        ({"sigma": 0.0}, "sigma = 0.0 must be a positive number"),
        ({"lr": -1.0}, "lr = -1.0 must be a positive number"),
        ({"decay": -1.0}, "decay = -1.0 must be 0 or more"),
        ({"decay": 30.0}, "less than 1 / lr"),
        ({"targets": "nowhere"}, "nowhere"),
        ({"sgima": 1.0}, "no option 'sgima'"),
    ],
)
def test_wrong_options(tiny, options, said):
    with pytest.raises(gfo.GfoError, match=said):
        made(tiny("llama"), **options)
