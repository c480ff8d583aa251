"""Runs that `killing.py` kills and resumes, and what they leave behind."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import gfo
from gfo.run.history import History
from gfo.run.state import load_state
from gfo.run.stored import load_point

STEPS = 100
# options and steps: restarts come within the run, no block ends it, and bo's fits are few and small
SMALL = {
    "ipop": ({"tolfun": 1e9}, 220),
    "bipop": ({"tolfun": 1e9}, 220),
    "blockwise": ({"optimizer": "snes"}, STEPS),
    "bo": ({"population": 4, "initial": 4}, 32),
}
BASELINES = {  # options and evaluations: weights move, and the seed says how
    "full": ({"lr": 1e-3, "patience": 50, "dropout": 0.1}, 30),
    "gradient": ({"lr": 0.3, "dropout": 0.1}, 30),
    "linear-head": ({}, 4),
    "lora": ({"lr": 1e-2, "dropout": 0.1}, 30),
    "mezo": ({"lr": 2e-3}, 40),
    "mezo-lora": ({"lr": 5e-3}, 40),
    "prefix-tuning": ({"lr": 0.1, "dropout": 0.1}, 30),
    "prompt-tuning": ({"lr": 0.1, "dropout": 0.1}, 30),
}
HALVES = ("search", "refit")
CHANGING = (
    "date",
    "cost",
    "scoring_cost",
    "versions",
    "hardware",
    "memory",
    "checksum",
    "refit",
)  # times, what is not the run's, and the checksum over these


@contextlib.contextmanager
def serving():
    """make(folder, name, ...) -> [(killed before its end, steps recorded then), ...]; see killing.py."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(Path(__file__).with_name("killing.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )

    def ask(request, what="kills"):
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        assert answer["status"] == 0
        return answer[what]

    def make(folder, name, *, seed=1, kills=0, steps=None, save_every=0.0, model=None, moments=None):
        kind = "baseline" if name in BASELINES else "model" if model else "function"
        options, evaluations = BASELINES.get(name) or searched(name, steps, model)
        return ask(
            {
                "kind": kind,
                "folder": str(folder),
                "name": name,
                "options": options,
                "seed": seed,
                "evaluations": evaluations,
                "save_every": save_every,
                "kills": kills,
                "moments": len(name) if moments is None else moments,
                "model": "tiny" if kind == "baseline" else model,
            }
        )

    make.ask = ask
    yield make
    process.communicate(timeout=60)


def searched(name, steps, model):
    """Options and evaluations of an optimizer's run."""
    options, usual = SMALL.get(name, ({}, STEPS))
    options = {"population": 4} if model else options
    made = gfo.optimizers.make(name, domain=gfo.Domain.unbounded(4), seed=1, **options)
    return options, (steps or usual) * len(made.ask())


def outcome(folder):
    """All that a run leaves behind, but for times and what the machine is."""
    result = json.loads((folder / "result.json").read_text())
    costs = [
        result["cost"],
        result["scoring_cost"],
        *(result.get("refit", {}).get(key, {}) for key in HALVES),
    ]
    counts = [{k: v for k, v in cost.items() if k != "seconds"} for cost in costs]
    kept = {key: value for key, value in result.items() if key not in CHANGING}
    trajectory = History.read(folder / "history.jsonl").trajectory()
    return trajectory, kept, counts, load_point(folder).tobytes(), weights(folder, result)


def weights(folder, result):
    """Digests of what was trained, beside its optimizer's state and what dev liked best."""
    adapter = folder / "adapter" / "adapter_model.safetensors"
    found = [hashlib.sha256(adapter.read_bytes()).hexdigest()] if adapter.exists() else []
    if "baseline" in result and (state := load_state(folder / "state.safetensors")) is not None:
        found += [(path, array.shape, array.tobytes()) for path, array in arrays(state["optimizer"])]
        found.append(state["best"] and state["best"]["step"])
    return found


def arrays(value, path=""):
    """(path, array) of nested values."""
    if isinstance(value, dict | list):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in parts:
            yield from arrays(inner, f"{path}/{key}")
    elif hasattr(value, "tobytes"):
        yield path, value
