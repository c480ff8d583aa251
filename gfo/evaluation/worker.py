"""What a worker does: it owns an evaluator, gets messages of points, and answers what they got.

A message is one call of the evaluator. Nothing else goes from here to there, and no candidate's state stays.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from gfo.core.domain import Array
from gfo.core.errors import GfoError
from gfo.core.metric import Metric
from gfo.core.protocols import Evaluator, Measuring, Repairing, Resumable, metrics_of
from gfo.core.recording import description, plain

Make = Callable[[], Evaluator] | str | Path
"""What makes a worker's evaluator: a function of a module, or the path of a config."""
CONFIG = "gfo.config"  # by its name, as it is a layer above
THREADS = "threads"  # of torch, among the settings


@dataclass(frozen=True)
class Message:
    """One call of a worker's evaluator.

    Attributes:
        number: of the call, by which its reply is known.
        method: of the evaluator, such as "__call__".
        z: points [k, d].
        more: the other arguments.
        settings: what all workers do as one of them settled on, and their threads.
    """

    number: int
    method: str
    z: Array
    more: tuple[Any, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Laid:
    """A batch that a call found laid out, or laid out: key, whether it recurs, its size, what it took."""

    key: Any
    recurs: bool
    bytes: int
    computed: float
    needed: float


@dataclass(frozen=True)
class Counted:
    """What a call took, in tokens times layers: its own, and the batches that it found laid out."""

    layers: int
    computed: float
    needed: float
    laid: tuple[Laid, ...]


@dataclass(frozen=True)
class Reply:
    """What came of a message.

    Attributes:
        number: of the message.
        worker: who did it.
        found: what the call gave; None if it failed.
        error: in one line, where it failed; "" else.
        bad_input: whether the error is gfo's own.
        counted: what it took, where the evaluator says so.
        settings: those after the call.
    """

    number: int
    worker: int
    found: Any = None
    error: str = ""
    bad_input: bool = False
    counted: Counted | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Died:
    """That a worker is no more, and why, as far as it is known."""

    why: str


@dataclass(frozen=True)
class About:
    """What a worker's evaluator is, which it says first; `error` if there is none."""

    metrics: tuple[Metric, ...] = ()
    batches_differ: bool | None = None
    settings: Mapping[str, Any] | None = None
    repairs: bool = False
    measures: bool = False
    races: bool = False
    of: Mapping[str, Any] | None = None
    error: str = ""


class Worker:
    """An evaluator behind messages.

    Args:
        number: of the worker, from 0.
        make: makes the evaluator.
        threads: of torch.
    """

    def __init__(self, number: int, make: Make, threads: int) -> None:
        self.number, self._threads = number, threads
        self._evaluator: Any = None
        try:
            self._evaluator = make_evaluator(make)
            self._about = _about(self._evaluator)
        except Exception as error:
            self._about = About(error=_line(error))
        _use_threads(threads)

    def about(self) -> About:
        """What its evaluator is, or why there is none."""
        return self._about

    def answer(self, message: Message) -> Reply:
        """What the call gives, or in one line why it failed."""
        evaluator, who = self._evaluator, (message.number, self.number)
        try:
            self._take_over(message.settings)
            found = getattr(evaluator, message.method)(message.z, *message.more)
            return Reply(*who, found, counted=_counted(evaluator), settings=self._settings())
        except Exception as error:
            return Reply(*who, error=_line(error), bad_input=isinstance(error, GfoError))

    def _take_over(self, settings: Mapping[str, Any]) -> None:
        """Do as the settings say."""
        if not settings or settings == self._settings():
            return
        own = {name: value for name, value in settings.items() if name != THREADS}
        if isinstance(self._evaluator, Resumable):
            self._evaluator.use(own)
        self._threads = settings[THREADS]
        _use_threads(self._threads)

    def _settings(self) -> dict[str, Any]:
        return {**_settings(self._evaluator), THREADS: self._threads}


def make_evaluator(make: Make) -> Evaluator:
    """The evaluator that a function makes, or that the search of a config has."""
    found = import_module(CONFIG).search_evaluator(make) if isinstance(make, str | Path) else make()
    if not isinstance(found, Evaluator):
        kind = type(found).__name__
        raise GfoError(
            f"make_evaluator gave a {kind}; give a function that makes an evaluator, with a `score`"
        )
    return found


def _about(evaluator: Evaluator) -> About:
    known = hasattr(evaluator, "task") and hasattr(evaluator, "space")
    return About(
        metrics=metrics_of(evaluator),
        batches_differ=getattr(evaluator, "batches_differ", None),
        settings=_settings(evaluator) if isinstance(evaluator, Resumable) else None,
        repairs=isinstance(evaluator, Repairing),
        measures=isinstance(evaluator, Measuring),
        races=getattr(evaluator, "racing", None) is not None,
        of=made_of(evaluator) if known else None,
    )


def made_of(evaluator: Any) -> dict[str, Any]:
    """What an evaluator's numbers come of: its model and space, as records have them."""
    return {"model": plain(evaluator.model), "space": description(evaluator.space)}


def _settings(evaluator: Any) -> dict[str, Any]:
    return dict(evaluator.settings()) if isinstance(evaluator, Resumable) else {}


def _counted(evaluator: Any) -> Counted | None:
    """What the evaluator's last call took, where it keeps that."""
    meter = getattr(evaluator, "meter", None)
    if meter is None:
        return None
    laid = [Laid(key, recurs, each.bytes, *each.paid) for (key, recurs), each in meter.laid.items()]
    once = meter.once
    return Counted(meter.layers, meter.computed - once[0], meter.needed - once[1], tuple(laid))


def _use_threads(threads: int) -> None:
    """Have torch use so many, if it is there."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def _line(error: Exception) -> str:
    """An error in one line; gfo's own as it is."""
    first = next(iter(str(error).splitlines()), "")
    return first if isinstance(error, GfoError) else f"{type(error).__name__}: {first}".removesuffix(": ")
