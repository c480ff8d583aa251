"""The benchmark of choices of levels, on a tiny model."""

from __future__ import annotations

import json

import pytest

from benchmarks.compression.__main__ import METHODS, main


@pytest.fixture
def arguments(tiny, tmp_path):
    model = tiny("llama", intermediate_size=64)
    model.module.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "wikitext2").mkdir()
    for split, text in (("validation", "the food was good "), ("test", "a terrible waste of time ")):
        (tmp_path / "wikitext2" / f"{split}.jsonl").write_text(json.dumps({"text": 40 * text}) + "\n")
    given = [
        "--data",
        tmp_path,
        "--model",
        tmp_path / "model",
        "--levels",
        "Q8_0",
        "Q5_0",
        "Q4_0",
        "--scaled",
    ]
    given += ["--calibration", 48, "--test", 64, "--window", 8, "--evaluations", 40, "--seeds", 2]
    return [str(each) for each in (*given, "--json", tmp_path / "out.json")]


def test_every_choice_is_within_the_limit(arguments, tmp_path, capsys, monkeypatch):
    assert main([*arguments, "--limits", "0.6"]) == 0
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row["method"] for row in rows] == [*METHODS, "search"]
    assert all(row["share"] <= 0.6 and row["test"] > 0 for row in rows)
    by = {row["method"]: row for row in rows}
    assert by["uniform"]["bits"] == 4.5
    assert by["knapsack"]["predicted"] <= by["greedy"]["predicted"] + 1e-12
    assert by["search"]["loss"] <= by["knapsack"]["loss"] + 1e-9
    capsys.readouterr()

    from benchmarks.compression.measure import Bench

    monkeypatch.setattr(Bench, "measured", None)  # what is there is not measured again
    assert main([*arguments, "--limits", "0.6"]) == 0
    assert "knapsack" in capsys.readouterr().out


def test_bad_input_is_refused(arguments, capsys):
    assert main([*arguments, "--limits", "0.3"]) == 2
    assert "not even the coarsest of --levels fits" in capsys.readouterr().err
    assert main([*arguments[:-1], "/nowhere/out.json"]) == 2
    assert "folder does not exist" in capsys.readouterr().err
