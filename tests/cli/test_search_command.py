"""`gfo search`: trials of a config stop at rungs and go on as if they had not, and bad input in a line."""

from __future__ import annotations

import json

import pytest
from commands import bad, caller, fill

from gfo.config.search import BEST, FIGURE, TABLE, Pause, load_search
from gfo.run.trials import read_records

SEARCH = """
seed = 1
dev_every = 2

[model]
name = "model"

[task]
train = "train.jsonl"
dev = "dev.jsonl"
template = "Review: {text} Sentiment:"
labels = { "-" = " bad", "+" = " good" }

[baseline]
name = "lora"
options = { rank = 2 }

[study]
optimizer = "random"
options = { population = 4 }
halving = "asha"
rungs = [4, 8, 16]
eta = 2
unit = "evaluations"
budget = { evaluations = 8 }

[search]
"baseline.options.lr" = { log = [1e-4, 1e-1] }
baseline.options.schedule = ["linear", "constant"]
baseline.options.warmup = { range = [0.0, 0.4], when = { "baseline.options.schedule" = "linear" } }
"""


@pytest.fixture
def work(tmp_path, monkeypatch, tiny):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path, tiny)
    (tmp_path / "search.toml").write_text(SEARCH)
    return tmp_path


@pytest.fixture
def call(monkeypatch, capsys):
    return caller(monkeypatch, capsys)


def dev_losses(folder):
    lines = map(json.loads, (folder / "history.jsonl").read_text().splitlines())
    return [line["dev"]["loss"] for line in lines if line["dev"]]


def test_trials_go_on_as_if_they_had_not_stopped(work, call):
    code, out, err = call("search", "search.toml", "--out", "study")
    assert code == 0, err
    records = read_records(work / "study")
    top = [record for record in records if record.budget == 16]
    assert 1 <= len(top) < len([record for record in records if record.rung == 0]) == 8
    assert "best: baseline.options.lr = " in out
    assert all((work / "study" / name).exists() for name in (TABLE, FIGURE, BEST))
    trial = load_search("search.toml").trial
    for record in top:
        whole = trial(record.values, None, work / "whole" / str(record.trial))
        assert whole.loss == record.loss
        stopped = work / "study" / "trials" / f"{record.trial:04d}"
        assert dev_losses(stopped) == dev_losses(work / "whole" / str(record.trial))
    early = {record.trial: record.loss for record in records if record.rung == 0}
    assert any(early[record.trial] != record.loss for record in top)  # going on changed something
    assert all(
        ("baseline.options.warmup" in r.values) == (r.values["baseline.options.schedule"] == "linear")
        for r in records
    )
    code, again, _ = call("search", "search.toml", "--out", "study")  # it had ended
    assert (code, again) == (0, out)
    assert read_records(work / "study") == records
    assert call("tune", f"study/{BEST}", "--out", "best")[0] == 0


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("baseline.options.lr", "baseline.options.lrr", ["[search]", "no option 'lrr'"]),
        ('"baseline.options.lr" =', '"baselin.options.lr" =', ["did you mean 'baseline'"]),
        ("log = [1e-4, 1e-1]", "log = [1e-1, 1e-4]", ["'baseline.options.lr'", "must be below"]),
        ("log = [1e-4, 1e-1]", "log = [0.0, 1e-1]", ["'baseline.options.lr'", "above 0"]),
        ("log = [1e-4, 1e-1]", "log = [1e-4]", ["'baseline.options.lr'", "[low, high]"]),
        ("log = [1e-4, 1e-1]", 'log = ["a", "b"]', ["'baseline.options.lr'", "low = 'a'"]),
        ("log = [1e-4, 1e-1]", "int = [1.5, 3]", ["'baseline.options.lr'", "1.5"]),
        ("log = [1e-4, 1e-1]", "when = 3, log = [1e-4, 1e-1]", ["'baseline.options.lr'", "when = 3"]),
        ('["linear", "constant"]', '["linear", "constnt"]', ["constnt"]),
        ('["linear", "constant"]', '["linear", "cosine", "constnt", "constant"]', ["constnt"]),
        ("budget = { evaluations = 8 }", "", ["[study]", "budget"]),
        ("rungs = [4, 8, 16]", "rungs = [8, 4]", ["rungs = [8, 4]"]),
        ("rungs = [4, 8, 16]", "", ["study: give halving and rungs"]),
        ('halving = "asha"', 'halving = "ashe"', ["ashe"]),
        ("[search]\n", "[serch]\n", ["it has no [search]"]),
        ('dev = "dev.jsonl"\n', "", ["no dev rows"]),
    ],
)
def test_bad_input(work, call, old, new, words):
    assert SEARCH.count(old) >= 1
    (work / "search.toml").write_text(SEARCH.replace(old, new))
    bad(call("search", "search.toml", "--out", "study"), *words)


def test_another_config_does_not_go_on(work, call):
    assert call("search", "search.toml", "--out", "study", "--set", "study.budget.evaluations=4")[0] == 0
    bad(call("search", "search.toml", "--out", "study", "--set", "baseline.options.rank=3"), "study", "rank")


@pytest.mark.parametrize("stops", [[1], [9, 20], [3, 3, 5]])
def test_ctrl_c_in_a_trial_stops_the_search_and_loses_nothing(work, call, monkeypatch, stops):
    """The trial that ran goes on; it does not count as one that has reached its rung."""
    few = ("search", "search.toml", "--set", "study.budget.evaluations=4", "--out")
    assert call(*few, "whole")[0] == 0
    step = Pause.step
    for left in stops:
        steps = iter(range(left))

        def interrupted(self, run, steps=steps):
            if next(steps, None) is None:
                raise KeyboardInterrupt
            return step(self, run)

        monkeypatch.setattr(Pause, "step", interrupted)
        code, out, err = call(*few, "study")
        assert code == 130, err
        assert "the same command goes on" in out or "interrupted" in err
    monkeypatch.setattr(Pause, "step", step)
    assert call(*few, "study")[0] == 0
    whole, study = (
        [vars(r) | {"seconds": 0} for r in read_records(work / name)] for name in ("whole", "study")
    )
    assert study == whole
