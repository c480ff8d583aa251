"""The lowest loss so far of a run, and its quartiles or mean over several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gfo.core.domain import Array

Curve = tuple[Array, Array]
"""x, rising [n], and the lowest loss until there [n]."""
QUARTILES = (0.25, 0.5, 0.75)


def train_curve(steps: Sequence[Mapping[str, Any]], x: str) -> Curve:
    """The lowest training loss of any candidate so far."""
    return _curve(steps, x, [step["best"] for step in steps])


def dev_curve(steps: Sequence[Mapping[str, Any]], x: str) -> Curve:
    """The lowest dev loss of any snapshot so far, at the steps that were scored."""
    return _curve(steps, x, [(step["dev"] or {}).get("loss") for step in steps])


def quartiles(curves: Sequence[Curve]) -> tuple[Array, Array]:
    """Quartiles over runs of the lowest loss so far.

    Args:
        curves: of runs; those without a point are left out.

    Returns:
        Where any run has a point and all have begun, [n], and the quartiles there, [3, n].
    """
    grid, rows = _together(curves)
    return grid, np.quantile(rows, QUARTILES, axis=0)


def means(curves: Sequence[Curve]) -> tuple[Array, Array]:
    """As `quartiles`: the mean over runs, between the ends of its 95 % interval, which one run has not."""
    grid, rows = _together(curves)
    mean, half = interval(rows)
    return grid, np.stack([mean - np.nan_to_num(half), mean, mean + np.nan_to_num(half)])


def interval(values: Array) -> tuple[Any, Any]:
    """The mean over the first axis, and half of its 95 % interval by Student's t; nan for one value."""
    from scipy.special import stdtrit

    n = len(values)
    if n < 2:
        return values.mean(axis=0), np.full(values.shape[1:], np.nan)[()]
    return values.mean(axis=0), stdtrit(n - 1, 0.975) * values.std(axis=0, ddof=1) / np.sqrt(n)


BANDS = {"quartiles": quartiles, "mean": means}
"""What stands for several runs: where, [n], and low, middle and high there, [3, n]."""


def _together(curves: Sequence[Curve]) -> tuple[Array, Array]:
    """Where any run has a point and all have begun, [n], and each run's lowest loss there, [runs, n]."""
    curves = [curve for curve in curves if len(curve[0])]
    if not curves:
        return np.empty(0), np.empty((1, 0))
    grid = np.unique(np.concatenate([x for x, _ in curves]))
    grid = grid[grid >= max(x[0] for x, _ in curves)]
    return grid, np.stack([y[np.searchsorted(x, grid, side="right") - 1] for x, y in curves])


def _curve(steps: Sequence[Mapping[str, Any]], x: str, losses: Sequence[Any]) -> Curve:
    """The lowest so far of a loss of each step, which may be None."""
    from gfo.report.figures import x_values

    if not steps:
        return np.empty(0), np.empty(0)
    every, found = np.array(x_values(steps, x), dtype=np.float64), np.array(losses, dtype=np.float64)
    good = np.isfinite(found)  # None has become nan
    at, lowest = every[good], np.minimum.accumulate(found[good])
    if good.any() and at[-1] < every[-1]:  # what was found stays found until the run's end
        return np.append(at, every[-1]), np.append(lowest, lowest[-1])
    return at, lowest
