"""`compare`: several runs, from their results or folders."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gfo.core.checking import checked
from gfo.core.errors import GfoError, unknown_name
from gfo.core.recording import NOT_RECORDED
from gfo.report.comparison import Comparison
from gfo.report.groups import Group, RunValues, group_runs
from gfo.report.labels import flatten, labels, seeds
from gfo.report.scores import recorded_metrics
from gfo.run.history import HISTORY, History
from gfo.run.result import Result
from gfo.run.runs import folders_in
from gfo.run.stored import recorded_setup, stored_summary

RunLike = Result | str | Path
Named = tuple[str, Sequence[RunValues], bool, str]
"""A label, its runs, whether to say how many seeds they are, and the method."""


@dataclass(frozen=True)
class _Found:
    """A run with what it was."""

    values: RunValues
    facts: dict[str, str]
    seed: Any
    name: str

    @property
    def method(self) -> dict[str, str]:
        """What was run, whatever the task."""
        return {key: value for key, value in self.facts.items() if not _of_task(key)}

    @property
    def unknown(self) -> list[str]:
        """What of it was made with arguments that were not recorded."""
        return [key.split(".")[0] for key, value in self.facts.items() if NOT_RECORDED in value]

    @property
    def known_seed(self) -> Any:
        """The seed, None where the run cannot be told from others by it."""
        return None if self.unknown else self.seed


@checked
def compare(
    runs: Sequence[RunLike] | Mapping[str, RunLike | Sequence[RunLike]], *, x: str = "evaluations"
) -> Comparison:
    """Several runs side by side: `print` it for a table, `plot` it for the figure.

    Runs whose configs differ by seeds alone are aggregated: median and quartiles in the figure, mean and
    standard deviation in the table. Of runs without a config, what optimizer, space and task were made with
    is compared; where that was not recorded each run stands alone, unless a mapping says what belongs
    together. Runs of other seeds that are equal in every number are one run, and a note says so.

    Args:
        runs: results, folders of runs, also of unfinished ones, or folders that runs are in; or label -> run
            or runs, to name and group them yourself.
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
        return _joined(_named(runs), x, [])
    found = _read_all(runs)
    return _joined(_grouped(found), x, _notes_on_unknown(found))


def _named(runs: Mapping[str, RunLike | Sequence[RunLike]]) -> list[Named]:
    """The user's groups."""
    lists = {k: [v] if isinstance(v, RunLike) else list(v) for k, v in runs.items()}
    if not all(lists.values()):
        raise GfoError("compare: a label has no runs; leave it out")
    return [(k, [run.values for run in _read_all(v)], False, k) for k, v in lists.items()]


def _grouped(found: Sequence[_Found]) -> list[Named]:
    """Groups of runs that differ by their seeds alone, labelled by what else differs."""
    indices = group_runs([f.facts for f in found], [f.known_seed for f in found])
    groups = [[found[i] for i in group] for group in indices]
    first = [group[0] for group in groups]
    names = labels([f.facts for f in first], [f.name for f in first])
    values = [[run.values for run in group] for group in groups]
    return list(zip(names, values, itertools.repeat(True), _methods(first)))


def _methods(first: Sequence[_Found]) -> list[str]:
    """What to call the method of each group, by the first run of it: the same where only tasks differ."""
    keys = [tuple(sorted(f.method.items())) for f in first]
    of = dict(zip(keys, first, strict=True))
    names = labels([f.method for f in of.values()], [f.name for f in of.values()])
    known = dict(zip(of, names, strict=True))
    return [known[key] for key in keys]


def _joined(groups: Sequence[Named], x: str, notes: Sequence[str]) -> Comparison:
    """The groups, those of equal runs as one run with a note."""
    shown, said = [], list(notes)
    for label, runs, counted, method in groups:
        if _all_same(runs):
            said.append(f"{label}: {len(runs)} runs are equal in every number: nothing varies; one is shown")
            runs, counted = runs[:1], False
        text = f"{label} ({len(runs)} seeds)" if counted and len(runs) > 1 else label
        shown.append(Group(text, tuple(runs), method))
    return Comparison(tuple(shown), x, tuple(said))


def _all_same(runs: Sequence[RunValues]) -> bool:
    """Whether they are several that are one."""
    return len(runs) > 1 and all(_same(runs[0], run) for run in runs[1:])


def _same(one: RunValues, other: RunValues) -> bool:
    """Whether two runs are one, but for what they took of time."""
    kept = ("evaluations", "forward_tokens", "loss", "best", "dev", "points")
    steps = [[{key: step.get(key) for key in kept} for step in run.steps] for run in (one, other)]
    return (steps[0], one.test) == (steps[1], other.test)


def _notes_on_unknown(found: Sequence[_Found]) -> list[str]:
    """What is to be said of runs that cannot be told apart by what was recorded."""
    kinds = [f"{run.facts.get(f'{what}.kind', what)}" for run in found for what in run.unknown]
    if len(found) < 2 or not kinds:
        return []
    what = ", ".join(dict.fromkeys(kinds))
    return [
        f"{what}: made with arguments that were not recorded, so these runs are not grouped; decorate the "
        "class with gfo.recorded, or group runs by a mapping"
    ]


def _read_all(runs: Sequence[RunLike]) -> list[_Found]:
    """The runs, and those in folders of runs."""
    return [_read(each) for run in runs for each in _runs_in(run)]


def _runs_in(run: RunLike) -> Sequence[RunLike]:
    """The runs in a folder that is none itself; else the run."""
    if isinstance(run, Result) or not os.path.isdir(run):
        return [run]
    return list(folders_in(Path(run))) or [run]


def _read(run: RunLike) -> _Found:
    """A run's history, test scores and what it was."""
    if isinstance(run, Result):
        name = "" if run.folder is None else run.folder.name
        return _found(run.history, run.summary(), name)
    folder = Path(run)
    history = History.read(folder / HISTORY)
    return _found(history, stored_summary(folder), folder.resolve().name)


def _found(history: History, summary: Mapping[str, Any], name: str) -> _Found:
    """From a result.json, or what there is of it."""
    steps = [asdict(step) for step in history]
    record = recorded_setup(summary)
    test = summary.get("scores", {}).get("after", {}).get("test", {})
    if not steps and not test:  # with scores it is a baseline that does not search
        raise GfoError(f"compare: {name or 'a run'} has no steps yet; leave it out, or wait for its first")
    seconds = summary.get("cost", {}).get("seconds", steps[-1]["seconds"] if steps else 0.0)
    facts = flatten(record)
    values = RunValues(steps, test, seconds, recorded_metrics(summary), _block(facts, summary))
    return _Found(values, facts, _seeds(summary, record), name)


def _of_task(key: str) -> bool:
    return key.split(".")[0] == "task"


def _block(facts: Mapping[str, str], summary: Mapping[str, Any]) -> str:
    """The task and the root seed of a run, as text."""
    task = {key: value for key, value in facts.items() if _of_task(key)}
    return json.dumps([task, summary.get("seed")], sort_keys=True)


def _seeds(summary: Mapping[str, Any], record: Mapping[str, Any]) -> Any:
    """All seeds of a run, None if its root seed is not known."""
    root = summary.get("seed")
    return None if root is None else tuple({"": root, **seeds(record)}.items())
