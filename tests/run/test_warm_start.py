"""A run that starts where another one ended: the same space, any task, resumed to the bit."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

import gfo
from gfo.core.errors import GfoError
from gfo.run.callbacks import Callback
from gfo.run.result import Result

ROWS = [{"text": "the food was good " * n, "label": "a" if n % 2 else "b"} for n in range(1, 7)]
TASK = {"template": "Review: {text}\n{soft}Sentiment:", "labels": {"a": "good", "b": "bad"}}
OTHER = {"template": "{text}\n{soft}It was", "labels": {"a": "good", "b": "bad"}}


@pytest.fixture
def model(tiny):
    return tiny("llama")


def run(model, evaluations, *, task=TASK, dim=6, **options) -> Result:
    space = gfo.SoftPrompt(model, tokens=2, dim=dim, alpha=2.0)
    budget = gfo.Budget(evaluations=evaluations)
    return gfo.tune(model, gfo.Classification(ROWS, **task), space, budget=budget, progress=False, **options)


@pytest.mark.parametrize("given", ["result", "folder"])
def test_it_starts_at_the_others_point_with_its_steps(model, tmp_path, given):
    first = run(model, 120, out=tmp_path / "first")
    assert set(first.spread) == {"std", "covariance"}
    other = first if given == "result" else tmp_path / "first"
    start = {}
    for name, warm in (("warm", other), ("cold", None)):
        watch = Watch()
        result = run(model, 9, task=OTHER, warm_start=warm, callbacks=[watch], options={"population": 9})
        start[name] = watch.optimizer
        assert ("warm_start" in result.record) == (name == "warm")
    np.testing.assert_array_equal(start["warm"].x0, first.z)
    np.testing.assert_array_equal(start["cold"].x0, np.zeros(6))  # control
    shape = start["warm"].sigma0 / first.spread["std"]
    np.testing.assert_allclose(shape, shape[0])
    std = first.spread["std"]
    correlation = first.spread["covariance"] / np.outer(std, std)
    assert np.abs(correlation - np.eye(6)).max() > 0.1
    np.testing.assert_allclose(start["warm"]._correlation, correlation)


class Watch(Callback):
    """Keeps the optimizer of a run."""

    def start(self, run):
        self.optimizer = run.optimizer


def test_a_resumed_run_needs_the_other_no_more(model, tmp_path):
    run(model, 60, out=tmp_path / "first")
    whole = run(model, 45, warm_start=tmp_path / "first", out=tmp_path / "whole")
    run(model, 18, warm_start=tmp_path / "first", out=tmp_path / "cut")
    shutil.rmtree(tmp_path / "first")
    cut = run(model, 45, warm_start=tmp_path / "first", out=tmp_path / "cut", resume=True)
    assert cut.history.trajectory() == whole.history.trajectory()
    np.testing.assert_array_equal(cut.z, whole.z)
    with pytest.raises(GfoError, match="warm_start"):  # control: it is a part of what the run was
        run(model, 60, out=tmp_path / "cut", resume=True)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"dim": 5}, "d was 6 in that run and is 5 in this one"),
        ({"optimizer": "random"}, "optimizer 'random' has no start to be set"),
        ({"optimizer": gfo.optimizers.make("cma", domain=gfo.Domain.unbounded(6), seed=0)}, "as a name"),
    ],
)
def test_what_cannot_be_started_is_one_line(model, options, why):
    first = run(model, 20)
    with pytest.raises(GfoError, match=why):
        run(model, 20, warm_start=first, **options)


def test_another_space_or_no_run_is_one_line(model, tmp_path):
    first = run(model, 20)
    space = gfo.SoftPrompt(model, tokens=2, dim=6, alpha=2.0, seed=1)
    with pytest.raises(GfoError, match=r"space was .* in the same space alone"):
        gfo.tune(
            model,
            gfo.Classification(ROWS, **TASK),
            space,
            budget=gfo.Budget(evaluations=20),
            progress=False,
            warm_start=first,
        )
    with pytest.raises(GfoError, match="no"):
        run(model, 20, warm_start=tmp_path / "nothing")


@pytest.mark.parametrize("optimizer", ["snes", "openai-es", "ga", "nevergrad:DE"])
def test_methods_take_what_they_can(model, optimizer):
    first = run(model, 60)
    result = run(model, 30, warm_start=first, optimizer=optimizer)
    assert result.record["warm_start"]["with"] == ["covariance", "std"]
    assert result.record["options"] == {}
