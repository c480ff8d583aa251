"""What a merge is to be compared with: each checkpoint, their mean, the best coefficient of one number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gfo.core.checking import checked
from gfo.core.domain import Array
from gfo.core.errors import GfoError
from gfo.core.metric import Metric
from gfo.core.protocols import Task
from gfo.evaluation.local import LocalEvaluator
from gfo.report.scores import SplitScores
from gfo.report.tables import Table, Tabled
from gfo.spaces.merge import Merge

if TYPE_CHECKING:
    from gfo.models.frozen import FrozenModel

SWEEP = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
MEAN, UNCHANGED, ALL = "mean", "unchanged", "all at"


@dataclass(repr=False)
class MergeControls(Tabled):
    """Scores of merges that need no search; shows itself as a table.

    Attributes:
        points: name -> the point [d]: "mean", each checkpoint's name, "all at V" (the best coefficient of one
            number), and "unchanged" where task vectors are merged.
        scores: name -> split -> metric -> value.
        sweep: the value of each coefficient that was tried -> its loss, or nothing.
        metrics: what is scored.
    """

    points: dict[str, Array]
    scores: dict[str, dict[str, SplitScores]]
    sweep: dict[float, float]
    metrics: tuple[Metric, ...]

    def table(self) -> Table:
        """A row for each."""
        splits = list(next(iter(self.scores.values())))
        header = ("", *(f"{split} {metric.name}" for split in splits for metric in self.metrics))
        rows = [
            (name, *(found[split].show(metric) for split in splits for metric in self.metrics))
            for name, found in self.scores.items()
        ]
        return Table(header, tuple(rows))


@checked
def merge_controls(
    model: FrozenModel,
    task: Task,
    space: Merge,
    *,
    splits: Sequence[str] | None = None,
    sweep: Sequence[float] = SWEEP,
    memory: int | None = None,
) -> MergeControls:
    """Score each checkpoint, their mean and the best coefficient of one number, which no search has to find.

    Merges of random adapters instead of those trained are one more control: see `gfo.random_adapter`.

    Args:
        model, task, space, memory: as in `gfo.tune`.
        splits: to score on; by default all but "train", or that where there is no other.
        sweep: values of the coefficient, of which the one with the lowest loss on "dev" (or "train") is
            taken; none is tried where the space has no such (`Merge.sweep`).

    Raises:
        GfoError: for a split that the task has not.
    """
    evaluator = LocalEvaluator(model, task, space, memory=memory)
    has = evaluator.task.splits
    splits = list(splits or [split for split in has if split != "train"] or has)
    points = {MEAN: np.zeros(space.dim)}
    points |= dict(zip(space.labels, space.parents(), strict=True))
    if space.starts_at_model:
        points[UNCHANGED] = space.sweep([0.0])[0]
    tried = {}
    if (among := _swept(space, sweep)) is not None:
        losses = evaluator.score(among, "dev" if "dev" in has else "train").metrics["loss"]
        tried = {float(value): float(loss) for value, loss in zip(sweep, losses, strict=True)}
        best = int(np.nanargmin(losses))
        points[f"{ALL} {sweep[best]:g}"] = among[best]
    z, metrics = np.stack(list(points.values())), evaluator.metrics
    scored = {split: evaluator.score(z, split) for split in splits}
    parts = [{split: SplitScores.of(scored[split], i, metrics) for split in splits} for i in range(len(z))]
    return MergeControls(points, dict(zip(points, parts, strict=True)), tried, tuple(metrics))


def _swept(space: Merge, values: Sequence[float]) -> Array | None:
    """The points of a sweep, or None where there is none."""
    if not len(values):
        return None
    try:
        return space.sweep(values)
    except GfoError:
        return None
