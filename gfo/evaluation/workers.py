"""Many workers as one evaluator: a population in fixed parts, each done by whoever is idle.

What a part gets depends on its points alone, and on settings that all workers share: float32 sums depend on
how many candidates are computed together and on torch's threads, so both are fixed and the same for any
number of workers.
"""

from __future__ import annotations

import itertools
import os
import weakref
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, Literal

from gfo.core.checking import checked
from gfo.core.domain import Array
from gfo.core.errors import GfoError, check_at_least_one
from gfo.core.protocols import Evaluation, Scores
from gfo.evaluation.joining import in_parts, joined, joined_scores
from gfo.evaluation.ledger import Ledger
from gfo.evaluation.pool import Engine, Pool
from gfo.evaluation.worker import THREADS, Make, Message, Reply

PART = 4  # candidates
PARTS = "part"  # their number, among the settings


class WorkerError(Exception):
    """An exception of a worker's evaluator, or that workers died: in one line, with the worker's number."""


@checked
class Workers:
    """An evaluator whose work is done by n workers, each with a model and a task of its own.

    Made once and used by any number of runs; `close`, or leaving a `with`, ends the workers, as do Ctrl-C and
    the end of the process. A worker that dies is replaced and its part done again; a part that takes too long
    is given to an idle worker, too.

    Args:
        make_evaluator: makes a worker's evaluator: a function of a module, without arguments; or the path of
            a config.
        n: the workers.
        engine: "processes" of this machine, or "ray" (extra `ray`) for many machines.
        part: the most candidates that a worker gets at once. Losses depend on it in their last bits, and not
            on n.
        threads: of torch, of each worker; by default the cores divided by n. Losses depend on them in their
            last bits, too.
        gpus: that each worker has, a fraction to share one; by default workers go round those of the machine,
            and Ray gives none.
        address: of Ray's cluster, as "auto"; by default Ray is started on this machine.

    Attributes:
        metrics: what `score` gives.
        n: as given.
        at_once: calls that keep the workers busy: one in reserve.
        of: what the numbers come of, as the workers' evaluator says.
        engine, pool: where the workers run, and what they have to do.

    Raises:
        GfoError: for a number below 1, what cannot be sent to a worker, an evaluator that cannot be made or
            that races, an engine that is not installed, or GPUs that are not there.
    """

    def __init__(
        self,
        make_evaluator: Make,
        n: int,
        *,
        engine: Literal["processes", "ray"] = "processes",
        part: int = PART,
        threads: int | None = None,
        gpus: float | None = None,
        address: str | None = None,
    ) -> None:
        check_at_least_one(n=n, part=part, threads=threads)
        _check_place(engine, gpus, address)
        threads = max(1, (os.cpu_count() or 1) // n) if threads is None else threads
        made = _engine(engine, make_evaluator, n, threads, gpus, address)
        self.n, self.at_once, self._part, self.engine = n, n + 1, part, made
        self._numbers = itertools.count()
        self._sent: dict[int, Message] = {}
        weakref.finalize(self, made.close)  # also when the process ends
        try:
            self.pool = Pool(made, n)
            self._take_over_about(threads)
        except BaseException:
            made.close()
            raise

    def __call__(self, z: Array, step: int) -> Evaluation:
        """Losses of z [K, d] on the step's training batch."""
        return joined([self._counted(reply) for reply in self._done("__call__", z, step)])

    def score(self, z: Array, split: str) -> Scores:
        """Metrics of z [K, d] on a whole split."""
        return joined_scores([self._counted(reply) for reply in self._done("score", z, split)])

    @property
    def part(self) -> int:
        """The most candidates that a worker gets at once."""
        return self._part

    def submit(self, z: Array, step: int) -> int:
        """Have points z [k, d] evaluated by one worker; the number of the call."""
        return self._put("__call__", z, step)

    def finished(self, calls: Collection[int]) -> tuple[int, Evaluation | Exception]:
        """The call of these that ends next, and what it gives or raises."""
        reply = self._take(calls)
        try:
            return reply.number, self._counted(self._good(reply))
        except Exception as error:
            return reply.number, error

    def forget(self, calls: Collection[int]) -> None:
        """Want nothing of these calls any more."""
        for number in calls:
            self._sent.pop(number, None)
        self.pool.forget(calls)

    def close(self) -> None:
        """End the workers; those that are needed later are made anew."""
        self._sent.clear()
        self.pool.close()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take_over_about(self, threads: int) -> None:
        """Be what the workers' evaluator is."""
        about = self.pool.about
        if about.races:
            raise GfoError(
                "racing: it compares all candidates of a step, which workers see in parts; leave it out"
            )
        self.metrics, self.of = about.metrics, about.of
        if about.batches_differ is not None:
            self.batches_differ = about.batches_differ
        self._settings = {**(about.settings or {}), THREADS: threads}
        self._ledger = Ledger(int(self._settings.get("store_bytes", 0)))
        if about.settings is not None:
            self.settings, self.use = self._get_settings, self._use_settings
        if about.repairs:
            self.repair = self._repair
        if about.measures:
            self.measure = self._measure

    def _get_settings(self) -> dict[str, Any]:
        """What all workers do as one of them settled on."""
        return {**self._settings, PARTS: self._part}

    def _use_settings(self, settings: Mapping[str, Any]) -> None:
        """Decide as the workers of another run did, however many they were."""
        self._part = int(settings[PARTS])
        self._settings = {name: settings[name] for name in self._settings}
        self._ledger = Ledger(int(self._settings.get("store_bytes", 0)))

    def _repair(self, z: Array) -> Array:
        found: Array = self._one("repair", z).found
        return found

    def _measure(self, z: Array) -> Mapping[str, Array]:
        found: Mapping[str, Array] = self._one("measure", z).found
        return found

    def _one(self, method: str, z: Array) -> Reply:
        number = self._put(method, z)
        return self._good(self._take([number]))

    def _done(self, method: str, z: Array, *more: Any) -> list[Reply]:
        """The replies to the parts of a call, in their order; the first error ends it."""
        numbers = [self._put(method, some, *more) for some in in_parts(z, self._part)]
        replies: dict[int, Reply] = {}
        try:
            while len(replies) < len(numbers):
                reply = self._take([number for number in numbers if number not in replies])
                replies[reply.number] = self._good(reply)
        except Exception:
            self.forget(numbers)
            raise
        return [replies[number] for number in numbers]

    def _put(self, method: str, z: Array, *more: Any) -> int:
        """Have a call done by a worker; its number."""
        message = Message(next(self._numbers), method, z, more, self._settings)
        self._sent[message.number] = message
        self.pool.put(message)
        return message.number

    def _take(self, numbers: Collection[int]) -> Reply:
        """The next reply to one of these calls; an interrupt, as by Ctrl-C, ends the workers."""
        try:
            reply = self.pool.take(numbers)
        except BaseException:
            self.close()
            raise
        sent = self._sent.pop(reply.number)
        if reply.settings and reply.settings != sent.settings:  # memory ran short
            self._settings = dict(reply.settings)
        return reply

    def _good(self, reply: Reply) -> Reply:
        """The reply; an error raises, GfoError if it was one."""
        if not reply.error:
            return reply
        raise (GfoError if reply.bad_input else WorkerError)(f"worker {reply.worker}: {reply.error}")

    def _counted(self, reply: Reply) -> Any:
        """What a call gave, with its cost as one evaluator would count it."""
        if reply.counted is None:
            return reply.found
        return replace(reply.found, cost=self._ledger.cost(reply.counted, reply.found.cost))


def _engine(name: str, make: Make, n: int, threads: int, gpus: float | None, address: str | None) -> Engine:
    if name == "ray":
        from gfo.evaluation.on_ray import OnRay

        return OnRay(make, n, threads, gpus or 0.0, address)
    from gfo.evaluation.processes import Processes, gpus_of_workers

    return Processes(make, threads, gpus_of_workers(n, gpus))


def _check_place(engine: str, gpus: float | None, address: str | None) -> None:
    """Raise GfoError for GPUs out of range, or the address of a cluster that the engine has not."""
    if gpus is not None and not 0 <= gpus < 2**16:
        raise GfoError(f"gpus = {gpus} must be 0 or more")
    if address is not None and engine != "ray":
        raise GfoError(f"address = {address}: it is of Ray's cluster; give engine='ray', or leave it out")
