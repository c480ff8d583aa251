"""`gfo resume`: after SIGKILL, with a larger budget, when data are gone or others, on a full disk."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import bad, caller, fill
from faults import Faults
from safetensors.torch import load_file, save_file

from gfo.config import load_config
from gfo.core.errors import GfoWarning
from gfo.run.callbacks import Callback
from gfo.run.environment import threads, versions
from gfo.run.files import read_json, write_json
from gfo.run.history import History
from gfo.run.stored import load_point

LONG = ["--set", "budget.evaluations=2000", "--set", "optimizer.name=snes"]  # which does not end by itself


@pytest.fixture
def work(tmp_path, monkeypatch, tiny):
    monkeypatch.chdir(tmp_path)
    return fill(tmp_path, tiny)


@pytest.fixture
def gfo(monkeypatch, capsys):
    return caller(monkeypatch, capsys)


def outcome(folder):
    """What a run found and counted, to the last bit."""
    result = json.loads((folder / "result.json").read_text())
    counts = [[v for k, v in result[c].items() if k != "seconds"] for c in ("cost", "scoring_cost")]
    kept = {key: result[key] for key in ("scores", "loss", "stopped", "selection", "config", "data", "steps")}
    trajectory = History.read(folder / "history.jsonl").trajectory()
    return trajectory, kept, counts, load_point(folder).tobytes()


def recorded(folder):
    history = folder / "history.jsonl"
    return history.read_bytes().count(b"\n") if history.exists() else 0


def kill_at(folder, steps, *command):
    """Run a command and kill it once so many steps are recorded."""
    process = subprocess.Popen(
        [sys.executable, "-m", "gfo", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},  # as in this process
    )
    deadline = time.monotonic() + 120
    while recorded(folder) < steps:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_killed_and_resumed_from_the_command_line(work, gfo):
    assert gfo("tune", "run.toml", *LONG, "--out", "whole")[0] == 0
    moments = np.random.default_rng(0).integers(5, 150, 3)
    kill_at(work / "run", min(moments), "tune", "run.toml", *LONG, "--out", "run")
    for steps in sorted(moments)[1:]:
        kill_at(work / "run", steps, "resume", "run")
    assert recorded(work / "run") < 200
    code, out, err = gfo("resume", "run")
    assert code == 0, err
    assert "accuracy" in out
    assert outcome(work / "run") == outcome(work / "whole")
    assert gfo("tune", "run.toml", *LONG, "--set", "seed=1", "--out", "other")[0] == 0
    assert outcome(work / "other")[0] != outcome(work / "whole")[0]
    kept = {p.name for p in (work / "run").iterdir()}
    assert not any(name.endswith((".pkl", ".pt", ".partial")) for name in kept)


def test_a_larger_budget_and_a_run_that_has_ended(work, gfo):
    assert gfo("tune", "run.toml", "--out", "whole", "--set", "budget.evaluations=80")[0] == 0
    assert gfo("tune", "run.toml", "--out", "run")[0] == 0
    code, out, _ = gfo("resume", "run")
    assert code == 0
    assert out.startswith("run has ended (budget: 40 of 40 evaluations spent); a larger budget")
    assert gfo("resume", "run", "--set", "budget.evaluations=80")[0] == 0
    assert outcome(work / "run") == outcome(work / "whole")
    assert "has ended" in gfo("resume", "run")[1]


def test_a_run_stopped_before_its_test_scores_gets_them(work, gfo):
    class Killed(Callback):
        def end(self, run):
            raise SystemExit

    assert gfo("tune", "run.toml", "--out", "whole")[0] == 0
    with pytest.raises(SystemExit):
        load_config("run.toml").run(work / "run", callbacks=[Killed()], progress=False)
    assert not (work / "run" / "result.json").exists()
    load_config("run.toml").run(work / "run", resume=True, progress=False, test=False)
    assert json.loads((work / "run" / "result.json").read_text())["scores"] == {}
    assert gfo("resume", "run")[0] == 0
    assert outcome(work / "run") == outcome(work / "whole")


@pytest.mark.parametrize("name", ["manual", "gradient", "lora"])
def test_a_baseline_goes_on(work, gfo, name, monkeypatch):
    """Stopped before its end; then with a larger budget."""
    lora = "options.rank=2" if name == "lora" else "options={}"
    given = ("--set", f"baseline.name={name}", "--set", f"baseline.{lora}")
    assert gfo("tune", "run.toml", "--out", "whole", *given)[0] == 0

    class Killed(Callback):
        def step(self, run):
            if len(run.history) == 3:
                raise KeyboardInterrupt

    config = load_config("run.toml", given[1::2])
    config.run(work / "run", callbacks=[Killed()], progress=False, test=False)
    assert gfo("resume", "run")[0] == 0
    assert outcome(work / "run") == outcome(work / "whole")
    assert "has ended" in gfo("resume", "run")[1]
    assert gfo("resume", "run", "--set", "budget.evaluations=80")[0] == 0
    assert recorded(work / "run") == (0 if name == "manual" else 80)


@pytest.mark.parametrize("name", ["full", "lora", "mezo", "mezo-lora", "gradient", "linear-head", "manual"])
def test_baselines_are_scored_and_exported_or_say_why_not(work, gfo, name):
    lr = {"full": "{lr=1e-2}", "lora": "{lr=1e-2}", "mezo": "{lr=1e-2}", "mezo-lora": "{lr=1e-2}"}
    given = ("--set", f"baseline.name={name}", "--set", f"baseline.options={lr.get(name, '{}')}")
    assert gfo("tune", "run.toml", "--out", "run", *given)[0] == 0
    result = work / "run" / "result.json"
    before = json.loads(result.read_text())
    assert gfo("eval", "run", "--split", "test")[0] == 0
    assert json.loads(result.read_text())["scores"] == before["scores"]  # those of the process that trained
    assert gfo("eval", "run", "--split", "train")[0] == 0
    code, _, err = gfo("export", "run", "--format", "merged")
    assert code == 0 or ("\n" not in err.strip() and err.startswith("error: ")), err
    state = work / "run" / "state.safetensors"
    if not state.exists() or name in ("gradient", "linear-head"):
        return
    held = bytearray(state.read_bytes())
    held[-9] ^= 1
    state.write_bytes(held)
    bad(gfo("eval", "run"), "state.safetensors, which holds the weights trained, is missing or damaged; put")
    state.unlink()
    bad(gfo("eval", "run"), "state.safetensors, which holds the weights trained, is missing or damaged; put")


def test_stops_of_a_config(work, gfo):
    assert gfo("tune", "run.toml", "--out", "run", "--set", "stop.target=100")[0] == 0
    assert json.loads((work / "run" / "result.json").read_text())["stopped"].startswith(
        "target: training loss"
    )
    assert recorded(work / "run") == 1
    assert "has ended (target" in gfo("resume", "run")[1]
    assert gfo("resume", "run", "--set", "stop={patience=1}")[0] == 0
    stopped = json.loads((work / "run" / "result.json").read_text())["stopped"]
    assert stopped.startswith(("early stopping: dev loss", "budget"))
    bad(gfo("tune", "run.toml", "--out", "x", "--set", "stop.patience=0"), "patience = 0")
    bad(
        gfo("tune", "run.toml", "--out", "x", "--set", "stop={target=1, metric='acuracy'}"),
        "did you mean 'accuracy'",
    )


def test_what_cannot_be_resumed(work, gfo):
    bad(gfo("resume", "nowhere"), "nowhere/config.json", "No such file")
    assert gfo("tune", "run.toml", "--out", "run")[0] == 0
    more = ("--set", "budget.evaluations=80")
    bad(
        gfo("resume", "run", *more, "--set", "space.dim=11"),
        "the run there has config.space.dim = 10, not 11; only the budget and [stop] may change",
    )
    bad(gfo("resume", "run", *more, "--set", "seed=3"), "config.seed = 0, not 3")
    bad(gfo("resume", "run", *more, "--set", "task.lables=3"), "did you mean 'labels'")
    (work / "run" / "run.json").unlink()
    bad(gfo("resume", "run", *more), "cannot go on without run.json")


def test_data_that_are_gone_or_others(work, gfo):
    assert gfo("tune", "run.toml", "--out", "run")[0] == 0
    before = (work / "run" / "history.jsonl").read_bytes()
    more = ("--set", "budget.evaluations=80")
    train = (work / "train.jsonl").read_text()
    (work / "train.jsonl").unlink()
    bad(gfo("resume", "run", *more), "train: cannot read", "train.jsonl: No such file")
    (work / "train.jsonl").write_text(train.replace("atrain", "itrain"))
    bad(gfo("resume", "run", *more), "the run there has data.train = ", "only the budget")
    (work / "moved").mkdir()
    for split in ("train", "dev", "test"):
        (work / f"{split}.jsonl").rename(work / "moved" / f"{split}.jsonl")
    (work / "moved" / "train.jsonl").write_text(train)
    assert (work / "run" / "history.jsonl").read_bytes() == before
    assert gfo("resume", "run", *more, "--set", "task.data_dir=moved")[0] == 0
    assert recorded(work / "run") == 8


def test_a_run_goes_on_from_anywhere(work, gfo, monkeypatch):
    more = ("--set", "budget.evaluations=80")
    assert gfo("tune", "run.toml", *more, "--out", "whole")[0] == 0
    assert gfo("tune", "run.toml", "--out", "run")[0] == 0
    (work / "elsewhere").mkdir()
    monkeypatch.chdir(work / "elsewhere")
    assert gfo("resume", "../run", *more)[0] == 0
    assert gfo("eval", "../run", "--split", "dev")[0] == 0
    monkeypatch.chdir(work)
    result = json.loads((work / "run" / "result.json").read_text())
    assert {"dev", "test"} == set(result["scores"]["after"])
    assert gfo("eval", "whole", "--split", "dev")[0] == 0
    assert outcome(work / "run")[:2] == outcome(work / "whole")[:2]
    bad(gfo("tune", "run.toml", "--out", ""), "out = '' is no path")
    assert len(list((work / "elsewhere").iterdir())) == 0


def test_configs_of_runs(work, gfo):
    """A key of another gfo is left out; one changed by hand is refused, and one's own if it says so."""
    assert gfo("tune", "run.toml", "--out", "run")[0] == 0
    path, more = work / "run" / "config.json", ("--set", "budget.evaluations=80")
    values = read_json(path)
    write_json(path, values | {"colour": "red", "space": {**values["space"], "shape": "round"}})
    with pytest.warns(GfoWarning, match="is of another gfo, and left out") as warned:
        load_config(path)
    assert sorted(str(each.message).split("'")[1] for each in warned) == ["colour", "shape"]
    changed = json.loads(path.read_text()) | {"seed": 1}
    path.write_text(json.dumps(changed))
    bad(gfo("resume", "run", *more), "config.json was changed since gfo wrote it", "--set", "'checksum'")
    del changed["checksum"]
    path.write_text(json.dumps(changed))
    bad(gfo("tune", "run/config.json", "--out", "other"), "unknown key 'colour'")
    path.write_text(json.dumps(values | {"seed": 1}))
    assert gfo("tune", "run/config.json", "--out", "other")[0] == 0
    bad(gfo("resume", "run", *more), "the run there has seed = 0, not 1")


