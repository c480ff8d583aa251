"""Timed steps of the gfo that PYTHONPATH names: the child of `between.py`, a process for each checkout.

It runs with gfo 0.1.0 and all later versions, so it keeps to their public names, and to nothing of the
benchmarks. It reads a job and then the steps asked for from standard input, and answers each with a line.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gfo

WARM_UP = 2  # steps; what is computed once is there after the first


def evaluators(job: Mapping[str, Any]) -> dict[str, Any]:
    """Workload -> its evaluator and d, all of one model."""
    torch.set_num_threads(job["threads"])
    model = gfo.load_model(job["model"], device="cpu")
    found = {}
    for name, workload in job["workloads"].items():
        task = gfo.Classification(job["rows"], template=workload["template"], labels=job["labels"])
        space = getattr(gfo, workload["space"])(model, **workload["options"])
        evaluator = gfo.LocalEvaluator(model, task, space, chunk_tokens=job["chunk_tokens"])
        found[name] = evaluator, space.domain.d
    return found


def timed(evaluator: Any, z: Any, step: int) -> dict[str, Any]:
    """Seconds, losses [K] and tokens of a step."""
    wall, cpu = time.perf_counter(), time.process_time()
    evaluation = evaluator(z, step)
    spent = {"cpu_seconds": time.process_time() - cpu, "wall_seconds": time.perf_counter() - wall}
    return {**spent, "loss": evaluation.loss.tolist(), "forward_tokens": evaluation.cost.forward_tokens}


def serve(answer: Callable[[Mapping[str, Any]], None]) -> None:
    """Do what standard input asks for until it ends.

    Raises:
        GfoError: for a gfo that is not the one asked for, or a job that it cannot do.
    """
    job = json.loads(sys.stdin.readline())
    if not Path(gfo.__file__).is_relative_to(Path(job["checkout"])):
        raise gfo.GfoError(f"{job['checkout']}: Python imports another gfo; name a checkout of it")
    found = evaluators(job)
    for number in range(WARM_UP):
        for evaluator, d in found.values():
            timed(evaluator, points(number, job["candidates"], d), number)
    answer({"ready": True})
    for line in sys.stdin:
        asked = json.loads(line)
        evaluator, d = found[asked["workload"]]
        step = WARM_UP + asked["round"]
        answer(timed(evaluator, points(step, job["candidates"], d), step))


def points(step: int, candidates: int, d: int) -> Any:
    """The candidates of a step [K, d], the same in every process."""
    return np.random.default_rng(step).standard_normal((candidates, d))


def main() -> None:
    """Serve; standard output is for answers alone."""
    out, sys.stdout = sys.stdout, sys.stderr

    def answer(found: Mapping[str, Any]) -> None:
        print(json.dumps(found), file=out, flush=True)

    try:
        serve(answer)
    except gfo.GfoError as error:
        answer({"error": str(error)})


if __name__ == "__main__":
    main()
