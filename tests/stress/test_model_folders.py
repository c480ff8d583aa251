"""Model folders that are broken or hostile: each is a model that works, or one line that says what is wrong.

A process of its own opens them, with bounded memory and a standard input that says yes to whatever is asked.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import threading

import broken_models
import pytest
from broken_models import CASES, MARKER
from figures import WAITED, Outcomes
from runs import snapshot
from tiny_wheel import write_tiny_gguf

from gfo.testing.tiny import tiny_model

BEGIN = 300  # seconds until the first is opened
SAMPLE, WHOLE = len(CASES), sum(CASES.values())


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a good model, one outside that nothing may touch, and what code would write."""
    model = tiny_model()
    for name in ("good", "outside"):
        model.module.save_pretrained(tmp_path / name)
        model.tokenizer.save_pretrained(tmp_path / name)
    (tmp_path / "outside" / "mine").write_text("mine\n")
    write_tiny_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setenv(MARKER, str(tmp_path / "marker"))
    return tmp_path


def broken(place, number):
    """Broken folders: one of each kind, or as many as its share."""
    for case, many in CASES.items():
        for i in range(many if number == WHOLE else 1):
            folder = place / f"{case.__name__}-{i}"
            shutil.copytree(place / "good", folder)
            case(folder, random.Random(folder.name), i)
            yield folder


def opening(folders, place):
    """A process that opens them: what came of each, as it comes."""
    (place / "folders").write_text("".join(f"{folder}\n" for folder in folders))
    process = subprocess.Popen(
        [sys.executable, broken_models.__file__, place / "folders"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    process.stdin.write("y\n" * 1000)
    process.stdin.close()
    seconds = BEGIN
    while True:
        watchdog = threading.Timer(seconds, process.kill)
        watchdog.start()
        line = process.stdout.readline()
        watchdog.cancel()
        if line.startswith('{"counts"'):
            yield json.loads(line)
            seconds = 2 * WAITED
        elif not line:
            process.stdout.close()
            process.wait()
            return


def open_all(folders, place):
    """What came of all; where a process ends, or has to be ended, another goes on behind the culprit."""
    outcomes, left = Outcomes(), list(folders)
    while left:
        for found in opening(left, place):
            outcomes.add(found)
            shutil.rmtree(left.pop(0), ignore_errors=True)
        if left:
            outcomes.add({"counts": {"else": 1}, "bad": [f"{left.pop(0).name}: its process ended"]})
    return outcomes


@pytest.mark.parametrize("number", [SAMPLE, pytest.param(WHOLE, marks=pytest.mark.stress)])
def test_a_model_that_works_or_one_line(place, number):
    outside = snapshot(place / "outside")
    shutil.copytree(place / "good", place / "control")
    outcomes = open_all([place / "control", *broken(place, number)], place)
    outcomes.write("models", number == WHOLE)
    assert outcomes.bad == []
    assert sum(outcomes.counts.values()) == number + 1
    assert not (place / "marker").exists()
    assert snapshot(place / "outside") == outside
    assert outcomes.counts["refused in a line"] > number / 3
    assert outcomes.counts["taken"] > number / 10
    exec(broken_models.CODE, {})  # control: it would have been seen
    assert (place / "marker").exists()
