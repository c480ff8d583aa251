"""`objectives` and `[limits]` in a config, `gfo plot --front`, and `--pick` of eval and export."""

from __future__ import annotations

import json

import numpy as np
import pytest
from commands import bad, caller, fill

import gfo
from gfo.core import registry
from gfo.run.scored_front import load_front


@gfo.recorded
class Measured(gfo.SoftPrompt):
    """A soft prompt that says how long its vector is."""

    def measure(self, z):
        return {"norm": 100 * np.abs(z).sum(axis=1)}


@pytest.fixture
def call(monkeypatch, capsys):
    monkeypatch.setattr(registry, "_REGISTERED", {})
    gfo.register("space", "measured", Measured)
    return caller(monkeypatch, capsys)


@pytest.fixture
def folder(tmp_path, tiny, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path, tiny)
    text = (tmp_path / "run.toml").read_text().replace("[space]", '[space]\nkind = "measured"')
    (tmp_path / "run.toml").write_text('objectives = ["loss", "norm"]\n' + text + "[limits]\nnorm = 1500\n")
    return tmp_path


def test_a_front_from_a_config(folder, call):
    code, out, _ = call("tune", "run.toml", "--out", "run", "--set", "budget.evaluations=100")
    assert code == 0
    front = load_front(folder / "run")
    assert len(front.z) > 1
    assert str(front) in out
    assert "limits:     norm at most 1,500: kept by" in out
    assert front.values[:, 1].max() <= 1500
    config = json.loads((folder / "run" / "config.json").read_text())
    assert (config["optimizer"]["name"], config["objectives"]) == ("nsga2", ["loss", "norm"])
    code, out, _ = call("plot", "run", "--front")
    assert code == 0
    assert str(front) in out
    assert (folder / "run" / "front.png").stat().st_size > 5000
    code, out, _ = call("eval", "run", "--pick", "1", "--split", "dev")
    assert code == 0
    assert f"{front.scores[1]['loss']:.4f}" in out
    before = (folder / "run" / "result.json").read_text()
    assert call("eval", "run", "--pick", f"norm={front.values[0, 1]}", "--split", "dev")[0] == 0
    assert call("export", "run", "--pick", "0", "--out", "adapter")[0] == 0
    assert (folder / "run" / "result.json").read_text() == before
    assert (folder / "adapter" / "adapter_config.json").exists()
    assert call("resume", "run", "--set", "budget.evaluations=150")[0] == 0
    assert call("check", "run")[0] == 0
    later = json.loads((folder / "run" / "result.json").read_text())
    assert later["steps"] > json.loads(before)["steps"]
    assert later["front"]["points"] != json.loads(before)["front"]["points"]


def test_bad_fronts(folder, call):
    bad(
        call("tune", "run.toml", "--out", "a", "--set", 'objectives=["loss", "norms"]'), "did you mean 'norm'"
    )
    bad(call("tune", "run.toml", "--out", "b", "--set", 'optimizer.name="cma"'), "'cma' takes one objective")
    bad(call("tune", "run.toml", "--out", "c", "--set", "limits.norm=x"), "limits.norm = 'x'")
    bad(call("tune", "run.toml", "--out", "d", "--set", 'objectives=["loss"]'), "give two or more")
    code, _, _ = call("tune", "run.toml", "--out", "one", "--set", "objectives=[]", "--set", "limits={}")
    assert code == 0
    bad(call("plot", "one", "--front"), "front: the run had one objective")
    bad(call("eval", "one", "--pick", "knee"), "front: the run had one objective")
    assert call("tune", "run.toml", "--out", "run")[0] == 0
    bad(call("export", "run", "--pick", "elbow"), "unknown choice of pick 'elbow'")
    bad(call("export", "run", "--pick", "norm=much"), "--pick norm=much: give knee, the number of a point")
    text = (folder / "run.toml").read_text() + '\n[baseline]\nname = "manual"\noptions = { text = "x" }\n'
    (folder / "base.toml").write_text(text)
    bad(call("tune", "base.toml", "--out", "base"), "objectives is of an [optimizer]")
