"""The leaderboard's figures: accuracy of all methods, losses against cost, memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.leaderboard.statistics import ACCURACY, KINDS, LOSS, Entries, Entry, Spread, ranks
from gfo.report.figures import COLOURS, GREY, X_AXES, Figure, number_axis, tidy

KIND_COLOURS = {
    "gfo": COLOURS[0],
    "mezo": COLOURS[3],
    "gradients": COLOURS[1],
    "head": COLOURS[2],
    "untrained": GREY,
}
POINTS = 200  # of a curve's x axis


def plot_scores(entries: Entries, title: Callable[[str], str]) -> Figure:
    """Test accuracy of every method on each task: a dot a split, a bar for their mean; the best on top."""
    order = [rank.method for rank in ranks(entries)]
    order += [m for m in entries.methods if m not in order]
    figure = Figure(1.4 + 0.24 * len(order))
    panels = np.atleast_1d(figure.subplots(1, len(entries.tasks), sharey=True))
    for axes, task in zip(panels, entries.tasks, strict=True):
        for place, method in enumerate(reversed(order)):
            values = [100 * e.test(ACCURACY) for e in entries.of(method, task)]
            if values:
                colour = KIND_COLOURS[entries.of(method, task)[0].kind]
                axes.barh(place, np.mean(values), color=colour, alpha=0.35, height=0.7)
                axes.plot(values, [place] * len(values), "o", color=colour, ms=3.5)
        axes.set_title(title(task), fontsize=10)
        axes.set_xlabel("test accuracy, %", fontsize=9)
        axes.set_yticks(range(len(order)), list(reversed(order)))
        low = min((100 * e.test(ACCURACY) for e in entries.all if e.task == task), default=0)
        axes.set_xlim(left=max(0.0, 5 * (low // 5) - 5))
        tidy(axes)
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x", color="#d9dde3", lw=0.6)
    for kind in dict.fromkeys(e.kind for e in entries.all):
        panels[0].barh([0], [0], color=KIND_COLOURS[kind], alpha=0.35, label=KINDS[kind])
    figure.legend_outside(panels[0], columns=3)
    return figure


def plot_curves(entries: Entries, task: str, title: str) -> Figure:
    """The best loss on dev so far against forward tokens and CPU seconds, mean over splits; test at the end.

    Methods without gradients on the left, the others on the right, where the best two of the left return.
    """
    trained = [m for m in entries.methods if (e := entries.of(m, task)) and e[0].dev_losses]
    own = [m for m in trained if entries.of(m, task)[0].kind == "gfo"]
    others = [m for m in trained if m not in own]
    best = sorted(own, key=lambda m: Spread.of(e.test(LOSS) for e in entries.of(m, task)).mean)[:2]
    figure = Figure(6.4)
    panels = figure.subplots(2, 2, sharey=True)
    for row, x in enumerate(("forward_tokens", "seconds")):
        for axes, methods in zip(panels[row], (own, [*others, *best]), strict=True):
            for number, method in enumerate(methods):
                style = "-" if number < len(COLOURS) else "--"
                _curve(axes, entries.of(method, task), x, COLOURS[number % len(COLOURS)], style, method)
            axes.set_xlabel("CPU seconds" if x == "seconds" else X_AXES[x], fontsize=9)
            axes.set_xlim(left=0)
            number_axis(axes.xaxis, axes.get_xlim()[1])
            tidy(axes)
            if row == 0:
                axes.legend(frameon=False, fontsize=7, ncols=2)
        panels[row, 0].set_ylabel("loss: line dev, dot test", fontsize=9)
    panels[0, 0].set_title(f"{title}: without gradients", fontsize=10)
    panels[0, 1].set_title("with gradients, and the two best without", fontsize=10)
    return figure


def _curve(axes: Any, runs: Sequence[Entry], x: str, colour: str, style: str, label: str) -> None:
    """Mean over splits of the lowest dev loss so far, and the test loss at the end."""
    ends = [_paid(e, e.outcome["history"][-1], x) for e in runs]
    grid = np.linspace(0, max(ends), POINTS)
    found = []
    for run in runs:
        read = [(_paid(run, s, x), s["dev"][LOSS]) for s in run.outcome["history"] if s.get("dev")]
        lowest = np.minimum.accumulate([np.inf if loss is None else loss for _, loss in read])
        index = np.searchsorted([at for at, _ in read], grid, side="right") - 1
        found.append(np.where(index >= 0, lowest[np.maximum(index, 0)], np.nan))
    axes.plot(grid, np.mean(found, axis=0), style, color=colour, lw=1.4, label=label)
    axes.plot(np.mean(ends), Spread.of(e.test(LOSS) for e in runs).mean, "o", color=colour, ms=4)


def _paid(run: Entry, step: Mapping[str, Any], x: str) -> float:
    """What had been spent after a step; of seconds those of the search, without reading dev.

    They are wall-clock seconds, times the share of them that the process had a CPU for, in the whole run.
    """
    if x != "seconds":
        return float(step[x])
    process = run.result["process"]
    return float(step["search_seconds"] * process["cpu_seconds"] / process["seconds"])


def plot_memory(found: Mapping[str, Any]) -> Figure:
    """Peak memory of each way of tuning, as a multiple of plain inference."""
    rows = list(found["runs"])
    figure = Figure(0.9 + 0.34 * len(rows))
    axes = figure.subplots()
    plain = next(row["peak_mib"] for row in rows if row["method"] == found["plain"])
    for place, row in enumerate(reversed(rows)):
        axes.barh(place, row["start_mib"], color=GREY, alpha=0.5, height=0.7)
        colour = KIND_COLOURS[row["kind"]]
        axes.barh(place, row["peak_mib"] - row["start_mib"], left=row["start_mib"], color=colour, height=0.7)
        text = f" {row['peak_mib']:,.0f} MiB, {row['peak_mib'] / plain:.2f} x"
        axes.text(row["peak_mib"], place, text, va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [row["method"] for row in reversed(rows)])
    axes.set_xlim(right=1.3 * max(row["peak_mib"] for row in rows))
    axes.set_xlabel("peak memory of the process, MiB (grey: the loaded model)", fontsize=9)
    number_axis(axes.xaxis, 1.0)
    tidy(axes)
    axes.grid(axis="y", visible=False)
    return figure
