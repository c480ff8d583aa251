"""Several runs side by side: a figure and a table."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gfo.core.checking import checked
from gfo.core.domain import Array
from gfo.core.errors import GfoError
from gfo.core.metric import LOSS, Metric
from gfo.report.scores import metrics_named
from gfo.report.tables import Table, Tabled

if TYPE_CHECKING:
    from gfo.report.figures import Figure

Curve = tuple[Array, Array]
"""x, rising [n], and the lowest loss until there [n]."""
NO_STEP: Mapping[str, Any] = {"evaluations": 0, "forward_tokens": 0, "best": None}
NONE = (math.nan, math.nan)  # mean and deviation where there is no value
QUARTILES = (0.25, 0.5, 0.75)
STYLES = ("-", "--", ":")  # once the colours are used up
MOST_ABOVE, ABOVE_IN_A_ROW = 4, 110  # lines whose names have room above the panels; letters of a row there


@dataclass(frozen=True)
class RunValues:
    """What is compared of a run, as plain values.

    Attributes:
        steps: the lines of its history; empty for a method that does not search, which has no line in the
            figure.
        test: metric -> value of the result on test; empty if it was not scored.
        seconds: of the search.
        metrics: what the test metrics are; by default gfo's own of those names.
    """

    steps: Sequence[Mapping[str, Any]]
    test: Mapping[str, float]
    seconds: float
    metrics: tuple[Metric, ...] = ()

    @property
    def last(self) -> Mapping[str, Any]:
        """The last line of its history; zeros of a method that does not search."""
        return self.steps[-1] if self.steps else NO_STEP


@dataclass(frozen=True)
class Group:
    """Runs that differ by their seeds only, under one label."""

    label: str
    runs: tuple[RunValues, ...]

    def end(self, x: str) -> float:
        """Where the longest of the runs ends, one of which has steps."""
        from gfo.report.figures import x_values

        return max(x_values(run.steps, x)[-1] for run in self.runs if run.steps)

    def curves(self, lowest: Callable[[Sequence[Mapping[str, Any]], str], Curve], x: str) -> list[Curve]:
        """A curve of each run: `train_curve` or `dev_curve`."""
        return [lowest(run.steps, x) for run in self.runs]

    @property
    def losses(self) -> list[float | None]:
        """Of all candidates of the runs."""
        return [loss for run in self.runs for step in run.steps for loss in step["loss"]]


@dataclass(frozen=True, repr=False)
class Comparison(Tabled):
    """Runs compared; shows itself as a table, `plot` gives the figure.

    Attributes:
        groups: runs that differ by their seeds only are one group.
        x: the figure's x axis.
        notes: what has to be known about the groups.
    """

    groups: tuple[Group, ...]
    x: str = "evaluations"
    notes: tuple[str, ...] = ()

    @checked
    def plot(self, path: str | Path | None = None, *, x: str | None = None) -> Figure:
        """The lowest loss so far, of any candidate on train and of the snapshots on dev.

        Several seeds are one line, their median, with a band between the quartiles. It starts where all
        have a value and ends, with a dot, where the longest ends; seeds that ended before keep their last
        value. Lines are named in the order of their last training losses.

        Args:
            path: where to save it, as PNG, PDF or SVG.
            x: "evaluations", "forward_tokens" or "seconds" (dev scoring included); the comparison's own
                by default.

        Raises:
            GfoError: for an unknown x, runs none of which has steps, tokens where none were counted, or a
                path that cannot be written.
        """
        from gfo.report import figures

        x = self.x if x is None else x
        groups = sorted(_with_steps(self.groups), key=lambda group: _last(group, x))
        curves = _curves(groups, x)
        looks = _looks(curves["train"])
        height, width, columns = _layout(groups)
        figure = figures.Figure(height, width=width)
        axes = np.ravel(figure.subplots(1, len(curves)))
        end = max(group.end(x) for group in groups)
        for panel, (split, found) in zip(axes, curves.items(), strict=True):
            _panel(panel, found, looks)
            panel.set_title(f"{split} loss, lowest so far", fontsize=10, loc="left")
            panel.set_xlabel(figures.X_AXES[x])
            panel.set_xlim(0, 1.02 * end or 1)
            figures.number_axis(panel.xaxis, end)
        figure.legend_outside(axes[0], columns)
        return figure.write(path)

    def rows(self) -> list[dict[str, Any]]:
        """The table as numbers, a mapping for each group.

        Keys: label, runs, scored (how many have test scores), evaluated and failed (candidates of all runs),
        evaluations, forward_tokens, seconds (means over the runs), and (mean, sample standard deviation) as
        train_loss and as test_NAME for each metric; the deviation of a single value is nan, and both are
        where there is none.
        """
        return [_row(group) for group in self.groups]

    def table(self) -> Table:
        """The table as text: of several runs the mean, plus or minus the sample standard deviation."""
        rows = self.rows()
        metrics = self._metrics(rows)
        tested = (f"test {metric.name}" for metric in metrics.values())
        header = ("", "runs", "evaluations", "tokens", "seconds", "train loss", *tested)
        cells = tuple(_cells(row, metrics) for row in rows)
        unscored = _notes_on_unscored(rows) if metrics else []
        return Table(header, cells, (*unscored, *_notes_on_failed(rows), *self.notes))

    def _metrics(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Metric]:
        """The rows' keys of test scores -> the metrics that they are."""
        names = dict.fromkeys(key for row in rows for key in row if key.startswith("test_"))
        known = [metric for group in self.groups for run in group.runs for metric in run.metrics]
        metrics = metrics_named(known, (name.removeprefix("test_") for name in names))
        return dict(zip(names, metrics, strict=True))


