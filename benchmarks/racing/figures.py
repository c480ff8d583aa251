"""Races as a figure: how often the best stays over the share of rows, and false drops over p."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gfo.report.figures import COLOURS, GREY, Figure, tidy

HEIGHT = 3.6  # inches
MARKERS = {"start": "o", "later": "^"}


def draw(facts: dict[str, Any], path: Path) -> None:
    """Draw what `orders.json` holds; the default's races are filled."""
    figure = Figure(HEIGHT)
    left, right = figure.subplots(1, 2, gridspec_kw={"wspace": 0.3})
    raced, drawn = facts["raced"], facts["drawn"]
    spaces = list(dict.fromkeys(row["space"] for row in raced))
    default = {name: raced[0][name] for name in ("block", "first", "p", "survivors")}
    for row in raced:
        colour = COLOURS[spaces.index(row["space"]) % len(COLOURS)]
        ours = default.items() <= row.items()
        face, label = (colour if ours else "none"), (row["space"] if ours else None)
        seen = label in [line.get_label() for line in left.get_lines()]
        style = {"ms": 5, "color": colour, "mfc": face, "label": None if seen else label}
        left.plot(row["share"], row["same"], MARKERS[row["when"]], **style)
    left.axhline(0.95, color=GREY, lw=0.8)
    left.axvline(0.65, color=GREY, lw=0.8)
    left.set_xlabel("share of the tokens")
    left.set_ylabel("orders with the same best")
    for i, spread in enumerate(dict.fromkeys(row["spread"] for row in drawn)):
        some = [row for row in drawn if row["spread"] == spread]
        x, y = [row["p"] for row in some], [row["dropped"] for row in some]
        right.plot(x, y, "o-", ms=3, lw=1.2, color=COLOURS[i % len(COLOURS)], label=f"spread {spread}")
    right.set_xscale("log")
    right.set_xlabel("p")
    right.set_ylabel("races in which the best left")
    for axes in (left, right):
        tidy(axes)
        axes.legend(fontsize=7)
    figure.write(path)
