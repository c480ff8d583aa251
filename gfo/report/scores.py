"""Scores of a result as people read them, with standard errors, and as result.json has them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from gfo.core.domain import Array
from gfo.core.errors import GfoError, check_name, printable
from gfo.core.metric import Metric
from gfo.core.protocols import Scores
from gfo.core.registry import entries
from gfo.tasks.parts.metrics import own_metric

AllScores = Mapping[str, Mapping[str, Mapping[str, float]]]
""""before" and "after" -> split -> metric -> value."""


class SplitScores(dict[str, float]):
    """metric -> value of one point on a split; shows itself as "accuracy 81.2% ± 1.7, n = 500".

    Attributes:
        standard_errors: of those metrics that are means over rows: the rows' sample standard deviation over
            the root of their number. They say how much the value depends on which rows were drawn, not on
            the seed of the search.
        n: the number of rows; None where it is not known.
        metrics: what the metrics are.
    """

    def __init__(
        self,
        values: Mapping[str, float],
        standard_errors: Mapping[str, float] | None = None,
        n: int | None = None,
        metrics: Sequence[Metric] = (),
    ) -> None:
        super().__init__(values)
        self.standard_errors = dict(standard_errors or {})
        self.n, self.metrics = n, tuple(metrics)

    @classmethod
    def of(cls, scored: Scores, i: int, metrics: Sequence[Metric]) -> SplitScores:
        """Those of the i-th of the points that were scored."""
        errors = {name: standard_error(rows[i]) for name, rows in scored.rows.items()}
        known = {name: error for name, error in errors.items() if math.isfinite(error)}
        n = max((rows.shape[1] for rows in scored.rows.values()), default=None)
        return cls({name: float(values[i]) for name, values in scored.metrics.items()}, known, n, metrics)

    def __str__(self) -> str:
        shown = [f"{metric.name} {self.show(metric)}" for metric in metrics_named(self.metrics, self)]
        return printable(", ".join([*shown, *([] if self.n is None else [f"n = {self.n:,}"])]))

    def show(self, metric: Metric) -> str:
        """One of them, with its standard error."""
        return metric.show_spread(self.get(metric.name), self.standard_errors.get(metric.name))

    def __repr__(self) -> str:
        return f"<{self}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return SplitScores, (dict(self), self.standard_errors, self.n, self.metrics)


def standard_error(rows: Array) -> float:
    """Of the mean of values [B]: their sample standard deviation over the root of B; nan for fewer than 2."""
    return float(np.std(rows, ddof=1) / math.sqrt(len(rows))) if len(rows) > 1 else math.nan


def metrics_named(metrics: Iterable[Metric], names: Iterable[str]) -> tuple[Metric, ...]:
    """The metrics of those names: as given, or else gfo's own of that name, as for run folders of version
    0.1.0, which do not say what their metrics are."""
    known = {metric.name: metric for metric in metrics}
    return tuple(known.get(name) or own_metric(name) for name in names)


def deciding_metric(metrics: Iterable[Metric], name: str, scores: Mapping[str, Any], kind: str) -> Metric:
    """The metric of that name, which scores have, where it is to say which of them is better.

    Raises:
        GfoError: if the scores have none of that name, or nobody says which way is better.
    """
    check_name(kind, name, scores)
    for metric in metrics:
        if metric.name == name:
            return metric
    if name.rpartition(".")[2] not in entries("metric"):
        raise GfoError(
            f"{kind} '{name}': the evaluator does not say which way is better; let its `metrics` have "
            f"gfo.Metric('{name}', lower_is_better=...)"
        )
    return own_metric(name)


def recorded_metrics(summary: Mapping[str, Any]) -> tuple[Metric, ...]:
    """What a result.json says of its metrics; nothing in one of version 0.1.0."""
    return tuple(Metric.of_record(facts) for facts in summary.get("metrics", ()))


def scores_record(scores: AllScores) -> dict[str, Any]:
    """Scores as result.json has them: the values, standard errors beside them, and the numbers of rows."""
    splits = [(when, split, found) for when, some in scores.items() for split, found in some.items()]
    errors: dict[str, dict[str, dict[str, float]]] = {}
    rows: dict[str, int] = {}
    for when, split, found in splits:
        if isinstance(found, SplitScores) and found.n is not None:
            errors.setdefault(when, {})[split] = found.standard_errors
            rows[split] = found.n
    return {"scores": scores, **({"standard_errors": errors, "rows": rows} if rows else {})}


def recorded_scores(summary: Mapping[str, Any]) -> dict[str, dict[str, SplitScores]]:
    """The scores in a result.json; of version 0.1.0 without standard errors."""
    errors, rows = summary.get("standard_errors", {}), summary.get("rows", {})
    metrics = recorded_metrics(summary)
    return {
        when: {
            split: SplitScores(found, errors.get(when, {}).get(split), rows.get(split), metrics)
            for split, found in some.items()
        }
        for when, some in summary.get("scores", {}).items()
    }
