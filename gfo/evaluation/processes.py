"""Workers as processes of this machine, each new (spawned), with a GPU of its own where there are several."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import pickle
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from gfo.core.errors import GfoError, shown
from gfo.core.protocols import Evaluator
from gfo.evaluation.worker import About, Died, Make, Message, Reply, Worker, make_evaluator

SPAWN = multiprocessing.get_context("spawn")
VISIBLE = "CUDA_VISIBLE_DEVICES"


class Processes:
    """An `Engine` of processes.

    They end with the process that started them, however it ends: its pipes are then closed.

    Args:
        make: makes a worker's evaluator; it has to be pickled.
        threads: of torch, in each.
        gpus: the GPUs that each sees, by worker; empty for all that there are.

    Raises:
        GfoError: for what cannot be sent to another process.
    """

    def __init__(self, make: Make, threads: int, gpus: Sequence[str] = ()) -> None:
        self._make, self._threads, self._gpus = pickled(make), threads, gpus
        self._running: dict[int, tuple[Any, Connection]] = {}

    def start(self, worker: int) -> None:
        """Start a process, in the place of the one of that number if there was one."""
        self._end(worker)
        here, there = SPAWN.Pipe()
        environment = {"OMP_NUM_THREADS": str(self._threads)}
        if self._gpus:
            environment[VISIBLE] = self._gpus[worker]
        arguments = (there, worker, self._make, self._threads, environment)
        process = SPAWN.Process(target=_serve, args=arguments, daemon=True, name=f"gfo worker {worker}")
        process.start()
        there.close()
        self._running[worker] = process, here

    def send(self, worker: int, message: Message) -> None:
        """Give a worker a message."""
        with contextlib.suppress(OSError):  # it has died, as `wait` will say
            self._running[worker][1].send(message)

    def wait(self, seconds: float) -> list[tuple[int, About | Reply | Died]]:
        """What workers say, or that they died."""
        pipes: dict[Any, int] = {pipe: worker for worker, (_, pipe) in self._running.items()}
        found: list[tuple[int, About | Reply | Died]] = []
        ready: list[Any] = wait(list(pipes), seconds)
        for pipe in ready:
            try:
                found.append((pipes[pipe], pipe.recv()))
            except (EOFError, OSError):
                found.append((pipes[pipe], Died(f"exit code {self._end(pipes[pipe])}")))
        return found

    def close(self) -> None:
        """End all processes."""
        for process, _ in self._running.values():
            process.kill()
        for worker in list(self._running):
            self._end(worker)

    @property
    def pids(self) -> dict[int, int]:
        """The processes, by the numbers of the workers."""
        return {worker: process.pid for worker, (process, _) in self._running.items()}

    def _end(self, worker: int) -> int | None:
        """End a process, if it has not; its exit code."""
        if worker not in self._running:
            return None
        process, pipe = self._running.pop(worker)
        pipe.close()
        process.join(timeout=1.0)  # one that has died says why
        process.kill()
        process.join()
        code: int | None = process.exitcode
        process.close()
        return code


def _serve(pipe: Connection, number: int, make: bytes, threads: int, environment: dict[str, str]) -> None:
    """The life of a worker: until nobody is there who could ask."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C goes to all processes of a terminal; the run ends them
    os.environ.update(environment)
    worker = Worker(number, functools.partial(_made, make), threads)
    with contextlib.suppress(EOFError, OSError):
        pipe.send(worker.about())
        while True:
            pipe.send(worker.answer(pipe.recv()))


def _made(make: bytes) -> Evaluator:
    return make_evaluator(pickle.loads(make))


def pickled(make: Make) -> bytes:
    """What makes an evaluator in another process, where it can be found; raises GfoError where it cannot."""
    import __main__

    here = getattr(make, "__module__", None) == "__main__" and not hasattr(__main__, "__file__")
    reason, found = "it stands in a session or notebook", b""
    try:
        found = pickle.dumps(make)
    except Exception as error:
        here, reason = True, next(iter(str(error).splitlines()), type(error).__name__)
    if here:
        raise GfoError(
            f"make_evaluator = {shown(make)} cannot be sent to another process ({reason}); give a "
            "function that stands in a module, or the path of a config"
        )
    return found


def gpus_of_workers(n: int, gpus: float | None) -> list[str]:
    """The GPUs that each of n workers of a machine sees, as CUDA has them; none where there are none.

    Args:
        n: the workers.
        gpus: that a worker gets, a fraction for several on one; None to go round.

    Raises:
        GfoError: for more than there are.
    """
    there = visible_gpus()
    if gpus is None:
        return [there[i % len(there)] for i in range(n)] if there else []
    if gpus == 0:
        return [""] * n
    size = max(1, int(gpus))
    most = len(there) // size if gpus >= 1 else int(len(there) * int(1 / gpus + 1e-9))
    if most < n:
        raise GfoError(f"gpus = {gpus:g}: {n} workers need more than the {len(there)} GPUs of this machine")
    at = [i * size if gpus >= 1 else i // int(1 / gpus + 1e-9) for i in range(n)]
    return [",".join(there[first : first + size]) for first in at]


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA has them."""
    if (given := os.environ.get(VISIBLE)) is not None:
        return [each.strip() for each in given.split(",") if each.strip()]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]
