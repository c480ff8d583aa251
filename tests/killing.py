"""Runs that are killed: a process that forks a new one for each run, so that none has to import anything.

A line of JSON on standard input is a run to be made, and answered by a line when it ended:
{"folder", "kind", "name", "options", "seed", "evaluations", "save_every", "kills", "moments", "model"}; its
`kind` is one of KINDS, `kills` how often it is killed (SIGKILL), each time to be resumed, `moments` the seed
of when, `model` the name of a model or null for a function. An export's `name` is its format, a download's
the folder of the wheel.
"""

import functools
import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
from tiny_wheel import make_index

import gfo
from gfo.models.download import ensure_downloaded
from gfo.report.export import export
from gfo.run import checkpoint
from gfo.run.evaluate import FunctionEvaluator
from gfo.testing import Rosenbrock
from gfo.testing.tiny import tiny_model

D = 4
STEP = 0.004  # seconds: kills come within evaluations, too


def evaluate(z):
    """A loss [K] with failures here and there, as they depend on z alone."""
    time.sleep(STEP)
    loss = Rosenbrock(D, seed=1)(z)
    loss[np.floor(100 * z[:, 0]) % 7 == 0] = np.nan
    return loss


@functools.cache
def pieces(name):
    """A model, a task of few rows and a space; made before a run is forked."""
    model = tiny_model() if name == "tiny" else gfo.load_model(name, device="cpu")
    data = Path(gfo.__file__).parent / "data" / "sentiment"
    task = gfo.Classification(
        data / "train.jsonl",
        data / "dev.jsonl",
        template="Review: {text}\n{soft}Sentiment:",
        labels={"negative": " negative", "positive": " positive"},
        limits={"train": 6, "dev": 4},
        batch_size=4 if name == "tiny" else None,
    )
    return model, task, gfo.SoftPrompt(model, tokens=2, dim=20)


def train(request):
    """A baseline."""
    checkpoint.SAVE_EVERY = request["save_every"]
    model, task, space = pieces(request["model"])
    if request["name"] == "prefix-tuning":
        space = gfo.Prefix(model, 2, dim=20)
    gfo.baselines.run(
        request["name"],
        model,
        task,
        space if gfo.baselines.needs_space(request["name"]) else None,
        options=request["options"],
        budget=gfo.Budget(evaluations=request["evaluations"]),
        seed=request["seed"],
        dev_every=3,
        out=request["folder"],
        resume=True,
        progress=False,
    )


def tune(request):
    """The same with a model."""
    gfo.tune(
        *pieces(request["model"]),
        optimizer=request["name"],
        options=request["options"],
        budget=gfo.Budget(evaluations=request["evaluations"]),
        seed=request["seed"],
        dev_every=3,
        out=request["folder"],
        resume=True,
        progress=False,
    )


def write(request):
    """An export."""
    if not Path(request["folder"]).exists():
        model, task, space = pieces(request["model"])
        z = np.random.default_rng(0).standard_normal(space.domain.d)
        export(gfo.LocalEvaluator(model, task, space), z, request["name"], request["folder"])


def fetch(request):
    """A download."""
    os.environ |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": request["name"]}
    os.environ["GFO_CACHE"] = request["folder"]
    ensure_downloaded(make_index(Path(request["name"])))


class Everywhere(FunctionEvaluator):
    """The function is dev, too."""

    def score(self, z, split):
        return super().score(z, "train")


def run(request):
    """Begin or go on, to the end."""
    checkpoint.SAVE_EVERY = request["save_every"]
    domain = gfo.Domain.unbounded(D)
    made = gfo.optimizers.make(request["name"], domain=domain, seed=request["seed"], **request["options"])
    gfo.minimize(
        made,
        Everywhere(evaluate),
        budget=gfo.Budget(evaluations=request["evaluations"]),
        dev_every=3,
        out=request["folder"],
        resume=True,
        record={"options": request["options"]},
    )


KINDS = {"baseline": train, "model": tune, "function": run, "export": write, "download": fetch}
STEPLESS = ("export", "download")  # which are killed within so many seconds, the request's `within`


def forked(request):
    """The process that does the run."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            KINDS[request["kind"]](request)
            status = 0
        finally:
            sys.stderr.flush()
            os._exit(status)
    return child


def lines(folder):
    history = Path(folder, "history.jsonl")
    return history.read_bytes().count(b"\n") if history.exists() else 0


def kill(request, rng):
    """Begin or go on, and be killed a few steps later; (whether it was killed, the steps recorded then)."""
    child = forked(request)
    if request["kind"] in STEPLESS:
        time.sleep(rng.uniform(0, request["within"]))
        os.kill(child, signal.SIGKILL)
        return os.WIFSIGNALED(os.waitpid(child, 0)[1]), 0
    wanted = lines(request["folder"]) + int(rng.integers(0, 3))
    deadline = time.monotonic() + 60
    while lines(request["folder"]) < wanted and time.monotonic() < deadline:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False, lines(request["folder"])
        time.sleep(0.0005)
    time.sleep(rng.uniform(0, 0.008))
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    return os.WIFSIGNALED(status), lines(request["folder"])


def main():
    for module in (
        "gfo.report.plots",
        "safetensors.numpy",
        "filelock",
        "psutil",
        "cma",
        "nevergrad",
        "sklearn",
    ):
        importlib.import_module(module)
    for text in sys.stdin:
        request = json.loads(text)
        if request["name"] == "bo":
            importlib.import_module("botorch")
        if request["model"]:
            pieces(request["model"])
        rng = np.random.default_rng(request["moments"])
        kills = [kill(request, rng) for _ in range(request["kills"])]
        start = time.monotonic()
        status = os.waitpid(forked(request), 0)[1]
        seconds = time.monotonic() - start
        print(json.dumps({"status": status, "kills": kills, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
