"""Standard errors of scores from their rows: by hand, kept in the folder, shown with n."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest

import gfo
from gfo.core.metric import LOSS
from gfo.core.protocols import Cost, Evaluation, Scores
from gfo.report.scores import SplitScores, recorded_scores, standard_error

ACCURACY = gfo.Metric("accuracy", form="share")
RIGHT = np.array([1.0, 1.0, 0.0, 1.0, 1.0])


class Rows:
    """An evaluator whose rows lose |z - row| and are right or wrong as given."""

    metrics = (LOSS, ACCURACY, gfo.Metric("corpus"))

    def __init__(self, rows=5):
        self.at = np.arange(rows) / 4

    def __call__(self, z, step):
        return Evaluation(self._losses(z).mean(axis=1), Cost(len(z)))

    def score(self, z, split):
        rows = {"loss": self._losses(z), "accuracy": np.tile(RIGHT[: len(self.at)], (len(z), 1))}
        means = {name: values.mean(axis=1) for name, values in rows.items()}
        return Scores({**means, "corpus": np.full(len(z), 7.0)}, rows=rows)

    def _losses(self, z):
        return abs(z[:, :1] - self.at)


def run(rows=5, out=None):
    optimizer = gfo.optimizers.make("cma", domain=gfo.Domain.unbounded(2), seed=1, population=4)
    return gfo.minimize(optimizer, Rows(rows), budget=gfo.Budget(evaluations=40), out=out)


def test_by_hand(tmp_path):
    result = run(out=tmp_path)
    scores = result.score("test")
    # 4 of 5 are right: the sample variance is 5 / 4 * 0.8 * 0.2
    assert scores.standard_errors["accuracy"] == pytest.approx(np.sqrt(0.2 / 5), rel=1e-12)
    losses = abs(result.z[0] - np.arange(5) / 4)
    by_hand = np.sqrt(((losses - losses.mean()) ** 2).sum() / 4) / np.sqrt(5)
    assert scores.standard_errors["loss"] == pytest.approx(by_hand, rel=1e-12)
    assert "corpus" not in scores.standard_errors
    assert scores == {"loss": losses.mean(), "accuracy": 0.8, "corpus": 7.0}  # a dict as any other
    assert scores.n == 5
    assert str(scores).endswith("accuracy 80.0% ± 20.0, corpus 7.00, n = 5")
    assert str(result).count("80.0% ± 20.0") == 2
    assert "± standard error over rows, test n = 5" in str(result)


def test_the_folder_keeps_them(tmp_path):
    result = run(out=tmp_path)
    result.score("test")
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["rows"] == {"test": 5}
    assert record["standard_errors"]["after"]["test"] == result.scores["after"]["test"].standard_errors
    again = recorded_scores(record)["after"]["test"]
    assert str(again) == str(result.scores["after"]["test"])
    resumed = gfo.minimize(
        gfo.optimizers.make("cma", domain=gfo.Domain.unbounded(2), seed=1, population=4),
        Rows(),
        budget=gfo.Budget(evaluations=40),
        out=tmp_path,
        resume=True,
    )
    assert str(resumed).splitlines()[1:4] == str(result).splitlines()[1:4]
    for name in ("standard_errors", "rows", "metrics"):  # as version 0.1.0 has it
        del record[name]
    old = recorded_scores(record)["after"]["test"]
    assert old == again
    assert old.n is None
    assert str(old) == f"loss {again['loss']:.4f}, accuracy 80.0%, corpus 7.00"


def test_pickled_and_copied():
    scores = run().score("test")
    for again in (pickle.loads(pickle.dumps(scores)), copy.deepcopy(scores)):
        assert again == scores
        assert (again.standard_errors, again.n, again.metrics) == (
            scores.standard_errors,
            scores.n,
            scores.metrics,
        )


def test_where_there_is_none():
    scores = run(rows=1).score("test")
    assert scores.standard_errors == {}
    assert str(scores).endswith("n = 1")
    assert np.isnan(standard_error(np.ones(1)))
    assert SplitScores({"loss": 1.0}).n is None


class Scored(gfo.LocalEvaluator):
    """With the rows of what it scores, as an evaluator is to have them."""

    def score(self, z, split):
        scores, batch = super().score(z, split), self.task.all_rows(split)
        rows = self.task.row_scores(self.answers(z, batch), batch)
        return Scores(scores.metrics, scores.cost, rows)


def test_they_say_how_scores_of_other_rows_vary(tiny):
    """Drawn from many rows: the scores of draws vary by their standard error, not by half or twice."""
    model, rng = tiny("llama"), np.random.default_rng(0)
    words = ["good", "bad", "great", "terrible", "short", "long", "first", "last", "food", "time"]
    texts = {" ".join(rng.choice(words, 4)) for _ in range(600)}
    rows = [{"text": text, "label": "ab"[len(text) % 2]} for text in sorted(texts)]
    task = gfo.Classification(rows, template="{text} It was", labels={"a": " good", "b": " bad"})
    evaluator = Scored(model, task, gfo.BiasSpace(model, dim=3))
    values = evaluator.score(np.ones((1, 3)), "train").rows
    for name in ("loss", "accuracy"):
        draws = [rng.choice(values[name][0], 50, replace=False) for _ in range(300)]
        finite = np.sqrt(1 - 50 / len(rows))  # without replacement
        spread = np.std([draw.mean() for draw in draws]) / finite
        assert np.mean([standard_error(draw) for draw in draws]) == pytest.approx(spread, rel=0.15)
