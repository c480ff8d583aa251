"""`gfo.OptunaPruning` in a study, and a history as a table."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

import gfo
from gfo.core.errors import GfoError
from gfo.core.protocols import Cost, Evaluation, Scores

optuna = pytest.importorskip("optuna")
optuna.logging.set_verbosity(optuna.logging.ERROR)


class Sphere:
    """A sphere moved up, with a share that is high where the loss is low on dev."""

    metrics = (gfo.Metric("loss", lower_is_better=True, form="nats"), gfo.Metric("accuracy", form="share"))

    def __init__(self, height):
        self.height = height

    def __call__(self, z, step):
        return Evaluation((z**2).sum(axis=1) + self.height, Cost(len(z)))

    def score(self, z, split):
        loss = (z**2).sum(axis=1) + self.height
        return Scores({"loss": loss, "accuracy": 1 / (1 + loss)}, Cost(len(z)))


def run(trial, metric=None, **options):
    height = trial.number % 2
    optimizer = gfo.optimizers.make("snes", domain=gfo.Domain.unbounded(3), seed=trial.number, population=8)
    callbacks = [gfo.OptunaPruning(trial, metric=metric)]
    budget = gfo.Budget(evaluations=80)
    return gfo.minimize(optimizer, Sphere(height), budget=budget, callbacks=callbacks, **options)


@pytest.mark.parametrize(("metric", "way"), [(None, "minimize"), ("accuracy", "maximize")])
def test_runs_that_others_are_better_than_are_pruned(metric, way):
    kept = []

    def objective(trial):
        kept.append(run(trial, metric, dev_every=None if metric is None else 1))
        last = kept[-1].history[-1]
        return last.best if metric is None else last.dev[metric]

    pruner = optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=24)
    study = optuna.create_study(direction=way, pruner=pruner)
    study.optimize(objective, n_trials=4)
    states = [trial.state.name for trial in study.trials]
    assert states[0] == "COMPLETE"
    assert (states[1], states[3]) == ("PRUNED", "PRUNED")  # the high ones
    steps = study.trials[0].intermediate_values
    values = [s.best if metric is None else s.dev[metric] for s in kept[0].history]
    assert steps == dict(zip([s.evaluations for s in kept[0].history], values, strict=True))
    assert max(study.trials[1].intermediate_values) < 80


def test_a_study_that_goes_the_other_way_is_refused():
    study = optuna.create_study(direction="maximize")
    with pytest.raises(GfoError, match=r"the lowest is best: optuna.create_study"):
        run(study.ask())
    with pytest.raises(GfoError, match="did you mean 'accuracy'"):
        run(study.ask(), "acuracy", dev_every=1)
    with pytest.raises(GfoError, match="give the task dev rows"):
        run(study.ask(), "accuracy")


def test_a_history_is_a_table(tmp_path):
    history = run(optuna.create_study().ask(), dev_every=3).history
    frame = history.to_pandas()
    assert list(frame["best"]) == [step.best for step in history]
    assert np.isnan(frame["dev_loss"]).sum() == sum(step.dev is None for step in history) > 0
    rows = list(csv.DictReader(io.StringIO(history.to_csv(tmp_path / "steps.csv"))))
    assert [float(row["mean_loss"]) for row in rows] == pytest.approx(list(frame["mean_loss"]), rel=1e-5)
    assert history.to_latex().count(r"\\") == len(history) + 1
    assert r"dev\_accuracy" in history.to_latex()
