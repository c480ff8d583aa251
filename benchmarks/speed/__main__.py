"""Speed of gfo against other ways to the same losses, in one run, interleaved.

    python -m benchmarks.speed --workload text-first --data DIR --json FILE

See README.md of the benchmarks for what the columns mean.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import shared
from benchmarks.shared import FEWEST_ROUNDS, check_at_least_one, chosen, say
from benchmarks.speed.data import DATA_SETS, check_data
from benchmarks.speed.measure import RIVALS, measure
from benchmarks.speed.models import add_model_options, check_model_options, make_model
from benchmarks.speed.workloads import WORKLOADS, setting
from gfo.core.errors import GfoError


def show(workloads: Sequence[Mapping[str, Any]]) -> None:
    """Print the table."""
    clock, half = workloads[0]["clock"], workloads[0]["dtype"] != "float32"
    names = list(dict.fromkeys(name for w in workloads for name in w["cpu_seconds"]))
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "workload": lambda w: w["workload"] + (f" P={w['prompt_tokens']}" if w["prompt_tokens"] else ""),
        "data": lambda w: w["dataset"],
        "K x B": lambda w: f"{w['candidates']} x {w['rows']}",
        **{name: _median_of(name, clock) for name in names},
        "once": lambda w: f"{w['once']['seconds']:.2f}",
        "vs serial": lambda w: _number(w["speedup_serial"]),
        "vs stacked": lambda w: _number(w["speedup_stacked"]),
        "vs peft": lambda w: _number(w["speedup_peft"]),
        "of plain": lambda w: _number(w["share_of_plain"]),
        "of matrix rate": lambda w: _number(w["share_of_matrix_rate"]),
        "computed / needed": lambda w: f"{w['forward_tokens'] / w['tokens_needed']:.3f}",
        "loss difference": lambda w: f"{w['max_loss_difference']:.1e}",
        **({"to float32": lambda w: _number(w["difference_to_float32"], ".1e")} if half else {}),
    }
    kind = "CPU" if clock == "cpu" else "Wall-clock"
    rounds = len(workloads[0]["cpu_seconds"]["gfo"])
    shared.show(
        f"{kind} seconds, medians of {rounds}, and ratios",
        list(columns),
        [[cell(entry) for cell in columns.values()] for entry in workloads],
        words=2,
    )


def _median_of(name: str, clock: str) -> Callable[[Mapping[str, Any]], str]:
    def cell(w: Mapping[str, Any]) -> str:
        rounds = w[f"{clock}_seconds"].get(name)
        return _number(median(rounds) if rounds else None)

    return cell


def _number(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    """The checked options."""
    parser = shared.Parser(__doc__)
    add = parser.add_argument
    add("--workload", action="append", help=f"{', '.join(WORKLOADS)}; may be repeated; default: all")
    add("--dataset", action="append", help=f"{', '.join(DATA_SETS)}; may be repeated; default: sst2")
    add("--data", type=Path, help="folder of the data sets; default: random tokens of their lengths")
    add("--text-length", type=int, help="random tokens, this many a text, instead of a data set's lengths")
    add("--rival", action="append", help=f"{', '.join(RIVALS)}; may be repeated; default: all that fit")
    add("--candidates", type=int, default=10, help="K, the population (default %(default)s)")
    add("--repeats", type=int, default=FEWEST_ROUNDS, help="rounds (default %(default)s)")
    add("--json", type=Path, help="write the results to this file")
    add("--chunk-tokens", type=int, help="most tokens of a forward pass; default: from the memory")
    add_model_options(add)
    options = parser.parse_args(arguments)
    options.workload = chosen("--workload", options.workload, WORKLOADS)
    options.rival = chosen("--rival", options.rival, RIVALS)
    options.dataset = chosen("--dataset", options.dataset or ["sst2"], DATA_SETS)
    check_at_least_one(options, ["candidates", "repeats", "chunk_tokens", "text_length"])
    check_model_options(options)
    shared.check_rounds(options)
    shared.check_output("--json", options.json)
    for other in ("shape", "text_length"):
        if options.data and getattr(options, other):
            given = f"--{other.replace('_', '-')} {getattr(options, other)}"
            raise GfoError(f"--data {options.data}: {given} takes random tokens; leave one of the two out")
    check_data(options.data, options.dataset)
    return options


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all workloads asked for; the JSON's contents."""
    from gfo.evaluation.memory import chunk_tokens

    model = make_model(options)
    most = options.chunk_tokens or chunk_tokens(model)
    entries = []
    for name in options.dataset:
        for workload in [each for kind in options.workload for each in WORKLOADS[kind]]:
            it = setting(
                workload,
                DATA_SETS[name],
                model,
                candidates=options.candidates,
                chunk_tokens=most,
                folder=options.data,
                text_length=options.text_length,
                seed=options.seed,
            )
            entries.append(measure(it, options.repeats, options.rival, say=say))
    if not find_spec("peft"):
        say("peft is not installed: the rival of the LoRA workloads was left out")
    return {"workloads": entries, "seed": options.seed, **shared.source()}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    return shared.command(arguments, _options, _run)


def _run(options: argparse.Namespace) -> None:
    found = run(options)
    show(found["workloads"])
    shared.write_json(options.json, found)


if __name__ == "__main__":
    shared.start(main)
