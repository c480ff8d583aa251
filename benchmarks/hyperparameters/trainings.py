"""What is searched: LoRA on few rows of a task, or the committed curves of a grid.

A trial goes on where it stood, and is compared by its loss on dev at each rung. Its learning rate is planned
for the last rung.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import gfo
from benchmarks.halving.__main__ import EVERY, GRID, STEPS
from benchmarks.halving.__main__ import RESULTS as CURVES
from gfo.config.search import Pause
from gfo.core.hyperparameters import Hyperparameters, Int, Log
from gfo.evaluation.local import LocalEvaluator
from gfo.run.halving import ASHA
from gfo.run.trials import Outcome
from gfo.spaces.parts.unchanged import Unchanged

if TYPE_CHECKING:
    from gfo.models.frozen import FrozenModel

SPLITS = ("seed13", "seed21", "seed42")  # of the leaderboard
SPACE = {"lr": Log(1e-4, 1e-2), "batch_size": [2, 4, 8], "dropout": (0.0, 0.3), "rank": Int(1, 16)}
FULL_RUNS = 3  # that a search may cost


@dataclass(frozen=True)
class Setting:
    """A task of few rows.

    Attributes:
        rungs: forward tokens, those of backward passes counted; the last are those of a full run.
        template, labels: as of `gfo.Classification`.
    """

    rungs: tuple[int, ...]
    template: str
    labels: Mapping[str, str | list[str]]

    @property
    def halving(self) -> ASHA:
        """A third of the trials at a rung go on to the next."""
        return ASHA(self.rungs)


TASKS = {
    "sst2": Setting(
        (1_000, 3_000, 9_000),
        "Review: {text}\nSentiment:",
        {"negative": " negative", "positive": " positive"},
    ),
    "agnews": Setting(
        (1_500, 4_500, 13_500),
        "News: {text}\nTopic:",
        {
            "World": " World",
            "Sports": " Sports",
            "Business": " Business",
            "Sci/Tech": [" Science", " Technology"],
        },
    ),
}


class Training:
    """LoRA on a task's rows, as a trial of a search.

    Args:
        model: beside whose weights is trained.
        setting: the task.
        files: of its rows: train, dev and test.
        rows: split -> how many of its rows count, drawn by shuffling.
        seed: of rows and matrices.
    """

    def __init__(
        self,
        model: FrozenModel,
        setting: Setting,
        files: Mapping[str, Path],
        rows: Mapping[str, int],
        seed: int,
    ) -> None:
        self._model, self._setting, self._files, self._rows, self._seed = model, setting, files, rows, seed

    def __call__(self, values: Mapping[str, Any], budget: int | None, folder: Path | None) -> Outcome:
        """Train, or go on, until the budget is spent.

        Raises:
            KeyboardInterrupt: if something else ends the run.
        """
        assert budget is not None
        assert folder is not None
        spent, scores = self.scored(values, budget, folder, "dev")
        return Outcome(scores["loss"], spent, scores)

    def scored(
        self, values: Mapping[str, Any], budget: int, folder: Path, split: str
    ) -> tuple[int, dict[str, float]]:
        """What a training took until the budget was spent, and what its weights get on a split."""
        pause = Pause("forward_tokens", budget)
        result = gfo.baselines.run(
            "lora",
            self._model,
            self._task(values["batch_size"]),
            options={key: value for key, value in values.items() if key != "batch_size"},
            budget=gfo.Budget(forward_tokens=self._setting.rungs[-1]),
            seed=self._seed,
            callbacks=[pause],
            progress=False,
            out=folder,
            resume=True,
        )
        if result.stopped == "interrupted" and not pause.reached:
            raise KeyboardInterrupt
        trained: Any = result.evaluator
        task = self._task(values["batch_size"], test=self._files[split], limits={"test": self._rows[split]})
        there = LocalEvaluator(trained.model, task, Unchanged(trained.model))
        scores = there.score(np.zeros((1, 1)), "test").metrics
        return result.cost.forward_tokens, {name: float(value[0]) for name, value in scores.items()}

    def _task(self, batch_size: int, **more: Any) -> gfo.Classification:
        """The task, by default without rows to be scored on, so that the weights are the last ones."""
        return gfo.Classification(
            self._files["train"],
            template=self._setting.template,
            labels=self._setting.labels,
            label_field="label_text",
            shuffle=0,
            batch_size=batch_size,
            seed=self._seed,
            **more,
        )


class Curves:
    """The trainings of benchmarks.halving, whose 64 curves are known: tokens are steps."""

    halving = ASHA([STEPS // 9, STEPS // 3, STEPS])
    space = Hyperparameters(GRID)

    def __init__(self) -> None:
        lines = json.loads((CURVES / "curves.json").read_text(encoding="utf-8"))["curves"]
        self._curves = {json.dumps(line["options"]): line["dev"] for line in lines}

    def __call__(self, values: Mapping[str, Any], budget: int | None, folder: Path | None) -> Outcome:
        """The curve at that step."""
        assert budget is not None
        return Outcome(self._curves[json.dumps(dict(values))][budget // EVERY - 1], budget)

    def rank(self, values: Mapping[str, Any]) -> int:
        """How many of the grid end lower than the training with these values."""
        ends = {key: curve[-1] for key, curve in self._curves.items()}
        return sum(end < ends[json.dumps(dict(values))] for end in ends.values())
