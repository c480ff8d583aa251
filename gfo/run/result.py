"""What a run found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gfo.core.checking import checked
from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError
from gfo.core.files import absolute, make_folder, write_whole
from gfo.core.metric import LOSS
from gfo.core.protocols import Cost, Evaluator, SearchSpace, Task
from gfo.core.recording import options_of, plain
from gfo.report.scores import SplitScores, recorded_scores, scores_record
from gfo.report.tables import Table, Tabled, scores_table
from gfo.run.budget import described
from gfo.run.environment import hardware, versions
from gfo.run.files import FORMAT, point_checksum, write_json
from gfo.run.history import HISTORY, History
from gfo.run.judge import Judge
from gfo.run.point import Point
from gfo.run.schema import RESULT, read_result
from gfo.run.scored_front import ScoredFront, load_front
from gfo.run.spread import spread_of
from gfo.run.stored import PLOT, POINT, REFIT, load_point, load_spread

if TYPE_CHECKING:
    from gfo.models.frozen import FrozenModel
    from gfo.report.figures import Figure
    from gfo.run.callbacks import Run
    from gfo.run.front import Front

COMPUTED = (
    "format", "scores", "standard_errors", "rows", "metrics", "prompt", "loss", "stopped", "selection",
    "steps", "point", "known", "failed", "limited", "front", "cost", "scoring_cost",
)  # fmt: skip
"""What result.json has of the result itself; the rest is its record."""


@dataclass(repr=False)
class Result(Tabled, Point):
    """The best point of a run, how it was found and what it cost; shows itself as a small table.

    Attributes:
        z: the result, float64 [d].
        judge: scores it: `evaluator`, made when it is first needed.
        history: every step.
        stopped: why the run ended, in words.
        selection: how z was chosen, in words.
        cost: of the search, and its refit; `scoring` is that of reading dev and test.
        scores: "before" (z = 0, the starting point) and "after" -> split -> metric -> value, with standard
            errors where the task has values of rows.
        record: what was run (seed, model, optimizer, config ...), as plain values for result.json.
        folder: the run folder, if there is one.
        domain: of the search; None takes the space's, or all of R^d.
        limited: how many candidates kept to the limits, in words; empty without limits.
        found: of several objectives, the candidates that none other beats in the search; None for one.
        chosen: what `front` gives, once it was asked for.
        spread: "std" and "covariance" of what the optimizer drew at the end, where it adapts them.
    """

    history: History
    stopped: str
    selection: str
    cost: Cost
    scoring: Cost
    scores: dict[str, dict[str, SplitScores]] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    domain: Domain | None = None
    limited: str = ""
    found: Front | None = None
    chosen: ScoredFront | None = None
    spread: dict[str, Array] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Run, stopped: str, record: Mapping[str, Any]) -> Result:
        """The result of a run that ended."""
        chosen = None if run.selection is None else run.selection.best
        how = "the last recommendation"
        if run.selection is not None and chosen is not None:
            how = run.selection.describe()
        scoring = Cost() if run.selection is None else run.selection.cost
        optimizer = run.optimizer
        facts: dict[str, Any] = {}
        if not {"optimizer", "baseline"} & set(record):  # a loop of the user's own
            name = getattr(optimizer, "name", type(optimizer).__name__)
            facts = {"optimizer": name, "d": optimizer.domain.d, "seed": getattr(optimizer, "seed", None)}
            facts |= {"options": options_of(optimizer), "evaluator": plain(run.evaluator)}
        more: dict[str, Any] = {"domain": optimizer.domain, "spread": spread_of(optimizer)}
        if run.aims is not None:
            facts |= run.aims.record()
            more |= {"found": run.aims.front, "limited": run.aims.describe(run.history, run.selection)}
        more["record"] = {**facts, **record}
        return cls(run.found, Judge.of(run.evaluator), run.history, stopped, how, run.cost, scoring, **more)

    @classmethod
    @checked
    def load(
        cls,
        folder: str | Path,
        model: FrozenModel | None = None,
        *,
        task: Task | None = None,
        space: SearchSpace | None = None,
        evaluator: Evaluator | None = None,
    ) -> Result:
        """The result in a run folder, which gives all that it gave when the run ended.

        Model and data are opened when something needs them, as scores of another split do, by the run's
        config. A run without one, as from a notebook, needs `model`, `task` and `space` for that.

        Args:
            folder, model: of a run that ended, or was interrupted; its model, if that is open already.
            task, space: in place of those that the config says, such as other test rows.
            evaluator: in place of all three.

        Raises:
            GfoError: for a folder without a result, or whose files were changed.
        """
        folder = absolute(folder, "Result.load: folder")
        then = read_result(folder)
        parts = {"model": model, "task": task, "space": space, "evaluator": evaluator}
        return cls(
            load_point(folder),
            Judge.stored(folder, then, parts),
            History.read(folder / HISTORY),
            then["stopped"],
            then.get("selection", ""),
            Cost(**then["cost"]),
            Cost(**then["scoring_cost"]),
            scores=recorded_scores(then),
            record={key: value for key, value in then.items() if key not in COMPUTED},
            folder=folder,
            limited=then.get("limited", ""),
            chosen=load_front(folder) if then.get("front") else None,
            spread=load_spread(folder),
        )

    @property
    def loss(self) -> float | None:
        """The lowest training loss of any candidate, None if all failed."""
        return self.history[-1].best if len(self.history) else None

    @property
    def known(self) -> int:
        """How many candidates had been asked before, and cost nothing."""
        return sum(step.known for step in self.history)

    @property
    def failed(self) -> int:
        """How many candidates of the search have no finite loss."""
        return sum(step.failed for step in self.history)

    @checked
    def score(self, split: str = "test") -> SplitScores:
        """Metrics of the result on a split; the starting point is scored with it.

        Both are kept in `scores`, and in the run folder if there is one.

        Returns:
            A dict of metric -> value, with `standard_errors` and the number `n` of rows.
        """
        points = np.stack([np.zeros_like(self.z), self.z])
        scored = self.evaluator.score(points, split)
        self.scoring += scored.cost
        for i, when in enumerate(("before", "after")):
            self.scores.setdefault(when, {})[split] = SplitScores.of(scored, i, self.metrics)
        if self.folder is not None:
            self._write_json(self.folder)
        return self.scores["after"][split]

    def front(self) -> ScoredFront:
        """Of several objectives: the points that none other beats, chosen and scored on dev if there is one.

        Raises:
            GfoError: for a run of one objective, or one in which no candidate kept to the limits.
        """
        if self.chosen is None:
            if not self.found:
                raise GfoError(f"front: the run {self._no_front()}{self.limited and f' ({self.limited})'}")
            self.chosen, cost = ScoredFront.of(self.found, self.evaluator)
            self.scoring += cost
            if self.folder is not None:
                self.chosen.save(self.folder)
                self._write_json(self.folder)
        return self.chosen

    def _no_front(self) -> str:
        """Why there is none, in words."""
        if not self.record.get("objectives"):
            return "had one objective; give gfo.tune objectives=[...]"
        return "ended before its front was chosen; go on with it" if self.found is None else "found none"

    @checked
    def plot_front(self, path: str | Path | None = None) -> Figure:
        """The front, its first two objectives as axes and a third as colour, with its knee."""
        return self.front().plot(path)

    @checked
    def pick(self, how: str | int | None = None, **limits: float) -> Result:
        """The result at another point of the front, to be scored and exported; it has no folder.

        Args:
            how: "knee", or the number of a point in `front()`.
            limits: in place of it, objectives that must have these values or better, such as `bytes=80e6`: of
                the points that do, the one of the best first objective.

        Raises:
            GfoError: if there is no such point.
        """
        front = self.front()
        i = front.pick(how, limits)
        scores = {"after": {"dev": front.scores[i]}} if front.scores else {}
        at = f"point {i} of the front, {front.describe(i)}"
        return replace(
            self,
            z=front.z[i].copy(),
            selection=at,
            scores=scores,
            folder=None,
            found=None,
            chosen=None,
            spread={},
        )

    @checked
    def plot(self, path: str | Path | None = None, *, x: str = "evaluations") -> Figure:
        """Training loss of the population, loss and score on dev, spread of the candidates.

        Args:
            path: where to save it, as PNG, PDF or SVG.
            x: "evaluations", "forward_tokens" or "seconds" (dev scoring included).

        Returns:
            The matplotlib figure.

        Raises:
            GfoError: for an unknown x, a run without a step, or a path that cannot be written.
        """
        from gfo.report.plots import plot_history

        return plot_history([asdict(step) for step in self.history], path, x=x, metrics=self.metrics)

    @checked
    def plot_slice(
        self,
        path: str | Path | None = None,
        *,
        points: int = 15,
        through: Array | None = None,
        split: str | None = None,
        seed: int = 0,
    ) -> Figure:
        """The loss in the plane of start, result and a third point: contours from points x points losses.

        It costs that many evaluations and two, in steps of `points`; the figure says what it took, and they
        are counted in `scoring`. The plane reaches half the way from start to result beyond both ends, and
        the whole way to both sides.

        Args:
            path: where to save it, as PNG, PDF or SVG.
            points: along each side.
            through: a third point [d] of the plane, such as another run's result; None takes a random
                direction, orthogonal to that from start to result.
            split: all rows of a split; None takes the training rows of step 0, for all points the same.
            seed: of the random direction.

        Returns:
            The matplotlib figure.

        Raises:
            GfoError: if the result is the start, for integer genes, fewer than 2 points, an unknown split,
                losses none of which is finite, or a path that cannot be written.
        """
        from gfo.run.views import slice_of

        found = slice_of(self.evaluator, self.z, self.domain, points, through, split, seed)
        self.scoring += found.cost
        return found.plot(path)

    def table(self) -> Table:
        """Scores before and after, cost, why the run ended and how the result was chosen."""
        notes = self._failures()
        if len(self.history):
            loss = "none was finite" if self.loss is None else f"{LOSS.show(self.loss)}, the lowest found"
            notes = [f"train loss: {loss}", *notes]
        for name, cost in self._costs().items():
            notes.append(f"{name + ':':<12}{described(cost)}")
        if self.known:
            notes.append(f"known:      {self.known:,} candidates had been asked before, and cost nothing")
        if self.limited:
            notes.append(f"limits:     {self.limited}")
        notes += [f"ended:      {self.stopped}", f"result:     {self.selection}"]
        if self.prompt is not None:
            notes.append(f"prompt:     {self.prompt!r}")
        if not self.scores:
            notes.append('not scored: result.score("test") reads the test rows')
        return scores_table(self.scores, list(self.scores.get("after", {})), notes)

    def _costs(self) -> dict[str, Cost]:
        """What each part of the run cost: a refit apart from the search."""
        refit = self.record.get(REFIT)
        searches = {"search": self.cost}
        if refit is not None:
            searches = {name: Cost(**refit[name]) for name in ("search", "refit")}
        return {**searches, "scoring": self.scoring}

    def _failures(self) -> list[str]:
        """How many candidates failed, as a line, if any did."""
        total = sum(len(step.loss) for step in self.history)
        return [f"failed:     {self.failed:,} of {total:,} candidates"] if self.failed else []

    def summary(self) -> dict[str, Any]:
        """Everything about the run but its steps, as JSON has it."""
        return {
            "format": FORMAT,
            **scores_record(self.scores),
            "metrics": [metric.record() for metric in self.metrics],
            **({} if self.prompt is None else {"prompt": self.prompt}),
            "loss": self.loss,
            "stopped": self.stopped,
            "selection": self.selection,
            "steps": len(self.history),
            "point": point_checksum(self.z),
            "known": self.known,
            "failed": self.failed,
            **({"limited": self.limited} if self.limited else {}),
            **({} if self.chosen is None else {"front": self.chosen.record()}),
            "cost": asdict(self.cost),
            "scoring_cost": asdict(self.scoring),
            **self.record,
            **({} if "date" in self.record else self._made()),
        }

    def _made(self) -> dict[str, Any]:
        """Where and when a run ended, which the record of one that was opened says."""
        return {
            "versions": versions(),
            "hardware": hardware(getattr(getattr(self.evaluator, "model", None), "device", None)),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    @checked
    def save(self, folder: str | Path) -> Path:
        """Write result.json, the best point and the plot into a folder, which becomes the run's.

        Raises:
            GfoError: if the folder cannot be written.
        """
        from safetensors.numpy import save

        folder = make_folder(absolute(folder))
        write_whole(folder / POINT, save({"z": np.asarray(self.z, dtype=np.float64), **self.spread}))
        self._write_json(folder)
        if len(self.history):
            self.plot(folder / PLOT)
        self.folder = folder
        return folder

    def recall(self, folder: Path) -> None:
        """Take over the scores in a run folder, if they are those of the same point after as many steps."""
        try:
            then, z = read_result(folder), load_point(folder)
        except GfoError:
            return  # there are none yet
        if then.get("steps") != len(self.history) or not np.array_equal(z, self.z):
            return
        if self.found is not None and then.get("front"):
            self.chosen = load_front(folder)
        if then.get("scores") or self.chosen is not None:
            self.scores, self.scoring = recorded_scores(then), Cost(**then["scoring_cost"])

    def _write_json(self, folder: Path) -> None:
        write_json(folder / RESULT, self.summary())
