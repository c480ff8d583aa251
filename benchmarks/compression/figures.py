"""What choices of levels lose over what they take, on the rows of the choice and on others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from gfo.report.figures import COLOURS, GREY, Figure, tidy

HEIGHT = 4.2  # inches


def draw(part: str, rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw a part's rows: one line for each method, test whole and the rows of the choice dashed."""
    figure = Figure(HEIGHT)
    axes = figure.subplots()
    tidy(axes)
    if part == "front":
        _fronts(axes, rows)
    else:
        _methods(axes, rows)
    axes.set_xlabel("bytes, as a share of Q8_0's")
    axes.set_ylabel("accuracy" if part == "sst2" else "KL to the model (nats a token)")
    figure.legend_outside(axes, 4)
    figure.write(path)


def _methods(axes: Any, rows: Sequence[dict[str, Any]]) -> None:
    """Medians over seeds, with each seed's test as a dot."""
    for i, method in enumerate(dict.fromkeys(row["method"] for row in rows)):
        some = [row for row in rows if row["method"] == method]
        colour = COLOURS[i % len(COLOURS)]
        shares = [row["share"] for row in some]
        if method == "manual":
            axes.axhline(median(row["test"] for row in some), color=GREY, label="the model itself")
            continue
        axes.plot(shares, [row["test"] for row in some], ".", color=colour, ms=3)
        for split, style, label in (("test", "o-", method), ("train", "--", None)):
            axes.plot(*_line(some, split), style, color=colour, ms=4, lw=1.2, label=label)


def _line(rows: Sequence[dict[str, Any]], split: str) -> tuple[list[float], list[float]]:
    """Medians over seeds of the share and of a split's number, from the smallest share on."""
    groups = [[row for row in rows if row["limit"] == limit] for limit in {row["limit"] for row in rows}]
    points = sorted((median(r["share"] for r in some), median(r[split] for r in some)) for some in groups)
    return [x for x, _ in points], [y for _, y in points]


def _fronts(axes: Any, rows: Sequence[dict[str, Any]]) -> None:
    """Each seed's points, on test and in the search."""
    for i, row in enumerate(rows):
        points = sorted(row["points"], key=lambda point: float(point["share"]))
        shares = [point["share"] for point in points]
        for split, style, label in (("test", "o-", f"seed {row['seed']}"), ("train", "--", None)):
            numbers = [point[split] for point in points]
            axes.plot(shares, numbers, style, color=COLOURS[i % len(COLOURS)], ms=4, lw=1.2, label=label)
