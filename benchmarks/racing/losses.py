"""Losses of whole populations on all rows: what orders of rows are raced on without another forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import gfo
from benchmarks.shared import say
from gfo.core.domain import Array
from gfo.models.frozen import FrozenModel

STEPS, SEARCHED = 10, 16  # of the search for a later population, and its rows
TASKS: dict[str, dict[str, Any]] = {
    "sst2": {
        "template": "Review: {text}\nSentiment:",
        "labels": {"negative": " negative", "positive": " positive"},
    },
    "agnews": {
        "template": "News: {text}\nTopic:",
        "labels": {
            "World": " World",
            "Sports": " Sports",
            "Business": " Business",
            "Sci/Tech": [" Science", " Technology"],
        },
    },
}
Space = Callable[[FrozenModel], Any]
SPACES: dict[str, Space] = {
    "lora, read": lambda model: gfo.LoRASubspace(model, 200, layers="upper", begins="read"),
    "biases, last": lambda model: gfo.BiasSpace(model, 200, targets=["up_proj"], layers="last", alpha=1.0),
    "ia3, read": lambda model: gfo.Scaling(model, 200, method="ia3", layers=range(26, 30), begins="read"),
}


@dataclass(frozen=True)
class Population:
    """Candidates of one step, and what each has lost on each row.

    Attributes:
        task, space: names of TASKS and SPACES.
        when: "start", as `random` draws around it; "later", what `openai-es` asks for after STEPS steps.
        tokens: forward tokens that a candidate takes for a row.
        losses: float64 [K, B].
    """

    task: str
    space: str
    when: str
    tokens: float
    losses: Array

    @property
    def record(self) -> dict[str, Any]:
        """As plain values, a line of numbers for each candidate."""
        lines = [" ".join(f"{loss:.5f}" for loss in row) for row in self.losses]
        return {**self.name, "tokens": self.tokens, "losses": lines}

    @property
    def name(self) -> dict[str, str]:
        """What tells it from the others."""
        return {"task": self.task, "space": self.space, "when": self.when}

    @classmethod
    def of(cls, record: dict[str, Any]) -> Population:
        """That of a record."""
        losses = np.array([line.split() for line in record["losses"]], dtype=np.float64)
        return cls(**{**record, "losses": losses})


def populations(
    model: FrozenModel, data: Path, task: str, space: str, *, rows: int, candidates: int
) -> Iterator[Population]:
    """The two populations of a task and a space."""
    made = SPACES[space](model)
    evaluator = gfo.LocalEvaluator(model, task_of(data, task, rows), made)
    for when, name, steps in (("start", "random", 0), ("later", "openai-es", STEPS)):
        optimizer = gfo.optimizers.make(name, domain=made.domain, seed=0, population=candidates)
        some = gfo.LocalEvaluator(model, task_of(data, task, SEARCHED), made) if steps else evaluator
        for step in range(steps):
            z = optimizer.ask()
            optimizer.tell(z, some(z, step).loss)
        evaluator(optimizer.ask()[:1], 0)  # computes what is computed once
        found = evaluator(optimizer.ask(), 0)
        assert found.rows is not None
        tokens = found.cost.tokens_needed / found.rows.size
        say(f"{task}, {space}, {when}: {found.loss.min():.3f} to {found.loss.max():.3f}")
        yield Population(task, space, when, round(tokens, 4), np.asarray(found.rows, dtype=np.float64))


def task_of(data: Path, name: str, rows: int, *, shuffle: int = 0) -> gfo.Classification:
    """The first rows of a task's training file in a random order."""
    facts = TASKS[name]
    return gfo.Classification(
        data / name / "train.jsonl",
        template=facts["template"],
        labels=facts["labels"],
        label_field="label_text",
        limits={"train": rows},
        shuffle=shuffle,
    )
