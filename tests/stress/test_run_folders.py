"""Run folders on bad disks, with changed bits, and with links planted in them: nothing is lost unnoticed.

A sample runs with the suite. All of it, and its figures in benchmarks/results/stress/files.json:

    python -m pytest tests/stress/test_run_folders.py -m stress
"""

from __future__ import annotations

import collections
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from faults import KINDS, Faults
from runs import go, outcome, snapshot

import gfo
from gfo.config import load_config
from gfo.core.files import write_whole
from gfo.run import checkpoint
from gfo.run.files import read_json
from gfo.run.integrity import CHECKS
from gfo.run.result import Result
from gfo.run.stored import load_point

FIGURES = Path(__file__).parents[2] / "benchmarks" / "results" / "stress" / "files.json"
NAMES = ("history.jsonl", "run.json", "result.json", "best.safetensors", "state.safetensors", ".lock")
CONFIG = """
dev_every = 2
[model]
name = "{folder}/model"
device = "cpu"
[task]
train = "gfo:sentiment/train.jsonl"
dev = "gfo:sentiment/dev.jsonl"
template = "Review: {{text}}\\n{{soft}}Sentiment:"
labels = {{ negative = " terrible", positive = " great" }}
limits = {{ train = 6, dev = 4 }}
[space]
tokens = 2
dim = 5
[optimizer]
name = "random"
options = {{ population = 4 }}
[budget]
evaluations = 12
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """State is saved at each step; the figure, which nothing reads, is drawn in a few runs only."""
    monkeypatch.setattr(checkpoint, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(Result, "plot", lambda self, path=None, *, x="": None)


def figures(**found):
    """Keep what the whole of a test found."""
    old = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    FIGURES.parent.mkdir(parents=True, exist_ok=True)
    write_whole(FIGURES, json.dumps(dict(sorted((old | found).items())), indent=1) + "\n")


def one_line(error):
    assert "\n" not in str(error)
    return "refused"


def survives(folder, whole, at, kind):
    """What came of a run in which a call failed; afterwards it goes on, to the bit."""
    with Faults(folder, at, kind) as faults:
        try:
            came, result = "ended", outcome(go(folder))
        except gfo.GfoError as error:
            came, result = one_line(error), None
    assert len(faults.calls) > at  # control: there was such a call
    assert result in (None, whole)
    try:
        again = go(folder)
    except gfo.GfoError as error:  # of a call that left something damaged: which says so
        return f"{came}, {one_line(error)}"
    assert outcome(again) == whole, (at, kind)
    assert len(list(folder.glob(".gfo-*"))) == 0
    return came


def all_calls(tmp_path):
    whole = outcome(go(tmp_path / "whole"))
    with Faults(tmp_path / "counted") as faults:
        assert outcome(go(tmp_path / "counted")) == whole
    assert {"open", "write", "fsync", "replace", "mkdir", "close"} <= set(faults.calls)
    assert outcome(go(tmp_path / "whole", 56)) != whole  # control: the outcome tells runs apart
    return whole, len(faults.calls)


def fail_each(tmp_path, cases):
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "file").write_text("mine")
    whole, _ = all_calls(tmp_path)
    before = {**snapshot(tmp_path / "beside"), **snapshot(tmp_path / "whole")}
    came = collections.Counter(survives(tmp_path / f"{kind}{at}", whole, at, kind) for at, kind in cases)
    assert {**snapshot(tmp_path / "beside"), **snapshot(tmp_path / "whole")} == before
    return came


def test_calls_that_fail(tmp_path):
    _, calls = all_calls(tmp_path / "first")
    cases = [(at, KINDS[at // 5 % len(KINDS)]) for at in range(0, calls, 5)]
    came = fail_each(tmp_path, cases)
    assert came["refused"] > 5
    assert came["ended"] > 2
    assert set(came) == {"refused", "ended"}


@pytest.mark.stress
def test_each_call_fails_in_each_way(tmp_path):
    _, calls = all_calls(tmp_path / "first")
    came = fail_each(tmp_path, [(at, kind) for kind in KINDS for at in range(calls)])
    figures(calls_that_fail={"calls": calls, "ways": list(KINDS), **came})
    assert set(came) == {"refused", "ended"}


@pytest.fixture
def function_folder(tmp_path):
    """(a finished run's folder, what it becomes with a larger budget, how that is got)."""
    go(tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "longer")
    (tmp_path / "run" / "plot.png").write_bytes(b"drawn")

    def read(folder):
        scores = gfo.compare([folder]).rows()[0]
        return load_point(folder).tobytes().hex(), str(scores.get("test_loss")), outcome(go(folder, 72))

    return tmp_path / "run", read


@pytest.fixture
def config_folder(tmp_path, tiny):
    """The same of a run from a config, on a tiny model."""
    model = tiny("llama")
    model.module.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "run.toml").write_text(CONFIG.format(folder=tmp_path))
    load_config(tmp_path / "run.toml").run(tmp_path / "run", progress=False)

    def read(folder):
        config = load_config(folder / "config.json")
        config.budget.evaluations += 8
        result = config.run(folder, resume=True, progress=False)
        return outcome(result), json.dumps(result.record["config"]), load_point(folder).tobytes().hex()

    return tmp_path / "run", read


def changed(content, rng):
    """One bit or one digit of it changed."""
    digits = [i for i, byte in enumerate(content) if chr(byte).isdigit() and byte < 128]
    found = bytearray(content)
    if digits and rng.random() < 0.5:
        i = digits[rng.integers(len(digits))]
        found[i] = ord(rng.choice([d for d in "0123456789" if ord(d) != content[i]]))
    else:
        i = int(rng.integers(len(content)))
        found[i] ^= 1 << int(rng.integers(8))
    return bytes(found)


