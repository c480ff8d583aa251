"""What runs the configs of a sweep, one after the other: here, or as a process of its own.

A process is given a JSON line for each thing to do on its standard input, and answers with JSON lines on its
standard output. The end of its input stops it: the run under way is saved first, as after Ctrl-C. So it
ends with the process that began it, however that ends.
"""

from __future__ import annotations

import _thread
import contextlib
import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gfo.config import Config, make_config
from gfo.config.study import DONE, FAILED, INTERRUPTED
from gfo.core.errors import GfoError, printable
from gfo.core.seeding import stream_seed
from gfo.run.callbacks import Callback, Run
from gfo.tasks.parts.sources import rows_kept

if TYPE_CHECKING:
    from gfo.config.parts import EndpointConfig, ModelConfig
    from gfo.core.domain import Domain

Say = Callable[[dict[str, Any]], None]
SAY_EVERY = 0.5  # seconds


class Worker:
    """Runs configs; keeps the model and the rows of the last for the next."""

    def __init__(self) -> None:
        self._loaded: tuple[str, Any] | None = None
        self._rows: dict[Any, list[Any]] = {}
        self._domains: dict[str, Domain] = {}

    def run(self, name: str, config: Config, folder: Path, say: Say) -> dict[str, Any]:
        """Run a config in a folder, or go on with the run there; how it ended.

        Returns:
            `name`, `state`, and of a failure the `reason` in one line. Its traceback, if it is no bad input,
            goes to standard error.
        """
        found = {"name": name, "state": DONE}
        try:
            with rows_kept(self._rows):
                result = config.run(
                    folder, resume=True, callbacks=[Telling(name, say)], progress=False, load=self.load
                )
        except KeyboardInterrupt:
            return {**found, "state": INTERRUPTED}
        except Exception as error:  # whatever it is, the other runs go on
            if not isinstance(error, GfoError):
                traceback.print_exc()
            return {**found, "state": FAILED, "reason": one_line(error)}
        return {**found, "state": INTERRUPTED} if result.stopped == INTERRUPTED else found

    def refused(self, configs: Mapping[str, Config]) -> dict[str, str]:
        """Of runs by name those that cannot begin, and why: the space does not fit the model, or the
        optimizer not the space."""
        found = {}
        for name, config in configs.items():
            try:
                config.check(self._domain(config))
            except GfoError as error:
                found[name] = str(error)
        return found

    def load(self, section: ModelConfig | EndpointConfig) -> Any:
        """The model of a section; another one is let go first, so that memory holds one."""
        key = section.model_dump_json()
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None
            self._loaded = key, section.load()
        return self._loaded[1]

    def _domain(self, config: Config) -> Domain | None:
        """That of a space which has to be made to know it; None for others."""
        if config.baseline is not None or config.space.domain() is not None:
            return None
        key = config.model.model_dump_json() + config.space.model_dump_json()
        if key not in self._domains:
            space = config.space.build(self.load(config.model.anchored()), stream_seed(config.seed, "space"))
            self._domains[key] = space.domain
        return self._domains[key]


class Telling(Callback):
    """Says how far a run is, now and then."""

    def __init__(self, name: str, say: Say) -> None:
        self._name, self._say, self._said = name, say, 0.0

    def step(self, run: Run) -> str | None:
        now = time.monotonic()
        if now - self._said >= SAY_EVERY:
            self._said = now
            self._say({"name": self._name, "share": run.share_spent})
        return None


def one_line(error: BaseException) -> str:
    """What an exception says, in its first line; its kind, too, unless it is a sentence of gfo's."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return printable(first if isinstance(error, GfoError) else f"{type(error).__name__}: {first}")


def main() -> None:
    """A process of a sweep."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what is printed goes to the log

    def say(values: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):
            answers.write(json.dumps(values) + "\n")
            answers.flush()

    given: queue.Queue[dict[str, Any] | None] = queue.Queue()
    busy = threading.Event()
    threading.Thread(target=_listen, args=(given, busy), daemon=True).start()
    worker = Worker()
    with contextlib.suppress(KeyboardInterrupt):
        while (wanted := given.get()) is not None:
            busy.set()
            answer = _answer(worker, wanted, say)
            busy.clear()
            say(answer)


def _answer(worker: Worker, wanted: dict[str, Any], say: Say) -> dict[str, Any]:
    """Do what a line says."""
    configs, refused = {}, {}
    for name, values in wanted["configs"].items():
        try:
            configs[name] = make_config(values, name)
        except GfoError as error:  # such as a name that only the parent has registered
            refused[name] = str(error)
    if wanted["folder"] is None:
        return {"refused": refused | worker.refused(configs)}
    for name, config in configs.items():
        return worker.run(name, config, Path(wanted["folder"]), say)
    ((name, reason),) = refused.items()
    return {"name": name, "state": FAILED, "reason": reason}


def _listen(given: queue.Queue[dict[str, Any] | None], busy: threading.Event) -> None:
    """Take lines until there are no more, and then stop what the main thread does."""
    for line in sys.stdin:
        given.put(json.loads(line))
    given.put(None)
    if busy.is_set():
        _thread.interrupt_main()