def train_curve(steps: Sequence[Mapping[str, Any]], x: str) -> Curve:
    """The lowest training loss of any candidate so far."""
    return _curve(steps, x, [step["best"] for step in steps])


def dev_curve(steps: Sequence[Mapping[str, Any]], x: str) -> Curve:
    """The lowest dev loss of any snapshot so far, at the steps that were scored."""
    return _curve(steps, x, [(step["dev"] or {}).get("loss") for step in steps])


def quartiles(curves: Sequence[Curve]) -> tuple[Array, Array]:
    """Quartiles over runs of the lowest loss so far.

    Args:
        curves: of runs; those without a point are left out.

    Returns:
        Where any run has a point and all have begun, [n], and the quartiles there, [3, n].
    """
    curves = [curve for curve in curves if len(curve[0])]
    if not curves:
        return np.empty(0), np.empty((3, 0))
    grid = np.unique(np.concatenate([x for x, _ in curves]))
    grid = grid[grid >= max(x[0] for x, _ in curves)]
    rows = [y[np.searchsorted(x, grid, side="right") - 1] for x, y in curves]  # (runs, n)
    return grid, np.quantile(rows, QUARTILES, axis=0)


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; nan where there are too few values."""
    mean = float(np.mean(values)) if values else math.nan
    return mean, float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def _curve(steps: Sequence[Mapping[str, Any]], x: str, losses: Sequence[Any]) -> Curve:
    """The lowest so far of a loss of each step, which may be None."""
    from gfo.report.figures import x_values

    if not steps:
        return np.empty(0), np.empty(0)
    every, found = np.array(x_values(steps, x), dtype=np.float64), np.array(losses, dtype=np.float64)
    good = np.isfinite(found)  # None has become nan
    at, lowest = every[good], np.minimum.accumulate(found[good])
    if good.any() and at[-1] < every[-1]:  # what was found stays found until the run's end
        return np.append(at, every[-1]), np.append(lowest, lowest[-1])
    return at, lowest


def _with_steps(groups: Iterable[Group]) -> list[Group]:
    """Groups that have a line; GfoError if none has."""
    found = [group for group in groups if any(run.steps for run in group.runs)]
    if not found:
        raise GfoError("plot: none of the runs has steps; there is nothing to draw")
    return found


def _layout(groups: Sequence[Group]) -> tuple[float, float, int | None]:
    """Height and width of the figure, inches, and columns of names above it; None has them beside it."""
    if len(groups) > MOST_ABOVE:
        return max(3.4, 1.0 + 0.22 * len(groups)), 9.4, None
    wide = sum(len(group.label) + 6 for group in groups) > ABOVE_IN_A_ROW
    return 3.7, 8.4, 2 if wide else len(groups)


def _panel(axes: Any, curves: Mapping[str, Sequence[Curve]], looks: Mapping[str, tuple[str, str]]) -> None:
    """A line for each label in its colour and style, the median over its runs, with a band between the
    quartiles of several."""
    from gfo.report import figures

    figures.tidy(axes)
    values: list[float] = []
    for label, found in curves.items():
        colour, style = looks[label]
        grid, (low, median, high) = quartiles(found)
        axes.plot(
            grid, median, color=colour, ls=style, lw=1.7, drawstyle="steps-post", label=figures.text(label)
        )
        if len(grid):  # an empty one that is not clipped takes all of the figure's room
            axes.plot(grid[-1:], median[-1:], "o", color=colour, ms=4, clip_on=False)
        if sum(len(x) > 0 for x, _ in found) > 1:
            axes.fill_between(grid, low, high, step="post", color=colour, alpha=0.18, lw=0)
        values += [*low, *high]
    figures.log_where_wide(axes, values)


def _looks(labels: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Label -> colour and style of its line: the label's own, whatever else is drawn and however it ranks,
    unless another label of the figure has it already."""
    from gfo.report.figures import COLOURS

    found: dict[str, tuple[str, str]] = {}
    for label in sorted(labels):
        first = zlib.crc32(_method(label).encode()) % len(COLOURS)
        every = [
            (COLOURS[(first + i) % len(COLOURS)], STYLES[i // len(COLOURS)])
            for i in range(len(COLOURS) * len(STYLES))
        ]
        free = [look for look in every if look not in found.values()]
        found[label] = (free or every)[0]
    return found


def _method(label: str) -> str:
    """A label without the number of its seeds."""
    return re.sub(r" \(\d+ seeds\)$", "", label)


def _last(group: Group, x: str) -> float:
    """The median of the last training losses; inf where there is none."""
    median = quartiles(group.curves(train_curve, x))[1][1]
    return float(median[-1]) if len(median) else math.inf


def _curves(groups: Sequence[Group], x: str) -> dict[str, dict[str, list[Curve]]]:
    """What each panel shows: split -> label -> the curves of its runs; dev only where there are any."""
    lowest = {"train": train_curve, "dev": dev_curve}
    curves = {
        split: {group.label: group.curves(curve, x) for group in groups} for split, curve in lowest.items()
    }
    return {split: found for split, found in curves.items() if split == "train" or _some(found)}


def _some(curves: Mapping[str, Sequence[Curve]]) -> bool:
    return any(len(x) for found in curves.values() for x, _ in found)


def _cells(row: Mapping[str, Any], metrics: Mapping[str, Metric]) -> tuple[str, ...]:
    """A line of the table; metrics by their keys in the row."""
    return (
        row["label"],
        str(row["runs"]),
        *(f"{row[key]:,.0f}" for key in ("evaluations", "forward_tokens", "seconds")),
        LOSS.show_spread(*row["train_loss"]),
        *(metric.show_spread(*row.get(key, NONE)) for key, metric in metrics.items()),
    )


def _row(group: Group) -> dict[str, Any]:
    """A line of `Comparison.rows`."""
    last = [run.last for run in group.runs]
    scored = [run.test for run in group.runs if run.test]
    losses = group.losses
    return {
        "label": group.label,
        "runs": len(group.runs),
        "scored": len(scored),
        "evaluated": len(losses),
        "failed": losses.count(None),
        "evaluations": float(np.mean(_known(last, "evaluations"))),
        "forward_tokens": float(np.mean(_known(last, "forward_tokens"))),
        "seconds": float(np.mean([run.seconds for run in group.runs])),
        "train_loss": mean_and_deviation(_known(last, "best")),
        **_test_scores(scored),
    }


def _test_scores(scored: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, float]]:
    """test_NAME -> mean and deviation, over the runs that have the metric."""
    names = dict.fromkeys(name for test in scored for name in test)
    return {f"test_{name}": mean_and_deviation(_known(scored, name)) for name in names}


def _known(each: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """The values of a key, where there is one."""
    return [some[key] for some in each if some.get(key) is not None]


def _notes_on_unscored(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"{row['label']}: {row['scored']} of {row['runs']} scored on test"
        for row in rows
        if row["scored"] < row["runs"]
    ]


def _notes_on_failed(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"{row['label']}: {row['failed']:,} of {row['evaluated']:,} candidates failed"
        for row in rows
        if row["failed"]
    ]


def group_runs(facts: Sequence[Mapping[str, str]], seeds: Sequence[Any]) -> list[list[int]]:
    """Indices of runs by group: of equal facts, if their seeds are known and all differ; else each alone."""
    found: dict[tuple[Any, ...], list[int]] = {}
    for i, each in enumerate(facts):
        found.setdefault(tuple(sorted(each.items())), []).append(i)
    groups: list[list[int]] = []
    for indices in found.values():
        known = [seeds[i] for i in indices]
        alone = None in known or len(set(known)) < len(known)
        groups += [[i] for i in indices] if alone else [indices]
    return groups
