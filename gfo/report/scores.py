"""Names and numbers of scores, as people read them."""

from __future__ import annotations

import math
from collections.abc import Iterable

LOSSES = ("loss", "ce")  # shown with four digits
SMALL = 5e-4  # losses below are shown as 1.2e-07
NO_SHARES = (*LOSSES, "score", "perplexity", "answer_tokens")  # metrics that are no shares of one


def is_share(metric: str) -> bool:
    """Whether a metric lies between 0 and 1 and is read as a percentage; "TASK.METRIC" is as METRIC."""
    return metric.split(".")[-1] not in NO_SHARES


def main_metric(metrics: Iterable[str]) -> str | None:
    """The one to show beside the loss: the first share, or else the first; None if there is no other."""
    others = [name for name in metrics if name != "loss"]
    return next((name for name in others if is_share(name)), others[0] if others else None)


def show(metric: str, value: float, sign: str = "") -> str:
    """A loss of 0.3712 or 1.2e-07, an accuracy of 84.4%; "-" for one that is not finite.

    Args:
        metric: its name.
        value: as recorded.
        sign: "+" to show the sign of a positive one too.
    """
    if not math.isfinite(value):
        return "-"
    if is_share(metric):
        return f"{value:{sign}.1%}"
    if metric.split(".")[-1] in LOSSES:
        return f"{value:{sign}.2e}" if 0 < abs(value) < SMALL else f"{value:{sign},.4f}"
    return f"{value:{sign},.2f}"


def show_change(metric: str, change: float) -> str:
    """The same for a difference, with its sign; shares in percentage points."""
    if is_share(metric) and math.isfinite(change):
        return f"{100 * change:+.1f} points"
    return show(metric, change, "+")
