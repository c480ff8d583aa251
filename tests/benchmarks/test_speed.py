"""The speed benchmark itself: what it writes, that wrong rivals are caught, and its bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RIVALS = {"gfo", "serial", "stacked", "plain"}


@pytest.fixture
def speed(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import speed

    return speed


@pytest.fixture
def one(speed, tiny):
    """A function of a workload's name to its first setting on a tiny model."""

    def make(name, candidates=3, chunk_tokens=300):
        return speed.setting(
            speed.WORKLOADS[name][0],
            tiny("llama"),
            data=None,
            candidates=candidates,
            seed=0,
            chunk_tokens=chunk_tokens,
        )

    return make


@pytest.fixture
def folder(tiny, tmp_path):
    """A tiny model's folder."""
    model = tiny("llama")
    model.module.save_pretrained(tmp_path / "tiny")
    model.tokenizer.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_command_writes_the_json(folder, tmp_path):
    out = tmp_path / "speed.json"
    command = [sys.executable, str(BENCHMARKS / "speed.py"), "--model", str(folder), "--json", str(out)]
    done = subprocess.run(
        [*command, "--candidates", "2", "--threads", "1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "round 3 of 3" in done.stderr
    assert "vs serial" in done.stdout
    assert str(tmp_path) not in out.read_text()
    found = json.loads(out.read_text())
    assert set(found) == {"workloads", "seed", "versions", "hardware", "date"}
    assert found["hardware"]["threads"] == 1
    assert set(found["hardware"]) == {"cpu", "cores", "memory_gib", "threads"}
    assert {"gfo", "torch", "transformers"} <= set(found["versions"])
    rows = found["workloads"]
    assert [(row["workload"], row["prompt_tokens"]) for row in rows] == [
        ("text-first", 8),
        ("prompt-first", 8),
        ("prompt-first", 50),
    ]
    for row in rows:
        assert (row["candidates"], row["rows"], row["model"]) == (2, 32, "tiny")
        assert set(row["cpu_seconds"]) == set(row["wall_seconds"]) == RIVALS
        assert all(len(rounds) == 3 for rounds in row["cpu_seconds"].values())
        assert min(row["speedup_serial"], row["speedup_stacked"], row["share_of_plain"]) > 0
        assert 0 <= row["max_loss_difference"] < 1e-5
        assert row["forward_tokens"] >= row["tokens_needed"] > 0
    assert rows[0]["once"]["forward_tokens"] > 0


def test_candidates_differ_by_far_more_than_rivals(speed, one):
    found = speed.measure(one("text-first"), 1)
    low, high = found["losses"]
    assert high - low > 100 * found["max_loss_difference"]


@pytest.mark.parametrize("workload", ["text-first", "prompt-first"])
def test_forward_passes_of_plain_are_gfos_tokens(speed, one, workload):
    from speed_rivals import plain_batches

    it = one(workload)
    found = speed.measure(it, 1)
    batches = plain_batches(it)
    assert sum(sequences * n for sequences, n in batches) == found["forward_tokens"]
    assert max(sequences * n for sequences, n in batches) <= it.chunk_tokens


def test_wrong_rival_is_caught(speed, one):
    from speed_rivals import WholeSequences, usual_rivals

    it = one("text-first")
    whole = WholeSequences(it)
    whole._last = whole._last - 1  # reads the answer one token too early
    rivals = {**usual_rivals(it, speed._evaluator(it)), "serial": lambda: whole.losses(32)}
    with pytest.raises(speed.DisagreementError, match="losses of serial and gfo differ by"):
        speed.measure(it, 1, rivals)


def test_failed_loss_is_caught(speed):
    losses = {"gfo": np.array([0.5, np.nan]), "serial": np.array([0.5, 0.6])}
    with pytest.raises(speed.DisagreementError):
        speed.largest_difference(losses, "serial")


def test_ratios_are_of_medians(speed):
    seconds = speed.Seconds(cpu={"gfo": [1.0, 2.0, 90.0], "serial": [9.0, 14.0, 16.0]})
    assert seconds.ratio("serial", "gfo") == 7


def test_lengths_are_those_of_sst2(speed):
    from speed_workloads import row_lengths

    lengths = row_lengths(32)
    assert lengths == sorted(lengths)
    assert (np.mean(lengths), max(lengths)) == (pytest.approx(23.4, abs=0.3), 52)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workload", "text-frist"], "did you mean 'text-first'"),
        (["--candidates", "0"], "--candidates 0: must be at least 1"),
        (["--candidates", "many"], "invalid int value: 'many'"),
        (["--threads", "-1"], "--threads -1"),
        (["--repeats", "2", "--json", "out.json"], "medians of at least 3"),
        (["--json", "no-such-folder/out.json"], "does not exist or is not writable"),
        (["--data", "no-such-folder"], "has no file kshot16"),
        (["--seed", "-1"], "--seed -1"),
        (["--fast"], "unrecognized arguments: --fast"),
        (["--model", "no-such-model"], "no-such-model"),
    ],
)
def test_bad_option_is_one_line_and_exit_code_2(speed, capsys, arguments, message):
    assert speed.main(arguments) == 2
    *progress, line = capsys.readouterr().err.splitlines()
    assert message in line
    assert line.startswith("error: ")
    assert progress in ([], ["loading no-such-model"])


def test_data_folder_is_read(speed, folder, tmp_path, capsys):
    file = tmp_path / speed.SST2_FILE
    file.parent.mkdir(parents=True)
    labels = ["negative", "positive"]
    file.write_text(
        "".join(json.dumps({"text": "a" * n, "label_text": labels[n % 2]}) + "\n" for n in (2, 5))
    )
    arguments = ["--data", str(tmp_path), "--model", str(folder), "--candidates", "2", "--repeats", "1"]
    code = speed.main([*arguments, "--workload", "text-first"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert "2 x 2" in captured.out
