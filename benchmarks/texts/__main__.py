"""Prompts that a language model writes: do they beat the one that a person wrote?

    python -m benchmarks.texts --json texts.json

Methods search a prompt for sentiment with one small model, which is what is asked and what writes. Each is
stopped halfway and resumed. The same command goes on where it was stopped. See README.md of the benchmarks.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import shared
from benchmarks.shared import say

START = "Decide whether the review is positive or negative."
TEMPLATE = "{soft}\n\nReview: {text}\nSentiment:"
LABELS = {"negative": " negative", "positive": " positive"}
PHRASES = (
    "Read the review.", "Decide whether it is positive or negative.", "Answer with one word.",
    "Think of the writer's feeling.", "A review that praises is positive.", "Complaints are negative.",
    "Judge the film, not the plot.", "Be fair.",
)  # fmt: skip
METHODS: dict[str, tuple[str, str, dict[str, Any]]] = {  # name -> space, optimizer, options
    "manual": ("texts", "", {}),
    "words, ga": ("words", "ga", {"population": 6}),
    "evoprompt, ga": ("texts", "evoprompt", {"population": 6, "max_tokens": 48, "temperature": 0.8}),
    "evoprompt, de": (
        "texts", "evoprompt", {"population": 6, "variant": "de", "max_tokens": 48, "temperature": 0.8},
    ),
    "gepa": ("texts", "gepa", {"max_tokens": 64, "temperature": 0.8}),
}  # fmt: skip


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, checked."""
    parser = shared.Parser(__doc__)
    parser.add_argument("--data", default="gfo:sentiment", help="a folder with train, dev and test.jsonl")
    parser.add_argument("--label", default="label", help="the rows' field that says positive or negative")
    parser.add_argument("--model", default="smollm2-135m", help="a decoder")
    parser.add_argument("--methods", nargs="+", help=f"of {', '.join(METHODS)}")
    parser.add_argument("--evaluations", type=int, default=36, help="of each search")
    parser.add_argument("--rows", type=int, default=32, help="for training, and as many for dev")
    parser.add_argument("--test", type=int, default=100, help="rows for test")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", type=Path, help="results; those that it holds are not measured again")
    options = parser.parse_args(arguments)
    shared.check_at_least_one(options, ("evaluations", "rows", "test", "seeds"))
    options.methods = shared.chosen("--methods", options.methods, METHODS)
    shared.check_output("--json", options.json)
    return options


def run(options: argparse.Namespace) -> None:
    """Measure what is missing, and show all."""
    import gfo

    found, model = _found(options), None
    for method in options.methods:
        for seed in range(options.seeds if method != "manual" else 1):
            if not any((row["method"], row["seed"]) == (method, seed) for row in found["rows"]):
                model = model or gfo.load_model(options.model)
                row = measured(model, options, method, seed)
                found["rows"].append({"method": method, "seed": seed, **row})
                say(f"{method}, seed {seed}: {found['rows'][-1]['prompt']!r}")
                shared.write_json(options.json, found)
    columns = ("method", "seed", "evaluations", "train loss", "test accuracy", "test loss", "CPU s")
    shared.show("One model is asked, and writes.", columns, map(_line, found["rows"]))


def measured(model: Any, options: argparse.Namespace, method: str, seed: int) -> dict[str, Any]:
    """One search, stopped halfway and resumed, and what its prompt is worth on test rows."""
    import gfo

    kind, optimizer, more = METHODS[method]
    folder = options.data.rstrip("/")
    limits = {"train": options.rows, "dev": options.rows, "test": options.test}
    task = gfo.Classification(
        *(f"{folder}/{split}.jsonl" for split in limits),
        template=TEMPLATE,
        labels=LABELS,
        label_field=options.label,
        limits=limits,
        shuffle=0,
    )
    space: Any = gfo.Texts(START, length=400) if kind == "texts" else gfo.Words(PHRASES, 4)
    if not optimizer:
        return _scored(gfo.TextEvaluator(model, task, space), START)
    how: dict[str, Any] = {"optimizer": optimizer, "options": more, "seed": seed, "progress": False}
    start = time.process_time()
    with tempfile.TemporaryDirectory() as out:
        half = gfo.Budget(evaluations=max(1, options.evaluations // 2))
        begun = gfo.tune(model, task, space, budget=half, out=out, **how)
        budget = gfo.Budget(evaluations=options.evaluations)
        result = gfo.tune(model, task, space, budget=budget, out=out, resume=True, **how)
        seconds = time.process_time() - start
        score = result.score("test")
    return {
        "prompt": result.prompt,
        "evaluations": result.cost.candidates,
        "resumed_after": begun.cost.candidates,
        "train": result.loss,
        "test": dict(score),
        "n": score.n,
        "standard_errors": dict(score.standard_errors),
        "cpu_seconds": round(seconds, 1),
    }


def _scored(evaluator: Any, prompt: str) -> dict[str, Any]:
    """The start, as it is."""
    import numpy as np

    from gfo.report.scores import SplitScores

    zero = np.zeros((1, evaluator.space.domain.d))
    loss = float(evaluator(zero, 0).loss[0])
    score = SplitScores.of(evaluator.score(zero, "test"), 0, evaluator.metrics)
    return {
        "prompt": prompt,
        "evaluations": 1,
        "train": loss,
        "test": dict(score),
        "n": score.n,
        "standard_errors": dict(score.standard_errors),
        "cpu_seconds": 0.0,
    }


def _found(options: argparse.Namespace) -> dict[str, Any]:
    """What the file holds, or nothing; of other options it is refused."""
    left_out = ("json", "methods", "seeds", "data")
    given = {name: value for name, value in vars(options).items() if name not in left_out}
    if options.json is None or not options.json.exists():
        return {"options": given, "rows": [], **shared.source()}
    found: dict[str, Any] = json.loads(options.json.read_text(encoding="utf-8"))
    if found["options"] != given:
        raise shared.UnusableError(f"--json {options.json}: it is of {found['options']}; name another file")
    return found


def _line(row: dict[str, Any]) -> list[str]:
    test, error = row["test"], row["standard_errors"]
    accuracy = f"{test['accuracy']:.3f} ± {error['accuracy']:.3f}"
    numbers = (str(row["evaluations"]), f"{row['train']:.3f}", accuracy, f"{test['loss']:.3f}")
    return [row["method"], str(row["seed"]), *numbers, f"{row['cpu_seconds']:.0f}"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    return shared.command(arguments, parse, run, goes_on=True)


if __name__ == "__main__":
    shared.start(main)
