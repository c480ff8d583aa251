"""The experiment configs of generated text: each builds its task from files with the fields of the data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gfo.config import load_config

EXPERIMENTS = Path(__file__).parents[2] / "benchmarks" / "experiments"
# task -> its files with their rows, and a row's fields; "{}" is its number
DATA = {
    "squad": (
        {"squad_xquad_en/test.jsonl": 200},
        {"text_a": "passage {}", "text_b": "question {}", "target": "answer {}"},
    ),
    "e2e": (
        {"e2e/train_from_dev.jsonl": 40, "e2e/validation.jsonl": 40, "e2e/test.jsonl": 120},
        {"source": "name[{}]", "target": "It is {}.", "targets": ["It is {}.", "{} it is."]},
    ),
    "multi30k": (
        {
            "multi30k_en_de/train.jsonl": 40,
            "multi30k_en_de/validation.jsonl": 40,
            "multi30k_en_de/test_2016_flickr.jsonl": 120,
        },
        {"source": "A dog, {}.", "target": "Ein Hund, {}."},
    ),
    "gsm8k": (
        {"gsm8k/train.jsonl": 100, "gsm8k/test.jsonl": 120},
        {"source": "Add 1 to {}.", "target": "#### {}", "answer": "{}"},
    ),
}


def filled(value, number):
    """The number goes in by letters, of which the tiny tokenizer has more than digits."""
    if isinstance(value, list):
        return [filled(part, number) for part in value]
    return value.format("".join("aeio"[number // 4**place % 4] for place in range(6)))


@pytest.mark.parametrize("name", DATA)
def test_a_config_builds_its_task(tmp_path, tiny, name):
    files, fields = DATA[name]
    number = iter(range(10_000))  # no row twice, in no file
    for file, size in files.items():
        rows = [
            {key: filled(value, n) for key, value in fields.items()}
            for n in (next(number) for _ in range(size))
        ]
        if name == "e2e":
            del rows[0]["targets"]  # as where there is one reference only
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = load_config(EXPERIMENTS / name / "soft_prompt--cma.toml", [f"task.data_dir={tmp_path}"])
    assert config.budget.evaluations == 300
    task = config.task.build(seed=0).bind(
        tiny("llama")
    )  # warns of rows in two splits, which is an error here
    assert [len(task.all_rows(split)) for split in ("train", "dev", "test")] == [32, 32, 100]
    batch = task.all_rows("train")
    assert batch.prompt
    assert batch.decoding.max_tokens == config.task.max_tokens
