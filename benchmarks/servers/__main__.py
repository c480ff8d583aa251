"""How long a step of requests takes, many at a time and one at a time, and what a second run asks.

    python -m benchmarks.servers --json servers.json

See README.md of the benchmarks.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import shared
from benchmarks.servers.answering import MODEL, answering
from gfo.core.errors import GfoError

PHRASES = ("Judge the review.", "Be short.", "Think.", "Is it good?")


def measured(url: str, options: argparse.Namespace, at_once: int, cache: Path) -> dict[str, Any]:
    """A step, and the same step of a second run with the same cache."""
    import numpy as np

    import gfo
    from gfo.evaluation.endpoint import EndpointEvaluator

    task = gfo.Classification(
        [{"text": f"film {i}", "label": ("negative", "positive")[i % 2]} for i in range(options.rows)],
        template="Review: {text}\n{soft}\nSentiment:",
        labels={"negative": " negative", "positive": " positive"},
    )
    first = range(1, len(PHRASES) + 1)
    z = np.array([[i, j] for i in first for j in first], dtype=float)
    found: dict[str, Any] = {}
    for run in ("first", "second"):
        model = gfo.Endpoint(url, MODEL, concurrency=at_once, cache=cache)
        evaluator = EndpointEvaluator(model, task, gfo.Words(PHRASES, 2))
        before, cpu, start = model.spent.requests, time.process_time(), time.perf_counter()
        loss = evaluator(z, 0).loss
        seconds, spent = time.perf_counter() - start, time.process_time() - cpu
        if not np.isfinite(loss).all():
            raise shared.UnusableError(f"{model.spent.failed} requests failed")
        found[run] = {"requests": model.spent.requests - before, "seconds": seconds, "cpu_seconds": spent}
    return found


def run(options: argparse.Namespace) -> None:
    """Measure in turn, show and write."""
    rounds: dict[int, list[dict[str, Any]]] = {at_once: [] for at_once in (1, options.at_once)}
    with answering(options.delay) as url, tempfile.TemporaryDirectory() as folder:
        for i in range(options.rounds):
            for at_once in rounds:
                cache = Path(folder) / f"{i}-{at_once}.sqlite"
                rounds[at_once].append(measured(url, options, at_once, cache))
                shared.say(f"{at_once} at a time: {rounds[at_once][-1]['first']['seconds']:.1f} s")
    points = [_point(at_once, each) for at_once, each in rounds.items()]
    share = points[1]["fastest"] / points[0]["fastest"]
    found = {"delay": options.delay, "rows": options.rows, "points": points, "of_one_at_a_time": share}
    shared.write_json(options.json, found | shared.source())
    columns = [
        "at a time",
        "requests",
        "seconds",
        "CPU ms a request",
        "requests of a second run",
        "its seconds",
    ]
    shared.show(f"Answers take {options.delay:g} s.", columns, map(_line, points))
    shared.say(f"{options.at_once} at a time take 1/{1 / share:.1f} of one at a time, by the fastest rounds")


def _point(at_once: int, rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians of rounds."""
    first, second = ([each[run] for each in rounds] for run in ("first", "second"))
    return {
        "at_once": at_once,
        "requests": max(each["requests"] for each in first),
        "seconds": median(each["seconds"] for each in first),
        "fastest": min(each["seconds"] for each in first),
        "cpu_seconds": median(each["cpu_seconds"] for each in first),
        "second_run_requests": max(each["requests"] for each in second),
        "second_run_seconds": median(each["seconds"] for each in second),
        "rounds": [each["seconds"] for each in first],
    }


def _line(point: dict[str, Any]) -> list[str]:
    each = f"{1000 * point['cpu_seconds'] / point['requests']:.2f}"
    seconds = [f"{point['fastest']:.2f}", f"{point['seconds']:.2f}"]
    numbers = [str(point["requests"]), *seconds, each, str(point["second_run_requests"])]
    return [str(point["at_once"]), *numbers, f"{point['second_run_seconds']:.3f}"]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, checked."""
    parser = shared.Parser(__doc__)
    parser.add_argument(
        "--delay", type=float, default=0.2, help="seconds of each answer (default %(default)s)"
    )
    parser.add_argument("--rows", type=int, default=64, help="of 16 candidates (default %(default)s)")
    parser.add_argument("--at-once", type=int, default=16, help="requests (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    shared.check_at_least_one(options, ("rows", "at_once", "rounds"))
    if options.at_once < 2 or not 0 <= options.delay < float("inf"):
        raise GfoError(f"--at-once {options.at_once} must be 2 or more, --delay {options.delay:g} 0 or more")
    shared.check_rounds(options, "rounds")
    shared.check_output("--json", options.json)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    return shared.command(arguments, parse, run)


if __name__ == "__main__":
    shared.start(main)
