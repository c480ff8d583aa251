"""What a comparison says of its methods beyond means: differences in pairs, wins, a diagram of ranks.

Methods are compared where they were run on the same block, a task and a seed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gfo.core.domain import Array
from gfo.core.errors import GfoError, check_name
from gfo.core.metric import LOSS, Metric
from gfo.report import statistics
from gfo.report.groups import Group, RunValues
from gfo.report.scores import metrics_named
from gfo.report.tables import Table

if TYPE_CHECKING:
    from gfo.report.figures import Figure

TRAIN_LOSS = "train_loss"
EXPLAINED = (
    "pairs: runs on the same task and seed. p: signs of the differences turned, exact up to 13 pairs, two "
    "sides; Holm: all p of this table read together; d: Cohen's, of pairs"
)


@dataclass(frozen=True)
class Blocks:
    """Values of methods on blocks.

    Attributes:
        methods: their names.
        values: [blocks, methods], nan where a method was not run; of several runs the mean.
        metric: what the values are.
        name: the metric's, with where it was read.
    """

    methods: tuple[str, ...]
    values: Array
    metric: Metric
    name: str

    @classmethod
    def of(cls, groups: Sequence[Group], metric: str | None) -> Blocks:
        """Of the groups of a comparison.

        Args:
            groups: those of a comparison.
            metric: of the test scores, or "train_loss"; None takes the first beside the loss, then the test
                loss, then the train loss.

        Raises:
            GfoError: for an unknown metric, or fewer than two methods.
        """
        runs = list(itertools.chain(*(group.runs for group in groups)))
        chosen = _chosen(runs, metric)
        methods = list(dict.fromkeys(_method(group) for group in groups))
        if len(methods) < 2:
            raise GfoError(f"compare: one method, {methods}; give runs of two or more")
        values = _means(groups, methods, chosen)
        if chosen == TRAIN_LOSS:
            return cls(tuple(methods), values, LOSS, "train loss, the lowest")
        [what] = metrics_named(list(itertools.chain(*(run.metrics for run in runs))), [chosen])
        return cls(tuple(methods), values, what, f"test {chosen}")


def _chosen(runs: Sequence[RunValues], metric: str | None) -> str:
    """The metric asked for; or the first on test beside the loss, the test loss or the train loss."""
    known = [*dict.fromkeys(itertools.chain(*(run.test for run in runs))), TRAIN_LOSS]
    if metric is None:
        scored = [name for name in known[:-1] if name != LOSS.name]
        return (scored or known)[0]
    check_name("metric", metric, known)
    return metric


def _means(groups: Sequence[Group], methods: Sequence[str], metric: str) -> Array:
    """A metric's mean over the runs of each method on each block, [blocks, methods]; nan without any."""
    runs = [(methods.index(_method(group)), run) for group in groups for run in group.runs]
    blocks = list(dict.fromkeys(run.block for _, run in runs))
    cells: dict[tuple[int, int], list[float]] = {}
    for column, run in runs:
        cells.setdefault((blocks.index(run.block), column), []).append(_value(run, metric))
    values = np.full((len(blocks), len(methods)), math.nan)
    for at, found in cells.items():
        values[at] = np.mean(found)
    return values


def _method(group: Group) -> str:
    return group.method or group.label


def _value(run: RunValues, metric: str) -> float:
    """A metric of a run, nan where it has none."""
    value = run.last["best"] if metric == TRAIN_LOSS else run.test.get(metric)
    return math.nan if value is None else value


def differences(groups: Sequence[Group], metric: str | None = None, against: str | None = None) -> Table:
    """Each pair of methods, or each with one of them: mean difference, interval, p, effect.

    Args:
        groups: those of a comparison.
        metric: of the test scores, or "train_loss"; None takes the first beside the loss.
        against: a method; None compares all pairs.

    Raises:
        GfoError: for an unknown metric or method, or fewer than two methods.
    """
    blocks = Blocks.of(groups, metric)
    if against is not None:
        check_name("method", against, blocks.methods)
    pairs = _pairs(blocks.methods, against)
    at = {name: i for i, name in enumerate(blocks.methods)}
    found = [statistics.paired(blocks.values[:, at[a]], blocks.values[:, at[b]]) for a, b in pairs]
    adjusted = statistics.holm([each.p for each in found])
    rows = [
        (f"{a} - {b}", str(each.n), *_cells(blocks.metric, each), _number(p))
        for (a, b), each, p in zip(pairs, found, adjusted, strict=True)
    ]
    header = ("difference", "pairs", "mean", "95 % interval", "d", "p", "p (Holm)")
    return Table(header, tuple(rows), (f"{blocks.name}; {EXPLAINED}", *_notes(found)))


