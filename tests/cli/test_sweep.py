"""Sweeps: the runs that a grid makes, processes that run them, stops of every kind, and a whole study."""

import json
import os
import shlex
import signal
import threading
import time

import psutil
import pytest
from commands import bad, caller, fill

import gfo
from gfo.config import load_config, read_values
from gfo.config.grid import parse_grid, plan
from gfo.core import registry
from gfo.optimizers.random_search import RandomSearch
from gfo.run.folder import RunFolder
from gfo.run.stored import load_point


@pytest.fixture
def work(tmp_path, monkeypatch, tiny):
    """A working folder with a tiny model, data and a config."""
    monkeypatch.chdir(tmp_path)
    return fill(tmp_path, tiny)


@pytest.fixture
def call(monkeypatch, capsys):
    """Call the command line in this process: (exit code, stdout, stderr)."""
    return caller(monkeypatch, capsys)


def steps(folder):
    """What a history says, times and checksums apart."""
    lines = map(json.loads, (folder / "history.jsonl").read_text().splitlines())
    return [[line.get(key) for key in ("loss", "points", "dev", "evaluations")] for line in lines]


def names(base, grid):
    return [run.name for run in plan(base, grid, "base")]


BASE = {
    "task": {"train": "t.jsonl", "template": "{text}{soft}", "labels": {"a": " x", "b": " y"}},
    "space": {"tokens": 3, "dim": 10},
    "optimizer": {"name": "cma", "options": {"population": 6}},
    "budget": {"evaluations": 10},
}


def test_a_grid_is_every_combination_and_baselines_stand_beside():
    assert names(BASE, {"optimizer.name": ["cma", "ga"], "seed": [0, 1]}) == [
        "cma_seed=0", "cma_seed=1", "ga_seed=0", "ga_seed=1",
    ]  # fmt: skip
    grid = {"optimizer": ["cma", "ga"], "space": ["soft-prompt", "bias"], "seed": [0, 1]}
    found = names(BASE, {**grid, "baseline": ["gradient", "manual"]})
    assert len(found) == 2 * 2 * 2 + 2 * 2 + 2  # gradient trains in a space, manual in none
    assert found[8:10] == ["gradient_soft-prompt_seed=0", "gradient_soft-prompt_seed=1"]
    assert found[-2:] == ["manual_seed=0", "manual_seed=1"]
    assert names(BASE | {"baseline": {"name": "lora"}}, {"baseline.name": ["lora"]}) == ["lora"]


def test_a_section_begins_anew_where_it_is_something_else():
    runs = {run.name: run.config for run in plan(BASE, {"space": ["soft-prompt", "bias"]}, "base")}
    assert runs["soft-prompt"].space.dim == 10
    assert runs["bias"].space.dim == 200  # the base's dim is the soft prompt's
    runs = plan(BASE, {"optimizer": ["cma", "ga"], "optimizer.options.scale": [0.5]}, "base")
    assert [run.config.optimizer.options for run in runs] == [{"population": 6, "scale": 0.5}, {"scale": 0.5}]
    runs = plan(BASE, {"baseline": [{"name": "lora", "options": {"lr": 1e-3}}, {"name": "manual"}]}, "base")
    assert [run.config.method for run in runs] == ["soft-prompt, cma", "lora", "manual"]
    assert BASE["optimizer"] == {"name": "cma", "options": {"population": 6}}  # as it was


def test_values_are_those_of_toml_or_plain_text():
    texts = [
        "seed=0,1",
        "optimizer.name=cma, nevergrad:DE",
        'space={kind="bias",dim=5},{kind="lora"}',
        "x=1e-3,a",
    ]
    assert parse_grid(texts) == {
        "seed": [0, 1],
        "optimizer.name": ["cma", "nevergrad:DE"],
        "space": [{"kind": "bias", "dim": 5}, {"kind": "lora"}],
        "x": [1e-3, "a"],
    }
    odd = names(BASE, {"optimizer": ["nevergrad:DE", "nevergrad/DE"]})
    assert odd == ["nevergrad-DE", "nevergrad-DE-2"]  # folders of their own


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ({"optimzer.name": ["cma"]}, ["unknown key 'optimzer'", "did you mean 'optimizer'"]),
        ({"optimizer.nme": ["cma"]}, ["unknown key in [optimizer] 'nme'", "did you mean 'name'"]),
        ({"space.kind": ["soft-promt"]}, ["soft-promt", "did you mean 'soft-prompt'"]),
        ({"seed": ["a"]}, ["seed = 'a'", "integer"]),
        ({"budget.evaluations.x": [1]}, ["'evaluations' is a value, not a section"]),
        ({"seed": [0, 0]}, ["seed has 0 twice"]),
        ({"seed": []}, ["seed = []", "give a list of values"]),
        ({}, ["grid: it is empty"]),
    ],
)
def test_a_wrong_grid_is_told_in_a_line(grid, words):
    with pytest.raises(gfo.GfoError) as error:
        plan(BASE, grid, "base")
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_a_run_of_a_sweep_is_the_run_of_its_config(work, call):
    code, out, err = call(
        "sweep", "run.toml", "--grid", "optimizer=cma,openai-es", "--grid", "seed=0,1", "--out", "s"
    )
    assert code == 0, err
    assert out.splitlines()[0].split() == ["run", "state", "evaluations", "train", "loss", "test", "time"]
    assert out.splitlines()[-1] == "next: gfo compare s"
    assert "[4/4] openai-es_seed=1: test accuracy" in err
    assert (
        call("tune", "run.toml", "--set", "seed=1", "--set", "optimizer.name=openai-es", "--out", "one")[0]
        == 0
    )
    assert steps(work / "s" / "openai-es_seed=1") == steps(work / "one")
    assert steps(work / "s" / "openai-es_seed=0") != steps(work / "one")  # control
    assert (work / "s" / "openai-es_seed=1" / "config.json").read_text() == (
        work / "one" / "config.json"
    ).read_text()
    code, out, err = call("runs", "s", "--sort", "test.loss")
    assert code == 0
    assert len(out.splitlines()) == 5


