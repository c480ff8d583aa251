"""A run killed at 20 random moments and resumed each time is the uninterrupted one, bit for bit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gfo
from gfo.run.history import History
from gfo.run.result import load_point

STEPS = 100
# options and steps: restarts come within the run, no block ends it, and bo's fits are few and small
SMALL = {
    "ipop": ({"tolfun": 1e9}, 220),
    "bipop": ({"tolfun": 1e9}, 220),
    "blockwise": ({"optimizer": "snes"}, STEPS),
    "bo": ({"population": 4, "initial": 4}, 32),
}
CHANGING = (
    "date",
    "cost",
    "scoring_cost",
    "versions",
    "hardware",
    "memory",
)  # times, and what is not the run's


@pytest.fixture(scope="module")
def server():
    """Makes runs; see killing.py."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(Path(__file__).with_name("killing.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )

    def make(folder, name, *, seed=1, kills=0, steps=None, save_every=0.0, model=None):
        options, usual = SMALL.get(name, ({}, STEPS))
        options = {"population": 4} if model else options
        population = len(
            gfo.optimizers.make(name, domain=gfo.Domain.unbounded(4), seed=seed, **options).ask()
        )
        request = {
            "folder": str(folder),
            "name": name,
            "options": options,
            "seed": seed,
            "evaluations": (steps or usual) * population,
            "save_every": save_every,
            "kills": kills,
            "moments": len(name),
            "model": model,
        }
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        assert answer["status"] == 0
        return answer["kills"]

    yield make
    process.communicate(timeout=60)


def outcome(folder):
    """All that a run leaves behind, but for times and what the machine is."""
    result = json.loads((folder / "result.json").read_text())
    counts = [{k: v for k, v in result[cost].items() if k != "seconds"} for cost in ("cost", "scoring_cost")]
    kept = {key: value for key, value in result.items() if key not in CHANGING}
    trajectory = History.read(folder / "history.jsonl").trajectory()
    return trajectory, kept, counts, load_point(folder).tobytes()


@pytest.mark.parametrize("name", [*gfo.optimizers.names(), "nevergrad:DE"])
def test_killed_and_resumed_is_uninterrupted(server, tmp_path, name):
    assert server(tmp_path / "whole", name) == []
    kills = server(tmp_path / "killed", name, kills=20)
    killed = [at for was_killed, at in kills if was_killed]
    assert len(killed) == 20
    assert len(set(killed)) > 8  # at many places
    whole, resumed = outcome(tmp_path / "whole"), outcome(tmp_path / "killed")
    assert len(whole[0]) > killed[-1]
    assert resumed == whole
    server(tmp_path / "other", name, seed=2)
    other = outcome(tmp_path / "other")
    assert other[0] != whole[0]
    assert other[3] != whole[3]


@pytest.mark.weights
def test_killed_and_resumed_with_smollm2(server, tmp_path):
    server(tmp_path / "whole", "cma", steps=50, model="smollm2-135m")
    kills = server(tmp_path / "killed", "cma", steps=50, kills=20, model="smollm2-135m")
    assert sum(was_killed for was_killed, _ in kills) == 20
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
    server(tmp_path / "other", "cma", steps=2, seed=2, model="smollm2-135m")
    assert outcome(tmp_path / "other")[0] != outcome(tmp_path / "whole")[0][:2]


def test_bo_without_a_saved_state(server, tmp_path):
    """The same by telling it everything again."""
    server(tmp_path / "whole", "bo", steps=16, save_every=1e9)
    assert len(server(tmp_path / "killed", "bo", kills=4, steps=16, save_every=1e9)) == 4
    assert not (tmp_path / "killed" / "state.safetensors").exists()
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


def test_the_comparison_sees_one_bit(server, tmp_path):
    """A control: one loss in its last bit."""
    server(tmp_path / "run", "snes")
    before = outcome(tmp_path / "run")
    history = tmp_path / "run" / "history.jsonl"
    text = history.read_text().splitlines()
    step = json.loads(text[7])
    step["loss"][0] = float(np.nextafter(step["loss"][0] or 1.0, np.inf))
    text[7] = json.dumps(step)
    history.write_text("\n".join(text) + "\n")
    assert outcome(tmp_path / "run") != before
