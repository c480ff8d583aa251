"""An end to what others' code would do for ever, such as loops in a model's chat template."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator


class TooLongError(Exception):
    """Something took longer than it may."""

    def __str__(self) -> str:
        return "it takes too long"


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Within, TooLongError is raised after so many seconds: between two steps of Python's, in any thread.

    One step, such as a sum of long numbers, is not cut short.
    """
    lock, thread, over = threading.Lock(), ctypes.c_ulong(threading.get_ident()), False

    def stop() -> None:
        with lock:
            if not over:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(TooLongError))

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            over = True
        timer.cancel()
