"""Names and numbers of scores, as people read them."""

from __future__ import annotations

from collections.abc import Iterable

NO_SHARES = ("loss", "score", "perplexity", "answer_tokens")  # metrics that are no shares of one


def is_share(metric: str) -> bool:
    """Whether a metric lies between 0 and 1 and is read as a percentage."""
    return metric not in NO_SHARES


def main_metric(metrics: Iterable[str]) -> str | None:
    """The one to show where there is room for one: a task's first beside the loss, None if there is none."""
    return next((name for name in metrics if name != "loss"), None)


def show(metric: str, value: float) -> str:
    """A loss of 0.3712, an accuracy of 84.4 %."""
    if is_share(metric):
        return f"{value:.1%}"
    return f"{value:.4f}" if metric == "loss" else f"{value:,.2f}"


def show_change(metric: str, change: float) -> str:
    """The same for a difference, with its sign."""
    if is_share(metric):
        return f"{100 * change:+.1f} points"
    return f"{change:+.4f}" if metric == "loss" else f"{change:+,.2f}"


def show_deviation(metric: str, deviation: float) -> str:
    """The same for a standard deviation."""
    if is_share(metric):
        return f"{100 * deviation:.1f}"
    return f"{deviation:.4f}" if metric == "loss" else f"{deviation:,.2f}"
