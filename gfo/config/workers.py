"""The processes of a sweep: runs are given to whichever is free, and what they say comes back as events."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gfo.config.grid import Planned
from gfo.config.study import FAILED, INTERRUPTED
from gfo.config.worker import Say, Worker
from gfo.core.errors import GfoError

Event = tuple["Process", dict[str, Any] | None]


class Here:
    """Runs one after the other in this process, where names that it registered are known."""

    def __init__(self) -> None:
        self._worker = Worker()

    def refused(self, runs: Sequence[Planned]) -> dict[str, str]:
        """Of runs by name those that cannot begin, and why."""
        return self._worker.refused({run.name: run.config for run in runs})

    def run(self, runs: Sequence[Planned], folder: Path, say: Say) -> None:
        """Run all, until one is interrupted."""
        for run in runs:
            say({"name": run.name, "share": 0.0})
            ended = self._worker.run(run.name, run.config, folder / run.name, say)
            say(ended)
            if ended["state"] == INTERRUPTED:
                return

    def close(self) -> None:
        """Nothing is open."""


class Processes:
    """Runs in processes of their own; each keeps its model, and has its share of the processor.

    Args:
        jobs: how many.
        folder: of the sweep; worker1.log there has what the first process prints.
    """

    def __init__(self, jobs: int, folder: Path) -> None:
        self._folder, self._threads = folder, max(1, available_threads() // jobs)
        self._events: queue.Queue[Event] = queue.Queue()
        self._all = [self._new(number) for number in range(1, jobs + 1)]

    def refused(self, runs: Sequence[Planned]) -> dict[str, str]:
        """Of runs by name those that cannot begin, and why."""
        self._all[0].give({run.name: run.config.values() for run in runs}, None)
        _, found = self._events.get()
        if found is None:
            raise GfoError(f"sweep: a process ended before the first run; see {self._all[0].log}")
        refused: dict[str, str] = found["refused"]
        return refused

    def run(self, runs: Sequence[Planned], folder: Path, say: Say) -> None:
        """Run all. After Ctrl-C the runs under way are saved."""
        waiting = deque(runs)
        for process in self._all:
            self._next(process, waiting, say)
        try:
            while any(process.name for process in self._all):
                self._take(*self._events.get(), waiting, say)
        except KeyboardInterrupt:
            self._stop(say)

    def close(self) -> None:
        """End all processes, by force those that do not end."""
        for process in self._all:
            process.close()

    def _new(self, number: int) -> Process:
        return Process(self._folder / f"worker{number}.log", self._threads, self._events)

    def _take(
        self, process: Process, event: dict[str, Any] | None, waiting: deque[Planned], say: Say
    ) -> None:
        """An event of a process: how far its run is, how it ended, or that the process has ended."""
        if event is None:
            if process.name is None:
                return  # it had nothing to do
            say({"name": process.name, "state": FAILED, "reason": process.death()})
            at = self._all.index(process)
            self._all[at] = process = self._new(at + 1)
        else:
            say(event)
        if event is None or "state" in event:
            self._next(process, waiting, say)

    def _next(self, process: Process, waiting: deque[Planned], say: Say) -> None:
        process.name = None
        if waiting:
            run = waiting.popleft()
            process.name = run.name
            say({"name": run.name, "share": 0.0})
            process.give({run.name: run.config.values()}, self._folder / run.name)

    def _stop(self, say: Say) -> None:
        """Have the runs under way saved, and wait for them."""
        open_ones = [process for process in self._all if process.name]
        for process in open_ones:
            process.stop()
        while open_ones:
            process, event = self._events.get()
            if event is not None and "share" not in event:
                say(event)
            elif event is None and process in open_ones:
                open_ones.remove(process)


class Process:
    """A process that runs configs; see `gfo.config.worker`.

    Args:
        log: the file that gets what it prints.
        threads: of its own.
        events: gets what it says, and None when it has ended.
    """

    def __init__(self, log: Path, threads: int, events: queue.Queue[Event]) -> None:
        self.log = log
        self.name: str | None = None  # of the run under way
        code = f"import sys; sys.path[:] = {sys.path!r}; from gfo.config.worker import main; main()"
        with open(log, "ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                encoding="utf-8",
                start_new_session=True,  # Ctrl-C comes to the parent alone, which has the runs saved
                env=os.environ | {"OMP_NUM_THREADS": str(threads)},
            )
        threading.Thread(target=self._listen, args=(events,), daemon=True).start()

    def give(self, configs: Mapping[str, Any], folder: Path | None) -> None:
        """Have it run a config in a folder; without one, check all."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, and an event says so
            values = {"configs": configs, "folder": folder and str(folder)}
            self._process.stdin.write(json.dumps(values) + "\n")
            self._process.stdin.flush()

    def stop(self) -> None:
        """Have it save what it runs, and end."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def close(self) -> None:
        """End it, by force if it runs something."""
        self.stop()
        if self.name is not None:
            self._process.kill()
        self._process.wait()

    def death(self) -> str:
        """Why it has ended, in words."""
        self.stop()
        code = self._process.wait()
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return f"its process ended {how}; see {self.log.name}"

    def _listen(self, events: queue.Queue[Event]) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as answers:
            for line in answers:
                events.put((self, json.loads(line)))
        events.put((self, None))


def available_threads() -> int:
    """How many threads this process may use: as OMP_NUM_THREADS says, or a core each."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    if said.isdecimal() and int(said):
        return int(said)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
