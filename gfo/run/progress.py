"""Progress: a bar in terminals, a line that renews itself in notebooks, a line now and then in plain logs."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Protocol

from gfo.core.errors import printable
from gfo.core.metric import LOSS, main_metric
from gfo.report.scores import metrics_named
from gfo.run.callbacks import Callback, Run

if TYPE_CHECKING:
    from rich.console import Console

LOG_EVERY = 15.0  # seconds between lines of a log
SHOW_EVERY = 0.5  # seconds between renewals in a notebook
NARROW = 110  # columns, below which a bar's text leaves out what it can


class View(Protocol):
    """Where progress is shown."""

    def show(self, run: Run) -> None:
        """The run as it stands, after a step."""
        ...

    def close(self, run: Run) -> None:
        """The run as it ended."""
        ...


class ProgressBar(Callback):
    """Share of the budget, time left, best loss, dev score and evaluations a second.

    On standard error, or in a notebook as output of its cell. A terminal gets a bar; what is none (a file,
    a pipe, a scheduler's log) gets a line every 15 seconds and one at the end, without control codes.
    """

    def __init__(self) -> None:
        self._view: View | None = None

    def start(self, run: Run) -> None:
        self._view = _view()

    def step(self, run: Run) -> str | None:
        if self._view is not None:
            self._view.show(run)
        return None

    def end(self, run: Run) -> None:
        if self._view is not None:
            self._view.close(run)
            self._view = None


class Bar:
    """rich's bar, for a terminal of any width."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        self._narrow = console.width < NARROW
        self._bar = Progress(
            TextColumn("{task.percentage:3.0f}%", table_column=Column(min_width=4, no_wrap=True)),
            BarColumn(bar_width=8 if self._narrow else 30),
            TextColumn("{task.fields[text]}", markup=False, table_column=Column(no_wrap=True)),
            console=console,
            redirect_stdout=sys.stdout.isatty(),  # else what a user prints would leave its file or pipe
        )
        self._bar.start()
        self._task = self._bar.add_task("", total=1.0, text="")

    def show(self, run: Run) -> None:
        """Move the bar."""
        text = f"{duration(seconds_left(run))} left, {describe(run, short=self._narrow)}"
        self._bar.update(self._task, completed=run.share_spent, text=text)

    def close(self, run: Run) -> None:
        """Leave the bar as it stands."""
        if len(run.history):
            text = f"{duration(run.seconds)}, {describe(run, short=self._narrow)}"
            self._bar.update(self._task, completed=run.share_spent, text=text)
        self._bar.stop()


class Cell:
    """A line in a notebook's cell; rich's bar would need ipywidgets and not be stored with the notebook."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._shown = 0.0

    def show(self, run: Run) -> None:
        """Renew the line, at most twice a second."""
        if time.monotonic() - self._shown >= SHOW_EVERY:
            self._print(run.share_spent, f"{duration(seconds_left(run))} left, {describe(run)}")

    def close(self, run: Run) -> None:
        """The line as it stays."""
        if len(run.history):
            self._print(run.share_spent, f"{duration(run.seconds)}, {describe(run)}")

    def _print(self, share: float, text: str) -> None:
        from html import escape

        from IPython.display import display

        bar = f'<progress value="{share:.3f}" max="1" style="width: 12em"></progress>'
        data = {
            "text/plain": f"tuning {share:4.0%}, {text}",
            "text/html": f"{bar} <code>{share:4.0%}, {escape(text)}</code>",
        }
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)
        self._shown = time.monotonic()


class Log:
    """Lines of text."""

    def __init__(self) -> None:
        self._logged = time.monotonic()

    def show(self, run: Run) -> None:
        """A line, if the last is long enough ago."""
        if time.monotonic() - self._logged >= LOG_EVERY:
            self._print(f"tuning {run.share_spent:4.0%}, {duration(seconds_left(run))} left, {describe(run)}")
            self._logged = time.monotonic()

    def close(self, run: Run) -> None:
        """A last line."""
        if len(run.history):
            self._print(f"tuned {run.share_spent:4.0%}, {duration(run.seconds)}, {describe(run)}")

    def _print(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


def describe(run: Run, *, short: bool = False) -> str:
    """The last step in a line: evaluations and, unless short, their rate; best loss, dev score."""
    if not len(run.history):
        return "no step yet"
    last = run.history[-1]
    parts = [f"{last.evaluations:,} evaluations"]
    if not short:
        rate = run.cost.candidates / run.cost.seconds if run.cost.seconds else 0.0
        parts.append(f"{rate:,.1f}/s")
    parts.append("no finite loss" if last.best is None else f"best loss {LOSS.show(last.best)}")
    dev = None if run.selection is None else _last_dev(run)
    if dev:
        metric = main_metric(metrics_named(run.metrics, dev)) or LOSS
        parts.append(f"dev {metric.name} {metric.show(dev[metric.name])}")
    return printable(", ".join(parts))


def _last_dev(run: Run) -> dict[str, float | None] | None:
    """The last scores on dev: from the end, so that a long history takes no longer."""
    steps = (run.history[-i] for i in range(1, len(run.history) + 1))
    return next((step.dev for step in steps if step.dev), None)


def seconds_left(run: Run) -> float:
    """Seconds until the budget is spent, if the run goes on as until now."""
    return run.seconds * (1 / run.share_spent - 1) if run.share_spent else 0.0


def duration(seconds: float) -> str:
    """1:23, or 2:03:04 from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _view() -> View:
    """What suits the place that standard error goes to."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_jupyter:
        return Cell()
    # rich takes FORCE_COLOR, which many CI systems set, for a terminal; a log is none
    terminal = sys.stderr.isatty() and not console.is_dumb_terminal
    return Bar(console) if terminal else Log()
