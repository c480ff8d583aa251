"""Which way is better is what the metric says, wherever it is asked: selecting, stopping, showing."""

from __future__ import annotations

import json

import numpy as np
import pytest

import gfo
from gfo.core.metric import LOSS
from gfo.core.protocols import Cost, Evaluation, Scores
from gfo.run.files import write_json
from gfo.run.selection import DevSelection, Selection

PERPLEXITIES = (2737.0, 2216.0, 1979.0, 1985.0, 1990.0, 29.0, 31.0)


class Told:
    """An evaluator whose dev scores are given in advance: the same series under every name."""

    def __init__(self, values=PERPLEXITIES, metrics=()):
        self.metrics = (LOSS, *metrics)
        self._values, self._reads = values, 0

    def __call__(self, z, step):
        return Evaluation((z**2).sum(axis=1), Cost(len(z)))

    def score(self, z, split):
        value = self._values[min(self._reads, len(self._values) - 1)]
        self._reads += 1
        return Scores({m.name: np.full(len(z), 1.0 if m == LOSS else value) for m in self.metrics})


def run(evaluator, steps=6, out=None, **options):
    optimizer = gfo.optimizers.make("cma", domain=gfo.Domain.unbounded(3), seed=1, population=4)
    budget = gfo.Budget(evaluations=4 * steps)
    return gfo.minimize(optimizer, evaluator, budget=budget, dev_every=1, out=out, **options)


DOWN = [
    gfo.Metric("perplexity", lower_is_better=True),
    gfo.Metric("task1.perplexity", lower_is_better=True),
    gfo.Metric("my error", lower_is_better=True),
    gfo.Metric("accuracy", lower_is_better=True),  # whatever it is called
]
UP = [gfo.Metric("accuracy", form="share"), gfo.Metric("perplexity"), gfo.Metric("ce", form="nats")]


@pytest.mark.parametrize("metric", DOWN, ids=lambda m: m.name)
def test_what_is_to_be_low(metric):
    told = [
        run(Told(metrics=[metric]), **options)
        for options in (
            {"callbacks": [gfo.StopOnTarget(30, metric=metric.name)]},
            {"callbacks": [gfo.EarlyStopping(2, metric=metric.name)]},
            {"selection": Selection(metric=metric.name)},
        )
    ]
    target, early, selected = told
    assert target.history[-1].dev[metric.name] == 29.0
    assert target.stopped == f"target: dev {metric.name} 29 reached 30"
    # read before the first step: 2737; then 2216 and 1979 improve, 1985 and 1990 do not
    assert [step.dev[metric.name] for step in early.history] == list(PERPLEXITIES[1:5])
    assert early.stopped.startswith(f"early stopping: dev {metric.name}")
    assert selected.selection == f"the recommendation with the lowest dev {metric.name} of 7 snapshots"


@pytest.mark.parametrize("metric", UP, ids=lambda m: m.name)
def test_what_is_to_be_high(metric):
    """The control: the same numbers, read the other way."""
    target = run(Told(metrics=[metric]), callbacks=[gfo.StopOnTarget(30, metric=metric.name)])
    assert len(target.history) == 1
    early = run(Told(metrics=[metric]), callbacks=[gfo.EarlyStopping(2, metric=metric.name)])
    assert len(early.history) == 3
    selected = run(Told(metrics=[metric]), selection=Selection(metric=metric.name))
    assert selected.selection == f"the recommendation with the highest dev {metric.name} of 7 snapshots"


@pytest.mark.parametrize("metric", [*DOWN, *UP], ids=lambda m: f"{m.name}, {m.best_word}")
def test_the_snapshot_that_is_kept(metric):
    chosen = DevSelection(None, Selection(metric=metric.name), (LOSS, metric))
    for step, value in enumerate((3.0, np.nan, 2.0, 5.0, 2.0, 5.0)):
        chosen.repeat(np.full(2, step), step, {"loss": 1.0, metric.name: value}, Cost())
    assert chosen.best.step == (2 if metric.lower_is_better else 3)  # the first of equals


def test_an_evaluator_that_does_not_say():
    evaluator = Told(metrics=[gfo.Metric("near")])
    del evaluator.metrics
    evaluator.score = lambda z, split: Scores({"loss": np.ones(len(z)), "near": np.ones(len(z))})
    for options in (
        {"selection": Selection(metric="near")},
        {"callbacks": [gfo.StopOnTarget(1, metric="near")]},
    ):
        with pytest.raises(gfo.GfoError, match="'near': the evaluator does not say which way is better"):
            run(evaluator, **options)
    evaluator.metrics = (LOSS, gfo.Metric("near"))
    run(evaluator, selection=Selection(metric="near"))  # control


def test_ce_and_perplexity_of_tasks(tiny):
    """By a search: the lowest value of dev is what is kept, in Weighted, too."""
    model = tiny("llama")
    rows = [{"text": f"the food was {w}", "label": w[0]} for w in ("good", "bad", "great", "be")]
    dev = [{**row, "text": f"{row['text']}, I say"} for row in rows]
    words = {"g": " good", "b": " bad"}
    one = gfo.Classification(rows, dev, template="{text}{soft} It was", labels=words, loss="accuracy")
    documents = [{"text": "a terrible waste of time"}]
    two = gfo.LanguageModeling(documents, [{"text": "a great joy"}], window=8)
    for task, name in ((one, "ce"), (two, "perplexity"), (gfo.Weighted([(one, 1), (two, 1)]), "task1.ce")):
        result = gfo.tune(
            model,
            task,
            gfo.SoftPrompt(model, 2, 4),
            budget=gfo.Budget(evaluations=60),
            options={"population": 6, "sigma0": 1.0},
            dev_every=1,
            selection=Selection(metric=name),
            progress=False,
        )
        read = [step.dev[name] for step in result.history]
        start = result.evaluator.score(np.zeros((1, 4)), "dev").metrics[name][0]
        assert result.score("dev")[name] == pytest.approx(min(*read, start), rel=1e-6)
        assert max(read) > min(read)
        assert f"with the lowest dev {name}" in result.selection


def test_a_folder_says_what_its_metrics_are(tmp_path):
    metric = gfo.Metric("my error", lower_is_better=True, form="share")
    result = run(Told([0.5], [metric]), out=tmp_path / "run")
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    assert record["metrics"] == [LOSS.record(), metric.record()]
    assert record["metrics"][1] == {"name": "my error", "lower_is_better": True, "form": "share"}
    assert json.loads((tmp_path / "run" / "run.json").read_text())["metrics"] == record["metrics"]
    result.score("test")
    shown = str(gfo.compare([tmp_path / "run"]))
    assert "50.0%" in shown
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    del record["metrics"]  # as version 0.1.0 has it: a name that nobody knows is a number
    write_json(tmp_path / "run" / "result.json", record)
    assert "0.50" in str(gfo.compare([tmp_path / "run"]))
