"""MeZO: the direction it moves along is the one it evaluated, in every dtype, and no two are alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from examples import make_task

from gfo.baselines import make


def flat(tensors):
    return torch.cat([t.detach().float().flatten() for t in tensors])


def step(method, number):
    """A step, and the weights that computed: at theta + eps u, at theta - eps u, before and after."""
    seen, evaluate = [flat(method.trained.parameters)], method.trained.evaluator

    def watching(z, n):
        seen.append(flat(method.trained.parameters))
        return evaluate(z, n)

    method.trained.evaluator = watching
    evaluation = method(method.ask(), number)
    method.trained.evaluator = evaluate
    between = flat(method.trained.parameters)
    method.tell(method.ask(), evaluation.loss)
    return seen, between, flat(method.trained.parameters), evaluation


@pytest.mark.parametrize("name", ["mezo", "mezo-lora"])
def test_the_update_is_along_the_direction_evaluated(tiny, name):
    eps, lr = 1e-2, 0.1
    method = make(name, tiny("llama"), make_task(), eps=eps, lr=lr, seed=3)
    directions = []
    for number in range(3):
        (before, ahead, behind), between, after, evaluation = step(method, number)
        assert torch.equal(between, before)  # nothing is left of the two points
        u = (ahead - behind) / (2 * eps)
        directions.append(u)
        g = (evaluation.loss[0] - evaluation.loss[1]) / (2 * eps)
        assert abs(g) > 1e-3
        torch.testing.assert_close(ahead - before, before - behind, atol=1e-6, rtol=0)
        torch.testing.assert_close(after - before, -lr * g * u, atol=2e-4 * lr * abs(g), rtol=1e-3)
        assert float((after - before).abs().max()) > 1e-4
    for other in directions[1:]:  # control, and one direction a step
        assert abs(float(torch.corrcoef(torch.stack([directions[0], other]))[0, 1])) < 0.1


def test_directions_are_standard_normal_and_differ_between_tensors(tiny):
    """Equal seeds for every tensor would make those of one shape equal."""
    method = make("mezo", tiny("llama"), make_task())
    method(method.ask(), 0)
    noise = [u.flatten() for u in method._noise()]
    assert all(torch.equal(a, b.flatten()) for a, b in zip(noise, method._noise(), strict=True))
    everything = torch.cat(noise)
    assert abs(float(everything.mean())) < 0.02
    assert abs(float(everything.std()) - 1) < 0.02
    for size in {len(u) for u in noise}:
        alike = [u for u in noise if len(u) == size]
        if len(alike) > 1 and size > 100:
            off = torch.corrcoef(torch.stack(alike)) - torch.eye(len(alike))
            assert float(off.abs().max()) < 6 / size**0.5
            assert not any(torch.equal(alike[0], other) for other in alike[1:])
    first = torch.stack([u[0] for u in noise])  # nor do all tensors begin alike
    assert float(first.std()) > 0.3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_does_not_drift(tiny, dtype):
    """Perturbing in place and taking it back, as published, leaves them elsewhere; here they return."""
    model = tiny("llama", dtype=dtype)
    method = make("mezo", model, make_task(), eps=1e-3, lr=1e-30)
    start = [p.detach().clone() for p in method.trained.parameters]
    in_place = [p.detach().clone() for p in start]
    for number in range(20):
        evaluation = method(method.ask(), number)
        noise = list(method._noise())
        method.tell(method.ask(), evaluation.loss)
        for size in (1e-3, -2e-3, 1e-3):
            for weight, u in zip(in_place, noise, strict=True):
                weight.add_((size * u).to(dtype))
    assert torch.equal(flat(method.trained.parameters), flat(start))
    drift = (flat(in_place) - flat(start)).abs().mean()
    assert float(drift) > 2e-5  # control


def test_small_updates_add_up_in_half_precision(tiny):
    """Each is below the rounding of a bfloat16 weight, and lost if it were added to that."""
    model = tiny("llama", dtype=torch.bfloat16)
    method = make("mezo", model, make_task(), lr=1.0)
    start, steps, size = flat(method._theta), 50, 1e-5
    method(method.ask(), 0)
    u = flat(method._noise())
    for _ in range(steps):
        method.tell(method.ask(), np.array([size, -size]) * method._eps)
    torch.testing.assert_close(flat(method._theta), start - steps * size * u, atol=1e-5, rtol=0)
    target = start - steps * size * u
    rounding = (target.to(torch.bfloat16).float() - target).abs()
    assert torch.equal(flat(method.trained.parameters), flat(method._theta).to(torch.bfloat16).float())
    lost = start.to(torch.bfloat16)  # control
    for _ in range(steps):
        lost = lost - (size * u).to(torch.bfloat16)
    assert float((lost.float() - target).abs().mean()) > 1.2 * float(rounding.mean())


def test_the_estimate_is_the_slope(tiny):
    """g is the gradient's component along u: against autograd, on the same weights."""
    model, task = tiny("llama"), make_task()
    method = make("mezo", model, task, eps=1e-3, lr=1e-30)
    exact = make("full", model, task, dropout=0.0)
    exact(exact.ask(), 0)
    gradients = torch.cat([p.grad.flatten() for p in exact.trained.parameters if p.grad is not None])
    slopes, estimates = [], []
    for number in range(6):
        evaluation = method(method.ask(), number)
        estimates.append((evaluation.loss[0] - evaluation.loss[1]) / (2 * method._eps))
        pairs = zip(method._noise(), exact.trained.parameters, strict=True)
        u = torch.cat([u.flatten() for u, p in pairs if p.grad is not None])
        slopes.append(float(u @ gradients))
    np.testing.assert_allclose(estimates, slopes, atol=0.02 * np.abs(slopes).max())
    assert np.std(slopes) > 0.1
    assert np.abs(np.array(estimates) - np.roll(slopes, 1)).max() > 0.1  # control


def test_a_failed_loss_moves_nothing(tiny):
    method = make("mezo-lora", tiny("llama"), make_task())
    method(method.ask(), 0)
    before = flat(method.trained.parameters)
    for loss in ([np.nan, 1.0], [1.0, np.nan]):
        method.tell(method.ask(), np.array(loss))
        assert torch.equal(flat(method.trained.parameters), before)
    method.tell(method.ask(), np.array([2.0, 1.0]))
    assert not torch.equal(flat(method.trained.parameters), before)
