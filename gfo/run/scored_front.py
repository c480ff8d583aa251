"""The front of a run as its result: points chosen and scored on dev, to be shown, drawn and picked from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gfo.core.domain import Array
from gfo.core.errors import GfoError, check_name
from gfo.core.files import write_whole
from gfo.core.metric import Metric
from gfo.core.protocols import Cost, Evaluator, metrics_of
from gfo.report.scores import SplitScores, metrics_named
from gfo.report.tables import Table, Tabled
from gfo.run.files import point_checksum
from gfo.run.front import Front, as_losses
from gfo.run.history import plain_scores
from gfo.run.schema import GO_ON, RESULT, read_result
from gfo.run.stored import read_points

if TYPE_CHECKING:
    import pandas

    from gfo.report.figures import Figure

FRONT = "front.safetensors"
MOST = 100
"""Points of a front that are scored on dev; of more the most crowded are left out."""


@dataclass(repr=False)
class ScoredFront(Tabled):
    """Points that none other beats, the best in the first objective in front; shows itself as a table.

    With dev rows a point counts by its scores there, in objectives that the task scores, and points that
    another one beats on dev are left out. Measures of the space are what they are.

    Attributes:
        objectives: the M numbers, each to be as good as can be.
        z: the points [F, d].
        train: what they got in the search, [F, M].
        scores: their scores on dev; none without dev rows.
        notes: what was left out.
    """

    objectives: tuple[Metric, ...]
    z: Array
    train: Array
    scores: tuple[SplitScores, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, front: Front, evaluator: Evaluator) -> tuple[ScoredFront, Cost]:
        """The front of a search, chosen on dev if its points are to be, and what that took."""
        from gfo.optimizers.dominance import spread_out

        left = spread_out(front.losses, MOST)
        thinned = (f"{len(front.z):,} points; the {MOST} least crowded",) if len(left) < len(front.z) else ()
        found = cls(front.objectives, front.z[left], front.values[left], notes=thinned)
        if not front.dev:
            return found._ordered(), Cost()
        scored, metrics = evaluator.score(found.z, "dev"), metrics_of(evaluator)
        found.scores = tuple(SplitScores.of(scored, i, metrics) for i in range(len(left)))
        return found._chosen()._ordered(), scored.cost

    def _chosen(self) -> ScoredFront:
        """Those points that no other one beats on dev; all, if all fail there."""
        from gfo.optimizers.dominance import not_beaten

        losses = as_losses(self.objectives, self.values)
        good = np.flatnonzero(np.isfinite(losses).all(axis=1))
        kept = good[not_beaten(losses[good])] if len(good) else np.arange(len(losses))
        said = f"chosen on dev: {len(kept)} of {len(losses)} points, which no other one beats there"
        return replace(self._some(kept), notes=(*self.notes, said))

    def _ordered(self) -> ScoredFront:
        """The points with the best first objective in front."""
        first = as_losses(self.objectives, self.values)[:, 0]
        return self._some(np.argsort(first, kind="stable"))

    @property
    def values(self) -> Array:
        """What the objectives are, [F, M]: on dev where it scores them, else as in the search."""
        values = self.train.copy()
        for m, metric in enumerate(self.objectives):
            if self.scores and metric.name in self.scores[0]:
                values[:, m] = [scores[metric.name] for scores in self.scores]
        return values

    @property
    def knee(self) -> int | None:
        """The point furthest below the plane through the ends of the front; None where none lies below.

        Objectives are scaled to 0 to 1 over the front. Das (1999), doi:10.1007/BF01195985; Branke et al.
        (2004), doi:10.1007/978-3-540-30217-9_73.
        """
        losses = as_losses(self.objectives, self.values)
        width = np.ptp(losses, axis=0)
        if len(losses) < 3 or not (width > 0).all():
            return None
        below = 1 - ((losses - losses.min(axis=0)) / width).sum(axis=1)
        return int(below.argmax()) if below.max() > 1e-9 else None

    def pick(self, how: str | int | None, limits: Mapping[str, float]) -> int:
        """The number of a point: given, the knee's, or that of the best first objective within limits.

        Raises:
            GfoError: for a number that no point has, a front without a knee, an unknown objective, or limits
                that no point keeps to.
        """
        if (how is None) == (not limits):
            raise GfoError('pick: give "knee", the number of a point, or limits such as bytes=80e6')
        if how is None:
            return self._within(limits)
        if isinstance(how, str):
            check_name("choice of pick", how, ["knee"])
            if (knee := self.knee) is None:
                raise GfoError(
                    f"pick: the front of {len(self.z)} points has no knee; pick by limits or a number"
                )
            return knee
        if not 0 <= how < len(self.z):
            raise GfoError(f"pick: {how} is no point; they have the numbers 0 to {len(self.z) - 1}")
        return how

    def _within(self, limits: Mapping[str, float]) -> int:
        """The first point, which has the best first objective, that keeps to the limits."""
        from gfo.run.aims import Limit

        names = [metric.name for metric in self.objectives]
        kept = np.ones(len(self.z), dtype=bool)
        for name, value in limits.items():
            check_name("objective", name, names)
            m = names.index(name)
            limit = Limit(self.objectives[m], value)
            kept &= limit.violation(self.values[:, m]) == 0
            if not kept.any():
                losses = as_losses(self.objectives, self.values)[:, m]
                best = self.objectives[m].show(self.values[losses.argmin(), m])
                raise GfoError(
                    f"pick: no point has {limit}; the best {name} is {best}: allow for that, or search on"
                )
        return int(kept.argmax())

    def describe(self, i: int) -> str:
        """The objectives of point i in words."""
        return ", ".join(
            f"{metric.name} {metric.show(self.values[i, m])}" for m, metric in enumerate(self.objectives)
        )

    def plot(self, path: str | Path | None = None) -> Figure:
        """See `Result.plot_front`."""
        from gfo.report.fronts import plot_front

        searched = self.train if self.scores else None
        return plot_front(self.objectives, self.values, path, searched=searched, knee=self.knee)

    def table(self) -> Table:
        """A row for each point: its scores on dev, its objectives in the search, and which is the knee."""
        shown = {f"dev {m.name}": [scores.show(m) for scores in self.scores] for m in self._scored}
        for metric, column in zip(self.objectives, self.train.T, strict=True):
            shown[self._title(metric)] = [metric.show(value) for value in column]
        numbers = [f"{i} knee" if i == self.knee else str(i) for i in range(len(self.z))]
        names = ", ".join(metric.name for metric in self.objectives)
        said = f"front of {names}: {len(self.z)} points, none of which another one beats"
        return Table(("", *shown), tuple(zip(numbers, *shown.values(), strict=True)), (said, *self.notes))

    def to_pandas(self) -> pandas.DataFrame:
        """The table's columns as numbers, and whether a point is the knee."""
        import pandas

        columns: dict[str, Any] = {f"dev {m.name}": [s[m.name] for s in self.scores] for m in self._scored}
        for metric, column in zip(self.objectives, self.train.T, strict=True):
            columns[self._title(metric)] = column
        return pandas.DataFrame(columns | {"knee": np.arange(len(self.z)) == self.knee})

    @property
    def _scored(self) -> tuple[Metric, ...]:
        """What the points were scored on, on dev."""
        return metrics_named(self.scores[0].metrics, self.scores[0]) if self.scores else ()

    def _title(self, metric: Metric) -> str:
        """The column of an objective as the search had it."""
        return f"train {metric.name}" if metric in self._scored else metric.name

    def record(self) -> dict[str, Any]:
        """All but the points as plain values, for result.json."""
        return {
            "objectives": [metric.record() for metric in self.objectives],
            "values": self.train.tolist(),
            "scores": [plain_scores(scores) for scores in self.scores],
            "standard_errors": [plain_scores(scores.standard_errors) for scores in self.scores],
            "rows": self.scores[0].n if self.scores else None,
            "notes": list(self.notes),
            "knee": self.knee,
            "points": point_checksum(self.z),
        }

    def save(self, folder: Path) -> None:
        """Write the points into a run folder; the rest is in result.json."""
        from safetensors.numpy import save

        write_whole(folder / FRONT, save({"z": np.ascontiguousarray(self.z, dtype=np.float64)}))

    def _some(self, which: Array) -> ScoredFront:
        """Points of these numbers."""
        scores = tuple(self.scores[i] for i in which) if self.scores else ()
        return replace(self, z=self.z[which], train=self.train[which], scores=scores)


