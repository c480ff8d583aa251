"""Speed of a step in two checkouts of gfo, in turn in one run: how many times the seconds of the one before.

    python -m benchmarks.speed.between --before CHECKOUT --json FILE

See README.md of the benchmarks.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Self

import numpy as np

import gfo
from benchmarks import shared
from benchmarks.shared import chosen, say
from benchmarks.speed.data import DATA_SETS
from benchmarks.speed.measure import largest_difference
from benchmarks.speed.models import DEFAULT_MODEL
from benchmarks.speed.workloads import DIM, LORA_RANK, WORKLOADS
from gfo.core.errors import GfoError
from gfo.tasks.parts.datasets import load

CHILD = Path(__file__).with_name("step.py")
# of glibc: memory of tensors is kept between passes, in huge pages. Without it a process may be slower than
# its twin for as long as it lives, by where its pages happen to lie.
_KEEP = f"mmap_threshold={2**32}", f"trim_threshold={2**32}", "hugetlb=1"
ALLOCATION = ":".join(f"glibc.malloc.{each}" for each in _KEEP)
SIDES = ("before", "after")
LIMIT = 1.03  # times the seconds before: more is slower
RESAMPLES = 9_999
ROWS = "gfo:sentiment/train.jsonl"
LABELS = {"negative": " negative", "positive": " positive"}
PROMPT_TOKENS = 8
_SOFT = {"space": "SoftPrompt", "options": {"tokens": PROMPT_TOKENS, "dim": DIM, "seed": 0}}
_LORA = {"space": "LoRASubspace", "options": {"dim": DIM, "rank": LORA_RANK, "seed": 0}}
SPACES: dict[str, dict[str, Any]] = {"text-first": _SOFT, "prompt-first": _SOFT, "lora": _LORA}


class Child:
    """A process that computes steps with a checkout's gfo, and waits asleep between them.

    Args:
        side: "before" or "after".
        checkout: the folder that has `gfo`.
    """

    def __init__(self, side: str, checkout: Path) -> None:
        self._side = side
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ
            | {
                "PYTHONPATH": str(checkout),
                "OMP_WAIT_POLICY": "PASSIVE",
                "GLIBC_TUNABLES": ALLOCATION,
            },
        )

    def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Its answer; see `step.py`.

        Raises:
            GfoError: if it cannot do what is asked.
            UnusableError: if it has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, and gives no answer
            print(json.dumps(message), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise shared.UnusableError(f"--{self._side}: its process ended with exit code {code}")
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            raise GfoError(f"--{self._side}: {found['error']}")
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process, contextlib.suppress(BrokenPipeError):
            self._process.communicate()


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all workloads asked for; the JSON's contents."""
    data = DATA_SETS["sst2"]
    templates = {name: WORKLOADS[name][0].template(data) for name in options.workload}
    job = {
        "model": options.model,
        "threads": options.threads,
        "chunk_tokens": options.chunk_tokens,
        "candidates": options.candidates,
        "rows": load(ROWS, "the rows")[: options.rows],
        "labels": LABELS,
        "workloads": {name: SPACES[name] | {"template": templates[name]} for name in options.workload},
    }
    checkouts = dict(zip(SIDES, (options.before, options.after), strict=True))
    found: dict[str, list[list[dict[str, Any]]]] = {name: [] for name in options.workload}
    for start in range(options.starts):
        with contextlib.ExitStack() as stack:
            children = {}
            for side in _turned(SIDES, start):
                say(f"start {start + 1} of {options.starts}: {side} loads {Path(options.model).name}")
                children[side] = stack.enter_context(Child(side, checkouts[side]))
                children[side].ask({**job, "checkout": str(checkouts[side])})
            for name in options.workload:
                found[name].append([])
            for turn in range(options.rounds):
                for place, name in enumerate(options.workload):
                    asked = {"workload": name, "round": turn}
                    both = {side: children[side].ask(asked) for side in _turned(SIDES, turn + place)}
                    found[name][-1].append(both)
                    say(f"round {turn + 1} of {options.rounds}, {name}: {_seconds(both)}")
    return {
        "workloads": [entry(name, templates[name], starts) for name, starts in found.items()],
        "model": Path(options.model).name,
        **{key: getattr(options, key) for key in ("candidates", "rows", "threads", "chunk_tokens")},
        **{side: revision(checkout) for side, checkout in checkouts.items()},
        **shared.source(),
    }


def _turned(sides: Sequence[str], number: int) -> Sequence[str]:
    """The other one first every second time."""
    return sides if number % 2 == 0 else sides[::-1]


def _seconds(both: Mapping[str, Any]) -> str:
    return ", ".join(f"{side} {both[side]['cpu_seconds']:.3f} s" for side in SIDES)


