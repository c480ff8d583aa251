"""The rows of train and dev as one split, for a refit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gfo.core.errors import GfoError
from gfo.core.protocols import Task

JOINED = ("train", "dev")


def joined(task: Task) -> Task:
    """The same task with the rows of dev behind those of train, and no dev.

    Raises:
        GfoError: for a task that has no `joined`, or no dev rows of its own.
    """
    join = getattr(task, "joined", None)
    if join is None:
        raise GfoError(
            f"refit: a {type(task).__name__} does not join train and dev; give it a method joined, or leave "
            "refit out"
        )
    found: Task = join()
    return found


def joined_splits(by_split: Mapping[str, Any]) -> dict[str, Any]:
    """What there is of each split, a list or an array, that of dev behind that of train, and no dev; no train
    where one of the two has none."""
    others = {split: it for split, it in by_split.items() if split not in JOINED}
    if not set(JOINED) <= set(by_split):
        return others
    train, dev = (by_split[split] for split in JOINED)
    both = np.concatenate([train, dev]) if isinstance(train, np.ndarray) else [*train, *dev]
    return {"train": both, **others}
