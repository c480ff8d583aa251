"""Looks at the point that a run found: the losses around it, what the model writes there, its soft prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError
from gfo.core.protocols import Evaluation, Evaluator
from gfo.core.seeding import stream

if TYPE_CHECKING:
    from gfo.report.slices import Slice


def slice_of(
    evaluator: Evaluator,
    z: Array,
    domain: Domain | None,
    points: int,
    through: Array | None,
    split: str | None,
    seed: int,
) -> Slice:
    """The losses in the plane of start, z [d] and a third point; see `gfo.Result.plot_slice`."""
    from gfo.report.slices import Plane, take_slice

    def evaluate(z: Array) -> Evaluation:
        if split is None:
            return evaluator(z, 0)
        scored = evaluator.score(z, split)
        return Evaluation(scored.metrics["loss"], scored.cost)

    space = getattr(evaluator, "space", None)
    domain = domain or getattr(space, "domain", None) or Domain.unbounded(len(z))
    start = domain.clip(np.zeros(len(z)))
    return take_slice(evaluate, Plane.through(start, z, through, stream(seed, "slice")), domain, points)


def answers_of(judge: Evaluator, z: Array, split: str) -> dict[str, list[str]]:
    """What the model writes for each row of a split, before and after; see `gfo.Result.answers`."""
    evaluator: Any = judge
    task: Any = getattr(evaluator, "task", None)
    if not hasattr(task, "answer_texts"):
        raise GfoError("answers: in this task the model writes no text; gfo.Generation is one where it does")
    points = np.stack([np.zeros_like(z), z])
    found = dict(zip(("before", "after"), evaluator.answers(points, task.all_rows(split)), strict=True))
    for when, tokens in found.items():
        if tokens is None or any(row is None for row in tokens):
            raise GfoError(f"answers: the point {when} the search failed, or a row of it")
    return {when: task.answer_texts(tokens) for when, tokens in found.items()}


def predictions_of(judge: Evaluator, z: Array, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the model says of each of new rows at a point [d]; see `gfo.Result.predict`."""
    evaluator: Any = judge
    task: Any = getattr(evaluator, "task", None)
    if task is not None and not hasattr(evaluator, "answers"):
        raise GfoError("predict: a baseline on weights gives scores, no answers; take a run in a space")
    if not hasattr(task, "predictions"):
        what = type(judge if task is None else task).__name__
        raise GfoError(
            f"predict: {what} predicts nothing of a row; gfo.Classification, gfo.MultipleChoice and "
            "gfo.Generation do"
        )
    batch = task.batch_of(rows)
    found: list[dict[str, Any]] = task.predictions(evaluator.answers(z[None], batch), batch)
    return found


def soft_prompt_of(evaluator: Evaluator, z: Array) -> tuple[Any, Any]:
    """The soft prompt [P, D] at a point z [d], and the model."""
    import torch

    space, model = (getattr(evaluator, name, None) for name in ("space", "model"))
    delta = None
    if space is not None and model is not None:
        delta = space.decode(torch.from_numpy(z[None]).to(model.device))
    if delta is None or delta.prompt is None:
        raise GfoError("nearest_words: the space has no soft prompt; take SoftPrompt for one")
    return delta.prompt[0], model
