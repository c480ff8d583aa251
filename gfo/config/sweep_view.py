"""How a sweep is shown as it goes: a table in terminals and notebooks, lines in logs."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from gfo.config.study import ENDED, Sweep, SweepRun
from gfo.core.errors import printable
from gfo.run.progress import SHOW_EVERY, duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

FRAME = 5  # lines of a terminal that the table does not take


class SweepView:
    """Shows nothing, and is what all views are."""

    def start(self, sweep: Sweep) -> None:
        """Before the first run."""

    def left_out(self, name: str, reason: str) -> None:
        """A run that cannot begin, told before the first one."""

    def show(self, sweep: Sweep, name: str) -> None:
        """The runs as they stand, when something is known of one."""

    def close(self, sweep: Sweep) -> None:
        """The runs as they ended."""


class Lines(SweepView):
    """A line for each run that has ended."""

    def start(self, sweep: Sweep) -> None:
        self._print(f"{len(sweep.found)} runs, {len(sweep.of_state('done'))} of them done already")

    def left_out(self, name: str, reason: str) -> None:
        self._print(f"left out: {name}: {reason}")

    def show(self, sweep: Sweep, name: str) -> None:
        run = next(run for run in sweep.found if run.name == name)
        if run.state in ENDED:
            ended = len(sweep.of_state(*ENDED))
            self._print(f"[{ended}/{len(sweep.found)}] {run.name}: {_said(run)}")

    def _print(self, line: str) -> None:
        print(printable(line), file=sys.stderr, flush=True)


class Cell(Lines):
    """A notebook's output: the table, renewed."""

    _handle: Any = None
    _shown = 0.0

    def start(self, sweep: Sweep) -> None:
        from IPython.display import display

        self._handle = display(sweep.table(), display_id=True)

    def show(self, sweep: Sweep, name: str) -> None:
        if time.monotonic() - self._shown >= SHOW_EVERY:
            self.close(sweep)

    def close(self, sweep: Sweep) -> None:
        self._handle.update(sweep.table())
        self._shown = time.monotonic()


class Live(Lines):
    """rich's live table: of many runs those under way, and the last that ended."""

    def __init__(self, console: Console) -> None:
        from rich.live import Live as RichLive

        self._console = console
        self._live = RichLive(console=console, refresh_per_second=4, redirect_stdout=sys.stdout.isatty())

    def start(self, sweep: Sweep) -> None:
        self._live.start()
        self._live.update(self._table(sweep))

    def show(self, sweep: Sweep, name: str) -> None:
        self._live.update(self._table(sweep))

    def close(self, sweep: Sweep) -> None:
        self._live.stop()

    def _table(self, sweep: Sweep) -> Table:
        from rich.markup import escape
        from rich.table import Table

        shown = _shown(sweep, max(1, self._console.height - FRAME))
        ended = len(sweep.of_state(*ENDED))
        table = Table(box=None, pad_edge=False, title=f"{ended} of {len(sweep.found)} runs have ended")
        for column in sweep.table().header:
            table.add_column(column, justify="left" if column in ("run", "state") else "right")
        for run in shown:
            table.add_row(*map(escape, map(printable, run.row())))
        return table


def view_of(progress: bool) -> SweepView:
    """What suits the place that standard error goes to."""
    from rich.console import Console

    if not progress:
        return SweepView()
    console = Console(stderr=True)
    if console.is_jupyter:
        return Cell()
    return Live(console) if sys.stderr.isatty() and not console.is_dumb_terminal else Lines()


def _shown(sweep: Sweep, most: int) -> list[SweepRun]:
    """As many runs as there is room for: those under way, then those that ended last, then the next."""
    if len(sweep.found) <= most:
        return list(sweep.found)
    order = {"running": 0, "failed": 1, "interrupted": 1, "done": 2, "waiting": 3, "left out": 4}
    first = sorted(range(len(sweep.found)), key=lambda i: (order[sweep.found[i].state], -i))[:most]
    return [sweep.found[i] for i in sorted(first)]


def _said(run: SweepRun) -> str:
    """How a run ended, in words."""
    if run.state != "done":
        return f"{run.state}: {run.reason}" if run.reason else run.state
    score = f"test {run.score}, " if run.score else ""
    return f"{score}{run.evaluations:,} evaluations, {duration(run.seconds)}"