def _pairs(methods: Sequence[str], against: str | None) -> list[tuple[str, str]]:
    """All pairs, or each of the other methods with the one that it is set against."""
    if against is None:
        return list(itertools.combinations(methods, 2))
    return [(name, against) for name in methods if name != against]


def _notes(found: Sequence[statistics.Paired]) -> list[str]:
    """That a difference has too few pairs for a small p, where one has."""
    fewest = min((each.n for each in found if each.n), default=0)
    if not 0 < fewest < 6:
        return []
    return [f"{fewest} pairs: p cannot be below {2.0 ** (1 - fewest):.3g}, whatever the difference"]


def _cells(metric: Metric, found: statistics.Paired) -> tuple[str, ...]:
    interval = "-" if math.isnan(found.low) else " to ".join(map(metric.show_change, (found.low, found.high)))
    return metric.show_change(found.mean), interval, _number(found.effect), _number(found.p)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"


def wins(groups: Sequence[Group], metric: str | None = None) -> Table:
    """On how many tasks and seeds the method of a row beats that of a column; a tie is half a win."""
    blocks = Blocks.of(groups, metric)
    counts = statistics.wins(blocks.values, lower_is_better=blocks.metric.lower_is_better)
    rows = [
        (name, *("" if i == j else f"{counts[i, j]:g}" for j in range(len(blocks.methods))))
        for i, name in enumerate(blocks.methods)
    ]
    note = f"{blocks.name}: on how many tasks and seeds the row's method is better; a tie is half a win"
    return Table(("", *blocks.methods), tuple(rows), (note,))


def plot_ranks(groups: Sequence[Group], path: str | Path | None = None, metric: str | None = None) -> Figure:
    """Mean ranks of the methods, 1 the best; a bar joins those closer than the critical difference.

    Demsar (2006), JMLR 7:1-30, figure 1; over the tasks and seeds on which all methods were run.

    Raises:
        GfoError: as `differences`, for fewer than two such blocks, or a path that cannot be written.
    """
    from gfo.report.figures import Figure

    blocks = Blocks.of(groups, metric)
    ranks, n = statistics.mean_ranks(blocks.values, lower_is_better=blocks.metric.lower_is_better)
    if n < 2:
        raise GfoError(f"plot_ranks: all methods were run on {n} common tasks and seeds; give 2, better 10")
    critical = statistics.critical_difference(len(ranks), n)
    order = np.argsort(ranks, kind="stable")
    figure = Figure(1.2 + 0.26 * len(ranks))
    _draw_ranks(figure.subplots(), ranks[order], [blocks.methods[i] for i in order], critical)
    whole = blocks.values[np.isfinite(blocks.values).all(axis=1)]
    p = statistics.friedman(whole)
    said = "" if math.isnan(p) else f", Friedman p = {p:.2g}"
    figure.suptitle(
        f"mean ranks by {blocks.name}, {n} tasks and seeds, critical difference {critical:.2f}{said}",
        fontsize=9,
    )
    return figure.write(path)


def joined(ranks: Array, critical: float) -> list[tuple[int, int]]:
    """Longest runs (first, last) of sorted mean ranks [M] whose ends differ by no more than that."""
    found: list[tuple[int, int]] = []
    for first in range(len(ranks)):
        last = int(np.flatnonzero(ranks <= ranks[first] + critical)[-1])
        if last > first and not (found and found[-1][1] >= last):
            found.append((first, last))
    return found


def _draw_ranks(axes: Any, ranks: Array, names: Sequence[str], critical: float) -> None:
    """Names beside a scale of ranks, the best on top, and the bars that join."""
    from gfo.report import figures

    figures.tidy(axes)
    heights = -np.arange(len(ranks), dtype=float)
    axes.plot(ranks, heights, "o", color=figures.COLOURS[0], ms=5)
    for rank, height in zip(ranks, heights, strict=True):
        axes.plot([1, rank], [height, height], color="0.85", lw=1, zorder=0)
    bars = joined(ranks, critical)
    for i, (first, last) in enumerate(bars):
        x = len(ranks) + 0.25 + 0.25 * i
        axes.plot(
            [x, x], [heights[first] + 0.2, heights[last] - 0.2], color="0.3", lw=3, solid_capstyle="butt"
        )
    axes.set_yticks(heights, [figures.text(name) for name in names])
    axes.set_xlim(1, len(ranks) + 0.25 * (len(bars) + 1))
    axes.set_xticks(range(1, len(ranks) + 1))
    axes.set_xlabel("mean rank; bars join methods that these runs do not tell apart")