def test_the_same_sweep_goes_on(work, call):
    begin = ("sweep", "run.toml", "--out", "s", "--grid", "seed=0")
    assert call(*begin)[0] == 0
    before = (work / "s" / "seed=0" / "result.json").stat().st_mtime_ns
    code, out, err = call(*begin)
    assert (code, err) == (0, "")  # nothing was left to do
    assert out.count("done") == 1
    code, out, err = call(*begin[:-1], "seed=0,1")  # more of the grid
    assert code == 0
    assert "2 runs, 1 of them done already" in err
    assert (work / "s" / "seed=0" / "result.json").stat().st_mtime_ns == before
    bad(call(*begin, "--set", "space.dim=5"), "config.space.dim = 10, not 5", "begin a new run")
    assert call(*begin, "--set", "budget.evaluations=60")[0] == 0  # which may grow
    assert steps(work / "s" / "seed=0")[-1][-1] == 60


def test_pairs_that_cannot_go_are_told_before_the_first_run(work, call):
    grid = ["--grid", "optimizer=cma,ga", "--grid", "space=bias,structure,discrete-prompt"]
    code, out, err = call("sweep", "run.toml", *grid, "--set", "budget.evaluations=24", "--out", "s")
    assert code == 0
    told = err.splitlines()
    assert told[1].startswith("left out: cma_discrete-prompt: optimizer 'cma' cannot take integer genes")
    assert told[2].startswith(
        "left out: cma_structure: optimizer 'cma' cannot take integer genes"
    )  # by its model
    assert told[3].startswith("[3/6] ")
    assert out.count(" done ") == 4
    bad(
        call("sweep", "run.toml", "--grid", "space=structure", "--out", "none"),
        "no run can begin",
        "integer genes",
    )
    bad(call("sweep", "run.toml", "--grid", "optimizer=cmaa", "--out", "none"), "did you mean 'cma'")


def test_a_run_that_fails_is_a_row(work, call):
    values = read_values("run.toml")
    values["task"]["train"] = "none.jsonl"
    found = gfo.sweep(values, {"task.train": ["none.jsonl", "train.jsonl"]}, out="s", progress=False)
    assert [run.state for run in found.found] == ["failed", "done"]
    assert "none.jsonl" in found.found[0].reason
    assert "none.jsonl: failed: train: " in str(found)
    assert len(found.runs().found) == 1
    (work / "none.jsonl").write_text((work / "train.jsonl").read_text())
    again = gfo.sweep(values, {"task.train": ["none.jsonl", "train.jsonl"]}, out="s", progress=False)
    assert [run.state for run in again.found] == ["done", "done"]
    code, _, err = call("sweep", "run.toml", "--grid", "task.dev=dev.jsonl,nowhere.jsonl", "--out", "t")
    assert code == 1
    assert "[2/2] nowhere.jsonl: failed:" in err.replace("dev=", "")


class Once(RandomSearch):
    """An optimizer of a user's, in which Ctrl-C comes at the third step, once."""

    asks = None  # that are left

    def _ask(self):
        if Once.asks is not None:
            Once.asks -= 1
            if Once.asks < 0:
                Once.asks = None
                raise KeyboardInterrupt
        return super()._ask()


def test_ctrl_c_saves_and_the_sweep_goes_on_to_the_bit(work, monkeypatch):
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))
    gfo.register("optimizer", "once", Once, "ends")
    grid = {"optimizer.name": ["once"], "optimizer.options.population": [5], "seed": [0, 1]}
    whole = gfo.sweep("run.toml", grid, out="whole", progress=False)
    Once.asks = 2
    stopped = gfo.sweep("run.toml", grid, out="s", progress=False)
    assert [run.state for run in stopped.found] == ["interrupted", "waiting"]
    assert "interrupted: the same sweep again goes on" in str(stopped)
    assert len(steps(work / "s" / stopped.found[0].name)) == 2
    ended = gfo.sweep("run.toml", grid, out="s", progress=False)
    assert [run.state for run in ended.found] == ["done", "done"]
    for run in whole.found:
        assert len(steps(work / "whole" / run.name)) == 8
        assert steps(work / "s" / run.name) == steps(work / "whole" / run.name)
        assert (load_point(work / "s" / run.name) == load_point(work / "whole" / run.name)).all()


