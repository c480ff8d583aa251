"""The figure of several runs: their curves side by side, and what their results reach on test."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.text import Text

from gfo.core.errors import GfoError, check_name
from gfo.report import figures
from gfo.report.curves import BANDS, Curve, dev_curve, interval, quartiles, train_curve
from gfo.report.groups import Group

SEEDS = "seeds"  # a line for each run, beside the BANDS
SIZES = {
    "screen": 0.0,
    "single": 3.4,
    "double": 7.0,
}  # inches, of a paper's one and two columns; screens have any
PAPER_POINTS = 7.5  # of letters in papers
STYLES = ("-", "--", ":")  # once the colours are used up
MOST_ABOVE, ABOVE_IN_A_ROW = 4, 110  # lines whose names have room above the panels; letters of a row there


def draw(groups: Sequence[Group], x: str, band: str, metric: str | None, size: str) -> figures.Figure:
    """The panels of `Comparison.plot`, whose arguments these are.

    Raises:
        GfoError: as it says there.
    """
    check_name("band", band, (*BANDS, SEEDS))
    check_name("size", size, SIZES)
    searched = sorted(_with_steps(groups), key=lambda group: _last(group, x))
    curves = _curves(searched, x)
    tested = {} if metric is None else _tested(groups, metric)
    looks = _looks({*curves["train"], *tested})
    figure, axes, columns = _laid_out(searched, len(curves) + bool(tested), size)
    end = max(group.end(x) for group in searched)
    for panel, (split, found) in zip(axes, curves.items(), strict=False):  # the last may be of test
        _panel(panel, found, looks, band)
        panel.set_title(f"{split} loss, lowest so far", fontsize=10, loc="left")
        panel.set_xlabel(figures.X_AXES[x])
        panel.set_xlim(0, 1.02 * end or 1)
        figures.number_axis(panel.xaxis, end)
    if tested:
        _test_panel(axes[-1], tested, looks)
        axes[-1].set_title(f"test {metric}", fontsize=10, loc="left")
    figure.legend_outside(axes[0], columns)
    if size != "screen":
        _set_small(figure)
    return figure


def _with_steps(groups: Iterable[Group]) -> list[Group]:
    """Groups that have a line; GfoError if none has."""
    found = [group for group in groups if any(run.steps for run in group.runs)]
    if not found:
        raise GfoError("plot: none of the runs has steps; there is nothing to draw")
    return found


def _tested(groups: Sequence[Group], metric: str) -> dict[str, list[float]]:
    """Label -> a test metric of each run that has it, of methods without a search, too."""
    check_name("test metric", metric, {name for group in groups for run in group.runs for name in run.test})
    found = {group.label: [run.test[metric] for run in group.runs if metric in run.test] for group in groups}
    return {label: values for label, values in found.items() if values}


def _laid_out(groups: Sequence[Group], panels: int, size: str) -> tuple[figures.Figure, Any, int | None]:
    """A figure, its panels, and how many names stand in a row above them; None has them beside."""
    width = SIZES[size]
    if size == "single":  # one below the other
        figure = figures.Figure(2.0 * panels + 0.17 * len(groups), width=width)
        return figure, np.ravel(figure.subplots(panels, 1)), 1
    height, usual, columns = _layout(groups)
    figure = figures.Figure(height * (width or usual) / usual, width=width or usual * max(panels, 2) / 2)
    return figure, np.ravel(figure.subplots(1, panels)), columns


def _layout(groups: Sequence[Group]) -> tuple[float, float, int | None]:
    """Height and width of the figure, inches, and columns of names above it; None has them beside it."""
    if len(groups) > MOST_ABOVE:
        return max(3.4, 1.0 + 0.22 * len(groups)), 9.4, None
    wide = sum(len(group.label) + 6 for group in groups) > ABOVE_IN_A_ROW
    return 3.7, 8.4, 2 if wide else len(groups)


def _panel(
    axes: Any, curves: Mapping[str, Sequence[Curve]], looks: Mapping[str, tuple[str, str]], band: str
) -> None:
    """A line for each label in its colour and style, over its runs, with a band of several; or one a run."""
    figures.tidy(axes)
    values: list[float] = []
    for label, found in curves.items():
        for named, (grid, (low, middle, high)) in enumerate(_lines(found, band)):
            colour, style = looks[label]
            look = {"color": colour, "ls": style, "lw": 1.7 if band in BANDS else 1.0}
            name = figures.text(label) if named == 0 else None
            axes.plot(grid, middle, drawstyle="steps-post", label=name, **look)
            if len(grid):  # an empty one that is not clipped takes all of the figure's room
                axes.plot(grid[-1:], middle[-1:], "o", color=colour, ms=4, clip_on=False)
            if band in BANDS and sum(len(x) > 0 for x, _ in found) > 1:
                axes.fill_between(grid, low, high, step="post", color=colour, alpha=0.18, lw=0)
            values += [*low, *high]
    figures.log_where_wide(axes, values)


def _lines(curves: Sequence[Curve], band: str) -> list[tuple[Any, Any]]:
    """What is drawn of the runs of a label: where, and low, middle and high there, of all or of each."""
    if band in BANDS:
        return [BANDS[band](curves)]
    return [quartiles([curve]) for curve in curves]


def _test_panel(
    axes: Any, tested: Mapping[str, Sequence[float]], looks: Mapping[str, tuple[str, str]]
) -> None:
    """A dot for each label under its name, the mean over its runs, with its 95 % interval."""
    figures.tidy(axes)
    axes.grid(axis="x", color="#d9dde3", lw=0.6)
    within = axes.get_yaxis_transform()  # x from the panel's left to its right
    for place, (label, values) in enumerate(tested.items()):
        mean, half = interval(np.array(values))
        error = None if math.isnan(half) else half
        axes.errorbar(mean, place, xerr=error, fmt="o", color=looks[label][0], ms=5, capsize=3)
        axes.text(0.02, place - 0.22, figures.text(_method(label)), transform=within, va="center", fontsize=9)
    axes.set_yticks([])
    axes.set_ylim(len(tested) - 0.6, -0.6)


def _set_small(figure: figures.Figure) -> None:
    """All letters of the size that papers have in figures."""
    for axes in figure.axes:
        axes.tick_params(labelsize=PAPER_POINTS)
    for words in figure.findobj(Text):
        words.set_fontsize(min(words.get_fontsize(), PAPER_POINTS))


def _looks(labels: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Label -> colour and style of its line: the label's own, whatever else is drawn and however it ranks,
    unless another label of the figure has it already."""
    colours = figures.COLOURS
    found: dict[str, tuple[str, str]] = {}
    for label in sorted(labels):
        first = zlib.crc32(_method(label).encode()) % len(colours)
        every = [
            (colours[(first + i) % len(colours)], STYLES[i // len(colours)])
            for i in range(len(colours) * len(STYLES))
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
