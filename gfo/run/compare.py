"""`compare`: several runs, from their results or folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gfo.core.errors import GfoError, unknown_name
from gfo.report.comparison import Comparison, Group, RunValues, group_runs
from gfo.report.labels import flatten, labels
from gfo.report.scores import recorded_metrics
from gfo.run.history import HISTORY, History
from gfo.run.result import CONFIG, RESULT, Result, metrics_record, read_json

RunLike = Result | str | Path
RECORDED = ("optimizer", "baseline", "options", "space", "task", "model", "d")  # of a run without a config


@dataclass(frozen=True)
class _Found:
    """A run with what it was."""

    values: RunValues
    facts: dict[str, str]
    seed: Any
    name: str


def compare(
    runs: Sequence[RunLike] | Mapping[str, RunLike | Sequence[RunLike]], *, x: str = "evaluations"
) -> Comparison:
    """Several runs side by side: `print` it for a table, `plot` it for the figure.

    Runs whose configs differ by the seed alone are aggregated: median and quartiles in the figure, mean and
    standard deviation in the table. Of runs without a config, optimizer, space and task are compared as far
    as they are recorded; say what belongs together by giving a mapping.

    Args:
        runs: results, or folders of runs, also of unfinished ones; or label -> run or runs, to name and
            group them yourself.
        x: the figure's x axis: "evaluations", "forward_tokens" or "seconds".

    Raises:
        GfoError: for nothing to compare, an unknown x, a folder without a history, or a run without steps.
    """
    from gfo.report.figures import X_AXES

    if x not in X_AXES:
        raise unknown_name("x", x, X_AXES)
    if isinstance(runs, RunLike) or not len(runs):
        raise GfoError(f"compare: runs = {runs!r}; give a list of results or run folders")
    if isinstance(runs, Mapping):
        lists = {k: [v] if isinstance(v, RunLike) else list(v) for k, v in runs.items()}
        groups = [Group(k, tuple(_read(run).values for run in v)) for k, v in lists.items()]
        if not all(group.runs for group in groups):
            raise GfoError("compare: a label has no runs; leave it out")
        return Comparison(tuple(groups), x)
    found = [_read(run) for run in runs]
    indices = group_runs([f.facts for f in found], [f.seed for f in found])
    first = [found[group[0]] for group in indices]
    names = labels([f.facts for f in first], [f.name for f in first])
    return Comparison(
        tuple(
            Group(
                label if len(group) == 1 else f"{label} ({len(group)} seeds)",
                tuple(found[i].values for i in group),
            )
            for label, group in zip(names, indices, strict=True)
        ),
        x,
    )


def _read(run: RunLike) -> _Found:
    """A run's history, test scores and what it was."""
    if isinstance(run, Result):
        name = "" if run.folder is None else run.folder.name
        return _found(run.history, run.summary(), name)
    folder = Path(run)
    history = History.read(folder / HISTORY)
    if (folder / RESULT).exists():
        return _found(history, read_json(folder / RESULT), folder.resolve().name)
    config = read_json(folder / CONFIG) if (folder / CONFIG).exists() else {}
    summary = {"config": config, "seed": config.get("seed"), "metrics": metrics_record(folder)}
    return _found(history, summary, folder.resolve().name)


def _found(history: History, summary: Mapping[str, Any], name: str) -> _Found:
    """From a result.json, or what there is of it."""
    steps = [asdict(step) for step in history]
    record = summary.get("config") or {k: summary[k] for k in RECORDED if k in summary}
    record = {k: v for k, v in record.items() if k != "dev_every"}
    test = summary.get("scores", {}).get("after", {}).get("test", {})
    if not steps and not test:  # with scores it is a baseline that does not search
        raise GfoError(f"compare: {name or 'a run'} has no steps yet; leave it out, or wait for its first")
    seconds = summary.get("cost", {}).get("seconds", steps[-1]["seconds"] if steps else 0.0)
    facts = flatten(record)
    values = RunValues(steps, test, seconds, recorded_metrics(summary))
    return _Found(values, facts, summary.get("seed"), name)
