"""`refit` in a config: of a search and a training, resumed, scored, said and exported by later commands."""

from __future__ import annotations

import json

import pytest
from commands import bad, caller, fill


@pytest.fixture
def call(monkeypatch, capsys):
    return caller(monkeypatch, capsys)


@pytest.fixture
def folder(tmp_path, tiny, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return fill(tmp_path, tiny)


def read(folder):
    return json.loads((folder / "result.json").read_text())


def test_a_config_is_refit(folder, call):
    assert call("tune", "run.toml", "--out", "plain")[0] == 0
    code, out, _ = call("tune", "run.toml", "--out", "run", "--set", "refit=true")
    assert code == 0
    assert "refit on train and dev for" in out
    plain, run = read(folder / "plain"), read(folder / "run")
    assert run["config"]["refit"] is True
    assert plain["point"] != run["point"]  # control
    assert "has ended" in call("resume", "run")[1]
    assert "refit on train and dev for" in call("show", "run")[1]
    assert call("eval", "run")[0] == 0
    assert read(folder / "run")["scores"] == run["scores"]
    assert call("resume", "plain", "--set", "refit=true")[0] == 0  # one that ended
    assert read(folder / "plain")["point"] == run["point"]
    assert call("check", "run")[0] == 0


def test_weights_of_a_refit_are_put_back(folder, call):
    text = (folder / "run.toml").read_text() + '\n[baseline]\nname = "lora"\noptions = { lr = 0.02 }\n'
    (folder / "base.toml").write_text("refit = true\n" + text)
    assert call("tune", "base.toml", "--out", "base", "--set", "dev_every=1")[0] == 0
    run = read(folder / "base")
    assert run["refit"]["evaluations"] > 0
    assert call("eval", "base")[0] == 0
    assert read(folder / "base")["scores"] == run["scores"]
    state = (folder / "base" / "state.safetensors").read_bytes()
    (folder / "base" / "refit" / "state.safetensors").write_bytes(state)  # control: those of the search
    code, _, err = call("eval", "base")
    assert code != 0 or read(folder / "base")["scores"] != run["scores"], err


def test_what_cannot_be_refit_is_one_line(folder, call):
    bad(call("tune", "run.toml", "--out", "a", "--set", "refit=2"), "refit")
    bad(
        call("tune", "run.toml", "--out", "b", "--set", "refit=true", "--set", 'task.dev="none.jsonl"'),
        "none.jsonl",
    )
    (folder / "search.toml").write_text(
        "refit = true\n" + (folder / "run.toml").read_text() + "\n[search]\nseed = [0, 1]\n"
    )
    bad(call("search", "search.toml", "--out", "c"), "refit is of one config")
