"""The tasks of four adapters, the two that are merged for at once, and one that no adapter has seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gfo

ADAPTERS = ("sst2", "agnews", "snli", "e2e")
TARGETS = ("two", "held-out")
SHOTS = "seed13"  # the split of the data whose 16 rows a class are searched on
NLI = "{text_a}\nQuestion: {text_b} True, False or Neither?\nAnswer:"
KINDS: dict[str, dict[str, Any]] = {
    "sst2": {
        "template": "Review: {text}\nSentiment:",
        "labels": {"negative": " negative", "positive": " positive"},
    },
    "agnews": {
        "template": "News: {text}\nTopic:",
        "labels": {
            "World": " World",
            "Sports": " Sports",
            "Business": " Business",
            "Sci/Tech": [" Science", " Technology"],
        },
    },
    "snli": {
        "template": NLI,
        "labels": {"entailment": " True", "contradiction": " False", "neutral": " Neither"},
    },
    "rte": {
        "template": NLI.replace("True, False or Neither", "True or False"),
        "labels": {"entailment": " True", "not_entailment": " False"},
    },
}
TESTS = {"rte": "rte/validation.jsonl"}
BATCH = 16


def training_task(name: str, data: Path, test: int) -> Any:
    """What an adapter is trained on, batches of 16 rows; dev chooses among its steps."""
    if name == "e2e":
        splits = {"train": "train_from_dev", "dev": "validation", "test": "test"}
        rows = {split: _documents(data / "e2e" / f"{file}.jsonl") for split, file in splits.items()}
        return gfo.LanguageModeling(
            rows["train"], rows["dev"][:32], rows["test"][:test], template="{text}", batch_size=BATCH
        )
    return gfo.Classification(
        str(data / name / "train.jsonl"),
        str(data / "kshot16" / name / SHOTS / "dev.jsonl"),
        str(data / name / "test.jsonl"),
        limits={"test": test},
        batch_size=BATCH,
        label_field="label_text",
        **KINDS[name],
    )


def few_shot_task(name: str, data: Path, test: int) -> Any:
    """What is searched on: 16 rows a class."""
    folder = data / "kshot16" / name / SHOTS
    return gfo.Classification(
        str(folder / "train.jsonl"),
        str(folder / "dev.jsonl"),
        str(data / TESTS.get(name, f"{name}/test.jsonl")),
        limits={"test": test},
        label_field="label_text",
        **KINDS[name],
    )


def target_task(target: str, data: Path, test: int) -> Any:
    """SST-2 and AG News at once, or RTE, which no adapter has seen."""
    if target == "held-out":
        return few_shot_task("rte", data, test)
    names = ["sst2", "agnews"]
    return gfo.Weighted([(few_shot_task(name, data, test), 1.0) for name in names], names=names)


def _documents(path: Path) -> list[dict[str, str]]:
    """Rows of E2E as texts: what is to be said, and how it is said."""
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [{"text": f"Data: {row['source']}\nText: {row['target']}"} for row in rows]
