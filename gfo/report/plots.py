"""Figures of runs, from their histories as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BLUE, GREY, ORANGE = "#2563a8", "#9aa4b1", "#d9720f"


def plot_history(steps: Sequence[Mapping[str, Any]], path: str | Path | None = None) -> Any:
    """Training loss and dev scores over evaluations.

    Args:
        steps: the lines of a history (see `gfo.run.history.Step`), at least one.
        path: where to save it as PNG, PDF or SVG.

    Returns:
        The matplotlib figure; it belongs to no window and needs no display.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.0), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    x = [step["evaluations"] for step in steps]
    rows = [[v for v in step["loss"] if v is not None] for step in steps]
    good = [(e, row) for e, row in zip(x, rows, strict=True) if row]
    if good:
        at = [e for e, _ in good]
        axes.fill_between(
            at,
            [min(row) for _, row in good],
            [max(row) for _, row in good],
            color=GREY,
            alpha=0.35,
            lw=0,
            label="train loss, range of the population",
        )
        axes.plot(
            at,
            [sum(row) / len(row) for _, row in good],
            color=BLUE,
            label="train loss, mean of the population",
        )
    _plot_dev(axes, steps)
    axes.set_xlabel("evaluations (candidates)")
    axes.set_ylabel("loss")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.22), ncols=2)
    if path is not None:
        figure.savefig(path)
    return figure


def _plot_dev(axes: Any, steps: Sequence[Mapping[str, Any]]) -> None:
    """Dev loss on the loss axis, dev accuracy, where there is one, on an axis of its own."""
    scored = [(step["evaluations"], step["dev"]) for step in steps if step["dev"]]
    if not scored:
        return
    x = [e for e, _ in scored]
    axes.plot(x, [dev["loss"] for _, dev in scored], color=ORANGE, ls="--", label="dev loss")
    if "accuracy" in scored[0][1]:
        right = axes.twinx()
        right.plot(x, [100 * dev["accuracy"] for _, dev in scored], "o-", color=ORANGE, ms=3)
        right.set_ylabel("dev accuracy (%)", color=ORANGE)
        right.set_ylim(0, 100)
        right.spines["top"].set_visible(False)
        axes.plot([], [], "o-", color=ORANGE, ms=3, label="dev accuracy (right)")
