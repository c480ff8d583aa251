"""Run folders that somebody crafted: what is done with one works or ends in one line, and touches no other.

The checksums in them are right: they guard against chance, not against a forger.
"""

from __future__ import annotations

import contextlib
import functools
import random
import shutil
from pathlib import Path

import pytest
import torch
import typer
from crafted_folders import CASES
from figures import Outcomes
from runs import go, snapshot
from test_run_folders import CONFIG

import gfo
from gfo.cli import folders, results, running
from gfo.config import load_config
from gfo.models import loading
from gfo.run import checkpoint
from gfo.run.stored import load_point

SAMPLE, WHOLE = len(CASES), sum(sum(many) for many in CASES.values())


@pytest.fixture
def place(tmp_path, tiny, monkeypatch):
    """Two run folders, of a function and of a config, a folder outside, and a working folder."""
    torch.set_num_threads(1)
    monkeypatch.setattr(checkpoint, "SAVE_EVERY", 0.0)
    go(tmp_path / "of_a_function")
    model = tiny("llama")
    model.module.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "run.toml").write_text(CONFIG.format(folder=tmp_path))
    load_config(tmp_path / "run.toml").run(tmp_path / "of_a_config", progress=False)
    monkeypatch.setattr(loading, "load_model", functools.cache(loading.load_model))
    for name in ("outside", "here"):
        (tmp_path / name).mkdir()
    (tmp_path / "outside" / "mine").write_text("mine\n")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def exits(command, *arguments, **options):
    """A command of the command line, which may end with an exit code."""
    with contextlib.suppress(typer.Exit):
        command(*arguments, **options)


USES = {
    "of_a_function": {
        "check": lambda folder: exits(folders.check, folder),
        "compare": lambda folder: str(gfo.compare([folder])),
        "plot": lambda folder: results.plot(folder, "seconds"),
        "point": load_point,
        "eval": lambda folder: results.evaluate(folder, "train"),
        "go on": lambda folder: str(go(folder, 72)),
    },
    "of_a_config": {
        "check": lambda folder: exits(folders.check, folder),
        "compare": lambda folder: gfo.compare([folder, folder]).plot(folder / "c.png"),
        "plot": lambda folder: results.plot(folder, "evaluations"),
        "eval": lambda folder: results.evaluate(folder, "dev"),
        "export": lambda folder: results.export(folder, "merged", None),
        "go on": lambda folder: exits(running.resume, folder, ["budget.evaluations=16"]),
    },
}


def crafted(place, number):
    """(folder, how it is used) of crafted folders: one of each kind, or as many as its share."""
    for case, many in CASES.items():
        for kind, times in zip(USES, many, strict=True):
            sampled = int(kind == ("of_a_function" if many[0] else "of_a_config"))
            for i in range(times if number == WHOLE else sampled):
                folder = place / f"{case.__name__}-{kind}-{i}"
                for use, call in USES[kind].items():
                    shutil.copytree(place / kind, folder)
                    case(folder, random.Random(folder.name), i)
                    yield folder, f"{use} {folder.name}", call
                    shutil.rmtree(folder)


@pytest.mark.parametrize("number", [SAMPLE, pytest.param(WHOLE, marks=pytest.mark.stress)])
@pytest.mark.filterwarnings("ignore")
def test_crafted_run_folders(place, number, capsys):
    outcomes, folders = Outcomes(), set()
    for folder, name, call in crafted(place, number):
        folders.add(folder)
        outside = snapshot(place / "outside")
        outcomes.of(lambda folder=folder, call=call: call(folder), name)
        assert snapshot(place / "outside") == outside, name
        assert list(Path().iterdir()) == [], name
        assert Path.cwd() == place / "here", name
        assert "\x1b" not in capsys.readouterr().out
    outcomes.write("folders", number == WHOLE, folders=len(folders))
    assert outcomes.bad == []
    assert len(folders) == number
    assert outcomes.counts["refused in a line"] > number / 2
    assert outcomes.counts["taken"] > number / 2
