"""The figure of a search of hyperparameters: each one's values against the loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gfo.report.figures import Figure

ACROSS, HEIGHT = 3, 2.3  # panels in a row; inches of one


def plot_trials(
    values: Sequence[Mapping[str, Any]],
    loss: Sequence[float],
    budget: Sequence[float],
    log: Mapping[str, bool],
    path: str | Path | None = None,
) -> Figure:
    """A panel for each hyperparameter: its values, the loss, as colour how far a trial went; the best marked.

    Args:
        values: of each trial, by name.
        loss, budget: of each, its last loss, and what it reached; trials that failed are left out.
        log: name -> whether its scale is logarithmic; its keys are the panels.
        path: where to save it, as PNG, PDF or SVG.

    Raises:
        GfoError: for a path that cannot be written.
    """
    from matplotlib.colors import LogNorm

    from gfo.report import figures

    rows, several = math.ceil(len(log) / ACROSS), len(set(budget)) > 1
    shade = {"norm": LogNorm(min(budget), max(budget)), "cmap": "viridis"} if several else {}
    figure = figures.Figure(HEIGHT * rows)
    panels = figure.subplots(rows, min(ACROSS, len(log)), squeeze=False, sharey=True)
    for axes, name in zip(panels.flat, log, strict=False):
        there = _best_first(name, values, loss, budget)
        colour = {"c": [budget[i] for i in there]} if several else {}
        drawn = _panel(axes, [values[i][name] for i in there], [loss[i] for i in there], **colour, **shade)
        axes.set_xlabel(figures.text(name.rsplit(".", 1)[-1]))
        if log[name]:
            axes.set_xscale("log")
    _tidy_panels(panels.flat, len(log))
    if several:
        figure.colorbar(drawn, ax=list(panels.flat), label="budget")
    return figure.write(path)


def _best_first(
    name: str, values: Sequence[Mapping[str, Any]], loss: Sequence[float], budget: Sequence[float]
) -> list[int]:
    """The trials that have a hyperparameter and a loss, by how far they went and how good they are."""
    there = [i for i, given in enumerate(values) if name in given and math.isfinite(loss[i])]
    return sorted(there, key=lambda i: (-budget[i], loss[i]))


def _panel(axes: Any, values: Sequence[Any], loss: Sequence[float], **colour: Any) -> Any:
    """Values against losses, the first marked; what was drawn."""
    from gfo.report import figures

    figures.tidy(axes)
    x = [_number(value) for value in values]
    axes.plot(x[:1], loss[:1], "D", ms=8, mfc="none", mec=figures.ORANGE)
    return axes.scatter(x, loss, s=16, **colour)


def _tidy_panels(panels: Any, used: int) -> None:
    """Name the losses of the first in each row, and hide those without a hyperparameter."""
    for number, axes in enumerate(panels):
        axes.set_ylabel("loss" if number % ACROSS == 0 else "")
        axes.set_visible(number < used)


def _number(value: Any) -> Any:
    """A value on an axis: names and truths are categories."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
