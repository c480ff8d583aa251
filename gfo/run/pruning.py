"""Ends runs inside a study of Optuna that others are better than: a study of spaces, options or seeds."""

from __future__ import annotations

from typing import Any

from gfo.core.checking import checked
from gfo.core.errors import GfoError, check_name
from gfo.core.metric import LOSS, named
from gfo.run.callbacks import Callback, Run


@checked
class OptunaPruning(Callback):
    """Reports to a trial of Optuna, by evaluations, and ends the run if the trial is to be pruned.

    The run ends in `optuna.TrialPruned`, which the study expects. Its folder keeps what there was till then::

        def objective(trial):
            dim = trial.suggest_int("dim", 50, 500)
            callbacks = [gfo.OptunaPruning(trial, metric="accuracy")]
            result = gfo.tune(model, task, gfo.SoftPrompt(model, 8, dim), budget=b, callbacks=callbacks)
            return max(step.dev["accuracy"] for step in result.history if step.dev)

        study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner())
        study.optimize(objective, n_trials=20)

    Args:
        trial: of Optuna, whose study has one objective.
        metric: of the scores on dev, reported when they are read; None for the lowest training loss, at each
            step.

    Raises:
        GfoError: if Optuna is not installed; in the run, for an unknown metric, a task without dev, or a
            study that goes the other way.
    """

    def __init__(self, trial: Any, *, metric: str | None = None) -> None:
        try:
            from optuna import TrialPruned
        except ImportError:
            raise GfoError("OptunaPruning: Optuna is not installed; pip install 'gfo-llm[optuna]'") from None
        self.trial, self.metric, self._pruned = trial, metric, TrialPruned

    def start(self, run: Run) -> None:
        wanted = LOSS
        if self.metric is not None:
            if run.selection is None:
                raise GfoError("OptunaPruning: a metric is read on dev; give the task dev rows")
            check_name("metric of OptunaPruning", self.metric, [metric.name for metric in run.metrics])
            wanted = named(self.metric, run.metrics)
        way = "minimize" if wanted.lower_is_better else "maximize"
        study = getattr(self.trial, "study", None)
        if study is not None and study.direction.name.lower() != way:
            raise GfoError(
                f"OptunaPruning: of {wanted.name} the {wanted.best_word} is best: "
                f"optuna.create_study(direction='{way}')"
            )

    def step(self, run: Run) -> str | None:
        """Report, where there is a value."""
        last = run.history[-1]
        value = last.best if self.metric is None else (last.dev or {}).get(self.metric)
        if value is not None:
            self.trial.report(value, last.evaluations)
            if self.trial.should_prune():
                raise self._pruned(f"pruned after {last.evaluations} evaluations")
        return None