def break_files(folder, read, tmp_path, number, seed, only=()):
    """Counts of "refused", "without effect" and "unnoticed" after a change each, over all files by turns."""
    torch.set_num_threads(1)
    shutil.copytree(folder, tmp_path / "reference")
    whole = read(tmp_path / "reference")
    rng, came = np.random.default_rng(seed), collections.Counter()
    names = sorted(only) or sorted(path.name for path in folder.iterdir() if path.stat().st_size)
    assert only or set(names) >= {name for name in CHECKS if (folder / name).exists()}
    for i in range(number):
        name, copy = names[i % len(names)], tmp_path / "broken"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        (copy / name).write_bytes(changed((folder / name).read_bytes(), rng))
        try:
            same = read(copy) == whole
            kind = "without effect" if same else "unnoticed"
        except gfo.GfoError as error:
            kind = one_line(error)
        came[f"{name}: {kind}"] += 1
    return came


def unnoticed(came):
    return [key for key in came if key.endswith("unnoticed")]


@pytest.mark.filterwarnings("ignore::gfo.GfoWarning")
def test_changed_bits_and_digits(tmp_path, function_folder):
    came = break_files(*function_folder, tmp_path, 66, seed=0)
    assert unnoticed(came) == []
    assert came["history.jsonl: refused"] >= 9
    assert came["plot.png: without effect"] == 11
    for name in ("run.json", "result.json"):  # but in white space
        assert came[f"{name}: refused"] >= 8


@pytest.mark.filterwarnings("ignore::gfo.GfoWarning")
def test_without_checksums_changes_go_unnoticed(tmp_path, function_folder):
    """The control: the same folder as gfo 0.1.0 wrote it, whose changes the test before would see."""
    folder, read = function_folder
    lines = (folder / "history.jsonl").read_text().splitlines()
    plain = [{k: v for k, v in json.loads(line).items() if k != "checksum"} for line in lines]
    (folder / "history.jsonl").write_text("".join(json.dumps(step) + "\n" for step in plain))
    for name in ("run.json", "result.json"):
        values = read_json(folder / name)
        del values["format"]
        (folder / name).write_text(json.dumps(values))
    came = break_files(folder, read, tmp_path, 40, 0, only=("history.jsonl",))
    assert unnoticed(came) == ["history.jsonl: unnoticed"]
    assert came["history.jsonl: unnoticed"] > 3


@pytest.mark.filterwarnings("ignore::gfo.GfoWarning")
def test_changed_bits_and_digits_of_a_config_run(tmp_path, config_folder):
    came = break_files(*config_folder, tmp_path, 12, seed=0)
    assert unnoticed(came) == []
    assert came["config.json: refused"] >= 1


@pytest.mark.stress
@pytest.mark.filterwarnings("ignore::gfo.GfoWarning")
def test_many_changed_bits_and_digits(tmp_path, function_folder):
    came = break_files(*function_folder, tmp_path, 900, seed=1)
    figures(changes_of_a_run_of_a_function=dict(sorted(came.items())))
    assert unnoticed(came) == []


@pytest.mark.stress
@pytest.mark.filterwarnings("ignore::gfo.GfoWarning")
def test_many_changed_bits_and_digits_of_a_config_run(tmp_path, config_folder):
    came = break_files(*config_folder, tmp_path, 300, seed=1)
    figures(changes_of_a_run_from_a_config=dict(sorted(came.items())))
    assert unnoticed(came) == []


LINKS = [*NAMES, *(f"{name}.partial" for name in NAMES), "config.json", "plot.png", "log.csv"]


def planted(folder, name, to):
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(to)


@pytest.mark.parametrize("name", LINKS)
@pytest.mark.parametrize("begun", [False, True])
def test_a_planted_link_is_not_followed(tmp_path, name, begun):
    outside, folder = tmp_path / "outside", tmp_path / "run"
    outside.mkdir()
    (outside / "mine").write_text("mine\n")
    for target in ("mine", "none"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        if begun:
            go(folder)
        planted(folder, name, outside / target)
        try:
            go(folder, 72, callbacks=[gfo.CSVLog(folder / "log.csv")])
        except gfo.GfoError as error:
            one_line(error)
        assert snapshot(outside) == {"mine": b"mine\n"}, target


def test_planted_links_of_exports_and_figures(tmp_path, config_folder, monkeypatch):
    monkeypatch.undo()
    folder, outside = config_folder[0], tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").write_text("mine\n")
    (tmp_path / "empty").mkdir()
    planted(folder, "plot.png", outside / "mine")
    planted(folder, "config.json.partial", outside / "mine")
    planted(folder, "peft", tmp_path / "empty")
    planted(folder, "merged", outside / "none")
    config = load_config(folder / "config.json")
    result = config.run(tmp_path / "again", progress=False)
    result.plot(folder / "plot.png")
    assert not (folder / "plot.png").is_symlink()
    result.export_peft(folder / "peft")
    point, result.z = result.z, np.full_like(result.z, np.nan)
    with pytest.raises(gfo.GfoError, match="not finite; nothing is written"):
        result.export_merged(folder / "nan")
    result.z = point
    assert not (folder / "nan").exists()
    result.export_merged(folder / "merged")
    assert snapshot(outside) == {"mine": b"mine\n"}
    assert list((tmp_path / "empty").iterdir()) == []
    files = [path for path in (folder / "merged").iterdir() if path.is_file()]
    assert len({oct(path.stat().st_mode) for path in files}) == 1  # of weights, too
    assert len(files) > 4
