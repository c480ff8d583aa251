"""How the cost of a step grows with candidates, rows and text length, and whether memory grows with steps.

    python -m benchmarks.speed.growth --png growth.png --json growth.json

See README.md of the benchmarks.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks import shared
from benchmarks.shared import check_at_least_one, check_output, chosen, say
from benchmarks.speed.data import DATA_SETS
from benchmarks.speed.measure import Seconds, make_evaluator
from benchmarks.speed.models import add_model_options, check_model_options, make_model
from benchmarks.speed.workloads import WORKLOADS, Setting, Workload, setting
from gfo.core.errors import GfoError

if TYPE_CHECKING:
    from gfo.core.domain import Array
    from gfo.core.protocols import Cost
    from gfo.evaluation.local import LocalEvaluator
    from gfo.models.decoder import Decoder

BASE = {"candidates": 4, "rows": 16, "text_length": 24}  # of the two that a sweep holds
AXES = {
    "candidates": (1, 2, 4, 8, 16, 32, 64),
    "rows": (16, 32, 64, 128, 256),
    "text_length": (16, 32, 64, 128, 256, 512),
}
NAMES = {"candidates": "candidates K", "rows": "rows B", "text_length": "tokens of a text"}
CHOICES = ("text-first", "prompt-first")
SHAPE, LAYERS = "135m", 4  # by default
POOL, BATCH = 64, 8  # rows that minibatches are drawn from, and rows of one
FEWEST_STEPS = 20
COLOURS = {"text-first": "#2563a8", "prompt-first": "#d9720f"}


@dataclass
class Point:
    """A step of one size.

    Attributes:
        value: on the sweep's axis.
        it: model, rows and candidates.
        evaluator: keeps what is computed once.
        seconds: of each round.
        costs: of each evaluation.
    """

    value: int
    it: Setting
    evaluator: LocalEvaluator
    seconds: Seconds
    costs: list[Cost] = field(default_factory=list)

    def start(self) -> None:
        """Compute what is computed once, and note what that takes: the first call less the second."""
        for _ in range(2):
            self._run("first", self.it.z[:1])

    def step(self) -> None:
        """A step."""
        self._run("step", self.it.z)

    def result(self) -> dict[str, Any]:
        """Tokens and seconds, for the JSON."""
        once = self.costs[0].forward_tokens > self.costs[1].forward_tokens
        first, second = self.seconds.counted["first"]
        return {
            "value": self.value,
            "tokens_needed": self.costs[-1].tokens_needed,
            "forward_tokens": self.costs[-1].forward_tokens,
            "seconds": self.seconds.median("step"),
            "rounds": self.seconds.counted["step"],
            "once_seconds": max(0.0, first - second) if once else 0.0,
        }

    def _run(self, name: str, z: Array) -> None:
        def evaluate() -> None:
            self.costs.append(self.evaluator(z, 0).cost)

        self.seconds.run(name, evaluate)


def sweep(
    model: Decoder, workload: Workload, axis: str, values: Sequence[int], *, repeats: int, seed: int
) -> dict[str, Any]:
    """Seconds of a step along one axis; the other two are BASE's.

    Every round visits all points, so that a busy machine slows them alike. The ideal line is
    the seconds per token of the best point times the tokens that depend on a candidate.
    """
    points = []
    for value in values:
        size = BASE | {axis: value}
        it = _setting(model, workload, seed=seed, **size)
        points.append(Point(value, it, make_evaluator(it), Seconds(model.device)))
        points[-1].start()
    for number in range(1, repeats + 1):
        for point in points:
            point.step()
        say(f"{workload.name}, {NAMES[axis]}, round {number} of {repeats}")
    found = [point.result() for point in points]
    best = min(each["seconds"] / each["tokens_needed"] for each in found)
    return {
        "workload": workload.name,
        "axis": axis,
        "held": {name: value for name, value in BASE.items() if name != axis},
        "clock": points[0].seconds.clock,
        "points": [each | {"ideal_seconds": best * each["tokens_needed"]} for each in found],
    }


def _setting(model: Decoder, workload: Workload, **options: Any) -> Setting:
    from gfo.evaluation.memory import chunk_tokens

    return setting(workload, DATA_SETS["sst2"], model, chunk_tokens=chunk_tokens(model), **options)


def memory(model: Decoder, workload: Workload, steps: int, *, seed: int) -> dict[str, Any]:
    """The process's memory (of a GPU: torch's) after each of `steps` steps, each with another minibatch.

    Growth is the median of the last tenth of the steps less that of the second tenth.
    """
    it = _setting(model, workload, candidates=BASE["candidates"], rows=POOL, batch_size=BATCH, seed=seed)
    evaluator, held = make_evaluator(it), []
    for step in range(steps):
        evaluator(it.z, step)
        held.append(_held_bytes(model) / 2**20)
    tenth = steps // 10
    return {
        "workload": workload.name,
        "steps": steps,
        "candidates": BASE["candidates"],
        "rows": BATCH,
        "of": POOL,
        "mib": [round(each, 2) for each in held],
        "growth_mib": round(median(held[-tenth:]) - median(held[tenth : 2 * tenth]), 2),
    }


def _held_bytes(model: Decoder) -> int:
    import psutil
    import torch

    if model.device.type == "cuda":
        return int(torch.cuda.memory_allocated(model.device))
    return int(psutil.Process().memory_info().rss)


def plot(found: Mapping[str, Any], path: Path) -> None:
    """Seconds along each axis, log-log, with the ideal lines, and memory over steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.6), dpi=130, layout="constrained")
    panels: Any = figure.subplots(1, len(AXES) + 1)
    axes = dict(zip(AXES, panels, strict=False))
    for curve in found["sweeps"]:
        panel, name, points = axes[curve["axis"]], curve["workload"], curve["points"]
        x = [point["value"] for point in points]
        panel.plot(x, [p["seconds"] for p in points], "o-", ms=4, color=COLOURS[name], label=name)
        panel.plot(x, [p["ideal_seconds"] for p in points], "--", lw=1, color=COLOURS[name], alpha=0.6)
        held = ", ".join(f"{NAMES[each]} = {value}" for each, value in curve["held"].items())
        panel.set_title(held, fontsize=8)
        panel.set_xlabel(NAMES[curve["axis"]])
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_ylabel(f"seconds of a step ({curve['clock']})")
    for each in found["memory"]:
        name = each["workload"]
        panels[-1].plot(range(1, each["steps"] + 1), each["mib"], color=COLOURS[name], label=name)
    panels[-1].set_xlabel(f"steps, minibatches of {BATCH} of {POOL} rows")
    panels[-1].set_ylabel("memory held, MiB")
    panels[-1].set_ylim(bottom=0)
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].plot([], [], "--", lw=1, color="grey", label="ideal: the best rate x tokens needed")
    panels[0].legend(frameon=False, fontsize=7)
    figure.suptitle(found["title"], fontsize=9)
    figure.savefig(path)


