"""Every kind of evaluator passes the contract, which catches broken ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import gfo
from gfo.core.errors import GfoError
from gfo.core.metric import LOSS, Metric
from gfo.core.protocols import Cost, Evaluation, RowTask, Scores
from gfo.run.evaluate import FunctionEvaluator
from gfo.testing import EVALUATOR_CHECKS, check_evaluator, tiny_model
from gfo.testing.evaluator_contract import Setting

D = 6
Z = np.random.default_rng(0).standard_normal((4, D))


def rows(words):
    return [
        {
            "text": f"the film was {word} " * n,
            "label": "good" if n % 2 else "bad",
            "options": ["good", "not bad"],
            "answer": n % 2,
        }
        for n, word in enumerate(words, 1)
    ]


ROWS, DEV = rows(("dull", "fine", "a joy", "too long", "short")), rows(("slow", "kind", "right"))
LABELS = {"bad": " bad", "good": " good"}


@pytest.fixture(scope="module")
def model():
    return tiny_model()


class WithRows(gfo.Classification):
    """A classification that tells its rows one by one."""

    def bind(self, tokenizer):
        bound = super().bind(tokenizer)

        def row_scores(answers, batch):
            right = np.array(batch.target)
            log_p = bound.scores(answers, batch).double().log_softmax(dim=-1).numpy()
            said = log_p.argmax(axis=-1)
            rows = np.take_along_axis(log_p, np.broadcast_to(right, said.shape)[..., None], axis=-1)[..., 0]
            failed = np.isnan(rows)
            return {"loss": -rows, "accuracy": np.where(failed, np.nan, said == right)}

        bound.row_scores = row_scores
        bound.row_losses = lambda answers, batch: row_scores(answers, batch)["loss"]
        return bound


def classification(kind=gfo.Classification, template="{text}{soft} It was", **options):
    return kind(ROWS, DEV, template=template, labels=LABELS, **options)


def weighted():
    parts = [classification(), gfo.LanguageModeling(ROWS, DEV, template="{soft}{text}")]
    return gfo.Weighted([(parts[0], 1.0), (parts[1], 0.5)])


TASKS = {
    "text first": classification,
    "prompt first, batches": lambda: classification(template="{soft}{text} It was", batch_size=3),
    "rows": lambda: classification(WithRows),
    "error": lambda: classification(loss="accuracy+ce"),
    "options": lambda: gfo.MultipleChoice(
        ROWS, DEV, template="{text}{soft} It is", options="options", label_field="answer", normalize="mean"
    ),
    "language": lambda: gfo.LanguageModeling(ROWS, DEV, template="{soft}{text}"),
    "teacher": lambda: gfo.Distillation(
        ROWS, DEV, template="{text}{soft} It was", teacher_template="A film: {text} It was"
    ),
    "weighted": weighted,
}


@pytest.mark.parametrize("name", TASKS)
def test_a_local_evaluator_passes(model, name):
    task = TASKS[name]()

    def factory():
        return gfo.LocalEvaluator(model, task, gfo.SoftPrompt(model, tokens=3, dim=D, alpha=8.0))

    check_evaluator(factory, Z, splits=("train", "dev"))


def test_rows_come_with_losses(model):
    space = gfo.SoftPrompt(model, tokens=3, dim=D)
    evaluator = gfo.LocalEvaluator(model, classification(WithRows), space)
    assert isinstance(evaluator.task, RowTask)
    plain = gfo.LocalEvaluator(model, classification(), space)
    found, expected = evaluator(Z, 0), plain(Z, 0)
    assert found.rows.shape == (len(Z), len(ROWS))
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-5)
    assert found.rows.shape == expected.rows.shape
    assert not np.array_equal(found.rows, expected.rows)  # its own, in float64
    scored = evaluator.score(Z, "dev")
    assert sorted(scored.rows) == ["accuracy", "loss"]
    np.testing.assert_allclose(scored.rows["accuracy"].mean(axis=1), scored.metrics["accuracy"])
    broken = evaluator(np.where(np.arange(len(Z))[:, None] == 1, np.nan, Z), 0)
    assert np.isnan(broken.rows[1]).all()
    np.testing.assert_allclose(broken.rows[2], found.rows[2], rtol=1e-4)


class Sound:
    """Two rows: a sphere, and the sphere elsewhere."""

    metrics = (LOSS, Metric("near"))

    def __call__(self, z, step):
        rows = np.stack([((z - 1) ** 2).sum(axis=1), ((z + 2) ** 2).sum(axis=1)], axis=1)
        return Evaluation(rows.mean(axis=1), Cost(len(z), 10 * len(z)), {"size": z[:, 0]}, rows)

    def score(self, z, split):
        if split != "train":
            raise GfoError(f"split '{split}': there is train alone")
        found = self(z, 0)
        return Scores({"loss": found.loss, "near": -found.loss}, found.cost, {"loss": found.rows})


def test_sound_ones_pass():
    check_evaluator(Sound, Z)
    check_evaluator(lambda: FunctionEvaluator(lambda z: (z**2).sum(axis=1)), Z)


class Column(Sound):
    def __call__(self, z, step):
        found = super().__call__(z, step)
        return replace(found, loss=found.loss[:, None])


class SinglePrecision(Sound):
    def __call__(self, z, step):
        found = super().__call__(z, step)
        return replace(found, loss=found.loss.astype(np.float32))


class FlatValues(Sound):
    def __call__(self, z, step):
        return replace(super().__call__(z, step), values={"size": 1.0})


class WritesIntoPoints(Sound):
    def __call__(self, z, step):
        z -= z.mean()
        return super().__call__(z, step)


class Draws(Sound):
    rng = np.random.default_rng(0)

    def __call__(self, z, step):
        found = super().__call__(z, step)
        return replace(found, loss=found.loss + self.rng.random())


class Remembers(Sound):
    last = 0.0

    def __call__(self, z, step):
        found = super().__call__(z + self.last, step)
        self.last = z[-1, 0] * 0.1
        return found


class DependsOnPopulation(Sound):
    def __call__(self, z, step):
        found = super().__call__(z, step)
        return replace(found, loss=found.loss - found.loss.mean())


class Sorts(Sound):
    def __call__(self, z, step):
        found = super().__call__(z, step)
        return replace(found, loss=np.sort(found.loss))


class Deaf(Sound):
    def __call__(self, z, step):
        return super().__call__(0 * z, step)


class FailureSpreads(Sound):
    def __call__(self, z, step):
        found = super().__call__(z, step)
        return found if np.isfinite(z).all() else replace(found, loss=np.full(len(z), np.nan))


class FailureIsHidden(Sound):
    def __call__(self, z, step):
        found = super().__call__(z, step)
        return replace(found, loss=np.nan_to_num(found.loss, nan=9.0))


class CountsOnce(Sound):
    def __call__(self, z, step):
        return replace(super().__call__(z, step), cost=Cost(1))


class CountsAll(Sound):
    paid = Cost()

    def __call__(self, z, step):
        found = super().__call__(z, step)
        self.paid = self.paid + Cost(0, found.cost.forward_tokens)
        return replace(found, cost=Cost(len(z), self.paid.forward_tokens))


class MoreMetrics(Sound):
    metrics = (LOSS,)


class AnySplit(Sound):
    def score(self, z, split):
        return super().score(z, "train")


class RowsOfAnother(Sound):
    def __call__(self, z, step):
        found = super().__call__(z, step)
        return replace(found, rows=found.rows[:, :1])


class ScoresRowsOfAnother(Sound):
    def score(self, z, split):
        scored = super().score(z, split)
        return replace(scored, rows={"near": scored.rows["loss"]})


class Settles(Sound):
    size = 0.0

    def __init__(self):
        Settles.size += 1.0
        self.own = Settles.size

    def __call__(self, z, step):
        found = super().__call__(z, step)
        return replace(found, loss=found.loss + 1e-9 * self.own)

    def settings(self):
        return {"own": self.own}

    def use(self, settings):
        pass


@pytest.mark.parametrize(
    ("broken", "check", "sentence"),
    [
        (Column, "shapes", r"float64 array \[4\]"),
        (SinglePrecision, "shapes", "float32"),
        (FlatValues, "shapes", "'size' must be"),
        (WritesIntoPoints, "shapes", "must not change the points"),
        (Draws, "determinism", "another loss the second time"),
        (Remembers, "determinism", "second time|evaluated before"),
        (DependsOnPopulation, "candidates", "than one by one"),
        (Sorts, "candidates", "one by one|in the order"),
        (Deaf, "candidates", "give points that differ"),
        (FailureSpreads, "failures", "changes the losses of others"),
        (FailureIsHidden, "failures", "must have the loss nan"),
        (CountsOnce, "cost", "must count 4 candidates"),
        (CountsAll, "cost", "not of all calls so far"),
        (MoreMetrics, "score", "must give loss, gives loss, near"),
        (AnySplit, "score", "unknown split must raise"),
        (RowsOfAnother, "rows", "mean of rows must be the loss"),
        (ScoresRowsOfAnother, "rows", "mean of 'near' must be the metric"),
        (Settles, "settings", "must take over"),
    ],
)
def test_a_broken_evaluator_is_caught(broken, check, sentence):
    with pytest.raises(AssertionError, match=sentence):
        EVALUATOR_CHECKS[check](Setting(broken, Z))
    EVALUATOR_CHECKS[check](Setting(Sound, Z))  # control


def test_too_few_points_are_refused():
    with pytest.raises(GfoError, match="z has 2 points"):
        check_evaluator(Sound, Z[:2])
