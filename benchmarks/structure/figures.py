"""What closing sub-blocks loses by method: on the rows that were searched on, on dev, and on test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from gfo.report.figures import BLUE, GREEN, ORANGE, Figure, tidy

HEIGHT = 3.6  # inches
SPLITS = {"train": ORANGE, "dev": GREEN, "test": BLUE}


def draw(runs: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw runs: a panel for each number of closed sub-blocks, medians over seeds and each seed's dot."""
    numbers = sorted({run["closed"] for run in runs})
    figure = Figure(HEIGHT * len(numbers))
    for row, closed in enumerate(numbers):
        axes = figure.add_subplot(len(numbers), 1, row + 1)
        tidy(axes)
        some = [run for run in runs if run["closed"] == closed]
        _panel(axes, some)
        axes.set_title(f"{closed} closed", fontsize=10)
        axes.set_ylabel("KL (nats a token)")
        if row == 0:
            figure.legend_outside(axes, len(SPLITS))
    figure.write(path)


def _panel(axes: Any, runs: Sequence[dict[str, Any]]) -> None:
    """The methods from left to right, a bar for each split's median."""
    methods = list(dict.fromkeys(run["method"] for run in runs))
    width = 0.8 / len(SPLITS)
    for i, (split, colour) in enumerate(SPLITS.items()):
        for place, method in enumerate(methods):
            values = [run[split] for run in runs if run["method"] == method]
            x = place + (i - 1) * width
            label = split if place == 0 else None
            axes.bar(x, median(values), width, color=colour, alpha=0.5, label=label)
            axes.plot([x] * len(values), values, ".", color=colour, ms=4)
    axes.set_xticks(range(len(methods)), methods)
