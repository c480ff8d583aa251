"""Loops of others end at a deadline, in any thread, and nothing comes of one that is over."""

import contextlib
import threading
import time

import pytest

from gfo.core.deadline import TooLongError, at_most


def loop():
    while True:
        pass


def test_a_loop_ends():
    with pytest.raises(TooLongError, match="it takes too long"), at_most(0.05):
        loop()


def test_in_another_thread():
    raised = []

    def ends():
        try:
            with at_most(0.05):
                loop()
        except TooLongError as error:
            raised.append(error)

    thread = threading.Thread(target=ends)
    thread.start()
    thread.join(10)
    assert len(raised) == 1


def test_nothing_comes_of_one_that_is_over():
    for _ in range(50):
        with contextlib.suppress(TooLongError), at_most(0.001):
            time.sleep(0.001)
    end = time.monotonic() + 0.05
    while time.monotonic() < end:
        pass


def test_errors_within_stay_what_they_are():
    with pytest.raises(KeyError), at_most(5):
        raise KeyError
