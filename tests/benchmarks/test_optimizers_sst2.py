"""The table of every optimizer on SST-2: what it holds, who lost, and bad input."""

from __future__ import annotations

import json

import pytest

from benchmarks.quality import optimizers_sst2 as script


def write(folder, optimizer, loss, accuracy=0.8):
    test = {"loss": loss + 0.1, "accuracy": accuracy}
    result = {
        "optimizer": optimizer,
        "model": "tiny",
        "d": 4,
        "seed": 0,
        "loss": loss,
        "cost": {"candidates": 500, "seconds": 12.4},
        "scores": {"before": {"test": {"loss": 0.7, "accuracy": 0.5}}, "after": {"test": test}},
    }
    (folder / f"{optimizer}--seed0").mkdir()
    (folder / f"{optimizer}--seed0" / "result.json").write_text(json.dumps(result))


def test_the_table_and_who_lost(tmp_path, capsys):
    write(tmp_path, "random", 0.5)
    write(tmp_path, "cma", 0.3, 0.9)
    write(tmp_path, "pso", 0.5)
    assert script.main(["--out", str(tmp_path)]) == 0
    text = (tmp_path / "table.md").read_text()
    assert "| `cma` | 0 | 500 | 0.300 | 0.400 | 90.0% | 12 |" in text
    assert text.index("`cma`") < text.index("`random`")
    assert "Not below random search's training loss: `pso` (seed 0)." in text
    assert "The start: test loss 0.700, accuracy 50.0%." in text
    assert text.strip() in capsys.readouterr().out


def test_the_committed_table_is_that_of_the_committed_runs():
    assert (script.RESULTS / "table.md").read_text() == script.table(script.RESULTS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "cmaes"], "unknown --method 'cmaes': did you mean 'cma'"),
        (["--out", "nowhere"], "--out nowhere: it holds no finished run"),
        (["--sed", "1"], "--sed"),
    ],
)
def test_bad_input(arguments, words, capsys):
    assert script.main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
