"""Many wrong inputs, their outcomes counted; of a whole run the figures are kept as JSON."""

import contextlib
import json
import os
import signal
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

from gfo.core.errors import GfoError

SECONDS = 10  # of the processor's, that no input may take
WAITED = 60  # of the clock's: other processes may be busy
FOLDER = Path(__file__).parents[2] / "benchmarks" / "results" / "stress"


class HangError(BaseException):
    """An input that took longer; no `except Exception` catches it."""


@contextlib.contextmanager
def at_most(seconds, waited):
    """Raise HangError in what takes longer, in seconds of the processor and of the clock."""

    def stop(number, frame):
        raise HangError

    timers = {signal.SIGPROF: (signal.ITIMER_PROF, seconds), signal.SIGALRM: (signal.ITIMER_REAL, waited)}
    before = {number: signal.signal(number, stop) for number in timers}
    for timer, left in timers.values():
        signal.setitimer(timer, left)
    try:
        yield
    finally:
        for number, (timer, _) in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])


class Outcomes:
    """What came of the inputs of one kind."""

    def __init__(self):
        self.counts, self.lines, self.bad, self.slowest = Counter(), set(), [], 0.0

    def of(self, call, what):
        """Call it; anything but a result or a GfoError of one line is kept with `what` it was."""
        start = time.process_time()
        try:
            with warnings.catch_warnings(), at_most(SECONDS, WAITED):
                warnings.simplefilter("ignore")
                call()
            self.counts["taken"] += 1
        except GfoError as error:
            self.counts["refused in a line"] += 1
            self.lines.add(str(error))
            if len(str(error).splitlines()) != 1:
                self._wrong(f"{what}: {error!r}")
        except (Exception, HangError) as error:
            self.counts["else"] += 1
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(where.filename).name}:{where.lineno}"
            self._wrong(f"{what}: {type(error).__name__}: {str(error)[:150]} ({place})")
        self.slowest = max(self.slowest, time.process_time() - start)

    def _wrong(self, line):
        """Keep it; `GFO_STRESS_BAD` names a file that tells at once."""
        self.bad.append(line)
        if "GFO_STRESS_BAD" in os.environ:
            with Path(os.environ["GFO_STRESS_BAD"]).open("a") as file:
                file.write(f"{line}\n")

    def add(self, found):
        """What another process counted: `counts`, `lines`, `bad` and `slowest`, if it has them."""
        self.counts += Counter(found["counts"])
        self.lines |= set(found.get("lines", ()))
        for line in found.get("bad", ()):
            self._wrong(line)
        self.slowest = max(self.slowest, found.get("slowest", 0.0))

    def write(self, name, whole, **more):
        """Keep the figures of a whole run, and more."""
        if whole:
            FOLDER.mkdir(parents=True, exist_ok=True)
            record = {
                **more,
                "inputs": sum(self.counts.values()),
                **{key: self.counts[key] for key in ("taken", "refused in a line", "else")},
                "different lines": len(self.lines),
                "slowest, seconds": round(self.slowest, 2),
            }
            (FOLDER / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
