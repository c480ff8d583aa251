"""What scores the answers of a generation task: a metric by its name, or a function of the user's."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from gfo.core.domain import Array
from gfo.core.errors import GfoError, GfoWarning, check_name, unknown_name
from gfo.core.metric import LOSS, Metric
from gfo.tasks.parts.datasets import Row
from gfo.tasks.parts.metrics import ANSWER_TOKENS, PASS_AT_K, SCORE, own_metric
from gfo.tasks.parts.sandbox import Limits, Sandbox
from gfo.tasks.parts.templates import is_plain
from gfo.tasks.parts.text_metrics import METRICS, REGEX, ByRow, NumberMatch, References, TextMetric
from gfo.tasks.parts.verifiers import PassAtK, countdown, gsm8k, same_mathematics, valid_json

Score = Callable[[list[str], list[Row]], Sequence[float]]
"""The user's: outputs and their rows -> a number a row."""

COUNTDOWN, JSON_SCHEMA = "countdown", "json_schema"
SEARCHED: dict[str, Callable[[References], TextMetric]] = {"gsm8k": gsm8k, "math": same_mathematics}
"""Metrics that look for the answer within an output and a target."""
NAMES = (*METRICS, REGEX, *SEARCHED, COUNTDOWN, JSON_SCHEMA, PASS_AT_K.name)


@dataclass(frozen=True)
class Measure:
    """A metric and how it is made.

    Attributes:
        metric: what it is.
        make: rows, one for each output -> what scores the outputs.
        loss_of: its values -> what is minimised.
        own: whether it is a function of the user's, which may fail for a candidate.
        scores_targets: whether a target, as an output, must be right.
        reads_targets: whether rows need a target.
        verbatim: whether blanks at the ends of outputs count.
    """

    metric: Metric
    make: Callable[[Sequence[Row]], TextMetric]
    loss_of: Callable[[Array], Array]
    own: bool = False
    scores_targets: bool = False
    reads_targets: bool = True
    verbatim: bool = False


@dataclass(frozen=True)
class Options:
    """What some metrics take; see `gfo.Generation`."""

    pattern: str | None = None
    k: int | None = None
    json_schema: Mapping[str, Any] | None = None
    timeout: int | None = None
    samples: int = 1


def measure_of(metric: Any, target: Sequence[str], options: Options) -> Measure:
    """What a metric that was given is: a name, a function, or a `gfo.Metric` with one.

    Raises:
        GfoError: for an unknown name, a thing that is no metric, or an option of another metric.
    """
    if isinstance(metric, str):
        check_name("metric", metric, NAMES)
    _check_options(metric, options)
    if isinstance(metric, str):
        return _by_name(metric, target, options)
    if isinstance(metric, Metric) and metric.function is not None:
        if metric.name in (LOSS.name, ANSWER_TOKENS.name):
            raise GfoError(f"metric: '{metric.name}' is there already; name it otherwise")
        return Measure(metric, _by_user(metric.function), metric.as_loss, own=True)
    if callable(metric):
        return Measure(SCORE, _by_user(metric), _shortfall, own=True)
    raise GfoError(f"metric = {metric!r}: give a name, a function, or a gfo.Metric with one")


def references_of(row: Row, fields: Sequence[str], where: str = "row") -> list[str]:
    """The texts that are right for a row: in the first of the fields that it has.

    Raises:
        GfoError: if it has none of them, or something else than texts there.
    """
    field = next((field for field in fields if field in row), None)
    if field is None:
        raise GfoError(f"{where}: {unknown_name('target', ' or '.join(fields), map(str, row))}")
    found = row[field] if isinstance(row[field], list | tuple) else [row[field]]
    if not found or not all(map(is_plain, found)):
        raise GfoError(f"{where}: target '{field}' is {row[field]!r}; give a text or a list of texts")
    return [str(text) for text in found]


