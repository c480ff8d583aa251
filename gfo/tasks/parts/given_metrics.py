"""The metrics of a task on classes: its usual ones and those that a user names or gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gfo.core.domain import Array
from gfo.core.errors import GfoError, check_name
from gfo.core.metric import LOSS, Metric
from gfo.tasks.parts.metrics import CORRELATIONS

GivenMetrics = Sequence[str | Metric]
"""Names of built-in metrics of labels, and the user's own."""


def chosen_metrics(
    given: GivenMetrics,
    usual: Sequence[Metric],
    names: Mapping[str, Metric],
    *,
    loss: str,
    values: Array | None = None,
) -> tuple[Metric, ...]:
    """A task's usual metrics and those of the user.

    Args:
        given: names of built-in ones, or metrics with functions.
        usual: those that it always has.
        names: the built-in ones that may be asked for.
        loss: the loss' name, which may be one of them.
        values: what stands for each class; texts have no correlation.

    Raises:
        GfoError: for an unknown name, one that is there already, or a metric without a function.
    """
    found = list(usual)
    if isinstance(given, str | Metric):
        raise GfoError(f"metrics = {given!r}: give a list")
    numbers = values is not None and values.dtype.kind == "f"
    for each in [*([loss] if loss in names else []), *given]:
        metric = _chosen(each, names, numbers)
        if isinstance(each, str) and metric in found:
            continue
        if metric.name in (LOSS.name, *(other.name for other in found)):
            raise GfoError(f"metrics: '{metric.name}' is there already; name it otherwise")
        found.append(metric)
    return tuple(found)


def _chosen(each: str | Metric, names: Mapping[str, Metric], numbers: bool) -> Metric:
    """A built-in metric by its name, or the user's own; correlations where the labels are numbers."""
    if isinstance(each, Metric) and each.function is not None:
        return each
    if not isinstance(each, str):
        raise GfoError(
            f"metrics: {each!r} is no name of {', '.join(names)} and no gfo.Metric with a function"
        )
    check_name("metric", each, names)
    if names[each].name in CORRELATIONS and not numbers:
        raise GfoError(f"metrics: '{each}' needs labels that are numbers; name them so, or take 'mcc'")
    return names[each]