def test_check(work, gfo):
    assert gfo("tune", "run.toml", "--out", "run")[0] == 0
    code, out, _ = gfo("check", "run")
    assert (code, out.count("whole")) == (0, 5)
    path = work / "run" / "run.json"
    path.write_text(path.read_text().replace('"dev_every": 2', '"dev_every": 3'))
    code, out, _ = gfo("check", "run")
    assert code == 1
    assert [line[:28] for line in out.splitlines() if "DAMAGED" in line] == ["run.json           DAMAGED: "]
    bad(gfo("check", "nowhere"), "nowhere holds no run")


def test_scores_are_printed_before_they_are_written(work, gfo):
    assert gfo("tune", "run.toml", "--out", "run")[0] == 0
    before = (work / "run" / "result.json").read_bytes()
    with Faults(work / "run", 0, "EROFS", reads=False):
        code, out, err = gfo("eval", work / "run", "--split", "dev")
    assert code == 2
    assert "accuracy" in out
    assert "cannot write there (Read-only file system)" in err
    assert (work / "run" / "result.json").read_bytes() == before


def test_another_model_is_found_out(work, gfo):
    assert gfo("tune", "run.toml", "--out", "run")[0] == 0
    weights = load_file("model/model.safetensors")
    weights["model.layers.2.mlp.down_proj.weight"] *= -1
    save_file(weights, "model/model.safetensors", metadata={"format": "pt"})
    bad(
        gfo("resume", "run", "--set", "budget.evaluations=80"),
        "step 3 has other losses than it had",
        "the model",
    )