def show(found: Mapping[str, Any]) -> None:
    """Print the table."""
    columns = ("workload", "axis", "value", "tokens needed", "seconds", "of ideal", "once")
    rows = [
        (
            curve["workload"],
            NAMES[curve["axis"]],
            str(p["value"]),
            str(p["tokens_needed"]),
            f"{p['seconds']:.3f}",
            f"{p['ideal_seconds'] / p['seconds']:.2f}",
            f"{p['once_seconds']:.3f}",
        )
        for curve in found["sweeps"]
        for p in curve["points"]
    ]
    shared.show(found["title"], columns, rows, words=2)
    for each in found["memory"]:
        print(
            f"{each['workload']}: memory grew by {each['growth_mib']} MiB over {each['steps']} steps, "
            f"to {each['mib'][-1]:.0f} MiB"
        )


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    """The checked options."""
    parser = shared.Parser(__doc__)
    add = parser.add_argument
    add("--workload", action="append", help=f"{', '.join(CHOICES)}; may be repeated; default: both")
    for axis, values in AXES.items():
        add(
            f"--{axis.replace('_', '-')}",
            type=int,
            nargs="+",
            default=list(values),
            help=f"{NAMES[axis]} to measure (default {' '.join(map(str, values))})",
        )
    add("--steps", type=int, default=200, help="of the memory measurement (default %(default)s)")
    add("--repeats", type=int, default=3, help="rounds (default %(default)s)")
    add("--layers", type=int, help=f"of --shape; default: {LAYERS} of {SHAPE}, or all of the shape named")
    add("--png", type=Path, help="write the figure to this file")
    add("--json", type=Path, help="write the results to this file")
    add_model_options(add)
    options = parser.parse_args(arguments)
    options.workload = chosen("--workload", options.workload, CHOICES)
    check_at_least_one(options, [*AXES, "repeats", "layers"])
    if options.steps < FEWEST_STEPS:
        raise GfoError(f"--steps {options.steps}: must be at least {FEWEST_STEPS} to tell growth from noise")
    check_model_options(options)
    if options.layers and options.model:
        raise GfoError(f"--layers {options.layers}: --model {options.model} has its layers; give --shape")
    if options.shape is None and options.model is None:
        options.shape, options.layers = SHAPE, options.layers or LAYERS
    check_output("--png", options.png)
    check_output("--json", options.json)
    return options


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All sweeps and the memory measurement; the JSON's contents."""
    model = make_model(options)
    workloads = [WORKLOADS[name][0] for name in options.workload]
    sweeps = [
        sweep(model, workload, axis, getattr(options, axis), repeats=options.repeats, seed=options.seed)
        for axis in AXES
        for workload in workloads
    ]
    held = [memory(model, workload, options.steps, seed=options.seed) for workload in workloads]
    name, dtype = Path(model.name).name, str(model.dtype).removeprefix("torch.")
    what = f"{name} with {model.layers} layers, {dtype}, {options.device}"
    return {
        "title": f"A step of {what}, P = 8, random tokens",
        "model": name,
        "layers": model.layers,
        "dtype": dtype,
        "sweeps": sweeps,
        "memory": held,
        "seed": options.seed,
        **shared.source(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    return shared.command(arguments, _options, _run)


def _run(options: argparse.Namespace) -> None:
    found = run(options)
    show(found)
    shared.write_json(options.json, found)
    if options.png:
        plot(found, options.png)
        say(f"written to {options.png}")


if __name__ == "__main__":
    shared.start(main)
