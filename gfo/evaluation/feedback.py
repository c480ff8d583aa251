"""What became of single rows, in words, for a language model that is to write a better prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gfo.core.errors import GfoError
from gfo.core.protocols import Answers, Batch, BoundTask, RowTask, Tokens
from gfo.models.server.characters import readable

NO_FEEDBACK = "task: feedback on rows is of one task; take a part of gfo.Weighted alone"


@dataclass(frozen=True)
class RowFeedback:
    """A row of a candidate.

    Attributes:
        text: what the model was asked, prompt and all.
        output: what it answered.
        loss: of the row; nan where it failed.
        right: what would have been right.
    """

    text: str
    output: str
    loss: float
    right: str

    def record(self) -> dict[str, str]:
        """It in words, as GEPA's reflection reads it."""
        good = "This is right." if self.output.strip() == self.right.strip() else "This is not right."
        said = f"{good} The right answer is: {self.right}. The loss of this row is {self.loss:.3f}."
        return {"Inputs": self.text, "Generated Outputs": self.output, "Feedback": said}


def feedback_on(
    task: BoundTask,
    answers: Answers,
    batch: Batch,
    prompt: str,
    decode: Callable[[Sequence[Tokens]], list[str]],
) -> list[RowFeedback]:
    """The rows of one candidate, with its answers [1, B].

    Raises:
        GfoError: for a task whose loss is no mean of rows.
    """
    rows = task.row_losses(answers, batch) if isinstance(task, RowTask) else None
    if rows is None:
        raise GfoError(
            "task: its loss is no mean of rows, so that there is nothing to say of one; take ce or a metric"
        )
    fronts, backs = decode(batch.before), decode(batch.after)
    outputs, rights = _said(task, answers, batch, decode)
    texts = [readable(front + prompt + back) for front, back in zip(fronts, backs, strict=True)]
    return [
        RowFeedback(*each)
        for each in zip(texts, outputs, np.asarray(rows, dtype=float)[0].tolist(), rights, strict=False)
    ]


def _said(
    task: Any, answers: Answers, batch: Batch, decode: Callable[[Sequence[Tokens]], list[str]]
) -> tuple[list[str], list[str]]:
    """What the model answered, and what is right, of each row."""
    if batch.decoding is not None:
        outputs = ["" if row is None else task.answer_texts([row])[0] for row in answers[0]]
        return outputs, task.references(batch)
    scored = np.asarray(task.scores(answers, batch)[0])
    names = [[str(label) for label in getattr(task, "words", ())]] * len(batch.target)
    if not names[0]:
        names = [decode(some) for some in batch.endings]
    picked = np.nan_to_num(scored, nan=-np.inf).argmax(axis=-1)
    pairs = list(zip(names, picked, batch.target, strict=False))
    return [some[i].strip() for some, i, _ in pairs], [some[t].strip() for some, _, t in pairs]
