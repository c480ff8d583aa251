"""Numbers that a step gives beside the loss: measures of the space, and metrics of the task."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError, check_name
from gfo.core.metric import LOSS
from gfo.core.protocols import BoundTask, Measuring


def measuring_of(space: object) -> Measuring | None:
    """The space, if it measures points."""
    return space if isinstance(space, Measuring) else None


def measured(measuring: Measuring | None, z: Array) -> dict[str, Array]:
    """What a space measures of points z [K, d]; nothing without one that does."""
    return {} if measuring is None else dict(measuring.measure(z))


def scored_values(
    names: Sequence[str], task: BoundTask, measuring: Measuring | None, domain: Domain
) -> tuple[str, ...]:
    """Those of the names that are metrics of the task, but the loss.

    Raises:
        GfoError: for a name that is neither one nor a measure of the space.
    """
    if not names:
        return ()
    measures = measured(measuring, domain.clip(np.zeros((1, domain.d))))
    metrics = {metric.name: None for metric in task.metrics}
    for name in names:
        check_name("objective or limit", name, metrics | dict.fromkeys(measures))
    scored = metrics.keys() - measures.keys() - {LOSS.name}
    return tuple(name for name in names if name in scored)


def points_of(z: Array, d: int) -> Array:
    """Points z [K, d] as float64; raises GfoError for another shape."""
    z = np.asarray(z, dtype=np.float64)
    if z.ndim != 2 or z.shape[1] != d:
        raise GfoError(f"z has the shape {z.shape}; the evaluator takes (K, {d})")
    return z