FORMAT1 = Path(__file__).parents[1] / "run" / "format1" / "config"


def test_a_run_of_0_1_0_opens_and_says_why_it_cannot_go_on(work, gfo):
    """It was begun by that version, on the model and the rows of these tests, whose embedding is padded."""
    shutil.copytree(FORMAT1, work / "run")
    code, out, _ = gfo("resume", "run")
    assert code == 0
    assert out.startswith("run has ended (budget: 40 of 40 evaluations spent)")
    before = (work / "run" / "history.jsonl").read_bytes()
    bad(
        gfo("resume", "run", "--set", "budget.evaluations=80"),
        "step 7 has other losses than it had",
        "gfo 0.1.0 began it, which drew words for prompts that no token has: begin a new run",
    )
    assert [s["points"] for s in map(json.loads, before.splitlines())] == [
        step["points"] for step in History.read(work / "run" / "history.jsonl").trajectory()
    ]
    assert gfo("eval", "run", "--split", "dev")[0] == 0
    assert gfo("compare", "run", str(FORMAT1), "--out", "two.png")[0] == 0


def test_what_changed_in_a_run_of_0_1_0_is_named(work, gfo):
    shutil.copytree(FORMAT1, work / "run")
    more = ["--set", "budget.evaluations=80"]
    bad(gfo("resume", "run", *more, "--set", "space.dim=9"), "the run there has config.space.dim = 10, not 9")
    history = work / "run" / "history.jsonl"
    first, *lines = history.read_text().splitlines(keepends=True)
    other = json.dumps({**json.loads(first), "points": "0123abcd"}) + "\n"
    history.write_text("".join([other, *lines]))
    run = json.loads((work / "run" / "run.json").read_text())
    run |= {"versions": versions(), "threads": threads()}
    write_json(work / "run" / "run.json", run)
    bad(gfo("resume", "run", *more), "at step 0 the optimizer asks for other points", "gfo 0.1.0 began it")


@pytest.fixture
def small_disk(work):
    """A file system of 64 KiB."""
    (work / "disk").mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "disk"], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("may not mount")
    yield work / "disk"
    subprocess.run(["umount", "-l", str(work / "disk")], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="mounts a file system")
def test_a_full_disk(work, gfo, small_disk):
    assert gfo("tune", "run.toml", *LONG, "--out", "whole")[0] == 0
    result = gfo("tune", "run.toml", *LONG, "--out", "disk/run")
    bad(
        result,
        "disk/run: cannot write there (No space left on device); make room and go on with gfo resume",
    )
    done = len(History.read(small_disk / "run" / "history.jsonl"))
    assert 5 < done < 200
    bad(gfo("resume", "disk/run"), "No space left on device")
    assert len(History.read(small_disk / "run" / "history.jsonl")) == done
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    assert gfo("resume", "disk/run")[0] == 0
    assert outcome(small_disk / "run") == outcome(work / "whole")