def entry(name: str, template: str, starts: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """A workload's seconds, and how many times those before they are after.

    A start's ratio is the median of its rounds' ratios of CPU seconds; `ratio` is the mean of the starts'
    and `interval` its 95 % bootstrap interval. `within` says whether that interval lies below 1.03, above it
    (False), or neither (None).

    Args:
        name: of the workload.
        template: of its rows.
        starts: the rounds of each pair of processes, with what both sides answered.

    Raises:
        DisagreementError: if the losses of the two differ.
    """
    rounds = [both for start in starts for both in start]
    difference = 0.0
    for both in rounds:
        before, after = (np.array(both[side]["loss"], dtype=float) for side in SIDES)
        difference = max(difference, largest_difference({"before": before, "gfo": after}, "before"))
    ratios = np.array(
        [median(both["after"]["cpu_seconds"] / both["before"]["cpu_seconds"] for both in s) for s in starts]
    )
    low, high = interval(ratios)
    seconds = {
        clock: {side: [[both[side][clock] for both in start] for start in starts] for side in SIDES}
        for clock in ("cpu_seconds", "wall_seconds")
    }
    return {
        "workload": name,
        "template": template,
        "median_cpu_seconds": {side: median(both[side]["cpu_seconds"] for both in rounds) for side in SIDES},
        "ratio": float(ratios.mean()),
        "interval": [low, high],
        "within": True if high <= LIMIT else False if low > LIMIT else None,
        "ratios_of_starts": ratios.tolist(),
        "max_loss_difference": difference,
        "forward_tokens": {side: rounds[-1][side]["forward_tokens"] for side in SIDES},
        **seconds,
    }


def interval(ratios: np.ndarray[Any, Any]) -> tuple[float, float]:
    """95 % bootstrap interval (percentiles) of the mean of ratios [n]."""
    drawn = np.random.default_rng(0).choice(ratios, (RESAMPLES, len(ratios)))
    low, high = np.quantile(drawn.mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def revision(checkout: Path) -> dict[str, Any]:
    """The commit of a checkout, and whether its gfo has been changed since; None where git cannot tell."""

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(checkout), *arguments]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return None

    changed = git("status", "--porcelain", "--", "gfo")
    return {"commit": git("rev-parse", "--short=12", "HEAD"), "changed": changed and True}


def show(found: Mapping[str, Any]) -> None:
    """Print the table."""
    verdict = {True: "yes", False: "no", None: "more starts"}
    rounds = found["workloads"][0]["cpu_seconds"]["before"]
    columns = ("workload", *SIDES, "ratio", "its 95 % interval", f"below {LIMIT}", "loss difference")
    rows = [
        (
            each["workload"],
            *(f"{each['median_cpu_seconds'][side]:.3f}" for side in SIDES),
            f"{each['ratio']:.3f}",
            "{:.3f} to {:.3f}".format(*each["interval"]),
            verdict[each["within"]],
            f"{each['max_loss_difference']:.1e}",
        )
        for each in found["workloads"]
    ]
    shared.show(
        f"CPU seconds of a step, {len(rounds)} starts of {len(rounds[0])} rounds, and after / before",
        columns,
        rows,
    )


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The checked options."""
    parser = shared.Parser(__doc__)
    add = parser.add_argument
    here = Path(gfo.__file__).parents[1]
    add("--before", type=Path, required=True, help="another checkout of gfo: a folder that has gfo/")
    add("--after", type=Path, default=here, help="by default this one")
    add("--workload", action="append", help=f"{', '.join(SPACES)}; may be repeated; default: all")
    add("--starts", type=int, default=10, help="pairs of new processes (default %(default)s)")
    add("--rounds", type=int, default=4, help="of each start, a step of both each (default %(default)s)")
    add("--candidates", type=int, default=8, help="K, the population (default %(default)s)")
    add("--rows", type=int, default=8, help="B (default %(default)s)")
    add("--threads", type=int, default=1, help="of torch (default %(default)s)")
    add("--chunk-tokens", type=int, default=4096, help="most tokens of a forward pass (default %(default)s)")
    add("--model", default=DEFAULT_MODEL, help="name, folder or hub id (default %(default)s)")
    add("--json", type=Path, help="write the results to this file")
    options = parser.parse_args(arguments)
    options.workload = chosen("--workload", options.workload, SPACES)
    shared.check_at_least_one(options, ["rounds", "starts", "candidates", "rows", "threads", "chunk_tokens"])
    shared.check_rounds(options, "starts")
    shared.check_output("--json", options.json)
    for side in SIDES:
        folder = getattr(options, side).resolve()
        if not (folder / "gfo" / "__init__.py").is_file():
            raise GfoError(f"--{side} {getattr(options, side)}: it has no gfo/; give a checkout of gfo")
        setattr(options, side, folder)
    return options


def _run(options: argparse.Namespace) -> None:
    found = run(options)
    show(found)
    shared.write_json(options.json, found)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    return shared.command(arguments, parse, _run)


if __name__ == "__main__":
    shared.start(main)
