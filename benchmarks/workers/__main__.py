"""Throughput against workers, what messages cost, and what a late worker costs the others.

    python -m benchmarks.workers --json workers.json --png workers.png

See README.md of the benchmarks.
"""

from __future__ import annotations

import argparse
import functools
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import shared
from benchmarks.workers.evaluators import DIM, sleeper, soft_prompts

LATE = 10.0  # times as long as the others
CALLS = 15  # of each worker that is not late


def throughput(options: argparse.Namespace, n: int) -> dict[str, Any]:
    """Candidates a second of n workers, and the share of the time that no evaluator had, of one."""
    import numpy as np
    import psutil

    import gfo

    make = functools.partial(soft_prompts, options.model, options.rows)
    rng = np.random.default_rng(0)
    with gfo.Workers(make, n, part=options.part, threads=1) as workers:
        while len(workers.pool.ready) < n:
            workers(rng.standard_normal((1, DIM)), 0)
        workers(rng.standard_normal((n * options.part * 2, DIM)), 0)  # lays the rows out
        rounds, busy = [], []
        for _ in range(options.rounds):
            z = rng.standard_normal((options.candidates, DIM))
            start = time.perf_counter()
            found = workers(z, 0)
            rounds.append(time.perf_counter() - start)
            busy.append(found.cost.seconds)
        held = [psutil.Process(pid).memory_full_info() for pid in workers.engine.pids.values()]  # type: ignore[attr-defined]
    idle = [1 - work / (n * wall) for work, wall in zip(busy, rounds, strict=True)]
    return {
        "workers": n,
        "seconds": median(rounds),
        "candidates_per_second": options.candidates / median(rounds),
        "not_evaluating": median(idle),
        "rounds": rounds,
        "resident_bytes": [each.rss for each in held],
        "unshared_bytes": [each.uss for each in held],
    }


def late(options: argparse.Namespace) -> dict[str, Any]:
    """A run without barriers in which one worker is late: what the others do, of what they can."""
    import numpy as np

    import gfo

    n, others = options.sleepers, options.sleepers - 1
    with tempfile.TemporaryDirectory() as folder:
        make = functools.partial(sleeper, options.sleep, LATE, Path(folder) / "mark")
        with gfo.Workers(make, n, part=1, threads=1) as workers:
            while len(workers.pool.ready) < n:
                time.sleep(0.1)
                workers.score(np.zeros((1, 5)), "train")
            optimizer = gfo.optimizers.make("random", domain=gfo.Domain.unbounded(5), seed=0)
            budget = gfo.Budget(seconds=CALLS * options.sleep)
            start = time.perf_counter()
            result = gfo.minimize(optimizer, workers, budget=budget, asynchronous=True)
            wall = time.perf_counter() - start
    return {
        "workers": n,
        "late_times": LATE,
        "seconds_of_a_call": options.sleep,
        "evaluations": result.cost.candidates,
        "of_the_others": result.cost.candidates * options.sleep / (others * wall),
    }


def figure(found: Mapping[str, Any], path: Path) -> None:
    """Candidates a second against workers."""
    from matplotlib.figure import Figure

    points = found["throughput"]
    n = [point["workers"] for point in points]
    rate = [point["candidates_per_second"] for point in points]
    canvas = Figure(figsize=(5, 3.4), layout="constrained")
    axes = canvas.subplots()
    axes.plot(n, rate, "o-", color="#2563a8", label="measured")
    axes.plot(n, [rate[0] * each / n[0] for each in n], "--", color="#888888", label="in proportion")
    axes.set(xlabel="workers, a thread each", ylabel="candidates a second", xticks=n, ylim=(0, None))
    axes.set_title(f"{found['model']}, {found['cores']} cores")
    axes.legend(frameon=False)
    canvas.savefig(path, dpi=150)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, checked."""
    parser = shared.Parser(__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--candidates", type=int, default=32, help="K (default %(default)s)")
    parser.add_argument("--part", type=int, default=4, help="candidates of a part (default %(default)s)")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sleepers", type=int, default=4, help="workers of which one is late")
    parser.add_argument("--sleep", type=float, default=0.2, help="seconds of their calls")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--png", type=Path)
    options = parser.parse_args(arguments)
    shared.check_at_least_one(options, ("workers", "candidates", "part", "rows", "rounds", "sleepers"))
    shared.check_rounds(options, "rounds")
    shared.check_output("--json", options.json)
    shared.check_output("--png", options.png)
    return options


def run(options: argparse.Namespace) -> None:
    """Measure, show and write."""
    points = []
    for n in options.workers:
        points.append(throughput(options, n))
        shared.say(f"{n} workers: {points[-1]['seconds']:.2f} s a step")
    setting = {name: getattr(options, name) for name in ("model", "candidates", "part", "rows")}
    load = os.getloadavg()[0]
    found = {**setting, "cores": os.cpu_count(), "load": load, "throughput": points, "late": late(options)}
    shared.write_json(options.json, found | shared.source())
    if options.png:
        figure(found, options.png)
    columns = ["workers", "seconds a step", "candidates a second", "not evaluating", "unshared MB each"]
    lines = []
    for point in points:
        numbers = [point["seconds"], point["candidates_per_second"]]
        own = max(point["unshared_bytes"]) / 1e6
        shares = [f"{100 * point['not_evaluating']:.2f} %", f"{own:.0f}"]
        lines.append([str(point["workers"]), *(f"{each:.2f}" for each in numbers), *shares])
    shared.show(
        f"{options.model}, {options.candidates} candidates in parts of {options.part}", columns, lines
    )
    share = found["late"]["of_the_others"]
    shared.say(f"one worker of {options.sleepers} {LATE:g} x late, no barriers: {share:.3f} of the others")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    return shared.command(arguments, parse, run)


if __name__ == "__main__":
    shared.start(main, threads=1)
