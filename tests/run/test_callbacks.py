"""What ends a run early, what writes logs, and a callback of the user's own; each on resumed runs too."""

import csv
import importlib.util
import inspect
import re

import numpy as np
import pytest

import gfo
from gfo.core.protocols import Cost, Evaluation, Scores
from gfo.run.callbacks import Callback


class Judge:
    """A sphere; dev has its optimum elsewhere, so that its loss falls and rises again."""

    def __call__(self, z, step):
        return Evaluation(((z - 2) ** 2).sum(axis=1), Cost(len(z), 10 * len(z), 9 * len(z)))

    def score(self, z, split):
        loss = ((z - 1) ** 2).sum(axis=1)
        return Scores({"loss": loss, "accuracy": 1 / (1 + loss)}, Cost(len(z)))


def run(evaluations=2000, dev_every=2, **options):
    optimizer = gfo.optimizers.make("cma", domain=gfo.Domain.unbounded(4), seed=1)
    budget = gfo.Budget(evaluations=evaluations)
    return gfo.minimize(optimizer, Judge(), budget=budget, dev_every=dev_every, **options)


def dev(result, metric):
    return [step.dev[metric] for step in result.history if step.dev]


@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_early_stopping_waits_as_often_as_said(metric):
    result = run(callbacks=[gfo.EarlyStopping(4, metric=metric)])
    assert result.stopped == f"early stopping: dev {metric} has not improved in 4 readings"
    values = [-v if metric == "loss" else v for v in dev(result, metric)]
    assert int(np.argmax(values)) == len(values) - 5
    longer = run(callbacks=[gfo.EarlyStopping(9, metric=metric)])
    assert len(longer.history) > len(result.history)


def test_early_stopping_can_ask_for_more():
    few = run(callbacks=[gfo.EarlyStopping(4, least=0.3)])
    assert len(few.history) < len(run(callbacks=[gfo.EarlyStopping(4)]).history)


@pytest.mark.parametrize(
    ("target", "metric", "reached"),
    [
        (0.5, None, lambda step: step.best <= 0.5),
        (1.5, "loss", lambda step: step.dev is not None and step.dev["loss"] <= 1.5),
        (0.4, "accuracy", lambda step: step.dev is not None and step.dev["accuracy"] >= 0.4),
    ],
)
def test_stop_on_target(target, metric, reached):
    result = run(callbacks=[gfo.StopOnTarget(target, metric=metric)])
    assert result.stopped.startswith(f"target: {'dev' if metric else 'training'} {metric or 'loss'}")
    assert [reached(step) for step in result.history].index(True) == len(result.history) - 1


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (lambda: gfo.EarlyStopping(0), {}, "patience = 0"),
        (lambda: gfo.StopOnTarget(np.nan), {}, "target = nan"),
        (lambda: gfo.EarlyStopping(3), {"dev_every": None}, "give the task dev rows"),
        (lambda: gfo.StopOnTarget(1, metric="loss"), {"dev_every": None}, "give the task dev rows"),
        (
            lambda: gfo.EarlyStopping(3, metric="acuracy"),
            {},
            "unknown stop metric 'acuracy': did you mean 'accuracy'",
        ),
    ],
)
def test_bad_stops(make, options, words):
    with pytest.raises(gfo.GfoError, match=words):
        run(callbacks=[make()], **options)


@pytest.mark.parametrize(
    "stop", [lambda: gfo.EarlyStopping(4), lambda: gfo.StopOnTarget(0.4, metric="accuracy")]
)
def test_resumed_runs_stop_where_the_uninterrupted_do(tmp_path, stop):
    whole = run(callbacks=[stop()])
    run(evaluations=8 * (len(whole.history) - 3), callbacks=[stop()], out=tmp_path)
    resumed = run(callbacks=[stop()], out=tmp_path, resume=True)
    assert resumed.history.trajectory() == whole.history.trajectory()
    again = run(callbacks=[stop()], out=tmp_path, resume=True)
    assert (again.stopped, len(again.history)) == (whole.stopped, len(whole.history))
    assert len(run(callbacks=[], out=tmp_path, resume=True).history) > len(whole.history)  # control


def test_a_table_for_spreadsheets_is_whole_after_a_stop(tmp_path):
    run(80, callbacks=[gfo.CSVLog(tmp_path / "log.csv")], out=tmp_path / "run")
    result = run(160, callbacks=[gfo.CSVLog(tmp_path / "log.csv")], out=tmp_path / "run", resume=True)
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == list(range(20))
    for row, step in zip(rows, result.history, strict=True):
        assert float(row["mean_loss"]) == step.mean_loss
        assert row["dev_accuracy"] == ("" if step.dev is None else str(step.dev["accuracy"]))
    with pytest.raises(gfo.GfoError, match="cannot write there"):
        run(80, callbacks=[gfo.CSVLog(tmp_path / "none" / "log.csv")])


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="an extra")
def test_tensorboard_shows_each_step_once(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(80, callbacks=[gfo.TensorBoard(tmp_path / "log")], out=tmp_path / "run")
    result = run(160, callbacks=[gfo.TensorBoard(tmp_path / "log")], out=tmp_path / "run", resume=True)
    events = EventAccumulator(str(tmp_path / "log"))
    events.Reload()
    found = events.Scalars("train/mean_loss")
    assert [event.step for event in found] == [step.evaluations for step in result.history]
    assert np.allclose([event.value for event in found], [step.mean_loss for step in result.history])
    assert len(events.Scalars("dev/accuracy")) == len(dev(result, "accuracy"))


def test_the_callback_of_the_docstring(tmp_path):
    code = re.search(
        r"^    class Path.*?(?=^    gfo\.minimize)", inspect.getdoc(Callback), flags=re.M | re.S
    ).group()
    names = {"gfo": gfo, "np": np}
    exec("\n".join(line[4:] for line in code.splitlines()), names)
    far = names["Path"]()
    assert run(160, callbacks=[far]).stopped.startswith("budget")
    assert len(far.points) == 20
    optimizer = gfo.optimizers.make("cma", domain=gfo.Domain.unbounded(4), seed=1)
    budget = gfo.Budget(evaluations=2000)
    result = gfo.minimize(optimizer, lambda z: z.sum(axis=1), budget=budget, callbacks=[names["Path"]()])
    assert result.stopped.startswith("too far out after")


def test_a_callback_sees_the_steps_before_the_stop(tmp_path):
    class Seen(Callback):
        def start(self, run):
            self.seen = []

        def step(self, run):
            self.seen.append((run.history[-1].step, run.optimizer.recommend().tobytes(), run.cost.candidates))

    whole, first, second = Seen(), Seen(), Seen()
    run(160, callbacks=[whole])
    run(80, callbacks=[first], out=tmp_path)
    run(160, callbacks=[second], out=tmp_path, resume=True)
    assert second.seen == whole.seen
    assert first.seen == whole.seen[:10]