def _by_name(name: str, target: Sequence[str], options: Options) -> Measure:
    """The parts are functions of modules, so that a task can go to another process."""
    target, make = tuple(target), partial(_against_references, name, tuple(target))
    measure = Measure(own_metric(name), make, _shortfall)
    if name in METRICS:
        return replace(measure, scores_targets=True)
    if name == PASS_AT_K.name:
        return _of_programs(options)
    if name == JSON_SCHEMA:
        return replace(measure, make=partial(valid_json, schema=options.json_schema), reads_targets=False)
    if name == COUNTDOWN:
        return replace(measure, make=partial(_countdown, target))
    if name == REGEX:
        return replace(measure, make=partial(_matches, target, _compiled(str(options.pattern))))
    return measure


def _against_references(name: str, target: Sequence[str], rows: Sequence[Row]) -> TextMetric:
    return (METRICS | SEARCHED)[name]([references_of(row, target) for row in rows])


def _countdown(target: Sequence[str], rows: Sequence[Row]) -> TextMetric:
    return countdown(rows, [references_of(row, target) for row in rows])


def _matches(target: Sequence[str], pattern: re.Pattern[str], rows: Sequence[Row]) -> TextMetric:
    return NumberMatch([references_of(row, target) for row in rows], pattern)


def _of_programs(options: Options) -> Measure:
    """pass@k, named by its k; says what is not contained."""
    k = 1 if options.k is None else options.k
    if not 1 <= k <= options.samples:
        raise GfoError(f"k = {k} must be 1 to {options.samples}, the samples of a row; raise samples")
    limits = Limits()
    if (seconds := options.timeout) is not None:
        if seconds < 1:
            raise GfoError(f"timeout = {seconds} must be at least 1 second")
        limits = replace(limits, cpu=seconds, wall=5.0 * seconds)
    sandbox = Sandbox(limits)
    if sandbox.shortcomings:
        warnings.warn(f"pass@k: {sandbox.shortcomings}", GfoWarning, stacklevel=2)
    return Measure(
        replace(PASS_AT_K, name=f"pass@{k}"),
        partial(PassAtK, k=k, sandbox=sandbox),
        _shortfall,
        reads_targets=False,
        verbatim=True,
    )


def _check_options(metric: Any, options: Options) -> None:
    """Raise GfoError for an option that the metric does not take, or lacks."""
    if (options.pattern is not None) != (metric == REGEX):
        raise GfoError(f"pattern = {options.pattern!r}: give one with metric = '{REGEX}', and only there")
    for name, owner in (("k", PASS_AT_K.name), ("timeout", PASS_AT_K.name), (JSON_SCHEMA, JSON_SCHEMA)):
        if (value := getattr(options, name)) is not None and metric != owner:
            raise GfoError(f"{name} = {value!r}: give it with metric = '{owner}' alone")


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise GfoError(f"pattern = {pattern!r} is no regular expression: {error}") from None


def _by_user(function: Score) -> Callable[[Sequence[Row]], TextMetric]:
    return partial(ByUser, function)


def _shortfall(values: Array) -> Array:
    """The loss where the metric is a share, or a function's score: what is missing to 1."""
    return 1 - values


class ByUser(ByRow):
    """The user's function on outputs and their rows."""

    def __init__(self, score: Score, rows: Sequence[Row]) -> None:
        self._score, self._of = score, list(rows)  # all at once, as a judge or a batch of programs wants it

    def rows(self, outputs: Sequence[str]) -> list[float]:
        """Outputs [B] -> what the function gives, [B].

        Raises:
            Exception: what the function raises; ValueError for other than a finite number a row.
        """
        values = np.asarray(self._score(list(outputs), self._of), dtype=np.float64)
        if values.shape != (len(self._of),):
            raise ValueError(
                f"it gave the shape {values.shape} for {len(self._of)} outputs; give one number a row"
            )
        if not np.isfinite(values).all():
            bad = int(np.flatnonzero(~np.isfinite(values))[0])
            raise ValueError(f"it gave {values[bad]} for row {bad + 1}")
        found: list[float] = values.tolist()
        return found
