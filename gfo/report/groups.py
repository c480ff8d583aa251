"""Runs that are compared, as plain values, and those that differ by their seeds alone together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gfo.core.metric import Metric
from gfo.report.curves import Curve

NO_STEP: Mapping[str, Any] = {"evaluations": 0, "forward_tokens": 0, "best": None}


@dataclass(frozen=True)
class RunValues:
    """What is compared of a run, as plain values.

    Attributes:
        steps: the lines of its history; empty for a method that does not search, which has no line in the
            figure.
        test: metric -> value of the result on test; empty if it was not scored.
        seconds: of the search.
        metrics: what the test metrics are; by default gfo's own of those names.
        block: the task and the seed, on which other methods may have been run too.
    """

    steps: Sequence[Mapping[str, Any]]
    test: Mapping[str, float]
    seconds: float
    metrics: tuple[Metric, ...] = ()
    block: str = ""

    @property
    def last(self) -> Mapping[str, Any]:
        """The last line of its history; zeros of a method that does not search."""
        return self.steps[-1] if self.steps else NO_STEP


@dataclass(frozen=True)
class Group:
    """Runs that differ by their seeds only, under one label; `method` is what was run, whatever the task."""

    label: str
    runs: tuple[RunValues, ...]
    method: str = ""

    def end(self, x: str) -> float:
        """Where the longest of the runs ends, one of which has steps."""
        from gfo.report.figures import x_values

        return max(x_values(run.steps, x)[-1] for run in self.runs if run.steps)

    def curves(self, lowest: Callable[[Sequence[Mapping[str, Any]], str], Curve], x: str) -> list[Curve]:
        """A curve of each run: `train_curve` or `dev_curve`."""
        return [lowest(run.steps, x) for run in self.runs]

    @property
    def losses(self) -> list[float | None]:
        """Of all candidates of the runs."""
        return [loss for run in self.runs for step in run.steps for loss in step["loss"]]


def group_runs(facts: Sequence[Mapping[str, str]], seeds: Sequence[Any]) -> list[list[int]]:
    """Indices of runs by group: of equal facts, if their seeds are known and all differ; else each alone."""
    found: dict[tuple[Any, ...], list[int]] = {}
    for i, each in enumerate(facts):
        found.setdefault(tuple(sorted(each.items())), []).append(i)
    groups: list[list[int]] = []
    for indices in found.values():
        known = [seeds[i] for i in indices]
        alone = None in known or len(set(known)) < len(known)
        groups += [[i] for i in indices] if alone else [indices]
    return groups
