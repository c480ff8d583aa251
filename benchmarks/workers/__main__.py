"""Throughput against workers, what messages cost, and what a late worker costs the others.

    python -m benchmarks.workers --json workers.json --png workers.png

See README.md of the benchmarks.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import shared
from benchmarks.workers.evaluators import DIM, nothing, sleeper, soft_prompts

LATE = 10.0  # times as long as the others
CALLS = 40  # of each worker that is not late
TICK = 0.01  # seconds of a processor, the least that are told apart
MESSAGES = 40  # calls of which a message's time is the median


def throughput(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Steps of each number of workers: all pools are open, and have their rounds in turn."""
    import numpy as np

    import gfo

    make = functools.partial(soft_prompts, options.model, options.rows)
    rng = np.random.default_rng(0)
    with contextlib.ExitStack() as stack:
        pools = {
            n: stack.enter_context(gfo.Workers(make, n, part=options.part, threads=1))
            for n in options.workers
        }
        for n, workers in pools.items():
            while len(workers.pool.ready) < n:
                workers(rng.standard_normal((1, DIM)), 0)
            workers(rng.standard_normal((n * options.part * 2, DIM)), 0)  # lays the rows out
        rounds: dict[int, list[dict[str, float]]] = {n: [] for n in pools}
        for i in range(options.rounds):
            for n in list(pools)[:: 1 if i % 2 else -1]:
                rounds[n].append(_step(pools[n], rng.standard_normal((options.candidates, DIM))))
        held = {n: _memory(workers) for n, workers in pools.items()}
    return [{"workers": n, **_point(options, n, rounds[n]), **held[n]} for n in pools]


def _point(options: argparse.Namespace, n: int, rounds: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Medians of rounds, and the candidates a second: as it was, and by the processors' seconds."""
    found = {name: median(each[name] for each in rounds) for name in rounds[0]}
    whole = n * options.candidates / max(found["cpu_seconds"], TICK)
    rate = options.candidates / found["seconds"]
    rates = {"candidates_per_second": rate, "candidates_per_second_of_whole_cores": whole}
    return {**found, **rates, "rounds": rounds}


def _step(workers: Any, z: Any) -> dict[str, float]:
    """What a step takes, in seconds and of processors, and the share without an evaluator at work."""
    before, own, start = _cpu_seconds(workers), time.process_time(), time.perf_counter()
    found = workers(z, 0)
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "cpu_seconds": _cpu_seconds(workers) - before,
        "own_cpu_seconds": time.process_time() - own,
        "not_evaluating": 1 - found.cost.seconds / (workers.n * seconds),
    }


def _cpu_seconds(workers: Any) -> float:
    import psutil

    times = [psutil.Process(pid).cpu_times() for pid in _pids(workers)]
    return float(sum(each.user + each.system for each in times))


def _memory(workers: Any) -> dict[str, list[int]]:
    import psutil

    found = [psutil.Process(pid).memory_full_info() for pid in _pids(workers)]
    return {"resident_bytes": [each.rss for each in found], "unshared_bytes": [each.uss for each in found]}


def _pids(workers: Any) -> list[int]:
    return list(workers.engine.pids.values())


def messages(options: argparse.Namespace, step: float) -> dict[str, float]:
    """A step's messages with nothing to do in between: seconds of one, and the share of a step."""
    import numpy as np

    import gfo

    z = np.random.default_rng(0).standard_normal((options.candidates, DIM))
    times = []
    with gfo.Workers(functools.partial(nothing, options.rows), 1, part=options.part, threads=1) as workers:
        for _ in range(MESSAGES):
            start = time.perf_counter()
            workers(z, 0)
            times.append(time.perf_counter() - start)
    parts = -(-options.candidates // options.part)
    return {"messages": parts, "seconds_of_one": median(times) / parts, "of_a_step": median(times) / step}


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
    whole = [point["candidates_per_second_of_whole_cores"] for point in points]
    axes.plot(n, whole, "s:", color="#b5651d", label="by the workers' CPU seconds")
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
    points = throughput(options)
    setting = {name: getattr(options, name) for name in ("model", "candidates", "part", "rows")}
    found = {
        **setting,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "throughput": points,
        "messages": messages(options, points[0]["seconds"]),
        "late": late(options),
    }
    shared.write_json(options.json, found | shared.source())
    if options.png:
        figure(found, options.png)
    _show(options, found)


def _show(options: argparse.Namespace, found: Mapping[str, Any]) -> None:
    """A table, and two lines."""
    columns = ["workers", "seconds a step", "CPU seconds", "candidates a second", "of whole cores"]
    columns += ["not evaluating", "unshared MB each"]
    lines = []
    for point in found["throughput"]:
        rates = [point["candidates_per_second"], point["candidates_per_second_of_whole_cores"]]
        numbers = [point["seconds"], point["cpu_seconds"], *rates]
        own = max(point["unshared_bytes"]) / 1e6
        shares = [f"{100 * point['not_evaluating']:.2f} %", f"{own:.0f}"]
        lines.append([str(point["workers"]), *(f"{each:.2f}" for each in numbers), *shares])
    shared.show(
        f"{options.model}, {options.candidates} candidates in parts of {options.part}", columns, lines
    )
    sent = found["messages"]
    shared.say(f"{sent['messages']} messages: {100 * sent['of_a_step']:.3f} % of a step with one worker")
    share = found["late"]["of_the_others"]
    shared.say(f"one worker of {options.sleepers} {LATE:g} x late, no barriers: {share:.3f} of the others")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    return shared.command(arguments, parse, run)


if __name__ == "__main__":
    shared.start(main, threads=1)
