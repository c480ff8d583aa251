"""Several objectives, measures, repairs: what the optimizer is told, the front, going on to the bit."""

import json

import numpy as np
import pytest

import gfo
from gfo.core.metric import Metric
from gfo.core.objectives import MultiObjective
from gfo.core.protocols import Cost, Evaluation, Scores
from gfo.run.budget import Budget
from gfo.run.front import Front
from gfo.run.loop import minimize
from gfo.testing import tiny_model

D = 3


class Toy:
    """Random points around the best of a random objective; [K, M] losses decide nothing but where next."""

    def __init__(self, objectives=("loss", "bytes"), seed=0, d=D):
        self.objectives, self.domain = objectives, gfo.Domain.unbounded(d)
        self.rng, self.best, self.told = np.random.default_rng(seed), np.zeros(d), []

    def ask(self):
        return self.best + self.rng.standard_normal((6, self.domain.d))

    def tell(self, z, loss):
        self.told.append((z.copy(), loss.copy()))
        objective = loss[:, self.rng.integers(loss.shape[1])]
        if np.isfinite(objective).any():
            self.best = z[np.nanargmin(objective)].copy()

    def recommend(self):
        return self.best.copy()

    def should_stop(self):
        return None

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class Judge:
    """Loss and size pull apart; every seventh candidate fails in one of the two."""

    def __init__(self):
        self.calls = 0

    def __call__(self, z, step):
        self.calls += 1
        loss, size = ((z - 1) ** 2).sum(axis=1), ((z + 1) ** 2).sum(axis=1)
        loss[step % 7 : step % 7 + 1], size[(step + 1) % 7 : (step + 1) % 7 + 1] = np.nan, np.inf
        return Evaluation(loss, Cost(len(z)), {"bytes": size, "other": np.zeros(len(z))})

    def score(self, z, split):
        return Scores({"loss": self(z, 0).loss}, Cost(len(z)))

    def repair(self, z):
        return np.where(np.abs(z) > 2, np.sign(z) * 2, z)


def test_losses_come_by_name_and_rows_repaired():
    optimizer, evaluator = Toy(), Judge()
    result = minimize(optimizer, evaluator, budget=Budget(evaluations=60))
    assert isinstance(optimizer, MultiObjective)
    z, losses = (np.concatenate(some) for some in zip(*optimizer.told, strict=True))
    assert losses.shape == (60, 2)
    assert (np.abs(z) == 2).any()  # some were moved
    assert np.abs(z).max() == 2
    good = np.isfinite(losses).all(axis=1)
    assert 0 < (~good).sum() < 30
    assert np.isnan(losses[~good]).all()  # failed in one, failed in all
    np.testing.assert_allclose(losses[good, 0], ((z[good] - 1) ** 2).sum(axis=1))
    np.testing.assert_allclose(losses[good, 1], ((z[good] + 1) ** 2).sum(axis=1))
    front = result.found
    assert [metric.name for metric in front.objectives] == ["loss", "bytes"]
    beaten = [((losses <= one).all(1) & (losses < one).any(1)).any() for one in losses[good]]
    assert sorted(map(tuple, front.z)) == sorted(map(tuple, z[good][~np.array(beaten)]))
    assert 1 < len(front.z) < good.sum()
    swapped = Toy(("bytes", "loss"))
    minimize(swapped, Judge(), budget=Budget(evaluations=6))
    np.testing.assert_array_equal(swapped.told[0][1], optimizer.told[0][1][:, ::-1])


def test_a_recommendation_is_repaired_too():
    class Far(Toy):
        def recommend(self):
            return np.full(D, 9.0)

    assert minimize(Far(), Judge(), budget=Budget(evaluations=12)).z.tolist() == [2.0] * D


def test_one_objective_is_told_as_ever():
    result = minimize(
        gfo.optimizers.make("random", domain=gfo.Domain.unbounded(D), seed=0, population=6),
        Judge(),
        budget=Budget(evaluations=12),
    )
    assert result.found is None
    assert sorted(result.history[0].values) == ["bytes", "other"]


