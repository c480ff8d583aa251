"""Speed of gfo against other ways to the same losses, in one run, interleaved.

    python benchmarks/speed.py --workload text-first --data DIR --json FILE

See README.md beside this file for what the columns mean.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from speed_workloads import SST2_FILE, WORKLOADS, Setting, check_data, setting

from gfo.core.errors import GfoError, unknown_name

if TYPE_CHECKING:
    from speed_rivals import Rival

    from gfo.core.domain import Array
    from gfo.core.protocols import Cost
    from gfo.evaluation.local import LocalEvaluator

FEWEST_ROUNDS = 3  # of a measurement that is written down
LARGEST_DIFFERENCE = 1e-4  # of two ways to a float32 loss
PACKAGES = ("gfo", "torch", "transformers", "numpy")


class DisagreementError(Exception):
    """A rival computes something else than gfo, so their times cannot be compared."""


@dataclass
class Seconds:
    """Seconds of each rival, round by round."""

    cpu: dict[str, list[float]] = field(default_factory=dict)
    wall: dict[str, list[float]] = field(default_factory=dict)

    def run(self, name: str, rival: Rival) -> Array | None:
        """Run a rival once and note its seconds."""
        wall, cpu = time.perf_counter(), time.process_time()
        losses = rival()
        self.cpu.setdefault(name, []).append(time.process_time() - cpu)
        self.wall.setdefault(name, []).append(time.perf_counter() - wall)
        return losses

    def ratio(self, name: str, other: str) -> float:
        """Median CPU seconds of one rival per median CPU second of the other."""
        return median(self.cpu[name]) / median(self.cpu[other])


def largest_difference(losses: Mapping[str, Array], name: str) -> float:
    """The largest difference of a rival's losses to gfo's, over all candidates.

    Raises:
        DisagreementError: if it is more than rounding.
    """
    difference = float(np.max(np.abs(losses[name] - losses["gfo"])))
    if not difference <= LARGEST_DIFFERENCE:
        raise DisagreementError(
            f"the losses of {name} and gfo differ by {difference:.2g}, more than {LARGEST_DIFFERENCE:.0e}: "
            "they do not compute the same, and their times mean nothing"
        )
    return difference


def measure(it: Setting, repeats: int, rivals: Mapping[str, Rival] | None = None) -> dict[str, Any]:
    """Run all rivals in turn, `repeats` times, each time in another order.

    Args:
        it: model, rows and candidates.
        repeats: rounds.
        rivals: by name, instead of the usual ones.

    Returns:
        One entry of `workloads` in the JSON.

    Raises:
        DisagreementError: if a rival's losses are not gfo's.
    """
    from speed_rivals import usual_rivals

    evaluator = _evaluator(it)
    rivals = rivals or usual_rivals(it, evaluator)
    seconds, worst, order = Seconds(), 0.0, list(rivals)
    losses: dict[str, Array] = {}
    for number in range(repeats + 1):
        noted = seconds if number else Seconds()  # the first round warms up
        for name in order:
            found = noted.run(name, rivals[name])
            if found is not None:
                losses[name] = found
            where = f"round {number} of {repeats}" if number else "warm-up"
            say(f"{it.title}, {where}: {name} took {noted.cpu[name][-1]:.1f} s of CPU")
        worst = max(worst, *(largest_difference(losses, name) for name in losses))
        order = order[1:] + order[:1]
    return {
        **_described(it),
        "speedup_serial": seconds.ratio("serial", "gfo"),
        "speedup_stacked": seconds.ratio("stacked", "gfo"),
        "share_of_plain": seconds.ratio("plain", "gfo"),
        "max_loss_difference": worst,
        "losses": [float(losses["gfo"].min()), float(losses["gfo"].max())],
        **_tokens(evaluator(it.z, 0).cost),
        "once": context_cost(it),
        "cpu_seconds": seconds.cpu,
        "wall_seconds": seconds.wall,
    }


def context_cost(it: Setting) -> dict[str, float]:
    """What gfo computes once per run: a new evaluator's first call less its second, one candidate."""
    evaluator, seconds = _evaluator(it), Seconds()
    costs: list[Cost] = []

    def once() -> None:
        costs.append(evaluator(it.z[:1], 0).cost)

    seconds.run("once", once)
    seconds.run("once", once)
    tokens = costs[0].forward_tokens - costs[1].forward_tokens
    cpu = seconds.cpu["once"][0] - seconds.cpu["once"][1]
    return {"forward_tokens": tokens, "cpu_seconds": max(0.0, cpu) if tokens else 0.0}


def _evaluator(it: Setting) -> LocalEvaluator:
    from gfo.evaluation.local import LocalEvaluator

    return LocalEvaluator(it.model, it.task, it.space, chunk_tokens=it.chunk_tokens)


