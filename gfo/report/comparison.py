"""Several runs side by side: a figure and a table."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gfo.core.checking import checked
from gfo.core.metric import LOSS, Metric
from gfo.report.groups import Group
from gfo.report.scores import metrics_named
from gfo.report.tables import Table, Tabled

if TYPE_CHECKING:
    import pandas

    from gfo.report.figures import Figure

NONE = (math.nan, math.nan)  # mean and deviation where there is no value


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
    def plot(
        self,
        path: str | Path | None = None,
        *,
        x: str | None = None,
        band: str = "quartiles",
        metric: str | None = None,
        size: str = "screen",
    ) -> Figure:
        """The lowest loss so far, of any candidate on train and of the snapshots on dev.

        Several seeds are one line with a band. It starts where all have a value and ends, with a dot, where
        the longest ends; seeds that ended before keep their last value. Lines are named in the order of
        their last training losses, and a method has its colour in every figure.

        Args:
            path: where to save it, as PNG, PDF or SVG.
            x: "evaluations", "forward_tokens" or "seconds" (dev scoring included); the comparison's own
                by default.
            band: what stands for several seeds: "quartiles" for the median between the quartiles, "mean" for
                the mean with its 95 % interval (Student's t), "seeds" for a line each.
            metric: of the test scores, for a panel of what results reach there, methods without a search
                among them: means with 95 % intervals. None for no such panel.
            size: "screen", or "single" or "double" for a paper's one or two columns, 3.4 and 7 inches.

        Raises:
            GfoError: for an unknown x, band, metric or size, runs none of which has steps, tokens where none
                were counted, or a path that cannot be written.
        """
        from gfo.report import panels

        drawn = panels.draw(self.groups, self.x if x is None else x, band, metric, size)
        return drawn.write(path)

    @checked
    def differences(self, metric: str | None = None, *, against: str | None = None) -> Table:
        """Whether methods differ, by their runs on the same tasks and seeds.

        Args:
            metric: of the test scores, or "train_loss"; None takes the first beside the loss.
            against: a method, with which each other one is compared; None compares all pairs.

        Raises:
            GfoError: for an unknown metric or method, or fewer than two methods.
        """
        from gfo.report import significance

        return significance.differences(self.groups, metric, against)

    @checked
    def wins(self, metric: str | None = None) -> Table:
        """On how many tasks and seeds each method beats each other one, a tie as a half."""
        from gfo.report import significance

        return significance.wins(self.groups, metric)

    @checked
    def plot_ranks(self, path: str | Path | None = None, *, metric: str | None = None) -> Figure:
        """Mean ranks over tasks and seeds; methods closer than the critical difference are joined."""
        from gfo.report import significance

        return significance.plot_ranks(self.groups, path, metric)

    def rows(self) -> list[dict[str, Any]]:
        """The table as numbers, a mapping for each group.

        Keys: label, runs, scored (how many have test scores), evaluated and failed (candidates of all runs),
        evaluations, forward_tokens, seconds (means over the runs), and (mean, sample standard deviation) as
        train_loss and as test_NAME for each metric; the deviation of a single value is nan, and both are
        where there is none.
        """
        return [_row(group) for group in self.groups]

    def to_pandas(self) -> pandas.DataFrame:
        """`rows` as a DataFrame with the labels as index; means and deviations in columns of their own."""
        import pandas

        rows = [
            {name: value for key, each in row.items() for name, value in _columns(key, each)}
            for row in self.rows()
        ]
        return pandas.DataFrame(rows).set_index("label")

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
        names = dict.fromkeys(key for key in itertools.chain(*rows) if key.startswith("test_"))
        runs = itertools.chain(*(group.runs for group in self.groups))
        known = list(itertools.chain(*(run.metrics for run in runs)))
        metrics = metrics_named(known, (name.removeprefix("test_") for name in names))
        return dict(zip(names, metrics, strict=True))


def _columns(key: str, value: Any) -> list[tuple[str, Any]]:
    """A key of `rows` as columns: of a mean and its deviation two."""
    return [(key, value[0]), (f"{key}_sd", value[1])] if isinstance(value, tuple) else [(key, value)]


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; nan where there are too few values."""
    mean = float(np.mean(values)) if values else math.nan
    return mean, float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


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
    names = dict.fromkeys(itertools.chain(*scored))
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
