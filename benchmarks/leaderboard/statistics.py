"""What the leaderboard's runs say: means and deviations over splits, ranks, differences to the best."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.leaderboard.runs import Outcome
from gfo.core.domain import Array

RESAMPLES = 9_999
ACCURACY, LOSS = "accuracy", "loss"
UNTRAINED = ("manual", "in-context")
KINDS = {
    "gfo": "without gradients",
    "mezo": "gradients estimated by forward passes",
    "gradients": "with gradients",
    "head": "on frozen features",
    "untrained": "without training",
}


@dataclass(frozen=True)
class Entry:
    """A run that was done."""

    task: str
    method: str
    split: str
    outcome: Outcome

    @property
    def result(self) -> Mapping[str, Any]:
        """Its result, as in result.json."""
        found: Mapping[str, Any] = self.outcome["result"]
        return found

    @property
    def kind(self) -> str:
        """One of KINDS."""
        baseline = (self.outcome["depends"]["config"].get("baseline") or {}).get("name")
        if baseline is None:
            return "gfo"
        if baseline in UNTRAINED:
            return "untrained"
        return "head" if baseline == "linear-head" else "mezo" if "mezo" in baseline else "gradients"

    def test(self, metric: str) -> float:
        """A metric on test."""
        return float(self.result["scores"]["after"]["test"][metric])

    @property
    def dev_losses(self) -> list[float]:
        """Those read in the run, each counted once."""
        read = [step["dev"][LOSS] for step in self.outcome["history"] if step.get("dev")]
        return [math.inf if loss is None else float(loss) for loss in read]


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (n - 1) over splits; the deviation of one is nan."""

    mean: float
    deviation: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Of some values."""
        found = np.array(list(values), dtype=float)
        deviation = float(np.std(found, ddof=1)) if len(found) > 1 else math.nan
        return cls(float(np.mean(found)), deviation, len(found))


class Entries:
    """All runs that were done."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.all = list(entries)
        self.tasks = list(dict.fromkeys(e.task for e in entries))
        self.methods = list(dict.fromkeys(e.method for e in entries))

    def of(self, method: str, task: str | None = None) -> list[Entry]:
        """The runs of a method, on a task or all."""
        return [e for e in self.all if e.method == method and task in (None, e.task)]

    def spread(self, method: str, task: str, metric: str) -> Spread | None:
        """A test metric over splits, if there are runs."""
        found = self.of(method, task)
        return Spread.of(e.test(metric) for e in found) if found else None

    def complete(self) -> list[str]:
        """The methods that were run on all splits of all tasks that any was run on."""
        places = {(e.task, e.split) for e in self.all}
        return [m for m in self.methods if {(e.task, e.split) for e in self.of(m)} == places]

    def matrix(self, methods: Sequence[str], metric: str = ACCURACY) -> Array:
        """A test metric of complete methods [m] on all splits of all tasks [n], float64 [m, n]."""
        places = sorted({(e.task, e.split) for e in self.all})
        by = {(e.method, e.task, e.split): e.test(metric) for e in self.all}
        return np.array([[by[m, *place] for place in places] for m in methods])


@dataclass(frozen=True)
class Rank:
    """A method among all.

    Attributes:
        rank: mean over splits of all tasks; 1 is the best, ties share.
        behind: how much its test accuracy is below the best method's, mean of paired differences.
        low, high: 95 % bootstrap interval of `behind` (percentiles).
        p: of the two-sided Wilcoxon signed-rank test of the differences; nan for the best itself.
    """

    method: str
    rank: float
    behind: float
    low: float
    high: float
    p: float


def ranks(entries: Entries) -> list[Rank]:
    """All complete methods, the lowest mean rank in test accuracy first (ties: the higher accuracy).

    Ranks and tests as Demsar (2006), Statistical comparisons of classifiers over multiple data sets, JMLR 7.
    """
    methods = entries.complete()
    if not methods:
        return []
    scores = entries.matrix(methods)
    mean_rank = stats.rankdata(-scores, axis=0).mean(axis=1)
    order = sorted(range(len(methods)), key=lambda i: (mean_rank[i], -scores[i].mean()))
    best = scores[order[0]]
    return [Rank(methods[i], float(mean_rank[i]), *_behind(best - scores[i])) for i in order]


def _behind(difference: Array) -> tuple[float, float, float, float]:
    """Mean, bootstrap interval and p of paired differences [n]."""
    mean = float(difference.mean())
    if not difference.any():
        return mean, math.nan, math.nan, math.nan
    if len(difference) < 2:
        return mean, math.nan, math.nan, math.nan
    interval = stats.bootstrap(
        (difference,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    p = stats.wilcoxon(difference, zero_method="wilcox").pvalue
    return mean, float(interval.low), float(interval.high), float(p)


def beaten(entries: Entries, rival: str, metric: str) -> dict[str, list[str]]:
    """Task -> the methods without gradients whose mean of a test metric is not better than the rival's."""
    found: dict[str, list[str]] = {}
    for task in entries.tasks:
        bar = entries.spread(rival, task, metric)
        if bar is None:
            continue
        sign = -1 if metric == LOSS else 1
        found[task] = [
            method
            for method in entries.methods
            if method != rival
            and (runs := entries.of(method, task))
            and runs[0].kind == "gfo"
            and sign * Spread.of(e.test(metric) for e in runs).mean <= sign * bar.mean
        ]
    return found
