"""The figure of one run, from its history as plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gfo.core.metric import Metric, main_metric
from gfo.report.scores import metrics_named

if TYPE_CHECKING:
    from gfo.report.figures import Figure

HEIGHTS = {"loss": 2.6, "hypervolume": 1.0, "score": 1.3, "spread": 1.0}  # of the panels, inches
LEAST_RANGE = 10.0  # percentage points on an axis at least: differences below are mostly chance
MARKED = 40  # up to so many points are marked, so that few, or one, can be seen


def plot_history(
    steps: Sequence[Mapping[str, Any]],
    path: str | Path | None = None,
    *,
    x: str = "evaluations",
    metrics: Sequence[Metric] = (),
) -> Figure:
    """Training loss of the population, loss and score on dev, and the spread of the candidates; of several
    objectives the hypervolume of the front, from the worst of each among the first step's candidates.

    The losses' axis is logarithmic where they are positive and span a factor of 50. Candidates that failed
    are left out and counted. Dev scores and spread have panels of their own, where there are any.

    Args:
        steps: the lines of a history (see `gfo.run.history.Step`), at least one.
        path: where to save it, as PNG, PDF or SVG.
        x: "evaluations", "forward_tokens" or "seconds" (dev scoring included).
        metrics: what the dev scores are; by default gfo's own of those names.

    Returns:
        The matplotlib figure; it belongs to no window and needs no display.

    Raises:
        GfoError: for an unknown x, no steps, or a path that cannot be written.
    """
    from gfo.report import figures

    at = figures.x_values(steps, x)
    dev, spread = _recorded(at, steps, "dev"), _recorded(at, steps, "spread")
    metric = main_metric(metrics_named(metrics, dev[0][1])) if dev else None
    drawn: dict[str, Callable[[Any], None]] = {"loss": lambda axes: _losses(axes, at, steps, dev)}
    if volume := _recorded(at, steps, "hypervolume"):
        drawn["hypervolume"] = lambda axes: _volume(axes, volume)
    if metric is not None:
        drawn["score"] = lambda axes: _score(axes, dev, metric)
    if any(value for _, value in spread):  # one point that is moved has none
        drawn["spread"] = lambda axes: _spread(axes, spread)
    return _panels(drawn, x, at[-1]).write(path)


def _recorded(at: Sequence[float], steps: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, Any]]:
    """Where steps lie that have a value of the key, and the value."""
    return [(e, step[key]) for e, step in zip(at, steps, strict=True) if step.get(key) is not None]


def _panels(drawn: Mapping[str, Callable[[Any], None]], x: str, end: float) -> Figure:
    """A figure of panels one below the other, each drawn by a function; the first one's legend above all."""
    from gfo.report import figures

    heights = [HEIGHTS[panel] for panel in drawn]
    figure = figures.Figure(sum(heights) + 1.0)
    panels = np.ravel(figure.subplots(len(drawn), sharex=True, height_ratios=heights))
    for axes, draw in zip(panels, drawn.values(), strict=True):
        figures.tidy(axes)
        draw(axes)
    last = panels[-1]
    last.set_xlabel(figures.X_AXES[x])
    figures.number_axis(last.xaxis, end)
    last.set_xlim(left=0)
    figure.legend_outside(panels[0], 4)
    figure.align_ylabels()
    return figure


def _losses(
    axes: Any,
    at: Sequence[float],
    steps: Sequence[Mapping[str, Any]],
    dev: Sequence[tuple[float, Mapping[str, Any]]],
) -> None:
    """The population's median and quartiles, the best so far, and the loss on dev."""
    from gfo.report import figures

    rows = [figures.finite(step["loss"]) for step in steps]
    good = [(e, row) for e, row in zip(at, rows, strict=True) if row]
    shown = _train_losses(axes, good, _recorded(at, steps, "best")) if good else []
    shown += _dev_losses(axes, dev)
    figures.log_where_wide(axes, shown)
    axes.set_ylabel("loss")
    total = sum(len(step["loss"]) for step in steps)
    _title_failed(axes, total - sum(map(len, rows)), total)
    if not shown:
        axes.text(0.5, 0.5, "no finite loss", transform=axes.transAxes, ha="center", color=figures.GREY)
        axes.set_yticks([])


