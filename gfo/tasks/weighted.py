"""Several tasks at once: a weighted sum of their losses, and constraints with a penalty."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from gfo.core.checking import checked
from gfo.core.domain import Array
from gfo.core.errors import GfoError, unknown_name
from gfo.core.metric import LOSS, Metric
from gfo.core.protocols import Batches, BoundTask, RowTask, Task, Tokenizer
from gfo.core.recording import recorded
from gfo.tasks.parts.joining import joined
from gfo.tasks.parts.losses import as_array

if TYPE_CHECKING:
    from torch import Tensor


@checked
@dataclass(frozen=True)
class Constraint:
    """A bound on a metric of a task; what goes beyond it is added to the loss, times the penalty.

    The exact penalty function (Nocedal and Wright 2006, section 17.2): zero where the bound holds, and from
    some finite penalty on its minimum is that of the problem with the bound.

    Attributes:
        task: one of the weighted tasks, or another that takes part by the constraint alone.
        metric: "loss", or a metric that the task's scores have.
        most: the metric may not be higher.
        least: the metric may not be lower.
        penalty: loss per unit beyond the bound.

    Raises:
        GfoError: for no bound or two, or a penalty that is not positive.
    """

    task: Task
    metric: str = "loss"
    most: float | None = None
    least: float | None = None
    penalty: float = 1.0

    def __post_init__(self) -> None:
        if (self.most is None) == (self.least is None):
            raise GfoError(f"constraint on {self.metric}: give it either `most` or `least`")
        if not 0 < self.penalty < math.inf:
            raise GfoError(f"constraint on {self.metric}: penalty = {self.penalty} must be above 0")

    def excess(self, value: Any) -> Any:
        """How far metrics [K], a tensor or an array, are beyond the bound; 0 where it holds."""
        beyond = value - self.most if self.most is not None else self.least - value
        return beyond.clip(min=0)


@recorded
class Weighted:
    """A weighted sum of tasks: loss = sum of weight * loss + sum of penalty * excess over a bound.

    Args:
        tasks: tasks with their weights. A step's batch is made of one of each.
        constraints: bounds on metrics.
        names: of the tasks, in front of their metrics' names; task1, task2, ... by default. A task that is
            in constraints alone goes by constraint1, ...

    Raises:
        GfoError: for no tasks, a task twice, weights that are not positive, or names that are not one a task.
    """

    def __init__(
        self,
        tasks: Sequence[tuple[Task, float]],
        *,
        constraints: Sequence[Constraint] = (),
        names: Sequence[str] | None = None,
    ) -> None:
        self.names = _numbered("task", len(tasks)) if names is None else list(names)
        _check_parts(tasks, self.names)
        self.parts = [task for task, _ in tasks]
        self.weights = [float(weight) for _, weight in tasks]
        self.constraints = tuple(constraints)
        others = _beside(self.parts, constraints)
        self.names += _numbered("constraint", len(others))
        self.parts += others

    def joined(self) -> Self:
        """The same with tasks that have the rows of dev behind those of train.

        Raises:
            GfoError: for a task that does not join them, or has no dev rows.
        """
        found, by_part = copy.copy(self), {id(part): joined(part) for part in self.parts}
        found.parts = [by_part[id(part)] for part in self.parts]
        found.constraints = tuple(replace(each, task=by_part[id(each.task)]) for each in self.constraints)
        return found

    def bind(self, tokenizer: Tokenizer) -> BoundWeighted:
        """Tokenize all tasks for one model.

        Raises:
            GfoError: as the tasks; for no split that all have, or a metric that a task has not.
        """
        return BoundWeighted(self, tokenizer)


def _numbered(word: str, number: int) -> list[str]:
    """Names of so many tasks."""
    return [f"{word}{i}" for i in range(1, number + 1)]


def _beside(parts: Sequence[Task], constraints: Sequence[Constraint]) -> list[Task]:
    """The tasks that take part by constraints alone."""
    known = set(map(id, parts))
    tasks = {id(constraint.task): constraint.task for constraint in constraints}
    return [task for key, task in tasks.items() if key not in known]


def _check_parts(tasks: Sequence[tuple[Task, float]], names: Sequence[str]) -> None:
    """Raise GfoError for names, weights or tasks that cannot be used."""
    if not len(tasks):
        raise GfoError("tasks: there are none; give at least one with its weight")
    if len(names) != len(tasks) or len({*names} - {""}) < len(tasks):
        raise GfoError(f"names = {names}: give {len(tasks)} different names, one a task")
    _check_weights([weight for _, weight in tasks], names)
    if len({id(task) for task, _ in tasks}) < len(tasks):
        raise GfoError("tasks: one is there twice; add its weights up")


def _check_weights(weights: Sequence[float], names: Sequence[str]) -> None:
    """Raise GfoError for a weight that is not a number above 0."""
    for weight, name in zip(weights, names, strict=True):
        if not 0 < weight < math.inf:
            raise GfoError(f"weight = {weight} of {name} must be above 0; leave the task out instead")


class BoundWeighted:
    """Tasks that are tokens of one model, and what their losses weigh. It has the splits that all have."""

    def __init__(self, task: Weighted, tokenizer: Tokenizer) -> None:
        self._task = task
        self.parts: list[BoundTask] = [part.bind(tokenizer) for part in task.parts]
        self.splits = tuple(split for split in self.parts[0].splits if not self._lacking(split))
        if "train" not in self.splits:
            raise GfoError("tasks: not all have training rows; give each its own")
        places = list(map(id, task.parts))
        self._at = [places.index(id(constraint.task)) for constraint in task.constraints]

    def batch(self, split: str, step: int) -> Batches:
        """The rows of a step, of each task."""
        self._check(split)
        return Batches(tuple(part.batch(split, step) for part in self.parts))

    def all_rows(self, split: str) -> Batches:
        """The whole split, of each task.

        Raises:
            GfoError: if one of the tasks has no such split.
        """
        self._check(split)
        return Batches(tuple(part.all_rows(split) for part in self.parts))

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The joint loss, and each task's metrics as "NAME.METRIC"."""
        return (
            LOSS,
            *(
                metric.of_part(name)
                for name, part in zip(self._task.names, self.parts, strict=True)
                for metric in part.metrics
            ),
        )

    def loss(self, answers: Sequence[Any], batch: Batches) -> Tensor | Array:
        """The tasks' answers -> the joint loss [K]; differentiable where all of its terms are."""
        losses = self._losses(answers, batch)
        metrics = {i: self.parts[i].score(answers[i], batch.parts[i]) for i in self._scored}
        joint: Tensor | Array = self._joint(losses, metrics)
        return joint

    def score(self, answers: Sequence[Any], batch: Batches) -> dict[str, Array]:
        """The tasks' answers -> the joint loss, and each task's metrics as "NAME.METRIC", each [K]."""
        scores = [
            part.score(answer, rows)
            for part, answer, rows in zip(self.parts, answers, batch.parts, strict=True)
        ]
        joint = self._joint([found["loss"] for found in scores], dict(enumerate(scores)))
        return {"loss": as_array(joint), **self._named(scores)}

    def row_scores(self, answers: Sequence[Any], batch: Batches) -> dict[str, Array]:
        """The tasks' answers -> the rows' values [K, B], as "NAME.METRIC", and without constraints the joint
        loss of the rows of a number; none unless all tasks have as many rows, and values of them."""
        found = self._rows_of_parts(answers, batch)
        sizes = {rows.shape for scores in found for rows in scores.values()}
        if len(sizes) != 1 or not all(found):
            return {}
        return {**self._joint_rows(found), **self._named(found)}

    def _joint_rows(self, found: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        """The joint loss of the rows of a number, by its name; none with constraints, or a task without."""
        losses = [scores.get(LOSS.name) for scores in found]
        if self._task.constraints or any(loss is None for loss in losses):
            return {}
        return {LOSS.name: self._joint(losses, {})}

    def _rows_of_parts(self, answers: Sequence[Any], batch: Batches) -> list[dict[str, Array]]:
        """The rows' values of each task; none at all if one of the tasks has no values of rows."""
        tasks = [part for part in self.parts if isinstance(part, RowTask)]
        if len(tasks) < len(self.parts):
            return []
        return [
            task.row_scores(answer, rows)
            for task, answer, rows in zip(tasks, answers, batch.parts, strict=True)
        ]

    def _named(self, scores: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        """The metrics of each task, as "NAME.METRIC"."""
        return {
            f"{name}.{metric}": values
            for name, found in zip(self._task.names, scores, strict=True)
            for metric, values in found.items()
        }

    def row_losses(self, answers: Sequence[Any], batch: Batches) -> Array | None:
        """The tasks' answers -> the joint loss of the rows of a number, [K, B]; None as `row_scores` says."""
        if self._task.constraints:
            return None
        losses: list[Array] = []
        for part, answer, rows in zip(self.parts, answers, batch.parts, strict=True):
            found = part.row_losses(answer, rows) if isinstance(part, RowTask) else None
            if found is None or (losses and found.shape != losses[0].shape):
                return None
            losses.append(found)
        joint: Array = self._joint(losses, {})
        return joint

    def _losses(self, answers: Sequence[Any], batch: Batches) -> list[Any]:
        """The loss [K] of each task; arrays, unless all are tensors."""
        losses: list[Any] = [
            part.loss(answer, rows)
            for part, answer, rows in zip(self.parts, answers, batch.parts, strict=True)
        ]
        if self._scored or any(isinstance(loss, np.ndarray) for loss in losses):
            return list(map(as_array, losses))
        return losses

    @property
    def _scored(self) -> list[int]:
        """The numbers of the tasks with a bound on another metric than the loss."""
        bounds = zip(self._at, self._task.constraints, strict=True)
        return [i for i, constraint in bounds if constraint.metric != "loss"]

    def _joint(self, losses: Sequence[Any], metrics: dict[int, dict[str, Array]]) -> Any:
        """The weighted sum and the penalties, [K]."""
        joint = sum(weight * loss for weight, loss in zip(self._task.weights, losses, strict=False))
        for i, constraint in zip(self._at, self._task.constraints, strict=True):
            known = {**metrics.get(i, {}), "loss": losses[i]}
            if constraint.metric not in known:
                raise unknown_name(f"metric of {self._task.names[i]}", constraint.metric, metrics[i])
            joint = joint + constraint.penalty * constraint.excess(known[constraint.metric])
        return joint

    def _check(self, split: str) -> None:
        if lacking := self._lacking(split):
            raise GfoError(f"split '{split}': {', '.join(lacking)} has none; give it rows for {split}")

    def _lacking(self, split: str) -> list[str]:
        """Names of the tasks that do not have a split."""
        parts = zip(self._task.names, self.parts, strict=True)
        return [name for name, part in parts if split not in part.splits]
