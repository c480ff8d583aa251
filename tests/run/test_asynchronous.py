"""Parts told as they come: every event is in the history, and a resumed run repeats them in their order."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import gfo
from gfo.core.protocols import Cost, Evaluation, Scores
from gfo.run.history import HISTORY

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation"))
import on_workers

D = on_workers.D
METHODS = ["de", "ga", "pso", "random", "sa", "optuna:tpe"]


class Jumbled(on_workers.Bowl):
    """An evaluator of several calls at once, of which the next to end is drawn at random."""

    def __init__(self, order=0, at_once=4, part=3):
        super().__init__()
        self.at_once, self.part = at_once, part
        self.rng, self.calls, self.number, self.forgotten = np.random.default_rng(order), {}, 0, []

    def submit(self, z, step):
        self.number += 1
        self.calls[self.number] = z
        return self.number

    def finished(self, calls):
        call = int(self.rng.choice(sorted(calls)))
        try:
            return call, self(self.calls.pop(call), 0)
        except Exception as error:
            return call, error

    def forget(self, calls):
        self.forgotten += calls


def run(evaluator, folder=None, name="ga", evaluations=100, **options):
    made = gfo.optimizers.make(name, domain=gfo.Domain.unbounded(D), seed=0, population=8)
    budget = gfo.Budget(evaluations=evaluations)
    options = {"dev_every": 4, "out": folder, "asynchronous": True, **options}
    return gfo.minimize(made, evaluator, budget=budget, **options)


@pytest.mark.parametrize("name", METHODS)
def test_all_events_are_in_the_history(name):
    result = run(Jumbled(), None, name, evaluations=50)
    steps = list(result.history)
    assert sum(len(step.loss) for step in steps) == result.cost.candidates == 50  # to the last one
    assert sorted(step.part for step in steps) == list(range(len(steps)))
    assert [step.part for step in steps] != list(range(len(steps)))
    asked = [step.asked for step in steps]
    assert asked[0] == 4
    assert asked == sorted(asked)
    assert all(step.part < step.asked for step in steps)
    assert result.stopped == "budget: 50 of 50 evaluations spent"
    assert result.loss == min(min(step.loss) for step in steps)


@pytest.mark.parametrize(("name", "cut"), [("de", 1), ("ga", 7), ("pso", 16), ("optuna:tpe", 9)])
def test_resumed_it_repeats_what_was(tmp_path, name, cut):
    """Cut at any step, and with another order from there, as with other workers."""
    whole = run(Jumbled(), tmp_path, name, evaluations=50)
    lines = (tmp_path / HISTORY).read_text().splitlines(keepends=True)
    (tmp_path / HISTORY).write_text("".join(lines[:cut]))
    resumed = run(Jumbled(order=cut, at_once=2), tmp_path, name, evaluations=50, resume=True)
    assert same(resumed.history.trajectory()[:cut], whole.history.trajectory()[:cut])
    assert sorted(step.part for step in resumed.history) == sorted(step.part for step in whole.history)
    again = run(Jumbled(), tmp_path, name, evaluations=50, resume=True)  # all of it again
    assert same(again.history.trajectory(), resumed.history.trajectory())
    np.testing.assert_array_equal(again.z, resumed.z)


def same(a, b):
    """Whether two histories are equal, without the long words of an assertion."""
    return a == b


def test_a_larger_budget_lets_it_go_on(tmp_path):
    run(Jumbled(), tmp_path, evaluations=50)
    result = run(Jumbled(), tmp_path, evaluations=80, resume=True)
    assert result.cost.candidates == 80
    with pytest.raises(gfo.GfoError, match="asynchronous = True, not None"):
        run(Jumbled(), tmp_path, evaluations=50, resume=True, asynchronous=False)


def test_a_target_ends_it_at_once():
    evaluator = Jumbled()
    result = run(evaluator, callbacks=[gfo.StopOnTarget(1e9)])
    assert len(result.history) == 1
    assert len(evaluator.forgotten) == 3


def test_a_failed_candidate_is_a_nan():
    class Fails(Jumbled):
        def __call__(self, z, step):
            if (z[:, 0] > 1).any():
                raise ArithmeticError("too far out")
            return super().__call__(z, step)

    with pytest.warns(gfo.GfoWarning, match="too far out"):
        result = run(Fails(), name="random")
    failed = sum(step.failed for step in result.history)
    assert 0 < failed == result.failed < 50
    assert result.cost.candidates == 100


def test_repaired_points_are_told():
    class Even(Jumbled):
        def repair(self, z):
            return np.round(z * 2) / 2

    result = run(Even(), name="pso")
    assert (result.z * 2 == np.round(result.z * 2)).all()


class OneByOne(on_workers.Bowl):
    pass


class Differing(Jumbled):
    batches_differ = True


@pytest.mark.parametrize(
    ("evaluator", "options", "words"),
    [
        (
            Jumbled(),
            {"name": "cma"},
            "optimizer 'cma' waits for whole steps; take de, ga, optuna:<name>, pso",
        ),
        (OneByOne(), {}, "a OneByOne evaluates one call at a time; give gfo.Workers"),
        (Differing(), {}, "asynchronous: parts would be of different batches"),
        (Jumbled(), {"memo": True}, "memo = True: what is under way"),
    ],
)
def test_refusals(evaluator, options, words):
    with pytest.raises(gfo.GfoError, match=words):
        run(evaluator, **options)


def test_a_sleeping_worker_does_not_stop_it(monkeypatch, tmp_path):
    """It would sleep an hour a part."""
    monkeypatch.setenv(on_workers.MARK, str(tmp_path / "mark"))
    monkeypatch.setenv(on_workers.SECONDS, "3600")
    with gfo.Workers(on_workers.uneven, 3, part=2, threads=1) as workers:
        while len(workers.pool.ready) < 3:
            workers.pool._listen()  # a message might go to the one that sleeps
        result = run(workers, tmp_path / "run", evaluations=61)
        assert result.cost.candidates == 61
        assert sorted(step.part for step in result.history) == list(range(31))
        resumed = run(workers, tmp_path / "run", evaluations=80, resume=True)
    assert same(resumed.history.trajectory()[:31], result.history.trajectory())
    assert resumed.cost.candidates == 80


def test_scores_and_costs_are_the_evaluators():
    class Costly(Jumbled):
        def score(self, z, split):
            return Scores({"loss": np.zeros(len(z)), "near": np.ones(len(z))}, Cost(len(z), 7))

        def __call__(self, z, step):
            found = super().__call__(z, step)
            return Evaluation(found.loss, Cost(len(z), 100))

    result = run(Costly(), evaluations=30)
    assert result.cost.forward_tokens == 100 * 10
    assert result.scoring.forward_tokens == 7 * result.scoring.candidates
