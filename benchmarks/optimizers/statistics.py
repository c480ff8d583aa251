"""What the raw results say: medians and spread, ratios, the rule, empirical distributions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.optimizers.methods import Pair
from benchmarks.optimizers.problems import MAIN, PRECISIONS, REAL
from gfo.core.domain import Array

RATIO, SHARE = 1.2, 0.8  # at most 1.2 times the reference's evaluations on at least 80 % of what both solve
RESAMPLES = 2_000  # of the bootstrap
Line = Mapping[str, Any]


class Runs:
    """The raw results by method, function and dimension."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self._lines = {(r["method"], r["function"], r["d"], r["low"]): r for r in lines}

    def get(self, method: str, function: str, d: int, *, low: bool = False) -> Line | None:
        """All seeds of a method on a function, if they were run."""
        return self._lines.get((method, function, d, low))

    def dimensions(self) -> list[int]:
        """Those of the runs to precisions."""
        return sorted({d for _, _, d, low in self._lines if not low})

    def methods(self) -> list[str]:
        """Those of the runs to precisions."""
        return list(dict.fromkeys(m for m, _, _, low in self._lines if not low))


def evaluations(line: Line, precision: float = MAIN, budget: float = np.inf) -> Array:
    """Evaluations of each seed [n] to a precision, inf where it was not reached within the budget."""
    index = PRECISIONS.index(precision)
    found = np.array([np.inf if hits[index] is None else float(hits[index]) for hits in line["hits"]])
    return np.where(found <= budget, found, np.inf)


def seconds(line: Line) -> Array:
    """The method's own CPU seconds to the main precision, each seed [n], inf where it was not reached."""
    return np.array([np.inf if s is None else s for s in line["seconds"]])


def quantiles(runtimes: Array) -> tuple[float, float, float]:
    """Median, lower and upper quartile of runtimes [n]; those of unsolved runs are inf."""
    middle, low, high = (float(np.quantile(runtimes, q, method="higher")) for q in (0.5, 0.25, 0.75))
    return middle, low, high


def interval(a: Array, b: Array) -> tuple[float, float]:
    """95 % bootstrap interval of median(a) / median(b); inf / inf counts as 1."""
    rng = np.random.default_rng(0)
    a, b = (
        np.quantile(x[rng.integers(0, len(x), (RESAMPLES, len(x)))], 0.5, axis=1, method="higher")
        for x in (a, b)
    )
    with np.errstate(invalid="ignore"):
        ratio = np.nan_to_num(a / b, nan=1.0, posinf=np.inf)
    low, high = np.quantile(ratio, (0.025, 0.975), method="nearest")
    return float(low), float(high)


@dataclass(frozen=True)
class Comparison:
    """Our method and a reference on one function; a method solves it if its median is finite."""

    method: str
    reference: str
    function: str
    d: int
    ours: Array
    theirs: Array

    @property
    def ratio(self) -> float:
        """Our median evaluations over the reference's; nan where neither solves it."""
        with np.errstate(invalid="ignore"):
            return float(np.divide(quantiles(self.ours)[0], quantiles(self.theirs)[0]))

    @property
    def solved(self) -> tuple[bool, bool]:
        """By ours, by the reference."""
        return bool(np.isfinite(quantiles(self.ours)[0])), bool(np.isfinite(quantiles(self.theirs)[0]))

    @property
    def exception(self) -> bool:
        """Ours needs more than 1.2 times as many, or does not solve what the reference solves."""
        return self.solved[1] and not self.ratio <= RATIO


def compare(runs: Runs, p: Pair, reference: str, precision: float = MAIN) -> list[Comparison]:
    """All functions and dimensions that both were run on, within the smaller of the two budgets."""
    found = []
    for function in p.functions:
        for d in runs.dimensions():
            a, b = runs.get(p.name, function, d), runs.get(reference, function, d)
            if a and b:
                budget = min(a["budget"], b["budget"])
                x, y = (evaluations(line, precision, budget) for line in (a, b))
                found.append(Comparison(p.name, reference, function, d, x, y))
    return found


def summary(found: Sequence[Comparison]) -> dict[str, Any]:
    """How many both solve, how many of these within 1.2 times, how many each solves, and the rule."""
    both = [c for c in found if all(c.solved)]
    within = sum(c.ratio <= RATIO for c in both)
    ours, theirs = (sum(c.solved[i] for c in found) for i in (0, 1))
    return {
        "functions": len(found),
        "both": len(both),
        "within": within,
        "ours": ours,
        "theirs": theirs,
        "kept": within >= SHARE * len(both) and ours >= theirs,
    }


def ecdf(runs: Runs, method: str, d: int, grid: Array) -> Array | None:
    """Share of (function, seed, precision) reached within grid [m] evaluations, [m]; real functions.

    A function whose seeds were not all run counts as much as the others.
    """
    lines = [line for f in REAL if (line := runs.get(method, f, d))]
    if not lines:
        return None
    each = [np.concatenate([evaluations(line, p) for p in PRECISIONS]) for line in lines]
    return np.asarray(np.mean([(runtimes[:, None] <= grid).mean(axis=0) for runtimes in each], axis=0))
