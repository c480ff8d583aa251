"""Progress where people meet it: a real terminal, a real log, a real notebook."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from gfo.core.protocols import Cost
from gfo.run.budget import Budget
from gfo.run.callbacks import Run
from gfo.run.history import History, Step
from gfo.run.progress import Log, describe, duration, seconds_left
from gfo.run.selection import DevSelection

SEARCH = """
import time
import gfo
from gfo.run.callbacks import Callback
from gfo.run.evaluate import FunctionEvaluator
from gfo.run.progress import ProgressBar

class Everywhere(FunctionEvaluator):
    def score(self, z, split):
        return super().score(z, "train")

def sphere(z):
    time.sleep(0.03)
    return ((z - 1) ** 2).sum(axis=1)

class Says(Callback):
    def end(self, run):
        print("a line of the user's")

optimizer = gfo.optimizers.make("random", domain=gfo.Domain.unbounded(3), seed=0)
budget = gfo.Budget(evaluations=160)
callbacks = [ProgressBar(), Says()]
result = gfo.minimize(optimizer, Everywhere(sphere), budget=budget, dev_every=2, callbacks=callbacks)
"""
CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def environment(**more):
    hidden = ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
    return {k: v for k, v in os.environ.items() if k not in hidden} | {"TERM": "xterm-256color", **more}


def in_terminal(columns, **more):
    """What a terminal of so many columns is sent."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command = [sys.executable, "-W", "error", "-c", SEARCH]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment(**more))
    os.close(theirs)
    sent = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        sent += part
    os.close(ours)
    assert process.wait() == 0, sent
    return sent.decode()


@pytest.mark.parametrize("columns", [80, 160])
def test_a_terminal_gets_a_bar_of_its_width(columns):
    sent = in_terminal(columns)
    assert CONTROL.search(sent)
    lines = [line for line in CONTROL.sub("", sent).replace("\r", "\n").split("\n") if line.strip()]
    bars = [line for line in lines if "%" in line]
    assert len(bars) > 3
    assert max(map(len, bars)) <= columns
    assert bars[-1].startswith("100%")
    assert "160 evaluations" in bars[-1]
    assert "dev loss" in bars[-1]
    assert "…" not in bars[-1]
    assert any("left" in line for line in bars)
    assert ("/s" in bars[-1]) == (columns == 160)
    assert "a line of the user's" in lines


def test_a_dumb_terminal_gets_lines():
    sent = in_terminal(80, TERM="dumb")
    assert not CONTROL.search(sent)
    assert "tuned 100%" in sent


@pytest.mark.parametrize("more", [{}, {"FORCE_COLOR": "1"}])
def test_a_log_gets_lines_without_control_codes(more):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SEARCH],
        capture_output=True,
        text=True,
        env=environment(**more),
        check=True,
    )
    assert "\x1b" not in done.stderr
    assert "\r" not in done.stderr
    assert re.fullmatch(
        r"tuned 100%, 0:0\d, 160 evaluations, [\d,.]+/s, best loss [\d.]+, dev loss [\d.]+\n", done.stderr
    )
    assert done.stdout == "a line of the user's\n"


def test_a_notebook_gets_one_line_that_is_renewed():
    pytest.importorskip("ipykernel")
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    cells = [
        SEARCH,
        "result.score('test')\nresult",
        "result.plot()",
        "gfo.compare([result])",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
    search, table, figure, comparison = (cell.outputs for cell in notebook.cells)
    shown = [output for output in search if output.output_type == "display_data"]
    assert len(shown) == 1
    assert "tuning 100%" in shown[0].data["text/plain"]
    assert "<progress" in shown[0].data["text/html"]
    assert not any("widget" in kind for kind in shown[0].data)
    assert "".join(o.text for o in search if o.output_type == "stream") == "a line of the user's\n"
    assert "<td" in table[0].data["text/html"]
    assert "test loss" in table[0].data["text/plain"]
    assert figure[0].data["image/png"].startswith("iVBOR")  # PNG's first bytes in base64
    assert len(figure) == 1
    assert "<table" in comparison[0].data["text/html"]


def a_run(**cost):
    run = Run(None, None, Budget(evaluations=100), History())
    run.cost, run.seconds = Cost(**cost), 30.0
    return run


def add(run, best, dev):
    run.history.append(Step(0, 25, 0, 0, [best], best, dev, 30.0))


def test_what_a_line_says():
    run = a_run(candidates=25, seconds=10.0)
    run.selection = DevSelection(None)
    assert describe(run) == "no step yet"
    add(run, 0.5, {"loss": 0.7, "accuracy": 0.8125})
    assert describe(run) == "25 evaluations, 2.5/s, best loss 0.5000, dev accuracy 81.2%"
    assert describe(run, short=True) == "25 evaluations, best loss 0.5000, dev accuracy 81.2%"
    assert seconds_left(run) == 90.0  # 30 seconds for a quarter
    add(run, None, {"loss": None})
    assert describe(run) == "25 evaluations, 2.5/s, no finite loss, dev loss -"
    assert seconds_left(a_run()) == 0.0


def test_a_line_looks_at_the_end_of_the_history_alone(monkeypatch):
    run, read = a_run(candidates=25, seconds=10.0), []
    run.selection = DevSelection(None)
    for i in range(5000):
        add(run, 0.5, {"loss": float(i)} if i < 4998 else None)
    at = type(run.history).__getitem__
    monkeypatch.setattr(type(run.history), "__getitem__", lambda self, i: read.append(i) or at(self, i))
    monkeypatch.delattr(type(run.history), "__iter__")
    assert "dev loss 4,997" in describe(run)
    assert sorted(set(read)) == [-3, -2, -1]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (83, "1:23"), (7384, "2:03:04"), (3599.7, "1:00:00")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_a_long_run_logs_now_and_then(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("gfo.run.progress.time.monotonic", lambda: now[0])
    log, run = Log(), a_run(candidates=25, seconds=10.0)
    add(run, 0.5, None)
    for second in range(0, 61, 4):
        now[0] = float(second)
        log.show(run)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3  # at 16, 32 and 48
    assert lines[0] == "tuning  25%, 1:30 left, 25 evaluations, 2.5/s, best loss 0.5000"
