"""Sweeps as jobs of Slurm: here by submitit's own processes in its place."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import pytest
from commands import bad, caller, fill

import gfo
from gfo.config.grid import plan

submitit = pytest.importorskip("submitit", reason="submitit is not installed; pip install 'gfo-llm[slurm]'")


@pytest.fixture
def work(tmp_path, monkeypatch, tiny):
    """A working folder, and processes in the place of a cluster."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gfo.config.slurm.CLUSTER", "local")
    monkeypatch.setattr("gfo.config.slurm.LOOK_EVERY", 0.05)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return fill(tmp_path, tiny)


def losses(history):
    lines = map(json.loads, history.read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def test_ctrl_c_cancels_jobs_and_then_they_give_what_a_run_here_gives(work):
    """Of two runs one cannot begin."""
    grid = {"optimizer.name": ["random"], "optimizer.options.population": [8, -1], "seed": [0]}
    base = gfo.config.read_values("run.toml") | {"budget": {"evaluations": 100_000}}
    (name,) = [run.name for run in plan(base, grid, "base") if "=8" in run.name]
    path = work / "s" / name / "history.jsonl"

    def disturb():
        while not path.exists() or path.stat().st_size < 3000:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    def sweep(**options):
        return gfo.sweep(base, grid, progress=False, **options)

    thread = threading.Thread(target=disturb)
    thread.start()
    stopped = sweep(out="s", slurm={"timeout_min": 5}, jobs=2)
    thread.join()
    assert [run.state for run in stopped.found] == ["waiting", "left out"]
    before = losses(path)
    base["budget"]["evaluations"] = 8 * (len(before) + 2)
    ended = sweep(out="s", slurm={"timeout_min": 5})
    here = sweep(out="h")
    assert [run.state for run in ended.found] == ["done", "left out"]
    assert len(losses(path)) == len(before) + 2
    assert losses(path) == losses(work / "h" / name / "history.jsonl")
    assert ended.exit_code == here.exit_code


def dies(*given):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_job_that_dies_is_a_row(work, monkeypatch):
    monkeypatch.setattr("gfo.config.slurm.Job", lambda: dies)
    found = gfo.sweep("run.toml", {"seed": [0]}, out="s", slurm={}, progress=False)
    (run,) = found.found
    assert run.state == "failed"
    assert "_0_log.err in jobs" in run.reason
    assert found.exit_code == 1


def test_bad_input(work, monkeypatch, capsys):
    call = caller(monkeypatch, capsys)
    sweep = ["sweep", "run.toml", "--grid", "seed=0", "--out", "s"]
    bad(call(*sweep, "--slurm", "60"), "--slurm 60: write key=value")
    bad(call(*sweep, "--slurm", "time_min=60"), "Unknown executor 'time'")
    bad(call(*sweep, "--slurm", "timeout_min=soon"), "expected type")
    monkeypatch.setattr("gfo.config.slurm.CLUSTER", "slurm")
    bad(call(*sweep, "--slurm", "timeout_min=60"), "start the sweep where srun is")
