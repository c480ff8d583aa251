"""The figure of a front: what one objective costs in another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gfo.core.domain import Array
from gfo.core.metric import Metric

if TYPE_CHECKING:
    from gfo.report.figures import Figure

HEIGHT = 4.0  # inches


def plot_front(
    objectives: Sequence[Metric],
    values: Array,
    path: str | Path | None = None,
    *,
    searched: Array | None = None,
    knee: int | None = None,
) -> Figure:
    """The first objective over the second, a third as colour; each point is beaten by none.

    Args:
        objectives: M of them, at least two; those behind the third are not drawn.
        values: of the points, [F, M].
        path: where to save it, as PNG, PDF or SVG.
        searched: what the points got in the search [F, M], where `values` are of dev.
        knee: the number of the point that is marked.

    Raises:
        GfoError: for a path that cannot be written.
    """
    from gfo.report import figures

    figure = figures.Figure(HEIGHT)
    axes = figure.subplots()
    figures.tidy(axes)
    if searched is not None:
        axes.plot(
            searched[:, 1], searched[:, 0], "o", color=figures.GREY, ms=4, mfc="none", label="in the search"
        )
    _points(figure, axes, objectives, values, "on dev" if searched is not None else "front")
    if knee is not None:
        x, y = values[knee, 1], values[knee, 0]
        axes.plot(x, y, "D", ms=11, mfc="none", mec=figures.ORANGE, mew=1.8, label="knee")
    axes.set_xlabel(figures.text(objectives[1].name))
    axes.set_ylabel(figures.text(objectives[0].name))
    figures.number_axis(axes.xaxis, float(np.abs(values[:, 1]).max()))
    figure.legend_outside(axes, 4)
    return figure.write(path)


def _points(figure: Figure, axes: Any, objectives: Sequence[Metric], values: Array, label: str) -> None:
    """The points: two objectives with the line that they bound, three in colours."""
    from gfo.report import figures

    if len(objectives) == 2:
        order = np.argsort(values[:, 1], kind="stable")
        bound = {"drawstyle": "steps-post", "lw": 1.2}
        axes.plot(values[order, 1], values[order, 0], "o-", color=figures.BLUE, ms=5, label=label, **bound)
        return
    drawn = axes.scatter(values[:, 1], values[:, 0], c=values[:, 2], cmap="viridis", s=34, label=label)
    figure.colorbar(drawn, ax=axes, label=figures.text(objectives[2].name))
