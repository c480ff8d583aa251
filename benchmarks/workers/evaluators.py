"""What the benchmark's workers make: in a module, as they are other processes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from gfo.core.domain import Array
from gfo.core.metric import LOSS
from gfo.core.protocols import Cost, Evaluation, Evaluator, Scores

DIM, TOKENS = 50, 8


def soft_prompts(name: str, rows: int) -> Evaluator:
    """Soft prompts of a model, on sentences that gfo brings along."""
    import gfo

    model = gfo.load_model(name, device="cpu")
    task = gfo.Classification(
        "gfo:sentiment/train.jsonl",
        template="Review: {text}\n{soft}Sentiment:",
        labels={"negative": " negative", "positive": " positive"},
        limits={"train": rows},
    )
    return gfo.LocalEvaluator(model, task, gfo.SoftPrompt(model, tokens=TOKENS, dim=DIM))


class Sleeper:
    """A sphere that takes its time.

    Args:
        seconds: of a call.
    """

    metrics = (LOSS,)
    batches_differ = False

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, z: Array, step: int) -> Evaluation:
        time.sleep(self.seconds)
        return Evaluation((z**2).sum(axis=1), Cost(len(z), seconds=self.seconds))

    def score(self, z: Array, split: str) -> Scores:
        """The same."""
        found = self(z, 0)
        return Scores({"loss": found.loss}, found.cost)


class Nothing:
    """Has the losses of rows at once.

    Args:
        rows: how many.
    """

    metrics = (LOSS,)
    batches_differ = False

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __call__(self, z: Array, step: int) -> Evaluation:
        rows = np.zeros((len(z), self.rows))
        return Evaluation(rows.mean(axis=1), Cost(len(z)), rows=rows)

    def score(self, z: Array, split: str) -> Scores:
        """The same."""
        found = self(z, 0)
        return Scores({"loss": found.loss}, found.cost)


def nothing(rows: int) -> Evaluator:
    """One whose calls are messages alone."""
    return Nothing(rows)


def sleeper(seconds: float, times: float, mark: Path) -> Evaluator:
    """One that sleeps; the first one, which makes the file `mark`, so many times as long as the others."""
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return Sleeper(seconds)
    return Sleeper(seconds * times)
