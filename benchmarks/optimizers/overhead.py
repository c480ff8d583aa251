"""CPU seconds of ask + tell at d = 1,000 and K = 64, beside those of one evaluation step of a model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks import shared
from gfo import optimizers
from gfo.core.domain import Domain
from gfo.core.errors import GfoError
from gfo.testing import Sphere

D, K = 1_000, 64
STEPS = 30  # timed, after one to warm up
LIMIT = 0.01  # of an evaluation step
SOFT_TOKENS = 8
ROWS = "kshot16/sst2/seed13/train.jsonl"


def overhead(name: str, d: int = D, population: int = K, steps: int = STEPS) -> float:
    """Mean CPU seconds of one ask + tell with `population` points; CMA-ES decomposes C in some steps only."""
    f = Sphere(d, seed=1)
    options: dict[str, Any] = {"population": population}
    if "population" not in (optimizers.options_of(name) or options):
        options = {"options": options}  # of the method that it restarts or gives a block
    with threadpool_limits(1):
        optimizer = optimizers.make(name, domain=Domain.unbounded(d), seed=1, **options)
        spent = []
        for _ in range(steps + 1):
            start = time.process_time()
            z = optimizer.ask()
            asked = time.process_time() - start
            loss = f(z)
            start = time.process_time()
            optimizer.tell(z, loss)
            spent.append(asked + time.process_time() - start)
    return fmean(spent[1:])


def evaluation_step(data: Path) -> dict[str, Any]:
    """CPU seconds of one step: K candidates of d dimensions on the 32 rows of 16-shot SST-2."""
    from gfo.evaluation.local import LocalEvaluator
    from gfo.models.loading import load_model
    from gfo.spaces.soft_prompt import SoftPrompt
    from gfo.tasks.classification import Classification

    words = {"negative": " negative", "positive": " positive"}
    template = "Review: {text}\n{soft}Sentiment:"
    task = Classification(data / ROWS, template=template, labels=words, label_field="label_text")
    model = load_model("smollm2-135m", device="cpu")
    space = SoftPrompt(model, SOFT_TOKENS, D, seed=0)
    evaluator = LocalEvaluator(model, task, space)
    z = np.random.default_rng(0).standard_normal((K, D))
    evaluator(z[:1], 0)  # what is computed once is not part of a step
    start = time.process_time()
    cost = evaluator(z, 1).cost
    spent = time.process_time() - start
    return {"cpu_seconds": round(spent, 3), "forward_tokens": cost.forward_tokens, "soft_tokens": SOFT_TOKENS}


def write_overhead(out: Path, data: Path | None, methods: Sequence[str]) -> None:
    """Measure, print and write overhead.json."""
    found: dict[str, Any] = {"d": D, "candidates": K, "steps": STEPS, "ask_tell_cpu_seconds": {}}
    if data and not (data / ROWS).is_file():
        raise GfoError(f"--data {data}: has no file {ROWS}")
    for name in methods:
        found["ask_tell_cpu_seconds"][name] = float(f"{overhead(name):.3g}")
    if data:
        shared.say("one evaluation step of SmolLM2-135M")
        found["evaluation_step"] = step = evaluation_step(data)
        share = {n: s / step["cpu_seconds"] for n, s in found["ask_tell_cpu_seconds"].items()}
        found["share_of_step"] = {n: float(f"{value:.2g}") for n, value in share.items()}
        found["below_limit"] = {n: value < LIMIT for n, value in share.items()}
    found |= shared.source()
    for name, spent in found["ask_tell_cpu_seconds"].items():
        share_text = f", {found['share_of_step'][name]:.2%} of an evaluation step" if data else ""
        print(f"{name:12s} {1e3 * spent:8.2f} ms{share_text}")
    shared.write_json(out / "overhead.json", found)