def test_an_unknown_objective_is_named():
    with pytest.raises(gfo.GfoError, match="unknown objective 'byte': did you mean 'bytes'"):
        minimize(Toy(("loss", "byte")), Judge(), budget=Budget(evaluations=12))


@pytest.mark.parametrize("stop", [6, 30, 42])
def test_a_run_goes_on_to_the_bit(tmp_path, stop):
    def run(out, evaluations, seed=0, **options):
        evaluator = Judge()
        budget = Budget(evaluations=evaluations)
        result = minimize(Toy(seed=seed), evaluator, budget=budget, out=out, **options)
        return evaluator.calls, result

    _, whole = run(tmp_path / "whole", 60)
    run(tmp_path / "parts", stop)
    calls, result = run(tmp_path / "parts", 60, resume=True)
    assert calls == (60 - stop) // 6  # nothing was evaluated again
    assert result.history.trajectory() == whole.history.trajectory()
    np.testing.assert_array_equal(result.z, whole.z)
    np.testing.assert_array_equal(result.found.z, whole.found.z)
    np.testing.assert_array_equal(result.found.values, whole.found.values)
    np.testing.assert_array_equal(result.front().z, whole.front().z)
    _, other = run(tmp_path / "other", 60, seed=1)
    assert not np.array_equal(other.z, whole.z)  # control
    lines = (tmp_path / "parts" / "history.jsonl").read_text().splitlines()
    assert json.loads(lines[1])["values"]["bytes"][2] is None  # inf there


def test_front():
    front = Front.empty((Metric("a", lower_is_better=True), Metric("b", lower_is_better=True)), 1)
    front.add(np.array([[0.0], [1], [2], [3]]), np.array([[1.0, 4], [2, 2], [2, 3], [np.nan, 0]]))
    assert front.z[:, 0].tolist() == [0, 1]
    front.add(np.array([[4.0], [5], [6]]), np.array([[2.0, 2], [1, 3], [3, 1]]))
    assert front.z[:, 0].tolist() == [1, 5, 6]  # 0 is beaten by 5; 4 equals 1, which was first
    assert front.losses.tolist() == [[2, 2], [1, 3], [3, 1]]


def spaced(model):
    class Measured(gfo.SoftPrompt):
        def measure(self, z):
            return {"norm": np.abs(z).sum(axis=1)}

        def repair(self, z):
            return np.clip(z, -0.5, 0.5)

    return Measured(model, tokens=2, dim=D)


def test_a_space_that_measures_and_repairs():
    model = tiny_model()
    rows = [{"text": f"film {i}", "label": "good" if i % 2 else "bad"} for i in range(4)]
    labels = {"bad": " bad", "good": " good"}
    task = gfo.Classification(rows, template="{text}{soft} is", labels=labels)
    evaluator = gfo.LocalEvaluator(model, task, spaced(model))
    plain = gfo.LocalEvaluator(model, task, gfo.SoftPrompt(model, tokens=2, dim=D))
    z = np.random.default_rng(0).normal(size=(4, D))
    found = evaluator(z, 0)
    inside = np.clip(z, -0.5, 0.5)
    np.testing.assert_array_equal(found.loss, plain(inside, 0).loss)
    assert not np.array_equal(found.loss, plain(z, 0).loss)
    np.testing.assert_array_equal(found.values["norm"], np.abs(inside).sum(axis=1))
    np.testing.assert_array_equal(
        evaluator.score(z, "train").metrics["loss"], plain.score(inside, "train").metrics["loss"]
    )
    optimizer = Toy(("loss", "norm"))
    result = minimize(optimizer, evaluator, budget=Budget(evaluations=12))
    assert max(np.abs(z).max() for z, _ in optimizer.told) == 0.5
    np.testing.assert_allclose(result.found.losses[:, 1], np.abs(result.found.z).sum(axis=1))
    assert not hasattr(plain, "repair")
