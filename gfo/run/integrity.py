"""`gfo check`: what of a run folder is whole, what is damaged, and what can be done."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from gfo.core.errors import GfoError
from gfo.run.checkpoint import STATE
from gfo.run.files import format_of, read_json
from gfo.run.history import HISTORY, History
from gfo.run.schema import RESULT, RUN, read_result, read_run
from gfo.run.scored_front import FRONT, load_front
from gfo.run.state import load_state
from gfo.run.stored import CONFIG, POINT, REFIT, load_point

WHOLE, OLD = "whole", "whole as far as can be told: gfo 0.1.0 wrote no checksums"


@dataclass(frozen=True)
class Finding:
    """What is to be said of a file.

    Attributes:
        name: of the file.
        damaged: whether it must be mended before gfo goes on with the run.
        text: what it is, or what is wrong and what can be done.
    """

    name: str
    damaged: bool
    text: str

    def __str__(self) -> str:
        return f"{self.name:<18} {'DAMAGED: ' if self.damaged else ''}{self.text}"


def check_folder(folder: Path) -> list[Finding]:
    """A finding for each file of a run folder that gfo reads again, a refit's among them. Nothing is changed.

    Raises:
        GfoError: for a folder without a run.
    """
    there = [name for name in CHECKS if os.path.exists(folder / name)]  # False of names too long, too
    if not {HISTORY, RESULT} & set(there):
        raise GfoError(f"{folder} holds no run: no {HISTORY} and no {RESULT}; give the folder of a gfo run")
    found = [_finding(folder, name) for name in there]
    if (folder / REFIT / HISTORY).exists():
        found += [replace(each, name=f"{REFIT}/{each.name}") for each in check_folder(folder / REFIT)]
    return found


def _finding(folder: Path, name: str) -> Finding:
    try:
        return Finding(name, False, CHECKS[name](folder))
    except GfoError as error:
        return Finding(name, True, str(error))


def _config(folder: Path) -> str:
    return WHOLE if read_json(folder / CONFIG) else "empty"


def _run(folder: Path) -> str:
    return WHOLE if format_of(read_run(folder)) > 1 else OLD


def _history(folder: Path) -> str:
    history = History.read(folder / HISTORY)
    if not history.checked and (folder / RUN).exists():
        history.check_sealed(folder, format_of(read_run(folder)))
    whole = WHOLE if history.checked else OLD
    rest = "" if history.ends else "; a last line was not written to its end: that step is done again"
    return f"{whole}, {len(history):,} steps{rest}"


def _state(folder: Path) -> str:
    damaged = "damaged, which does no harm: the run goes on from its history"
    return WHOLE if load_state(folder / STATE) is not None else damaged


def _result(folder: Path) -> str:
    result = read_result(folder)
    whole = WHOLE if format_of(result) > 1 else OLD
    same = _steps(folder) in (None, result["steps"])
    return whole if same else f"{whole}, of {result['steps']:,} steps: the run went on; gfo resume ends it"


def _steps(folder: Path) -> int | None:
    """Those of the history; None where that cannot be read, which is its own finding."""
    try:
        return len(History.read(folder / HISTORY))
    except GfoError:
        return None


def _front(folder: Path) -> str:
    return f"{WHOLE}, {len(load_front(folder).z):,} points"


def _point(folder: Path) -> str:
    return f"{WHOLE}, {len(load_point(folder)):,} numbers"


CHECKS: dict[str, Callable[[Path], str]] = {
    CONFIG: _config,
    RUN: _run,
    HISTORY: _history,
    STATE: _state,
    RESULT: _result,
    POINT: _point,
    FRONT: _front,
}
"""File -> what there is to say of it; a GfoError where it is damaged."""
