"""The benchmark of workers, on a tiny model."""

from __future__ import annotations

import json

import pytest

from benchmarks.workers import __main__ as workers
from gfo.testing import tiny_model


def test_it_measures(tmp_path, capsys):
    model, folder = tiny_model(), tmp_path / "model"
    model.module.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    small = ["--workers", "1", "--candidates", "6", "--rows", "2", "--rounds", "3", "--sleepers", "2"]
    files = ["--json", str(tmp_path / "found.json"), "--png", str(tmp_path / "found.png")]
    assert workers.main(["--model", str(folder), *small, "--sleep", "0.02", *files]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    (point,) = found["throughput"]
    assert point["workers"] == 1
    assert len(point["rounds"]) == 3
    assert point["candidates_per_second"] == pytest.approx(6 / point["seconds"])
    assert 0 <= point["not_evaluating"] < 1
    assert 0 < point["own_cpu_seconds"] < 1
    assert (
        0
        < found["messages"]["of_a_step"]
        == pytest.approx(2 * found["messages"]["seconds_of_one"] / point["seconds"])
    )
    assert 0 < point["unshared_bytes"][0] <= point["resident_bytes"][0]
    assert found["late"]["evaluations"] > 0
    assert (tmp_path / "found.png").stat().st_size > 1000
    assert "candidates in parts of 4" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workers", "0"], "--workers 0: must be at least 1"),
        (["--json", "no-such-folder/a.json"], "its folder does not exist"),
    ],
)
def test_bad_input(arguments, words, capsys):
    assert workers.main(arguments) == 2
    assert words in capsys.readouterr().err
