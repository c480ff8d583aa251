"""Sensitivities and the choice by them, against all 3^7 choices of a model of one layer."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import gfo
from gfo.core.errors import GfoError

TEXTS = [
    "the movie is a great joy from the first minute to the last",
    "a terrible waste of time, and not even a short one!",
    "I would say that the food was good, but the service was bad",
    "Is it good or bad?",
]
LEVELS = ["Q8_0", "Q5_0", "Q4_0"]
EVERY = np.array(list(itertools.product(range(3), repeat=7)), dtype=float)


@pytest.fixture
def model(tiny):
    return tiny("llama", num_hidden_layers=1, intermediate_size=64)


@pytest.fixture
def task(model):
    """How far the next word's distribution is from the unchanged model's."""
    rows = [{"text": text[: 5 + 5 * i]} for text in TEXTS for i in range(8)]
    return gfo.Distillation(rows, template="{text}", teacher=model)


def test_singles_are_changes_one_at_a_time(model, task):
    space = gfo.Compression(model, LEVELS, calibration=TEXTS)
    found = gfo.sensitivities(model, task, space)
    assert found.level == "Q4_0"
    assert found.base == pytest.approx(0.0, abs=1e-6)
    for i, name in enumerate(space.names):
        alone = gfo.Compression(model, LEVELS, targets=name, calibration=TEXTS)
        if "mlp.up" in name or "v_proj" in name:
            continue  # alone they have no columns behind them to move factors to
        loss = gfo.LocalEvaluator(model, task, alone)(np.array([[2.0]]), 0).loss[0]
        assert found.single[i] == pytest.approx(loss, rel=0.5, abs=1e-4)
    assert np.array_equal(found.costs[:, 2], found.single)
    assert (found.costs[:, 0] < found.costs[:, 1]).all()
    assert (found.costs[:, 1] < found.costs[:, 2]).all()
    ratio = (space.errors[:, 1] / space.errors[:, 2]) ** 1.03
    assert found.costs[:, 1] == pytest.approx(found.single * ratio)
    assert found.cost.candidates == 8
    assert found.cost.forward_tokens > 0


def test_the_choice_is_the_best_of_all(model, task):
    """Of predicted losses exactly; of the real ones nearly, for they add up; `ga` finds the best of those."""
    plain = gfo.Compression(model, LEVELS)
    found = gfo.sensitivities(model, task, plain)
    evaluator = gfo.LocalEvaluator(model, task, plain)
    loss, size = evaluator(EVERY, 0).loss, plain.measure(EVERY)["bytes"]
    assert np.corrcoef(found.predicted(EVERY), loss)[0, 1] > 0.8
    for share in (0.6, 0.7, 0.85):
        space = gfo.Compression(model, LEVELS, limit=share, sensitivity=found.costs)
        fits = size <= space.limit_bytes
        choice = found.choice(space.limit_bytes)
        assert plain.measure(choice[None])["bytes"][0] <= space.limit_bytes
        assert found.predicted(choice[None])[0] == pytest.approx(found.predicted(EVERY)[fits].min())
        best = loss[fits].min()
        ordered = np.sort(loss[fits])
        chosen = evaluator(choice[None], 0).loss[0]
        assert chosen <= ordered[len(ordered) // 10]  # among the best tenth

        asked = []
        real = space.measure
        space.measure = lambda z, asked=asked, real=real: asked.append(real(z)["bytes"]) or real(z)
        result = gfo.tune(
            model,
            task,
            space,
            optimizer="ga",
            options={"x0": choice, "population": 20},
            budget=gfo.Budget(evaluations=800),
            progress=False,
        )
        assert np.concatenate(asked).max() <= space.limit_bytes
        assert real(result.z[None])["bytes"][0] <= space.limit_bytes
        assert result.loss == pytest.approx(best, abs=1e-6), share
        assert result.loss <= chosen + 1e-9


def test_layers_below_are_computed_once(tiny):
    """And singles are those of a whole space, in which all other modules stay as they are."""
    model = tiny("llama", intermediate_size=64)
    rows = [{"text": text} for text in TEXTS]
    task = gfo.LanguageModeling(rows)
    space = gfo.Compression(model, ["F32", "Q4_0"])
    found = gfo.sensitivities(model, task, space)
    d = space.domain.d
    evaluator = gfo.LocalEvaluator(model, task, space)
    whole = evaluator.score(np.vstack([np.eye(d), np.zeros((1, d))]), "train")
    loss = whole.metrics["loss"]
    assert found.base == pytest.approx(loss[-1], abs=1e-5)
    assert found.single == pytest.approx(loss[:-1] - loss[-1], abs=2e-5)
    assert np.abs(found.single).max() > 1e-3  # a control
    # 3 layers of 7 modules: 8 candidates run 3, 2 and 1 layers, in front of which one does
    one = whole.cost.forward_tokens / (d + 1)
    assert found.cost.forward_tokens == pytest.approx(one * (8 * 6 / 3 + 1), rel=0.05)


def test_bad_input_is_refused(model, task):
    space = gfo.Compression(model, LEVELS)
    with pytest.raises(GfoError, match="unknown level of the space 'Q5_1': did you mean 'Q5_0'"):
        gfo.sensitivities(model, task, space, level="Q5_1")
    found = gfo.sensitivities(model, task, space, level="Q5_0")
    with pytest.raises(GfoError, match=r"give at least .*, what the smallest file has"):
        found.choice()
    with pytest.raises(GfoError, match="limit_bytes = 10; give at least"):
        found.choice(10)
