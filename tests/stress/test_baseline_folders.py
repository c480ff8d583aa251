"""Trainings on bad disks: each call that touches the run folder fails in turn; they go on to the bit, or a
line says what is damaged.

A sample runs with the suite. All of it: python -m pytest tests/stress/test_baseline_folders.py -m stress
"""

from __future__ import annotations

import collections

import pytest
import torch
from faults import KINDS, Faults
from killed import outcome
from runs import snapshot
from test_run_folders import figures, one_line

import gfo
from gfo.run import checkpoint

ROWS = [{"text": text, "label": label} for text, label in zip("abcdef", "+-+-+-", strict=True)]
OPTIONS = {"lora": {"lr": 1e-2, "rank": 2}, "prompt-tuning": {"lr": 0.1}}
STRIDE = 23


@pytest.fixture
def train(tiny, monkeypatch):
    """Begin the training in a folder, or go on with it; what it leaves behind."""
    torch.set_num_threads(1)
    monkeypatch.setattr(checkpoint, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(checkpoint, "SAVING", 1e9)
    monkeypatch.setattr(gfo.Result, "plot", lambda self, path=None, *, x="": None)
    model, labels = tiny("llama"), {"+": " good", "-": " bad"}
    task = gfo.Classification(
        ROWS, ROWS[:4], ROWS, template="Say {text}\n{soft}:", labels=labels, batch_size=2
    )
    space = gfo.SoftPrompt(model, tokens=2, dim=3)

    def run(name, folder, evaluations=4):
        given = {"options": OPTIONS[name], "dev_every": 2, "budget": gfo.Budget(evaluations=evaluations)}
        gfo.baselines.run(name, model, task, space, out=folder, resume=True, progress=False, **given)
        return outcome(folder)

    return run


def survives(train, name, folder, whole, at, kind):
    """What came of a training in which a call failed, and that it goes on."""
    with Faults(folder, at, kind) as faults:
        try:
            came, found = "ended", train(name, folder)
        except gfo.GfoError as error:
            came, found = one_line(error), None
    assert len(faults.calls) > at  # control: there was such a call
    assert found in (None, whole)
    try:
        again = train(name, folder)
    except gfo.GfoError as error:
        return f"{came}, {one_line(error)}"
    assert again == whole, (name, at, kind)
    assert list(folder.glob(".gfo-*")) == []
    return came


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("stride", [STRIDE, pytest.param(1, marks=pytest.mark.stress)])
@pytest.mark.filterwarnings("ignore::gfo.GfoWarning")
def test_calls_that_fail(tmp_path, train, name, stride):
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "file").write_text("mine")
    whole = train(name, tmp_path / "whole")
    with Faults(tmp_path / "counted") as faults:
        assert train(name, tmp_path / "counted") == whole
    before = {**snapshot(tmp_path / "beside"), **snapshot(tmp_path / "whole")}
    calls, came = len(faults.calls), collections.Counter()
    for at in range(0, calls, stride):
        kind = KINDS[at // stride % len(KINDS)]
        came[survives(train, name, tmp_path / f"run{at}", whole, at, kind)] += 1
    assert {**snapshot(tmp_path / "beside"), **snapshot(tmp_path / "whole")} == before
    if stride == 1:
        figures(**{f"calls_that_fail_of_{name}": {"calls": calls, "ways in turn": list(KINDS), **came}})
    assert came["refused"]
    assert set(came) <= {"refused", "ended"}
    assert train(name, tmp_path / "whole", 6) != whole  # control: the outcome tells trainings apart


@pytest.mark.parametrize("name", ["adapter", "state.safetensors", ".lock"])
@pytest.mark.filterwarnings("ignore::gfo.GfoWarning")
def test_planted_links_are_not_followed(tmp_path, train, name):
    outside = tmp_path / "outside"
    (outside / "folder").mkdir(parents=True)
    (outside / "mine").write_text("mine\n")
    whole, before = train("lora", tmp_path / "whole"), snapshot(outside)
    for target in ("mine", "none", "folder"):
        run = tmp_path / target
        run.mkdir()
        (run / name).symlink_to(outside / target)
        try:
            assert train("lora", run) == whole
            assert not (run / name).is_symlink()
        except gfo.GfoError as error:  # a folder in the place of a file
            one_line(error)
            assert (name, target) == ("state.safetensors", "folder")
        assert snapshot(outside) == before
        assert list((outside / "folder").iterdir()) == []
