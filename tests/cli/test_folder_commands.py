"""`gfo show`, `rm`, `predict`, `init`, and `[log]` in a config."""

from __future__ import annotations

import csv
import json

import pytest
from commands import bad, caller, fill

from gfo.config import load_config
from gfo.config.examples import example
from gfo.core.errors import GfoError
from gfo.core.registry import entries
from gfo.run.history import HISTORY, History


@pytest.fixture
def gfo(monkeypatch, capsys):
    return caller(monkeypatch, capsys)


@pytest.fixture
def work(tmp_path, monkeypatch, tiny):
    monkeypatch.chdir(tmp_path)
    return fill(tmp_path, tiny)


def test_a_run_is_shown_asked_and_deleted(work, gfo, monkeypatch):
    assert gfo("tune", "run.toml", "--out", "runs/a", "--set", "log.csv={}")[0] == 0
    code, out, err = gfo("show", "runs/a")
    assert code == 0, err
    for words in ("method", "cma", "budget.evaluations", "40 evaluations", "test accuracy", "date",
                  "history.jsonl      whole, ", "also there: log.csv, plot.png"):  # fmt: skip
        assert words in out, words
    assert "{text}\\n{soft}Sentiment:" in out  # a value is a line, whatever it holds
    (work / "runs" / "a" / "result.json").rename(work / "kept.json")
    assert "gfo resume runs/a goes on" in gfo("show", "runs/a")[1]
    damaged = (work / "kept.json").read_text().replace('"steps": ', '"steps": 1')
    (work / "runs" / "a" / "result.json").write_text(damaged)
    assert "result.json        DAMAGED" in gfo("show", "runs/a")[1]
    (work / "kept.json").replace(work / "runs" / "a" / "result.json")

    (work / "new.csv").write_text('text\n"a film"\nb\n')
    code, out, err = gfo("predict", "runs/a", "new.csv", "--out", "said.jsonl")
    assert (code, out) == (0, "2 predictions: said.jsonl\n"), err
    lines = [json.loads(line) for line in (work / "said.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines] == ["a film", "b"]
    assert all(line["prediction"] in "+-" and 0.5 <= line["probability"] <= 1 for line in lines)
    code, out, err = gfo("predict", "runs/a", "new.csv")
    assert (code, "a film" in out) == (0, True), err
    (work / "empty.jsonl").touch()
    bad(gfo("predict", "runs/a", "empty.jsonl"), "empty.jsonl")
    bad(gfo("predict", "runs/a", "new.csv", "--out", "said.txt"), "unknown form of predictions '.txt'")

    monkeypatch.setattr("typer.confirm", lambda text: "no" in text)
    assert gfo("rm", "runs/a")[0] == 0
    assert (work / "runs" / "a").is_dir()  # it asked
    bad(gfo("rm", "runs/a", "model", "--yes"), "model holds no run of gfo")
    bad(gfo("rm", "runs", "--yes"), "runs holds no run of gfo")
    (work / "link").symlink_to("runs/a")
    bad(gfo("rm", "link", "--yes"), "link is no folder")
    assert (work / "runs" / "a").is_dir()  # nothing was deleted where one was refused
    assert gfo("rm", "runs/a", "--yes") == (0, "deleted runs/a\n", "")
    assert sorted(path.name for path in (work / "runs").iterdir()) == []


def table(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_logs_of_a_config(work, gfo):
    more = ("--set", 'log.csv.path="steps.csv"', "--set", "log.tensorboard={}")
    assert gfo("tune", "run.toml", "--out", "a", *more)[0] == 0
    assert gfo("tune", "run.toml", "--out", "b")[0] == 0  # control
    history = History.read(work / "a" / HISTORY)
    rows = table(work / "a" / "steps.csv")
    assert [float(row["best"]) for row in rows] == [step.best for step in history]
    dev = [None if step.dev is None else step.dev["loss"] for step in history]
    assert [float(row["dev_loss"]) if row["dev_loss"] else None for row in rows] == dev
    assert any((work / "a" / "tensorboard").iterdir())
    assert not (work / "b" / "steps.csv").exists()
    records = [json.loads((work / each / "result.json").read_text())["config"] for each in "ab"]
    assert records[0] == records[1]  # they are one method
    assert gfo("resume", "a", "--set", "budget.evaluations=60", "--set", "log.csv.path=more.csv")[0] == 0
    assert len(table(work / "a" / "more.csv")) > len(rows)
    bad(gfo("tune", "run.toml", "--set", "log.cvs={}"), "unknown log 'cvs'", "did you mean 'csv'")
    bad(gfo("tune", "run.toml", "--set", "log.csv.pth=x"), "[log.csv]", "pth")
    bad(gfo("tune", "run.toml", "--set", "log.wandb={}"), "[log.wandb]", "project")
    bad(gfo("tune", "run.toml", "--set", "log.csv=1"), "log.csv")


@pytest.mark.filterwarnings("ignore::gfo.GfoWarning")
@pytest.mark.parametrize("kind", entries("task"))
def test_examples_run(work, gfo, kind, tiny):
    model = tiny("llama", max_position_embeddings=512, intermediate_size=64)  # for long rows, blocks of 32
    model.module.save_pretrained("model")
    code, out, _ = gfo("init", kind)
    assert code == 0
    assert out == example(kind).rstrip() + "\n"
    assert "#" in out
    (work / "mine.toml").write_text(out)
    assert load_config("mine.toml").task.kind == kind
    more = ["model.name=model", "model.device=cpu", "budget.evaluations=12"]
    more += ["optimizer.options={population=4}"]
    if kind != "weighted":
        more += ["task.limits={train=4, dev=4, test=4}"]
    if kind != "distance":
        more += ["space.tokens=2", "space.dim=4"]
    words = [word for each in more for word in ("--set", each)]
    code, out, err = gfo("tune", "mine.toml", "--out", "run", *words)
    assert code == 0, err
    assert "test" in out


def test_an_unknown_example():
    with pytest.raises(GfoError, match="did you mean 'classification'"):
        example("clasification")
