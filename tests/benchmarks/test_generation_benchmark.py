"""The benchmark of generated text: what it writes, that other answers are caught, and its bad input."""

from __future__ import annotations

import json

import pytest

from benchmarks.speed import generation

SMALL = ["--candidates", "3", "--rows", "4", "--text-length", "9", "--new-tokens", "5"]


@pytest.fixture
def model(tmp_path, tiny):
    folder = tmp_path / "tiny"
    made = tiny("llama", tie_word_embeddings=False)
    made.module.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    return ["--model", str(folder)]


def test_both_ways_write_the_same(model, tmp_path, capsys):
    file = tmp_path / "found.json"
    names = ["--workload", "text-first", "--workload", "prompt-first"]
    assert generation.main([*SMALL, *model, *names, "--json", str(file)]) == 0
    text_first, prompt_first = json.loads(file.read_text())["workloads"]
    for entry in (text_first, prompt_first):
        assert (entry["candidates"], entry["rows"], entry["new_tokens"]) == (3, 4, 5)
        assert entry["same_answers"] == 1
        assert entry["different_answers"] > 3
        assert {name: len(rounds) for name, rounds in entry["cpu_seconds"].items()} == {"gfo": 3, "serial": 3}
        assert entry["speedup_serial"] > 0
    behind = text_first["tokens_needed"] - 3 * 4 * (5 - 1)
    assert behind % (3 * 4) == 0  # the prompt and the words behind it
    assert text_first["once_forward_tokens"] >= 4 * 9  # the texts
    assert prompt_first["tokens_needed"] > text_first["tokens_needed"]
    assert "100.0% of the answers the same" in capsys.readouterr().out


def test_other_answers_are_caught(model, monkeypatch, capsys):
    right = generation.one_at_a_time

    def wrong(it, new_tokens):
        answers = right(it, new_tokens)
        answers[1][2] = (*answers[1][2][:-1], answers[1][2][-1] + 1)
        return answers

    monkeypatch.setattr(generation, "one_at_a_time", wrong)
    assert generation.main([*SMALL, *model, "--repeats", "1"]) == 1
    assert "8.3% of the answers differ" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workload", "lora"], "unknown --workload 'lora'"),
        (["--new-tokens", "0"], "--new-tokens 0: must be at least 1"),
        (["--json", "x.json", "--repeats", "2"], "--json needs medians of at least 3"),
        (["--device", "tpu"], "invalid choice"),
    ],
)
def test_bad_input(options, message, capsys):
    assert generation.main(options) == 2
    assert message in capsys.readouterr().err