def until(true, seconds=300):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def processes():
    """Those of a sweep, not others that tests before have left, such as multiprocessing's."""
    return [each for each in psutil.Process().children() if "gfo.config.worker" in " ".join(each.cmdline())]


def test_two_processes_one_killed_and_then_ctrl_c(work, monkeypatch):
    """The run of the killed one is a row, another process takes the next; Ctrl-C saves what both run."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    folder, grid = work / "s", {"optimizer": ["random"], "seed": [0, 1, 2]}

    def has_steps(seed):
        path = folder / f"random_seed={seed}" / "history.jsonl"
        return path.exists() and path.stat().st_size > 3000

    def disturb():
        until(lambda: has_steps(0) and has_steps(1))
        processes()[0].kill()
        until(lambda: has_steps(2))
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=disturb)
    thread.start()
    values = read_values("run.toml", ["budget.evaluations=1000000"])
    found = gfo.sweep(values, grid, out="s", jobs=2)
    thread.join()
    states = [run.state for run in found.found]
    assert sorted(states[:2]) == ["failed", "interrupted"]
    assert states[2] == "interrupted"
    killed = states.index("failed")
    assert "its process ended by SIGKILL; see worker" in found.found[killed].reason
    assert not processes()
    for seed in (1 - killed, 2):
        run = folder / f"random_seed={seed}"
        assert json.loads((run / "result.json").read_text())["stopped"] == "interrupted"
        assert json.loads((run / "run.json").read_text())["threads"] == 1  # half of two
    assert "Traceback" not in "".join(path.read_text() for path in folder.glob("worker*.log"))
    gfo.sweep("run.toml", {"optimizer": ["random"], "seed": [2]}, out="one", progress=False)
    alone = steps(work / "one" / "random_seed=2")
    assert len(alone) == 2
    assert steps(folder / "random_seed=2")[:2] == alone  # the same numbers in another process


def test_a_folder_that_is_not_the_sweep_s_is_refused(work):
    taken = []

    def hold():
        with RunFolder("s", resume=True):
            taken.append(True)
            until(lambda: not taken)

    thread = threading.Thread(target=hold)
    thread.start()
    until(lambda: taken)
    with pytest.raises(gfo.GfoError, match="another process runs in it"):
        gfo.sweep("run.toml", {"seed": [0]}, out="s")
    taken.clear()
    thread.join()
    load_config("run.toml").run(work / "run", progress=False, test=False)
    with pytest.raises(gfo.GfoError, match="out = run holds a run"):
        gfo.sweep("run.toml", {"seed": [0]}, out="run")
    with pytest.raises(gfo.GfoError, match="jobs = 0 must be at least 1"):
        gfo.sweep("run.toml", {"seed": [0]}, out="s", jobs=0)


STUDY = """
import gfo

study = gfo.sweep(
    "run.toml",
    {"optimizer.name": ["cma", "openai-es", "random"], "space.kind": ["soft-prompt", "bias"],
     "baseline.name": ["linear-head", "manual"], "seed": [0, 1, 2]},
    out="runs/study",
)
comparison = study.compare()
comparison.to_latex("table.tex")
comparison.plot("figure.pdf")
differences = comparison.differences("accuracy")
"""


SHELL = """
gfo sweep run.toml --grid optimizer=cma,openai-es,random --grid space=soft-prompt,bias \\
    --grid baseline=linear-head,manual --grid seed=0,1,2 --out runs/study
gfo compare runs/study --out shell.pdf --band mean --size double --table shell.tex --test accuracy
"""


def test_a_study_in_three_lines_of_shell_and_twelve_of_python(work, call):
    """3 optimizers, 2 spaces, 3 seeds and 2 baselines: the table, the figure and the paired test."""
    assert len(SHELL.strip().splitlines()) <= 3
    assert len([line for line in STUDY.splitlines() if line]) <= 12
    for line in SHELL.replace("\\\n", "").strip().splitlines():
        code, out, err = call(*shlex.split(line)[1:])
        assert code == 0, err
    assert "linear-head" in out
    found = {}
    exec(STUDY, found)  # which goes on with the runs of the shell
    assert [run.state for run in found["study"].found] == ["done"] * (3 * 2 * 3 + 2 * 3)
    table = (work / "table.tex").read_text()
    assert table.startswith("\\begin{tabular}")
    for name in ("cma", "openai-es", "random", "linear-head", "manual", "soft-prompt", "bias"):
        assert name in table, name
    assert (work / "shell.tex").read_text().startswith("\\begin{tabular}")
    for figure in ("figure.pdf", "shell.pdf"):
        assert (work / figure).read_bytes().startswith(b"%PDF")
    assert len(found["differences"].to_pandas()) == 8 * 7 // 2
