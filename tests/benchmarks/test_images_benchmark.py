"""The benchmark of steps behind images: what it writes, on a small model, and its bad input."""

from __future__ import annotations

import json

import pytest

from benchmarks.speed import images, models

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 4}
TOWER = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 2}


def test_what_it_measures(tmp_path, monkeypatch):
    small = {**models.SMOLLM2, **SMALL, "vocab_size": 100, "num_hidden_layers": 2}
    monkeypatch.setitem(models.SHAPES, "135m", small)
    monkeypatch.setattr(images, "TOWER", images.TOWER | TOWER)
    file = tmp_path / "images.json"
    quick = ["--candidates", "2", "--rows", "2", "--repeats", "3"]
    assert images.main([*quick, "--json", str(file)]) == 0
    found = json.loads(file.read_text())["workloads"]
    assert [entry["tiles"] for entry in found] == [1, 4]
    for entry in found:
        assert entry["tower_runs"] == entry["rows"] == 2
        assert entry["forward_tokens"] == entry["tokens_needed"] == found[0]["tokens_needed"]
        assert entry["share_of_plain"] > 0
        assert entry["share_of_cached"] > 0
    one, five = (entry["tokens_per_row"] for entry in found)
    assert five - one > 4 * images.TOKENS - 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "0"], "--rows 0: must be at least 1"),
        (["--json", "images.json", "--repeats", "2"], "--repeats 2: --json needs medians of at least 3"),
        (["--json", "nowhere/images.json"], "its folder does not exist"),
    ],
)
def test_bad_input(arguments, message, capsys):
    assert images.main(arguments) == 2
    assert message in capsys.readouterr().err
