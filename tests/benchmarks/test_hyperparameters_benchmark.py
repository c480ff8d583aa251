"""The benchmark of searches of hyperparameters: what a search may cost, resumed, bad input."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from benchmarks.hyperparameters import __main__ as program
from benchmarks.hyperparameters.searches import METHODS, Metered
from benchmarks.hyperparameters.trainings import SPACE, TASKS, Curves
from gfo.testing.tiny import tiny_model


@pytest.mark.parametrize("method", ["gfo", "optuna"])
def test_a_search_of_curves_takes_no_more_than_three_full_runs(method):
    curves = Curves()
    trial = Metered(curves, 3 * curves.halving.rungs[-1])
    METHODS[method](trial, curves.space, curves.halving, 0, None)
    assert trial.ended
    assert 2 * 320 < trial.spent <= 3 * 320
    best = trial.tried[trial.best]
    assert best.budget == 320
    assert best.loss == min(each.loss for each in trial.tried.values() if each.budget == 320)
    assert best.loss == curves(best.values, 320, None).loss
    assert curves.rank(best.values) < 64
    budgets = {each.budget for each in trial.tried.values()}
    assert budgets <= {35, 106, 320}
    assert len(budgets) > 1  # some were stopped


def rows(path, n):
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = [{"text": f"{path.stem} {i}", "label_text": ("negative", "positive")[i % 2]} for i in range(n)]
    path.write_text("".join(json.dumps(row) + "\n" for row in texts))


def test_trainings_are_searched_and_the_same_command_goes_on(tmp_path, monkeypatch):
    """On a tiny model for the cost of one full run; a search is stopped in a training and begun again."""
    for split in ("train", "dev"):
        rows(tmp_path / f"kshot16/sst2/seed13/{split}.jsonl", 16)
    rows(tmp_path / "sst2/test.jsonl", 20)
    monkeypatch.setattr("gfo.load_model", lambda name, device: tiny_model(), raising=False)
    monkeypatch.setitem(program.TASKS, "sst2", replace(TASKS["sst2"], rungs=(300, 900)))
    monkeypatch.setattr(program, "FULL_RUNS", 1)
    monkeypatch.setattr(program, "SPACE", SPACE | {"batch_size": [4, 8]})
    given = ["--data", str(tmp_path), "--task", "sst2", "--seeds", "1", "--test", "10"]
    more = ["--json", str(tmp_path / "all.json"), "--figure", str(tmp_path / "all.png")]

    def found(folder, *others):
        code = program.main([*given, "--out", str(tmp_path / folder), *others])
        runs = {path.stem: json.loads(path.read_text()) for path in (tmp_path / folder).glob("*.json")}
        return code, {name: run | {"date": "", "hardware": ""} for name, run in runs.items()}

    code, whole = found("whole", *more)
    assert code == 0
    assert set(whole) == {"sst2--gfo--0", "sst2--optuna--0"}
    for run in whole.values():
        assert 300 < run["spent"] <= 900 + 400  # a training ends with the step that spends its budget
        assert 0 <= run["test"]["accuracy"] <= 1
    summary = json.loads((tmp_path / "all.json").read_text())["summary"]
    assert [line["method"] for line in summary] == ["gfo", "optuna"]
    assert (tmp_path / "all.png").stat().st_size > 5_000
    step, calls = program.Training.scored, iter(range(1))

    def stopped(self, *args):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return step(self, *args)

    monkeypatch.setattr(program.Training, "scored", stopped)
    assert found("parts", "--method", "gfo") == (130, {})
    monkeypatch.setattr(program.Training, "scored", step)
    assert found("parts", "--method", "gfo") == (0, {"sst2--gfo--0": whole["sst2--gfo--0"]})


def test_bad_input(tmp_path, capsys):
    for given, words in (
        (["--task", "sst2"], "--data is missing"),
        (["--data", ".", "--seeds", "4"], "--seeds 4"),
        (["--task", "sst"], "did you mean"),
        (["--task", "grid", "--seeds", "0"], "--seeds 0"),
        (["--task", "grid", "--json", "no/where.json"], "--json"),
    ):
        assert program.main([*given, "--out", str(tmp_path / "out")]) == 2
        assert words in capsys.readouterr().err
    assert program.main(["--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "seed13/train.jsonl is missing" in capsys.readouterr().err