def _described(it: Setting) -> dict[str, Any]:
    return {
        "workload": it.workload.name,
        "template": it.workload.template,
        "data": it.data,
        "model": Path(it.model.name).name,
        "dtype": str(it.model.dtype).removeprefix("torch."),
        "candidates": len(it.z),
        "rows": len(it.batch),
        "prompt_tokens": it.workload.prompt_tokens,
        "chunk_tokens": it.chunk_tokens,
    }


def _tokens(cost: Cost) -> dict[str, int]:
    return {"forward_tokens": cost.forward_tokens, "tokens_needed": cost.tokens_needed}


def hardware() -> dict[str, Any]:
    """Processor, cores, memory and torch's threads."""
    import psutil
    import torch

    return {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "threads": torch.get_num_threads(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def show(workloads: Sequence[Mapping[str, Any]]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "workload": lambda w: f"{w['workload']} P={w['prompt_tokens']}",
        "K x B": lambda w: f"{w['candidates']} x {w['rows']}",
        **{name: _median_of(name) for name in workloads[0]["cpu_seconds"]},
        "once": lambda w: f"{w['once']['cpu_seconds']:.2f}",
        "vs serial": lambda w: f"{w['speedup_serial']:.2f}",
        "vs stacked": lambda w: f"{w['speedup_stacked']:.2f}",
        "of plain": lambda w: f"{w['share_of_plain']:.2f}",
        "computed / needed": lambda w: f"{w['forward_tokens'] / w['tokens_needed']:.3f}",
        "loss difference": lambda w: f"{w['max_loss_difference']:.1e}",
    }
    table = Table(title=f"CPU seconds, medians of {len(workloads[0]['cpu_seconds']['gfo'])}, and ratios")
    for column in columns:
        table.add_column(column, justify="left" if column == "workload" else "right")
    for entry in workloads:
        table.add_row(*(cell(entry) for cell in columns.values()))
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def _median_of(name: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda w: f"{median(w['cpu_seconds'][name]):.2f}"


def say(line: str) -> None:
    """Progress, apart from the results."""
    print(line, file=sys.stderr, flush=True)


class _Parser(argparse.ArgumentParser):
    """Errors are one line, as everywhere in gfo."""

    def error(self, message: str) -> NoReturn:
        raise GfoError(message)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    """The checked options."""
    parser = _Parser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--workload", action="append", help=f"{', '.join(WORKLOADS)}; may be repeated; default: all")
    add("--data", type=Path, help=f"folder with {SST2_FILE}; default: random tokens of SST-2's lengths")
    add("--candidates", type=int, default=10, help="K, the population (default %(default)s)")
    add("--repeats", type=int, default=FEWEST_ROUNDS, help="rounds (default %(default)s)")
    add("--json", type=Path, help="write the results to this file")
    add("--model", default="smollm2-135m", help="name, folder or hub id (default %(default)s)")
    add("--threads", type=int, help="of torch; default: its own choice")
    add("--chunk-tokens", type=int, help="most tokens of a forward pass; default: from the memory")
    add("--seed", type=int, default=0, help="of candidates and random tokens (default %(default)s)")
    options = parser.parse_args(arguments)
    options.workload = list(dict.fromkeys(options.workload or WORKLOADS))
    for name in options.workload:
        if name not in WORKLOADS:
            raise unknown_name("workload", name, WORKLOADS)
    for name in ("candidates", "repeats", "threads", "chunk_tokens"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise GfoError(f"--{name.replace('_', '-')} {value}: must be at least 1")
    if options.seed < 0:
        raise GfoError(f"--seed {options.seed}: must be 0 or more")
    if options.json and options.repeats < FEWEST_ROUNDS:
        raise GfoError(f"--repeats {options.repeats}: --json needs medians of at least {FEWEST_ROUNDS}")
    if options.json and not (options.json.parent.is_dir() and os.access(options.json.parent, os.W_OK)):
        raise GfoError(f"--json {options.json}: its folder does not exist or is not writable")
    check_data(options.data)
    return options


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all workloads asked for; the JSON's contents."""
    import torch

    from gfo.evaluation.memory import chunk_tokens
    from gfo.models.loading import load_model

    if options.threads:
        torch.set_num_threads(options.threads)
    say(f"loading {options.model}")
    model = load_model(options.model, device="cpu")
    most = options.chunk_tokens or chunk_tokens(model)
    entries = []
    for workload in [each for name in options.workload for each in WORKLOADS[name]]:
        it = setting(
            workload,
            model,
            data=options.data,
            candidates=options.candidates,
            seed=options.seed,
            chunk_tokens=most,
        )
        entries.append(measure(it, options.repeats))
    return {
        "workloads": entries,
        "seed": options.seed,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "hardware": hardware(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    try:
        options = _options(sys.argv[1:] if arguments is None else arguments)
        found = run(options)
    except (GfoError, DisagreementError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, GfoError) else 1
    show(found["workloads"])
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        say(f"written to {options.json}")
    return 0


if __name__ == "__main__":
    # A waiting thread sleeps: otherwise it burns CPU seconds, the more the busier the machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded
    sys.exit(main())
