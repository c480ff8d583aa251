"""The leaderboard: what is run, what is run again, and what a stop, a kill or a second process does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from benchmarks.leaderboard import __main__ as leaderboard
from benchmarks.leaderboard import runs as definition
from benchmarks.shared import STOPPED

ROOT = Path(__file__).parents[2]
EXPERIMENT = """
splits = { one = 0, two = 1 }

[all]
dev_every = 2
model = { name = "model", device = "cpu" }

[all.task]
train = "{split}/train.jsonl"
dev = "{split}/dev.jsonl"
test = "test.jsonl"
template = "Review: {text}\\n{soft}Sentiment:"
labels = { "+" = " good", "-" = " bad" }

[all.space]
tokens = 3
dim = 10

[all.budget]
forward_tokens = 2000

[methods.cma.optimizer]
name = "cma"

[methods.gradient.baseline]
name = "gradient"

[methods.manual.baseline]
name = "manual"
"""


@pytest.fixture
def place(tmp_path, tiny, monkeypatch):
    """A tiny model, data and an experiment in the working folder."""
    monkeypatch.chdir(tmp_path)
    definition._file.cache_clear()
    model = tiny("llama")
    model.module.save_pretrained("model")
    model.tokenizer.save_pretrained("model")
    for number, file in enumerate(["one/train", "one/dev", "two/train", "two/dev", "test"]):
        path = Path("data") / f"{file}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [{"text": text + "xyzuv"[number], "label": "+-"[i % 2]} for i, text in enumerate("abcdefgh")]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("experiments").mkdir()
    Path("experiments/tiny.toml").write_text(EXPERIMENT)
    return tmp_path


def options(*more):
    return ["--data", "data", "--experiments", "experiments", "--out", "out", "--work", "work", *more]


def start(*more):
    command = [sys.executable, "-m", "benchmarks.leaderboard", *options(*more)]
    return subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)},
    )


def board():
    return leaderboard.Board(Path("data"), Path("out"), Path("work"))


def runs():
    return {run.name: run for run in definition.read_runs(Path("experiments"))}


def waiting():
    here = board()
    return {name: why for name, run in runs().items() if (why := here.why_to_run(run))}


def do_all():
    here = board()
    for run in runs().values():
        assert here.do(run) == 0


def test_each_budget_is_a_task_that_reads_dev_as_often(place):
    text = EXPERIMENT.replace(
        "[methods.cma.optimizer]", "[methods.cma]\ndev_every = 9\n\n[methods.cma.optimizer]"
    )
    Path("experiments/tiny.toml").write_text("budgets = [600, 200]\n" + text)
    found = runs()
    assert list(found)[:4] == [
        "tiny-200/cma--one", "tiny-200/gradient--one", "tiny-200/manual--one", "tiny-600/cma--one",
    ]  # fmt: skip
    small, large = found["tiny-200/cma--two"].config, found["tiny-600/cma--two"].config
    assert (small["budget"], small["dev_every"]) == ({"forward_tokens": 200}, 3)
    assert (large["budget"], large["dev_every"]) == ({"forward_tokens": 600}, 9)
    assert found["tiny-200/gradient--one"].config["dev_every"] == 1  # 2 / 3, and at least one
    Path("experiments/tiny.toml").write_text(EXPERIMENT)
    assert runs()["tiny/cma--one"].config["budget"] == {"forward_tokens": 2000}


def test_the_command_runs_all_once(place):
    child = start("--processes", "2", "--split", "one")
    _, errors = child.communicate(timeout=300)
    assert child.returncode == 0, errors
    assert "6 runs" not in errors
    assert "3 runs, 3 of them to do" in errors
    files = sorted(Path("out/tiny").iterdir())
    assert [file.name for file in files] == ["cma--one.json", "gradient--one.json", "manual--one.json"]
    outcome = json.loads(files[0].read_text())
    result = outcome["result"]
    assert {"versions", "hardware", "seed", "cost", "scores", "process", "memory"} <= set(result)
    assert outcome["depends"]["config"]["optimizer"]["name"] == "cma"
    assert result["cost"]["forward_tokens"] >= 2000
    assert len(outcome["history"]) == result["steps"]
    assert {"gfo.optimizers.cma_es", "gfo.spaces.soft_prompt"} <= set(outcome["depends"]["code"])
    assert "gfo.optimizers.particle_swarm" not in outcome["depends"]["code"]
    assert str(place) not in "".join(file.read_text() for file in files)
    before = {file: file.read_text() for file in files}
    child = start("--split", "one")
    _, errors = child.communicate(timeout=300)
    assert child.returncode == 0
    assert "3 runs, 0 of them to do" in errors
    assert {file: file.read_text() for file in files} == before


def test_a_section_of_another_kind_stands_alone():
    below = {"space": {"kind": "soft-prompt", "tokens": 4, "dim": 200}, "task": {"a": 1}}
    for kind, more in (("soft-prompt", {"tokens": 4}), ("bias", {})):
        over = definition._over(below, {"space": {"kind": kind, "dim": 5}, "task": {"b": 2}})
        assert over == {"space": {"kind": kind, "dim": 5, **more}, "task": {"a": 1, "b": 2}}


def test_only_what_has_changed_is_run_again(place):
    do_all()
    assert waiting() == {}
    text = EXPERIMENT.replace('name = "gradient"', 'name = "gradient"\noptions = { lr = 0.2 }')
    Path("experiments/tiny.toml").write_text(text)
    config = "its config has changed"
    assert waiting() == {"tiny/gradient--one": config, "tiny/gradient--two": config}
    Path("experiments/tiny.toml").write_text("# other words\n" + EXPERIMENT)
    assert waiting() == {}
    rows = Path("data/two/train.jsonl")
    rows.write_text(rows.read_text().replace("a", "q", 1))
    definition._file.cache_clear()
    data = "its data have changed: two/train.jsonl"
    assert waiting() == {f"tiny/{method}--two": data for method in ("cma", "gradient", "manual")}


def test_code_that_makes_no_other_numbers_is_confirmed(place):
    here, cma = board(), runs()["tiny/cma--one"]
    assert here.do(cma) == 0
    right = cma.read(Path("out"))

    def age(change=lambda outcome: None):
        outcome = json.loads(json.dumps(right))
        outcome["depends"]["code"]["gfo.optimizers.cma_es"] = "0" * 16
        change(outcome)
        cma.write(Path("out"), outcome)

    age()
    assert here.why_to_run(cma) == "code has changed: gfo.optimizers.cma_es"
    assert here.do(cma, confirm=True) == 0
    assert here.why_to_run(cma) is None
    assert cma.read(Path("out"))["history"] == right["history"]

    def last_bit(outcome):
        outcome["history"][0]["loss"][3] *= 1 + 2**-50

    age(last_bit)
    assert here.do(cma, confirm=True) == leaderboard.OTHER
    assert here.why_to_run(cma) == "code has changed: gfo.optimizers.cma_es"
    assert here.do(cma) == 0  # run again
    assert [s["loss"] for s in cma.read(Path("out"))["history"]] == [s["loss"] for s in right["history"]]


def test_comments_are_no_code(tmp_path, monkeypatch):
    monkeypatch.setattr(definition, "PACKAGE", tmp_path / "gfo")
    file = tmp_path / "gfo" / "x.py"
    file.parent.mkdir()

    def digest(text):
        file.write_text(text)
        definition._code.cache_clear()
        return definition.code(["gfo.x", "gfo.cli"])

    plain = digest("def f():\n    return 1\n")
    assert set(plain) == {"gfo.x"}
    assert digest('"""Words."""\n\ndef f():\n    """More."""\n    return 1  # one\n') == plain
    assert digest("def f():\n    return 2\n") != plain
    file.unlink()
    definition._code.cache_clear()
    assert definition.code(["gfo.x"]) == {"gfo.x": ""}


def test_a_killed_run_goes_on(place):
    Path("experiments/tiny.toml").write_text(EXPERIMENT.replace("2000", "40000"))
    child = start("--method", "cma", "--split", "one")
    deadline = time.monotonic() + 200
    while not (begun := [p for p in Path("work").glob("*/history.jsonl") if p.read_text().count("\n") > 5]):
        assert time.monotonic() < deadline
        assert child.poll() is None
        time.sleep(0.05)
    (runner,) = psutil.Process(child.pid).children()
    for process in (child, runner):
        process.kill()
    child.communicate()
    psutil.wait_procs([runner], timeout=10)
    then = begun[0].read_text().splitlines()[:5]
    assert waiting()["tiny/cma--one"] == "missing"
    cma = runs()["tiny/cma--one"]
    assert board().do(cma) == 0
    outcome = cma.read(Path("out"))
    steps = [json.loads(line) for line in then]
    assert all(step.pop("checksum") for step in steps)
    assert outcome["history"][:5] == steps  # seconds, too: they were not run again
    assert outcome["result"]["cost"]["forward_tokens"] >= 40000
    assert not list(Path("work").glob("*/history.jsonl"))


def test_ctrl_c_keeps_what_was_done(place):
    Path("experiments/tiny.toml").write_text(EXPERIMENT.replace("2000", "40000"))
    child = start("--method", "cma", "--split", "one")
    deadline = time.monotonic() + 200
    while not [p for p in Path("work").glob("*/history.jsonl") if p.read_text().count("\n") > 5]:
        assert time.monotonic() < deadline
        assert child.poll() is None
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=120)
    assert child.returncode == STOPPED
    assert errors.endswith("stopped; the same command goes on where this one ended\n")
    assert "Traceback" not in errors
    assert not Path("out/tiny/cma--one.json").exists()
    assert [p for p in Path("work").glob("*/history.jsonl") if p.read_text().count("\n") > 5]


def test_a_run_is_done_by_one_process_at_a_time(place):
    here, manual = board(), runs()["tiny/manual--one"]
    Path("work").mkdir()
    with FileLock("work/tiny--manual--one.lock"):
        assert here.do(manual) == leaderboard.BUSY
    assert here.do(manual) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "cmaa"], "unknown --method 'cmaa': did you mean 'cma'"),
        (["--processes", "0"], "--processes 0: must be at least 1"),
        (["--data", "nowhere"], "--data: cannot read"),
        (["--experiments", "data"], "--experiments data: it holds no .toml file"),
    ],
)
def test_bad_input(place, arguments, words, capsys):
    assert leaderboard.main([*options(), *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("error") == 1


def test_experiments_that_are_none(place, capsys):
    Path("experiments/tiny.toml").write_text("[all]\n")
    assert leaderboard.main(options()) == 2
    assert "tiny.toml: section [splits] is missing" in capsys.readouterr().err
    Path("experiments/tiny.toml").write_text(EXPERIMENT.replace("dim = 10", "dims = 10"))
    assert leaderboard.main(options()) == 2
    assert "config: tiny/cma--one: unknown key in [space] 'dims'" in capsys.readouterr().err


def test_the_experiments_can_be_run():
    from gfo.config import Config

    found = definition.read_runs(definition.EXPERIMENTS)
    assert len({run.name for run in found}) == len(found)
    for run in found:
        config = Config.model_validate(dict(run.config))
        limits = {c.budget.forward_tokens for c in [config]}
        assert limits == {90000 if "agnews" in run.task else 60000}
        assert config.budget.evaluations is None


def test_the_experiments_of_places_can_be_run():
    from gfo.config import Config

    found = definition.read_runs(definition.EXPERIMENTS.parent / "places")
    assert {run.task for run in found} == {"sst2-5000", "sst2-20000", "agnews-5000", "agnews-20000"}
    for run in found:
        config, tokens = Config.model_validate(dict(run.config)), int(run.task.partition("-")[2])
        spent = config.budget.forward_tokens
        assert 0.3 * tokens < spent <= 0.5 * tokens if config.refit else spent == tokens, run.name
