"""`warm_start` in a config: paths, resumed runs, baselines."""

from __future__ import annotations

import json
import shutil

import pytest
from commands import bad, caller, fill


@pytest.fixture
def call(monkeypatch, capsys):
    return caller(monkeypatch, capsys)


@pytest.fixture
def folder(tmp_path, tiny, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return fill(tmp_path, tiny)


def test_a_config_starts_where_a_run_ended(folder, call):
    assert call("tune", "run.toml", "--out", "first")[0] == 0
    assert call("tune", "run.toml", "--out", "later", "--set", "warm_start=first")[0] == 0
    first, later = (json.loads((folder / name / "result.json").read_text()) for name in ("first", "later"))
    assert later["warm_start"]["point"] == first["point"]
    assert "warm_start" not in first  # control
    assert json.loads((folder / "later" / "config.json").read_text())["warm_start"] == str(folder / "first")
    shutil.rmtree(folder / "first")
    assert call("resume", "later", "--set", "budget.evaluations=60")[0] == 0
    assert json.loads((folder / "later" / "result.json").read_text())["steps"] > later["steps"]
    assert call("check", "later")[0] == 0
    bad(call("tune", "run.toml", "--out", "third", "--set", "warm_start=first"), "first", "finished run")


def test_a_baseline_has_no_warm_start(folder, call):
    text = (folder / "run.toml").read_text() + '\n[baseline]\nname = "manual"\noptions = { text = "x" }\n'
    (folder / "base.toml").write_text('warm_start = "first"\n' + text)
    bad(call("tune", "base.toml", "--out", "base"), "warm_start is of an [optimizer]")
