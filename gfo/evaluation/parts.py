"""The batches that a batch is made of."""

from __future__ import annotations

from gfo.core.protocols import Batch, Batches


def parts_of(batch: Batch | Batches) -> list[Batch]:
    """The batches of a task made of tasks, in their order; of any other its one."""
    return [batch] if isinstance(batch, Batch) else [b for part in batch.parts for b in parts_of(part)]
