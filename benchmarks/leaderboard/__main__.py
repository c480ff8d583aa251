"""Every method on every task and split at the same forward tokens: runs what is missing or no longer true.

    python -m benchmarks.leaderboard --data DIR --processes 2

Reads experiments/leaderboard and writes one JSON file a run into results/leaderboard, of which
`python -m benchmarks.leaderboard.report` makes tables and figures. Each run is a process of its own. After
Ctrl-C, a crash or a kill the same command goes on; any number of them may run at once. See README.md of the
benchmarks for the protocol.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import shared
from benchmarks.leaderboard import runs as definition
from benchmarks.leaderboard.runs import EXPERIMENTS, RESULTS, Outcome, Run
from benchmarks.shared import STOPPED, say
from gfo.config import Config, make_config
from gfo.run.callbacks import Callback
from gfo.run.history import HISTORY, History
from gfo.run.schema import read_result

WORK = Path("runs") / "leaderboard"
BUSY, OTHER = 75, 76  # exit codes of a run in a process of its own


@dataclass(frozen=True)
class Board:
    """The runs and where they live.

    Attributes:
        data: folder of the data sets.
        results: folder of the outcomes.
        work: folder of runs under way.
    """

    data: Path
    results: Path
    work: Path

    def config(self, run: Run) -> Config:
        """The run's config, checked."""
        task = {**run.config["task"], "data_dir": str(self.data)}
        return make_config({**run.config, "task": task}, run.name)

    def why_to_run(self, run: Run) -> str | None:
        """Why a run has to be done, in words; None if its outcome holds."""
        return definition.why_to_run(run.read(self.results), definition.depends(self.config(run), self.data))

    def do(self, run: Run, *, confirm: bool = False) -> int:
        """Do a run in this process, or go on with it; the exit code."""
        from filelock import FileLock, Timeout

        self.work.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self._path(run, ".lock"), timeout=0):
                why = self.why_to_run(run)
                if why is None:
                    return 0
                return self._confirm(run, why) if confirm else self._do(run)
        except Timeout:
            return BUSY

    def _do(self, run: Run) -> int:
        config = self.config(run)
        stands = definition.depends(config, self.data)
        digest = definition.digest(json.dumps([stands, definition.all_code()], sort_keys=True))
        folder = self._path(run, f"--{digest}")  # another config, other data or other code begin anew
        if config.baseline is not None and folder.exists():
            shutil.rmtree(folder)  # what is trained cannot go on from a history
        start, cpu = time.perf_counter(), time.process_time()
        result = config.run(folder, resume=config.baseline is None, progress=sys.stderr.isatty())
        if result.stopped == "interrupted":
            return STOPPED
        summary = read_result(folder)
        summary["process"] = {
            "seconds": round(time.perf_counter() - start, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
        }
        stands |= {"config": summary.pop("config"), "code": definition.loaded_code()}
        history = _steps(folder) if len(result.history) else []
        run.write(self.results, {"depends": stands, "result": summary, "history": history})
        shutil.rmtree(folder)
        return 0

    def _confirm(self, run: Run, why: str) -> int:
        """Repeat the first steps of a run whose code has changed; it holds if they are the same."""
        outcome = run.read(self.results)
        if outcome is None or not why.startswith(definition.CODE):
            return OTHER
        then = outcome["history"]
        with tempfile.TemporaryDirectory(dir=self.work) as name:
            folder, few = Path(name) / "run", Until(definition.steps_to_repeat(then) if then else 0)
            result = self.config(run).run(folder, callbacks=[few], progress=False, test=not then)
            now = _steps(folder) if then else []
        same = definition.same_steps(then, now) if then else result.scores == outcome["result"]["scores"]
        if not same:
            return OTHER
        outcome["depends"]["code"] = definition.loaded_code()
        run.write(self.results, outcome)
        return 0

    def _path(self, run: Run, end: str) -> Path:
        return self.work / f"{run.name.replace('/', '--')}{end}"


class Until(Callback):
    """Ends a run after so many steps."""

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def step(self, run: Any) -> str | None:
        """The reason to end, if it is time."""
        return "repeated" if len(run.history) >= self._steps else None


def _steps(folder: Path) -> list[dict[str, Any]]:
    return [asdict(step) for step in History.read(folder / HISTORY)]


class Workers:
    """Processes that do runs, `number` at a time."""

    def __init__(self, board: Board, runs: Sequence[Run], number: int, command: Sequence[str]) -> None:
        self._board, self._command, self._number = board, command, number
        self._runs = iter(runs)
        self._next = threading.Lock()
        self._stopped = threading.Event()
        self._children: set[subprocess.Popen[bytes]] = set()
        self.failed: list[str] = []

    def work(self) -> None:
        """Do all runs."""
        threads = [threading.Thread(target=self._work) for _ in range(self._number)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except KeyboardInterrupt:
            self._stopped.set()
            for child in list(self._children):
                child.send_signal(signal.SIGINT)
            for thread in threads:
                thread.join()
            raise

    def _work(self) -> None:
        while not self._stopped.is_set():
            with self._next:
                run = next(self._runs, None)
            if run is None:
                return
            self._do(run)

    def _do(self, run: Run) -> None:
        say(f"{run.name}: it begins")
        start = time.perf_counter()
        child = subprocess.Popen([*self._command, "--here", run.name], start_new_session=True)
        self._children.add(child)
        code = child.wait()
        self._children.discard(child)
        if code == 0:
            say(
                f"{run.name}: {described(run.read(self._board.results))}, {time.perf_counter() - start:.0f} s"
            )
        elif code == BUSY:
            say(f"{run.name}: another process is at it")
        elif code == OTHER:
            say(f"{run.name}: not confirmed; it has to be run again")
        elif code != STOPPED:
            self.failed.append(run.name)
            say(f"{run.name}: it failed with exit code {code}")


def described(outcome: Outcome | None) -> str:
    """What a run reached, in a few words."""
    assert outcome is not None
    scores = outcome["result"]["scores"].get("after", {}).get("test", {})
    reached = f"test accuracy {scores['accuracy']:.1%}" if "accuracy" in scores else ""
    dev = [step["dev"]["loss"] for step in outcome["history"] if step.get("dev")]
    return ", ".join(filter(None, [reached, f"dev loss {min(dev):.3f}" if dev else ""])) or "done"


def select(runs: Sequence[Run], options: argparse.Namespace) -> list[Run]:
    """The runs that the options ask for."""
    for name in ("task", "method", "split"):
        known = sorted({getattr(run, name) for run in runs})
        wanted = shared.chosen(f"--{name}", getattr(options, name), known)
        runs = [run for run in runs if getattr(run, name) in wanted]
    return list(runs)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the command line."""
    parser = shared.Parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    for name in ("task", "method", "split"):
        parser.add_argument(f"--{name}", action="append", help="only these; may be repeated")
    parser.add_argument("--processes", type=int, default=1, help="runs at a time (default %(default)s)")
    parser.add_argument("--experiments", type=Path, default=EXPERIMENTS, help="folder of what is to be run")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the outcomes")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of runs under way (%(default)s)")
    parser.add_argument("--list", action="store_true", help="what would be run, and why")
    parser.add_argument(
        "--confirm",
        action="store_true",
        help="where only code has changed, repeat the first steps: runs with the same losses hold",
    )
    parser.add_argument("--here", help=argparse.SUPPRESS)  # do this run in this process
    options = parser.parse_args(arguments)
    shared.check_at_least_one(options, ["processes"])
    return options


def lead(options: argparse.Namespace, command: Sequence[str]) -> int:
    """Do what the options ask for; the exit code."""
    board = Board(options.data, options.out, options.work)
    runs = select(definition.read_runs(options.experiments), options)
    if options.here:
        (run,) = (run for run in runs if run.name == options.here)
        return board.do(run, confirm=options.confirm)
    waiting = {run.name: why for run in runs if (why := board.why_to_run(run))}
    say(f"{len(runs)} runs, {len(waiting)} of them to do")
    if options.list:
        print("\n".join(f"{name}: {why}" for name, why in waiting.items()))
        return 0
    workers = Workers(board, [run for run in runs if run.name in waiting], options.processes, command)
    workers.work()
    if workers.failed:
        print(f"error: {len(workers.failed)} runs failed: {', '.join(workers.failed)}", file=sys.stderr)
    return 1 if workers.failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    command = shared.itself("benchmarks.leaderboard", *arguments)
    return shared.command(arguments, parse, lambda options: lead(options, command), goes_on=True)


if __name__ == "__main__":
    shared.start(main, threads=1)
