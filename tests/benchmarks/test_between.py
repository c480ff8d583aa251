"""The comparison of two checkouts: what it writes, what is caught, and its bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.shared import UnusableError
from benchmarks.speed import between

ROOT = Path(__file__).parents[2]
WORKLOADS = ["text-first", "prompt-first", "lora"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny model's folder."""
    from gfo.testing import tiny_model

    folder, made = tmp_path_factory.mktemp("model") / "tiny", tiny_model()
    made.module.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    return folder


LOUDER = """

import dataclasses


class _Louder(__getattr__("LocalEvaluator")):
    def __call__(self, z, step):
        found = super().__call__(z, step)
        return dataclasses.replace(found, loss=1.5 * found.loss)


LocalEvaluator = _Louder
"""


@pytest.fixture
def louder(tmp_path):
    """A checkout whose losses are 1.5 times as large."""
    ignored = shutil.ignore_patterns("__pycache__")
    names = shutil.copytree(ROOT / "gfo", tmp_path / "louder" / "gfo", ignore=ignored) / "__init__.py"
    names.write_text(names.read_text() + LOUDER)
    return tmp_path / "louder"


def options(model, before, *more):
    small = ["--candidates", "2", "--rows", "3", "--rounds", "2", "--starts", "1"]
    small += ["--chunk-tokens", "300"]
    return ["--before", str(before), "--model", str(model), *small, *more]


def test_a_checkout_against_itself(model, tmp_path, capsys):
    file = tmp_path / "between.json"
    assert between.main(options(model, ROOT, "--starts", "3", "--json", str(file))) == 0
    found = json.loads(file.read_text())
    assert [entry["workload"] for entry in found["workloads"]] == WORKLOADS
    for entry in found["workloads"]:
        assert entry["max_loss_difference"] == 0
        assert entry["forward_tokens"]["before"] == entry["forward_tokens"]["after"] > 0
        assert entry["interval"][0] <= entry["ratio"] <= entry["interval"][1]
        for clock in ("cpu_seconds", "wall_seconds"):
            assert {side: np.shape(entry[clock][side]) for side in entry[clock]} == {
                "before": (3, 2),
                "after": (3, 2),
            }
        ratios = np.divide(entry["cpu_seconds"]["after"], entry["cpu_seconds"]["before"])
        assert entry["ratios_of_starts"] == pytest.approx(np.median(ratios, axis=1))
    templates = [entry["template"] for entry in found["workloads"]]
    assert ["{soft}" in template for template in templates] == [True, True, False]
    assert templates[1].startswith("{soft}")
    assert (found["candidates"], found["rows"], found["model"]) == (2, 3, "tiny")
    assert {"versions", "hardware", "date"} <= set(found)
    assert str(ROOT) not in file.read_text()
    printed = capsys.readouterr()
    sides = [text.split()[5] for text in printed.err.splitlines() if " loads tiny" in text]
    assert sides == ["before", "after", "after", "before", "before", "after"]
    assert "3 starts of 2 rounds" in printed.out


def test_other_losses_are_caught(model, louder, capsys):
    """And with them that each side computes with its own gfo."""
    assert between.main(options(model, louder, "--workload", "lora")) == 1
    assert "the losses of before and gfo differ" in capsys.readouterr().err


def test_another_gfo_than_that_of_the_checkout(model, tmp_path, capsys):
    (tmp_path / "gfo").mkdir()
    (tmp_path / "gfo" / "__init__.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\ndel sys.modules['gfo']\nimport gfo\n"
        "sys.modules['gfo'] = gfo\n"
    )
    assert between.main(options(model, tmp_path)) == 2
    assert "Python imports another gfo" in capsys.readouterr().err


def test_a_process_that_ends(model, tmp_path, capsys):
    (tmp_path / "gfo").mkdir()
    (tmp_path / "gfo" / "__init__.py").write_text("raise SystemExit(7)\n")
    assert between.main(options(model, tmp_path)) == 1
    assert "--before: its process ended with exit code 7" in capsys.readouterr().err


def seconds(before, after, *, loss=0.5):
    side = {"loss": [0.5], "forward_tokens": 9, "wall_seconds": 1.0}
    return {
        "before": {**side, "cpu_seconds": before},
        "after": {**side, "cpu_seconds": after, "loss": [loss]},
    }


@pytest.mark.parametrize(("factor", "within"), [(1.0, True), (1.02, True), (1.05, False), (0.8, True)])
def test_three_percent_are_told_from_none(factor, within):
    """Both slow down together, by up to 3 times, each process by 0.5 % of its own; a step of each is off."""
    rng = np.random.default_rng(0)
    starts = []
    for own in rng.normal(1, 0.005, (10, 2)):
        busy = rng.uniform(1, 3, 4)
        starts.append([seconds(b * own[0], factor * b * own[1]) for b in busy])
        starts[-1][1]["after"]["cpu_seconds"] *= 9
    found = between.entry("lora", "", starts)
    assert found["within"] is within
    assert found["ratio"] == pytest.approx(factor, abs=0.01)


def test_what_is_a_process_own_tells_nothing():
    """Many rounds of few processes do not make a difference between processes one between versions."""
    starts = [[seconds(1, ratio)] * 50 for ratio in (0.9, 1.2, 1.0)]
    assert between.entry("lora", "", starts)["within"] is None
    with pytest.raises(UnusableError, match="differ by"):
        between.entry("lora", "", [[seconds(1, 1, loss=0.6)]])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--before", "nowhere"], "--before nowhere: it has no gfo/"),
        (["--before", ".", "--workload", "lor"], "did you mean 'lora'"),
        (["--before", ".", "--starts", "2", "--json", "x.json"], "--starts 2: --json needs medians"),
        (["--before", ".", "--rows", "0"], "--rows 0: must be at least 1"),
        ([], "--before"),
    ],
)
def test_bad_input(arguments, words, capsys):
    assert between.main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