def _dev_losses(axes: Any, dev: Sequence[tuple[float, Mapping[str, Any]]]) -> list[float]:
    """The loss on dev; the values shown."""
    from gfo.report import figures

    scored = _scored(dev, "loss")
    if scored:
        style = _style(len(scored), "s")
        axes.plot(*zip(*scored, strict=True), color=figures.ORANGE, ls="--", label="dev", **style)
    return [value for _, value in scored]


def _title_failed(axes: Any, failed: int, total: int) -> None:
    """Say how many candidates failed, if any did."""
    from gfo.report import figures

    if failed:
        said = f"{failed:,} of {total:,} candidates failed"
        axes.set_title(said, loc="left", fontsize=9, color=figures.GREY)


def _train_losses(
    axes: Any, rows: Sequence[tuple[float, list[float]]], best: Sequence[tuple[float, float]]
) -> list[float]:
    """The population's median and quartiles and the best so far, by where steps lie; the values shown."""
    from gfo.report import figures

    x = [e for e, _ in rows]
    low, median, high = np.array([np.quantile(row, (0.25, 0.5, 0.75)) for _, row in rows]).T.tolist()
    band = {"color": figures.BLUE, "alpha": 0.22, "lw": 0, "label": "train, middle half"}
    if len(x) == 1:  # a band of no width would not be seen
        axes.vlines(x, low, high, **{**band, "lw": 9})
    else:
        axes.fill_between(x, low, high, **band)
    axes.plot(x, median, color=figures.BLUE, label="train, median", **_style(len(x), "o"))
    style = {"color": figures.GREY, "ls": ":", "lw": 1.6, "marker": "v" if len(x) == 1 else None}
    axes.plot(*zip(*best, strict=True), label="train, best so far", **style)
    return [*low, *high, *(value for _, value in best)]


def _spread(axes: Any, spread: Sequence[tuple[float, float]]) -> None:
    """The spread of the candidates."""
    from gfo.report import figures

    axes.plot(*zip(*spread, strict=True), color=figures.GREEN, **_style(len(spread), "o"))
    axes.set_ylabel("spread of\ncandidates")
    if not figures.log_where_wide(axes, [value for _, value in spread]):
        axes.set_ylim(bottom=0)


def _volume(axes: Any, volume: Sequence[tuple[float, float]]) -> None:
    """The hypervolume of the front."""
    from gfo.report import figures

    axes.plot(*zip(*volume, strict=True), color=figures.BLUE, **_style(len(volume), "o"))
    axes.set_ylabel("hypervolume\nof the front")
    axes.set_ylim(bottom=0)


def _score(axes: Any, dev: Sequence[tuple[float, Mapping[str, Any]]], metric: Metric) -> None:
    """A score on dev, in percent where it is a share."""
    from gfo.report import figures

    share = metric.form == "share"
    factor, unit = (100, " (%)") if share else (1, "")
    scored = [(e, factor * value) for e, value in _scored(dev, metric.name)]
    if scored:
        axes.plot(*zip(*scored, strict=True), color=figures.ORANGE, **_style(len(scored), "s"))
    if scored and share:
        _widen(axes, [value for _, value in scored])
    axes.set_ylabel(figures.text(f"dev\n{metric.name}{unit}"))


def _scored(dev: Sequence[tuple[float, Mapping[str, Any]]], name: str) -> list[tuple[float, float]]:
    """Where a score on dev is finite, and the score."""
    from gfo.report import figures

    return [(e, scores[name]) for e, scores in dev if figures.finite([scores.get(name)])]


def _widen(axes: Any, percentages: Sequence[float]) -> None:
    """Have the axis show LEAST_RANGE of 0 to 100 at least."""
    low, high = min(percentages), max(percentages)
    if high - low < LEAST_RANGE:
        low = min(max(0, (low + high - LEAST_RANGE) / 2), 100 - LEAST_RANGE)
        axes.set_ylim(low - 0.5, low + LEAST_RANGE + 0.5)


def _style(points: int, marker: str) -> dict[str, Any]:
    """Lines of few points have markers."""
    return {"marker": marker, "ms": 3.5, "lw": 1.6} if points <= MARKED else {"lw": 1.6}
