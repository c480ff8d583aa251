"""Workers on Ray: actors, on any machine of a cluster that has the cores and GPUs for them.

Moritz et al. (2018), Ray: a distributed framework for emerging AI applications, arXiv:1712.05889.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from typing import Any

from gfo.core.errors import GfoError, GfoWarning
from gfo.core.protocols import Evaluator
from gfo.evaluation.worker import About, Died, Make, Message, Reply, Worker, make_evaluator

LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # "0", when Ray is imported, keeps its ports on 127.0.0.1
STORE_BYTES = 80 * 2**20  # of Ray's object store on this machine: messages are small


class OnRay:
    """An `Engine` of Ray's actors. Deaths are the pool's to mend, so that Ray tries nothing again.

    Args:
        make: makes a worker's evaluator; what another machine cannot import it gets as source.
        n: the workers.
        threads: of torch, and the cores that each worker takes.
        gpus: that each worker takes.
        address: of a cluster; None starts Ray on this machine, with cores for all workers.

    Raises:
        GfoError: without Ray, without a cluster at the address, or if it has no room for a worker.
    """

    def __init__(self, make: Make, n: int, threads: int, gpus: float, address: str | None) -> None:
        if address is None:
            os.environ.setdefault(LOOPBACK, "0")
        try:
            import ray
        except ImportError:
            raise GfoError(
                "engine = 'ray' needs Ray, which is not installed; pip install 'gfo-llm[ray]'"
            ) from None
        self._ray, self._own = ray, not ray.is_initialized()
        self._where = address, n * threads
        self._join()
        self._check_room(n, threads, gpus)
        actor = ray.remote(num_cpus=threads, num_gpus=gpus, max_restarts=0, max_task_retries=0)
        self._actor: Any = actor(Worker)
        self._make, self._threads = functools.partial(_made, ray.cloudpickle.dumps(make), sys.path), threads
        self._actors: dict[int, Any] = {}
        self._waiting: dict[Any, int] = {}

    def start(self, worker: int) -> None:
        """Make an actor, in the place of the one of that number if there was one."""
        self._join()
        self._waiting = {reference: other for reference, other in self._waiting.items() if other != worker}
        self._actors[worker] = self._actor.remote(worker, self._make, self._threads)
        self._waiting[self._actors[worker].about.remote()] = worker

    def send(self, worker: int, message: Message) -> None:
        """Give a worker a message."""
        self._waiting[self._actors[worker].answer.remote(message)] = worker

    def wait(self, seconds: float) -> list[tuple[int, About | Reply | Died]]:
        """What workers say, or that they died."""
        done, _ = self._ray.wait(list(self._waiting), timeout=seconds)
        return [self._said(reference) for reference in done]

    def close(self) -> None:
        """End the actors, and Ray if it was started here."""
        if not self._ray.is_initialized():
            return
        for actor in self._actors.values():
            self._ray.kill(actor)
        self._actors, self._waiting = {}, {}
        if self._own:
            self._ray.shutdown()

    def _join(self) -> None:
        if not self._ray.is_initialized():
            _connect(self._ray, *self._where)

    def _said(self, reference: Any) -> tuple[int, About | Reply | Died]:
        worker = self._waiting.pop(reference)
        try:
            return worker, self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return worker, Died(_reason(error))

    def _check_room(self, n: int, threads: int, gpus: float) -> None:
        """Say how many workers a cluster has room for, if not for all."""
        there = self._ray.cluster_resources()
        needs = {"CPU": float(threads), "GPU": gpus}
        room = min(int(there.get(name, 0.0) / each + 1e-9) for name, each in needs.items() if each)
        if room < n:
            said = f"{n} workers of {threads} cores and {gpus:g} GPUs"
            has = f"the cluster has {there.get('CPU', 0):g} cores and {there.get('GPU', 0):g} GPUs"
            if not room:
                raise GfoError(f"ray: {said}, but {has}; give fewer threads or a smaller share of a GPU")
            warnings.warn(f"ray: {said}, but {has}: {room} work until it has more", GfoWarning, stacklevel=5)


def _made(make: bytes, path: Sequence[str]) -> Evaluator:
    """What makes an evaluator in another process, where modules are found as they are here."""
    from ray import cloudpickle

    sys.path.extend(folder for folder in path if folder not in sys.path)
    return make_evaluator(cloudpickle.loads(make))


def _reason(error: Exception) -> str:
    """Why an actor is no more: the last line of what Ray says, which has the exception."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _connect(ray: Any, address: str | None, cores: int) -> None:
    """Join a cluster, or start one here; the signals of the process stay whose they were."""
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        options |= {"num_cpus": max(cores, os.cpu_count() or 1), "object_store_memory": STORE_BYTES}
        options |= {"include_dashboard": False}
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address or "local", **options)
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise GfoError(f"address = {address}: Ray cannot be reached or started ({reason})") from None
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)
