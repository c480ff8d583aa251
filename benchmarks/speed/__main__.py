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
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NoReturn

from benchmarks.speed.data import DATA_SETS, check_data
from benchmarks.speed.measure import DisagreementError, measure
from benchmarks.speed.models import SHAPES, check_device, load_decoder, random_decoder
from benchmarks.speed.workloads import WORKLOADS, setting

from gfo.core.errors import GfoError, unknown_name

if TYPE_CHECKING:
    from gfo.models.decoder import Decoder

FEWEST_ROUNDS = 3  # of a measurement that is written down
DEFAULT_MODEL = "smollm2-135m"
DTYPES = ("float32", "bfloat16", "float16")
PACKAGES = ("gfo", "torch", "transformers", "numpy", "peft")


def versions() -> dict[str, str]:
    """Of Python and the packages that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def hardware(device: str) -> dict[str, Any]:
    """Processor, cores, memory and torch's threads, and the GPU if it is used."""
    import psutil
    import torch

    found = {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "threads": torch.get_num_threads(),
    }
    return found | ({"gpu": torch.cuda.get_device_name()} if device == "cuda" else {})


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
    table = Table(title=f"{kind} seconds, medians of {rounds}, and ratios")
    for column in columns:
        table.add_column(column, justify="left" if column in ("workload", "data") else "right")
    for entry in workloads:
        table.add_row(*(cell(entry) for cell in columns.values()))
    Console(width=None if sys.stdout.isatty() else 180).print(table)


def _median_of(name: str, clock: str) -> Callable[[Mapping[str, Any]], str]:
    def cell(w: Mapping[str, Any]) -> str:
        rounds = w[f"{clock}_seconds"].get(name)
        return _number(median(rounds) if rounds else None)

    return cell


def _number(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)


def say(line: str) -> None:
    """Progress, apart from the results."""
    print(line, file=sys.stderr, flush=True)


class Parser(argparse.ArgumentParser):
    """Errors are one line, as everywhere in gfo."""

    def error(self, message: str) -> NoReturn:
        raise GfoError(message)


def add_model_options(add: Callable[..., Any]) -> None:
    """Options that name the model and the device."""
    add("--model", help=f"name, folder or hub id (default {DEFAULT_MODEL})")
    add("--shape", help=f"random weights of a shape instead of a model: {', '.join(SHAPES)}")
    add("--device", default="cpu", choices=("cpu", "cuda"), help="default: %(default)s")
    add("--dtype", default="float32", choices=DTYPES, help="of the weights (default %(default)s)")
    add("--threads", type=int, help="of torch; default: its own choice")
    add("--seed", type=int, default=0, help="of candidates and random tokens (default %(default)s)")


def check_at_least_one(options: argparse.Namespace, names: Sequence[str]) -> None:
    """Raise GfoError for an option below 1."""
    for name in names:
        value = getattr(options, name)
        if value is not None and value < 1:
            raise GfoError(f"--{name.replace('_', '-')} {value}: must be at least 1")


def check_output(option: str, path: Path | None) -> None:
    """Raise GfoError for a file that cannot be written."""
    if path and not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        raise GfoError(f"{option} {path}: its folder does not exist or is not writable")


def check_model_options(options: argparse.Namespace) -> None:
    """Raise GfoError for options of `add_model_options` that are wrong or contradict each other."""
    check_at_least_one(options, ["threads"])
    if options.seed < 0:
        raise GfoError(f"--seed {options.seed}: must be 0 or more")
    if options.shape is not None and options.shape not in SHAPES:
        raise unknown_name("--shape", options.shape, SHAPES)
    if options.shape is not None and options.model is not None:
        raise GfoError(f"--shape {options.shape}: --model {options.model} has a shape; give one of the two")
    check_device(options.device)


def make_model(options: argparse.Namespace) -> Decoder:
    """The model that the options name."""
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    if options.shape:
        say(f"drawing random weights of the shape {options.shape}")
        return random_decoder(
            options.shape,
            dtype=options.dtype,
            device=options.device,
            seed=options.seed,
            layers=getattr(options, "layers", None),
        )
    name = options.model or DEFAULT_MODEL
    say(f"loading {name}")
    return load_decoder(name, dtype=options.dtype, device=options.device)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    """The checked options."""
    parser = Parser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--workload", action="append", help=f"{', '.join(WORKLOADS)}; may be repeated; default: all")
    add("--dataset", action="append", help=f"{', '.join(DATA_SETS)}; may be repeated; default: sst2")
    add("--data", type=Path, help="folder of the data sets; default: random tokens of their lengths")
    add("--text-length", type=int, help="random tokens, this many a text, instead of a data set's lengths")
    add("--candidates", type=int, default=10, help="K, the population (default %(default)s)")
    add("--repeats", type=int, default=FEWEST_ROUNDS, help="rounds (default %(default)s)")
    add("--json", type=Path, help="write the results to this file")
    add("--chunk-tokens", type=int, help="most tokens of a forward pass; default: from the memory")
    add_model_options(add)
    options = parser.parse_args(arguments)
    options.workload = list(dict.fromkeys(options.workload or WORKLOADS))
    options.dataset = list(dict.fromkeys(options.dataset or ["sst2"]))
    for kind, known in (("workload", WORKLOADS), ("dataset", DATA_SETS)):
        for name in getattr(options, kind):
            if name not in known:
                raise unknown_name(f"--{kind}", name, known)
    check_at_least_one(options, ["candidates", "repeats", "chunk_tokens", "text_length"])
    check_model_options(options)
    if options.json and options.repeats < FEWEST_ROUNDS:
        raise GfoError(f"--repeats {options.repeats}: --json needs medians of at least {FEWEST_ROUNDS}")
    check_output("--json", options.json)
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
        for workload in [each for chosen in options.workload for each in WORKLOADS[chosen]]:
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
            entries.append(measure(it, options.repeats, say=say))
    if "peft" not in versions():
        say("peft is not installed: the rival of the LoRA workloads was left out")
    return {
        "workloads": entries,
        "seed": options.seed,
        "versions": versions(),
        "hardware": hardware(options.device),
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
