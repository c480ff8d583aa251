"""A point that was asked before is told the loss it had, at no cost, where that is what it would get."""

from __future__ import annotations

import numpy as np
import pytest

import gfo
from gfo.core.domain import Domain
from gfo.core.errors import GfoError
from gfo.core.protocols import Cost, Evaluation
from gfo.run.callbacks import Callback
from gfo.run.evaluate import FunctionEvaluator

BITS = 8
DOMAIN = Domain.box(np.zeros(BITS), np.ones(BITS), integer=np.ones(BITS, dtype=bool))


class Bits(FunctionEvaluator):
    """OneMax as a loss, which remembers what it was asked for; every third point fails."""

    batches_differ = False

    def __init__(self, fails=False):
        super().__init__(self.losses)
        object.__setattr__(self, "asked", [])
        object.__setattr__(self, "fails", fails)

    def losses(self, z):
        self.asked.extend(row.tobytes() for row in z)
        loss = BITS - z.sum(axis=1)
        return np.where(self.fails & (loss % 3 == 0), np.nan, loss)


def run(evaluator, optimizer="1+1-ea", evaluations=150, out=None, seed=1, **more):
    made = gfo.optimizers.make(optimizer, domain=DOMAIN, seed=seed)
    budget = gfo.Budget(evaluations=evaluations)
    return gfo.minimize(made, evaluator, budget=budget, out=out, **more)


def told(result):
    """The losses of each step, and what it had cost by then."""
    return [(step.loss, step.evaluations, step.known) for step in result.history]


@pytest.mark.parametrize("optimizer", ["1+1-ea", "sa", "random"])
def test_no_point_is_evaluated_twice(optimizer):
    once, again = Bits(), Bits()
    result = run(once, optimizer)
    assert len(set(once.asked)) == len(once.asked) == result.cost.candidates <= 150
    without = run(again, optimizer, memo=False)
    assert without.known == 0
    assert len(again.asked) == without.cost.candidates
    assert len(set(again.asked)) < len(again.asked)  # the control: points come again
    candidates = [len(step.loss) for step in result.history]
    assert result.known == sum(candidates) - result.cost.candidates > 0
    for a, b in zip(result.history, without.history, strict=False):  # what is told is what would be found
        assert a.loss == b.loss
    assert f"{result.known:,} candidates had been asked before" in str(result)
    assert result.summary()["known"] == result.known


def test_failed_points_are_asked_again():
    evaluator = Bits(fails=True)
    result = run(evaluator)
    finite = [point for point in evaluator.asked if (BITS - np.frombuffer(point).sum()) % 3]
    assert len(set(finite)) == len(finite) < len(evaluator.asked)
    assert result.known > 0


class Valued(Bits):
    """With another number beside the loss."""

    def __call__(self, z, step):
        values = {"ones": z.sum(axis=1)}
        return Evaluation(self.losses(z), Cost(candidates=len(z)), values)


def test_values_are_told_again():
    result = run(Valued())
    assert result.known > 0
    for step in result.history:
        np.testing.assert_array_equal(BITS - np.array(step.values["ones"]), step.loss)


@pytest.mark.parametrize("fails", [False, True])
def test_a_resumed_run_knows_what_it_knew(tmp_path, fails):
    class Stop(Callback):
        def step(self, run):
            if len(run.history) == 7:
                raise KeyboardInterrupt

    whole = run(Bits(fails), out=tmp_path / "whole")
    run(Bits(fails), out=tmp_path / "run", callbacks=[Stop()])
    evaluator = Bits(fails)
    resumed = run(evaluator, out=tmp_path / "run", resume=True)
    assert told(resumed) == told(whole)
    assert resumed.known == whole.known > 0
    assert len(evaluator.asked) < whole.cost.candidates
    off = run(Bits(fails), out=tmp_path / "off", memo=False, callbacks=[Stop()])
    assert len(off.history) == 7
    assert run(Bits(fails), out=tmp_path / "off", resume=True).known == 0  # as it began


def test_a_run_ends_when_there_is_nothing_new():
    domain = Domain.box(np.zeros(3), np.ones(3), integer=np.ones(3, dtype=bool))
    evaluator = Bits()
    optimizer = gfo.optimizers.make("ga", domain=domain, seed=1)
    result = gfo.minimize(optimizer, evaluator, budget=gfo.Budget(evaluations=100))
    assert len(evaluator.asked) == len(set(evaluator.asked)) <= 8
    assert result.stopped == "nothing new: all points of the last 100 steps had been asked before"


class Differing(Bits):
    batches_differ = True


def test_where_losses_may_differ_nothing_is_told_again():
    for evaluator in (Differing(), lambda z: BITS - z.sum(axis=1)):
        assert run(evaluator).known == 0
    assert run(lambda z: BITS - z.sum(axis=1), memo=True).known > 0
    with pytest.raises(GfoError, match="memo = True: losses of different steps are of different batches"):
        run(Differing(), memo=True)
    free = gfo.optimizers.make("snes", domain=Domain.unbounded(3), seed=1)
    assert gfo.minimize(free, Bits(), budget=gfo.Budget(evaluations=40)).known == 0


@pytest.mark.parametrize("batch_size", [None, 2])
def test_with_a_model(tiny, batch_size, tmp_path):
    """A prompt of words on all rows, and on batches that differ; stopped and resumed the same."""
    from gfo.testing.tiny import tiny_model

    model = tiny_model()
    rows = [{"text": f"{word} it was", "label": label} for word, label in zip("abcd", "xyxy", strict=True)]
    task = gfo.Classification(
        rows, rows, template="{soft}{text}", labels={"x": " good", "y": " bad"}, batch_size=batch_size
    )
    space = gfo.DiscretePrompt(model, 2, number=5)

    def search(out, budget):
        budget = gfo.Budget(evaluations=budget)
        given = {"optimizer": "random", "options": {"population": 6}, "budget": budget, "progress": False}
        return gfo.tune(model, task, space, out=tmp_path / out, resume=True, **given)

    whole = search("whole", 24)
    assert (whole.known > 0) == (batch_size is None)
    search("run", 12)
    assert told(search("run", 24)) == told(whole)
