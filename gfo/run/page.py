"""A run folder on a page: what was run, what came of it, its files and what is wrong with any."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gfo.core.errors import GfoError, printable
from gfo.report.labels import flatten
from gfo.run.history import HISTORY, History
from gfo.run.integrity import check_folder
from gfo.run.result import Result
from gfo.run.runs import FACTS, facts_of
from gfo.run.schema import RESULT
from gfo.run.stored import recorded_setup, stored_summary

MADE = ("date", "hardware", "versions", "memory")  # when and where


def page(folder: Path) -> str:
    """A run folder in words, of a run that ended or did not.

    Raises:
        GfoError: for a folder without a run.
    """
    findings = check_folder(folder)
    try:
        summary = stored_summary(folder)
        parts = [_lines(_setup(summary)), _outcome(folder), _lines(_made(summary))]
    except GfoError as error:
        parts = [f"damaged: {error}"]
    return "\n\n".join([*parts, "\n".join([*map(str, findings), *_others(folder, findings)])])


def _setup(summary: Mapping[str, Any]) -> Mapping[str, str]:
    """What was run: first the names that lists of runs have."""
    facts, setup = facts_of(summary), flatten(recorded_setup(summary))
    shown = {key: facts[key] for key in FACTS if facts[key] != "-"}
    places = {place for some in FACTS.values() for place in some}
    return {**shown, **{key: value for key, value in setup.items() if key not in places}}


def _outcome(folder: Path) -> str:
    """The result, or how far the run is."""
    if (folder / RESULT).exists():
        return str(Result.load(folder))
    last = History.read(folder / HISTORY).last
    if last is None:
        return "not ended: no step yet"
    best = "none was finite" if last.best is None else f"{last.best:.4f}"
    return (
        f"not ended: {last.step + 1:,} steps, {last.evaluations:,} evaluations, lowest train loss {best}; "
        f"gfo resume {folder} goes on"
    )


def _made(summary: Mapping[str, Any]) -> Mapping[str, str]:
    """Where and when it ended."""
    return flatten({key: summary[key] for key in MADE if key in summary})


def _others(folder: Path, findings: Iterable[Any]) -> list[str]:
    """Names of files and folders that gfo does not read again."""
    read = {each.name.partition("/")[0] for each in findings}
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    left = [name for name in names if name not in read]
    return [f"also there: {', '.join(left)}"] if left else []


def _lines(values: Mapping[str, str]) -> str:
    """A line a value, behind its name."""
    width = max(map(len, values), default=0)
    return "\n".join(f"{key:<{width}}  {printable(value)}" for key, value in values.items())
