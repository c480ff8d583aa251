"""The table of every space on SST-2: what it holds, what did not improve, and bad input."""

from __future__ import annotations

import json

import pytest

from benchmarks.quality import spaces as script
from gfo.config import load_config


def write(folder, name, before, after, accuracy=0.8):
    def scores(loss):
        return {"test": {"loss": loss + 0.1, "accuracy": accuracy}}

    result = {
        "model": "tiny",
        "d": 4,
        "loss": after - 0.1,
        "cost": {"candidates": 300, "forward_tokens": 12345, "seconds": 12.4},
        "scores": {"before": scores(before), "after": scores(after)},
    }
    (folder / f"{name}--seed0").mkdir()
    (folder / f"{name}--seed0" / "result.json").write_text(json.dumps(result))


def test_the_table_and_what_did_not_improve(tmp_path, capsys):
    write(tmp_path, "bias", 0.5, 0.5)
    write(tmp_path, "lora-fa", 0.5, 0.3, 0.9)
    assert script.main(["--out", str(tmp_path)]) == 0
    text = (tmp_path / "table.md").read_text()
    line = "| `lora-fa` | 4 | 0.200 | 0.600 → 0.400 | 90.0% → 90.0% | 12,345 | 12 |"
    assert line in text
    assert text.index("`lora-fa`") < text.index("`bias`")
    assert "Not below its starting point's test loss: `bias`." in text
    assert text.strip() in capsys.readouterr().out


def test_the_committed_table_is_that_of_the_committed_runs():
    text = script.table(script.RESULTS)
    assert (script.RESULTS / "table.md").read_text() == text
    assert all(f"| `{name}` |" in text for name in script.names())


def test_the_configs_differ_in_their_spaces_alone():
    configs = {name: load_config(script.CONFIGS / f"{name}.toml").model_dump() for name in script.names()}
    for config in configs.values():
        config.pop("space")
        config["task"].pop("template")
    usual = configs.pop("soft-prompt")
    assert configs.pop("discrete-prompt")["optimizer"]["name"] == "ga"
    assert all(config == usual for config in configs.values())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--space", "lora-f"], "unknown --space 'lora-f': did you mean 'lora-fa'"),
        (["--out", "nowhere"], "--out nowhere: it holds no finished run"),
        (["--sed", "1"], "--sed"),
    ],
)
def test_bad_input(arguments, words, capsys):
    assert script.main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