def load_front(folder: Path) -> ScoredFront:
    """The front in a run folder.

    Raises:
        GfoError: if there is none, or its points are others.
    """
    result = read_result(folder)
    facts = result.get("front")
    if not facts:
        raise GfoError(f"{folder} has no front; give the folder of a finished run of several objectives")
    objectives = tuple(Metric.of_record(metric) for metric in facts["objectives"])
    scores = _recorded(facts, tuple(Metric.of_record(metric) for metric in result.get("metrics", ())))
    z = read_points(folder, FRONT, GO_ON)
    train = np.array(facts["values"], dtype=np.float64)
    if point_checksum(z) != facts["points"] or train.shape != (len(z), len(objectives)):
        raise GfoError(f"{folder / FRONT} does not hold the points of {RESULT}, or was changed; {GO_ON}")
    return ScoredFront(objectives, z, train, scores, tuple(facts["notes"]))


def _recorded(facts: Mapping[str, Any], metrics: tuple[Metric, ...]) -> tuple[SplitScores, ...]:
    """The scores on dev that result.json has."""
    pairs = zip(facts["scores"], facts["standard_errors"], strict=True)
    return tuple(SplitScores(_numbers(s), _numbers(e), facts["rows"], metrics) for s, e in pairs)


def parsed_choice(choice: str) -> tuple[str | int | None, dict[str, float]]:
    """ "knee", a number, or limits "bytes=80e6,loss=0.5", as `Result.pick` takes them.

    Raises:
        GfoError: for limits that are no numbers.
    """
    if choice.isdecimal():
        return int(choice), {}
    if "=" not in choice:
        return choice, {}
    try:
        parts = (part.split("=") for part in choice.split(","))
        return None, {name.strip(): float(value) for name, value in parts}
    except ValueError:
        raise GfoError(
            f"--pick {choice}: give knee, the number of a point, or limits as bytes=80e6"
        ) from None


def _numbers(scores: Mapping[str, float | None]) -> dict[str, float]:
    """Scores, nan for those that JSON has not."""
    return {name: np.nan if value is None else value for name, value in scores.items()}
