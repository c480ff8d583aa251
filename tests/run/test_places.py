"""Runs in processes that change their folder, and that are told to end."""

import os
import signal
import threading

import numpy as np
import pytest

import gfo
from gfo.core.protocols import Cost, Evaluation, Scores
from gfo.run.history import History

D = 3


class Judge:
    """A sphere, which may do something at a step."""

    def __init__(self, step=None, do=None):
        self.step, self.do = step, do

    def __call__(self, z, step):
        if step == self.step:
            self.do()
        return Evaluation((z**2).sum(axis=1), Cost(len(z)))

    def score(self, z, split):
        return Scores({"loss": (z**2).sum(axis=1)}, Cost(len(z)))


def go(out, judge=None, evaluations=80, **options):
    optimizer = gfo.optimizers.make("snes", domain=gfo.Domain.unbounded(D), seed=1, population=8)
    budget = gfo.Budget(evaluations=evaluations)
    return gfo.minimize(optimizer, judge or Judge(), budget=budget, out=out, **options)


@pytest.fixture
def places(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "a")
    return tmp_path / "a", tmp_path / "b"


def test_scores_go_to_the_run_they_are_of(places):
    a, b = places
    first = go("runs/first")
    os.chdir(b)
    go("runs/first", evaluations=40)
    before = (b / "runs/first/result.json").read_bytes()
    first.score("test")
    assert (b / "runs/first/result.json").read_bytes() == before
    assert '"test"' in (a / "runs/first/result.json").read_text()
    assert first.folder == a / "runs" / "first"


def test_a_callback_that_changes_the_folder_loses_nothing(places):
    a, b = places

    class Moves(gfo.Callback):
        def step(self, run):
            os.chdir(b)

    result = go("run", callbacks=[Moves(), gfo.CSVLog("log.csv")])
    assert list(b.iterdir()) == []
    assert len(History.read(a / "run" / "history.jsonl")) == len(result.history) == 10
    assert (a / "run" / "result.json").exists()
    assert (a / "log.csv").read_text().count("\n") == 11


def test_home_and_nowhere(places, monkeypatch):
    monkeypatch.setenv("HOME", str(places[1]))
    assert go("~/run").folder == places[1] / "run"
    with pytest.raises(gfo.GfoError, match=r"out = '' is no path; name"):
        go("")
    assert list(places[0].iterdir()) == []


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signals_that_end_a_run_keep_it(tmp_path, name):
    number = getattr(signal, name)
    signal.signal(number, signal.SIG_DFL)  # nohup ignores it
    judge = Judge(4, lambda: signal.raise_signal(number))
    assert go(tmp_path / "run", judge).stopped == "interrupted"
    assert signal.getsignal(number) is signal.SIG_DFL
    assert len(History.read(tmp_path / "run" / "history.jsonl")) == 4
    whole = go(tmp_path / "whole")
    assert go(tmp_path / "run", resume=True).history.trajectory() == whole.history.trajectory()


def test_a_handler_of_the_users_stays_and_so_does_none(tmp_path):
    called = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: called.append(number))
    hung_up = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup has it
    try:

        def both():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGHUP)

        assert go(None, Judge(4, both)).stopped.startswith("budget")
        assert called == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGHUP, hung_up)


def test_runs_of_other_threads(tmp_path):
    found = []
    thread = threading.Thread(target=lambda: found.append(go(tmp_path / "run")))
    thread.start()
    thread.join()
    assert found[0].stopped.startswith("budget")


class Impatient(gfo.Callback):
    """Presses Ctrl-C at a step, and again while the run ends."""

    def __init__(self, step):
        self.wanted = step

    def step(self, run):
        if run.history[-1].step == self.wanted:
            raise KeyboardInterrupt

    def end(self, run):
        raise KeyboardInterrupt


def test_the_second_ctrl_c_says_what_is_kept(tmp_path):
    with pytest.raises(KeyboardInterrupt) as error:
        go(tmp_path / "run", callbacks=[Impatient(4)])
    assert str(error.value) == (
        f"interrupted; {tmp_path / 'run'} keeps the history of 5 steps; go on with resume=True, or "
        f"gfo resume {tmp_path / 'run'}"
    )
    again = go(tmp_path / "run", resume=True)
    assert np.array_equal(again.z, go(tmp_path / "whole").z)
    with pytest.raises(KeyboardInterrupt, match="keeps history and result of 10 steps"):
        go(tmp_path / "run", resume=True, evaluations=96, callbacks=[Impatient(3)])
    at_once = Judge(0, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt, match=r"before the first step; nothing is kept"):
        go(tmp_path / "other", at_once, callbacks=[Impatient(0)])
