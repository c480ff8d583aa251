"""The batches that a batch is made of."""

from __future__ import annotations

from gfo.core.protocols import Batch, Batches, BoundTask


def parts_of(batch: Batch | Batches) -> list[Batch]:
    """The batches of a task made of tasks, in their order; of any other its one."""
    return [batch] if isinstance(batch, Batch) else [b for part in batch.parts for b in parts_of(part)]


def training_rows(task: BoundTask) -> int:
    """How many rows a step of the training split has."""
    return sum(len(part.target) for part in parts_of(task.batch("train", 0)))


def batches_differ(task: BoundTask) -> bool:
    """Whether each step has rows of its own."""
    return not all(part.recurs for part in parts_of(task.batch("train", 0)))
