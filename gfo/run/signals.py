"""SIGTERM and SIGHUP end a run as Ctrl-C does: schedulers and closed terminals send them."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

NAMES = ("SIGTERM", "SIGHUP")  # not every system has both


@contextmanager
def as_interrupts() -> Iterator[None]:
    """Within, the signals raise KeyboardInterrupt; afterwards they do what they did.

    A handler of the user's own stays, as does that of nohup, and outside of the main thread nothing changes:
    there no handler can be set.
    """
    mine = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        mine = []
    mine = [number for number in mine if signal.getsignal(number) is signal.SIG_DFL]
    try:
        for number in mine:
            signal.signal(number, _interrupt)
        yield
    finally:
        for number in mine:
            signal.signal(number, signal.SIG_DFL)


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt(f"interrupted by {signal.Signals(number).name}")
