"""The runs of a sweep, as they stand."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gfo.core.checking import checked
from gfo.core.errors import GfoError
from gfo.core.metric import LOSS
from gfo.report.tables import Table, Tabled
from gfo.run.progress import duration

if TYPE_CHECKING:
    from gfo.report.comparison import Comparison
    from gfo.run.runs import Runs

WAITING, RUNNING = "waiting", "running"
DONE, FAILED, INTERRUPTED, LEFT_OUT = ENDED = "done", "failed", "interrupted", "left out"


@dataclass(frozen=True)
class SweepRun:
    """A run of a sweep, as it stands.

    Attributes:
        name: of its folder, in the sweep's.
        changes: key -> value, of the grid.
        state: "waiting", "running", "done", "failed", "interrupted", or "left out".
        reason: why it failed or was left out, in a line.
        share: how much of its budget is spent, 0 to 1.
        evaluations: of one that is done.
        seconds: of its search.
        loss: the lowest training loss.
        score: on test, in words; "" for none.
    """

    name: str
    changes: Mapping[str, Any]
    state: str = WAITING
    reason: str = ""
    share: float = 0.0
    evaluations: int = 0
    seconds: float = 0.0
    loss: float | None = None
    score: str = ""

    def row(self) -> tuple[str, ...]:
        """The run in a table."""
        state = f"{self.state} {self.share:.0%}" if self.state == RUNNING else self.state
        if self.state != DONE:
            return (self.name, state, "", "", "", "")
        loss = "-" if self.loss is None else LOSS.show(self.loss)
        return (self.name, state, f"{self.evaluations:,}", loss, self.score or "-", duration(self.seconds))


@dataclass(frozen=True, repr=False)
class Sweep(Tabled):
    """The runs of a sweep; shows itself as a table.

    Attributes:
        folder: which they are in.
        found: the runs, in the grid's order.
    """

    folder: Path
    found: tuple[SweepRun, ...]

    def table(self) -> Table:
        """A row a run; below, why runs failed or were left out, and what to type next."""
        header = ("run", "state", "evaluations", "train loss", "test", "time")
        notes = [f"{run.name}: {run.state}: {run.reason}" for run in self.found if run.reason]
        if self.of_state(INTERRUPTED, WAITING):
            notes.append("interrupted: the same sweep again goes on")
        elif self.of_state(DONE):
            notes.append(f"next: gfo compare {shlex.quote(str(self.folder))}")
        return Table(header, tuple(run.row() for run in self.found), tuple(notes))

    def of_state(self, *states: str) -> tuple[SweepRun, ...]:
        """The runs in one of these states."""
        return tuple(run for run in self.found if run.state in states)

    @property
    def exit_code(self) -> int:
        """Of the command line: 130 for an interrupted sweep, 1 if a run failed."""
        if self.of_state(INTERRUPTED, WAITING):
            return 130
        return int(bool(self.of_state(FAILED)))

    @checked
    def compare(self, *, x: str = "evaluations") -> Comparison:
        """The runs that are done side by side: see `gfo.compare`."""
        from gfo.run.compare import compare

        done = self.of_state(DONE)
        if not done:
            raise GfoError(f"sweep: no run in {self.folder} is done yet; give the same sweep again")
        return compare([self.folder / run.name for run in done], x=x)

    @checked
    def runs(self, *, sort: str | None = None, filter: Sequence[str] | str = ()) -> Runs:
        """All runs in the folder as a table of numbers: see `gfo.runs`."""
        from gfo.run.runs import runs

        return runs(self.folder, sort=sort, filter=filter)
