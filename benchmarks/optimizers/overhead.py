"""CPU seconds of ask + tell with K = 64: at d = 1,000 beside those of one evaluation step of a model, and at
d = 10,000 and 100,000 beside those of drawing K normal vectors and one weighted sum, the least that an
evolution strategy does."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks import shared
from gfo import optimizers
from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError
from gfo.core.protocols import Optimizer
from gfo.testing import Sphere

D, K = 1_000, 64
STEPS = 30  # timed, after one to warm up
LIMIT = 0.01  # of an evaluation step
LARGE = {10_000: 11, 100_000: 3}  # d -> steps timed
LINEAR = ("openai-es", "spsa", "snes", "ga", "pso", "sa", "sep-cma", "lm-ma-es", "fzoo", "de", "random")
MOST = dict.fromkeys(LINEAR[:6], 2.0) | {"sep-cma": 3.0}  # times the draws and the sum
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
        spent = [_step(optimizer, f) for _ in range(steps + 1)]
    return fmean(spent[1:])


def _step(optimizer: Optimizer, f: Callable[[Array], Array]) -> float:
    """CPU seconds of one ask and one tell."""
    start = time.process_time()
    z = optimizer.ask()
    asked = time.process_time() - start
    loss = f(z)
    start = time.process_time()
    optimizer.tell(z, loss)
    return asked + time.process_time() - start


def large(d: int, steps: int, methods: Sequence[str]) -> dict[str, Any]:
    """Median CPU seconds of a step of each method, and over those of the draws; all in turn, step by step."""
    rng, domain = np.random.default_rng(0), Domain.unbounded(d)
    made = {name: optimizers.make(name, domain=domain, seed=1, population=K) for name in methods}
    spent: dict[str, list[float]] = {name: [] for name in ("draws", *methods)}
    weights = rng.standard_normal(K)
    with threadpool_limits(1):
        for _ in range(steps + 1):
            start = time.process_time()
            weights @ rng.standard_normal((K, d))
            spent["draws"].append(time.process_time() - start)
            for name, optimizer in made.items():
                spent[name].append(_step(optimizer, lambda z: np.einsum("kd,kd->k", z - 1, z - 1)))
    medians = {name: median(values[1:]) for name, values in spent.items()}
    found: dict[str, Any] = {"cpu_seconds": {name: float(f"{s:.3g}") for name, s in medians.items()}}
    found["to_draws"] = {n: round(medians[n] / medians["draws"], 2) for n in methods}
    found["within_limit"] = {n: found["to_draws"][n] <= MOST[n] for n in methods if n in MOST}
    return found


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
    write_large(out, [name for name in LINEAR if name in methods])


def write_large(out: Path, methods: Sequence[str]) -> None:
    """Measure, print and write ask-tell.json."""
    found: dict[str, Any] = {"candidates": K, "limits": MOST, "d": {}}
    for d, steps in LARGE.items() if methods else ():
        found["d"][str(d)] = at = large(d, steps, methods)
        for name, ratio in at["to_draws"].items():
            print(f"{name:12s} d = {d:,}: {ratio:.2f} times the draws")
        shared.write_json(out / "ask-tell.json", {**found, **shared.source()})
