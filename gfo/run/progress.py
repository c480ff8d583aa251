"""Progress: a bar in terminals and notebooks, a line now and then in plain logs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gfo.run.callbacks import Callback, Run

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

LOG_EVERY = 15.0  # seconds between lines where there is no terminal


class ProgressBar(Callback):
    """Best loss, dev score, evaluations a second and time left, on standard error."""

    def __init__(self) -> None:
        self._console: Console | None = None
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._logged = 0.0

    def start(self, run: Run) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._console = Console(stderr=True)
        self._logged = time.monotonic()
        if not (self._console.is_terminal or self._console.is_jupyter):
            return
        self._bar = Progress(
            TextColumn("tuning"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=self._console,
        )
        self._bar.start()
        self._task = self._bar.add_task("tuning", total=1.0, text="")

    def step(self, run: Run) -> str | None:
        text = describe(run)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=run.share_spent, text=text)
        elif self._console is not None and time.monotonic() - self._logged >= LOG_EVERY:
            left = run.seconds * (1 / run.share_spent - 1) if run.share_spent else 0.0
            self._console.print(f"tuning {run.share_spent:4.0%}, {left:.0f} s left, {text}", soft_wrap=True)
            self._logged = time.monotonic()
        return None

    def end(self, run: Run) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def describe(run: Run) -> str:
    """The last step in a line: evaluations and their rate, best loss, dev score."""
    if not len(run.history):
        return "no step yet"
    last = run.history[-1]
    rate = run.cost.candidates / run.cost.seconds if run.cost.seconds else 0.0
    parts = [f"{last.evaluations} evaluations", f"{rate:.1f}/s"]
    parts.append("no finite loss" if last.best is None else f"best loss {last.best:.4f}")
    dev = next((step.dev for step in reversed(list(run.history)) if step.dev), None)
    if dev:
        score = "accuracy" if "accuracy" in dev else "loss"
        parts.append(f"dev {score} {dev[score]:.3f}")
    return ", ".join(parts)
