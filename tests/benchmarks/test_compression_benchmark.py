"""The benchmark of choices of levels, on a tiny model."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.compression.__main__ import METHODS, main

TEXT = "the food was good but service bad movie is a great joy I would say that"


@pytest.fixture
def arguments(tiny, tmp_path):
    model = tiny("llama", intermediate_size=64)
    model.module.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    rng = np.random.default_rng(0)
    for name in ("wikitext2/validation", "wikitext2/test", "sst2/train", "sst2/test"):
        path = tmp_path / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        rows = [
            {"text": " ".join(rng.permutation(TEXT.split())), "label_text": "positive"} for _ in range(12)
        ]
        for row in rows[::2]:
            row["label_text"] = "negative"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["--data", tmp_path, "--model", tmp_path / "model", "--levels", "Q8_0", "Q5_0", "Q4_0"]
    given += ["--scaled", "--calibration", 48, "--dev", 24, "--test", 64, "--window", 8, "--rows", 3]
    given += ["--evaluations", 24, "--seed", 0, 1, "--json", tmp_path / "out.json"]
    return [str(each) for each in given]


def rows_of(tmp_path):
    return json.loads((tmp_path / "out.json").read_text())["rows"]


def test_every_choice_is_within_the_limit(arguments, tmp_path, capsys, monkeypatch):
    figure = ["--figure", str(tmp_path / "levels.png")]
    assert main([*arguments, "--limits", "0.6", "--seed", "0"]) == 0
    assert main([*arguments, "--limits", "0.6", *figure]) == 0  # the other piece
    rows = rows_of(tmp_path)
    assert [row["method"] for row in rows] == 2 * list(METHODS["levels"])
    assert [row["seed"] for row in rows] == 7 * [0] + 7 * [1]
    assert all(row["share"] <= 0.6 and row["test"] > 0 and row["dev"] > 0 for row in rows)
    assert (tmp_path / "levels.png").stat().st_size > 1000
    by = {row["method"]: row for row in rows[:7]}
    assert by["uniform"]["bits"] == 4.5
    assert by["knapsack"]["predicted"] <= by["greedy"]["predicted"] + 1e-12
    assert by["search"]["dev"] <= by["knapsack"]["dev"] + 1e-9  # its start is among what dev chooses from
    assert len(by["with LoRA"]["z"]) == len(by["search"]["z"]) + 50
    assert rows[0]["test"] != rows[7]["test"] or by["knapsack"]["z"] != rows[11]["z"]
    capsys.readouterr()

    from benchmarks.compression.measure import Bench

    monkeypatch.setattr(Bench, "__init__", None)  # what is there is not measured again
    assert main([*arguments, "--limits", "0.6"]) == 0
    assert "knapsack" in capsys.readouterr().out


def test_other_parts(arguments, tmp_path, capsys):
    seed = ["--seed", "0", "--figure", str(tmp_path / "part.png")]
    assert main([*arguments, "--part", "uniform", "--method", "Q4_0", "S50", *seed]) == 0
    assert [row["bits"] for row in rows_of(tmp_path)] == [4.5, 9.0]
    (tmp_path / "out.json").unlink()
    assert main([*arguments, "--part", "sst2", "--limits", "0.6", *seed]) == 0
    rows = rows_of(tmp_path)
    assert [row["method"] for row in rows] == ["uniform", "knapsack", "search", "manual"]
    assert all(0 <= row["test"] <= 1 for row in rows)
    (tmp_path / "out.json").unlink()
    assert main([*arguments, "--part", "front", *seed]) == 0
    (row,) = rows_of(tmp_path)
    points = sorted(row["points"], key=lambda point: point["share"])
    assert len(points) > 2
    assert points[0]["dev"] > points[-1]["dev"]
    assert (tmp_path / "part.png").stat().st_size > 1000
    assert main([*arguments, *seed]) == 1  # the file is of another part
    assert "name another file" in capsys.readouterr().err


def test_bad_input_is_refused(arguments, capsys):
    assert main([*arguments, "--limits", "0.3"]) == 2
    assert "not even the coarsest of --levels fits" in capsys.readouterr().err
    assert main([*arguments[:-1], "/nowhere/out.json"]) == 2
    assert "folder does not exist" in capsys.readouterr().err
    assert main([*arguments, "--calibration", "9999"]) == 2
    assert "has too few documents" in capsys.readouterr().err
