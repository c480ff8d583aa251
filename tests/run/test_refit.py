"""A refit: the same search on the rows of train and dev, as long as dev had chosen."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from killed import outcome

import gfo
from gfo.core.protocols import Cost
from gfo.run.callbacks import Callback
from gfo.run.history import History
from gfo.run.result import Result
from gfo.run.stored import load_point


def rows(end, n=8):
    return [{"text": "the food was good " * i + end, "label": "a" if i % 2 else "b"} for i in range(1, n + 1)]


TRAIN, DEV, TEST = rows("", 6), rows("bad"), rows("great")
TASK = {"template": "Review: {text}\n{soft}Sentiment:", "labels": {"a": "good", "b": "bad"}}
BOTH = [*TRAIN, *DEV]


class Stop(Callback):
    """Ends a run with so many steps, as Ctrl-C would."""

    def __init__(self, steps):
        self.steps = steps

    def step(self, run):
        if len(run.history) == self.steps:
            raise KeyboardInterrupt


@pytest.fixture
def model(tiny):
    return tiny("llama")


def run(model, evaluations=90, *, train=TRAIN, dev=DEV, **options) -> Result:
    task = gfo.Classification(train, dev, TEST, **TASK)
    space = gfo.SoftPrompt(model, tokens=3, dim=10, alpha=2.0)
    budget = options.pop("budget", gfo.Budget(evaluations=evaluations))
    return gfo.tune(model, task, space, budget=budget, progress=False, **{"dev_every": 2, **options})


def tokens(cost):
    return cost.candidates, cost.forward_tokens, cost.tokens_needed


@pytest.mark.parametrize("point", ["recommendation", "incumbent"])
@pytest.mark.parametrize("optimizer", ["cma", "openai-es"])
def test_it_is_the_same_search_on_the_joined_rows_to_the_bit(model, tmp_path, optimizer, point):
    options = {"optimizer": optimizer, "selection": gfo.Selection(point=point), "seed": 3}
    search = run(model, **options)
    result = run(model, refit=True, out=tmp_path, **options)
    assert result.history.trajectory() == search.history.trajectory()
    n = result.record["refit"]["evaluations"]
    assert 0 < n <= 90
    last = Last()
    by_hand = run(model, n, train=BOTH, dev=None, callbacks=[last], **options)
    np.testing.assert_array_equal(result.z, last.incumbent if point == "incumbent" else by_hand.z)
    assert History.read(tmp_path / "refit" / "history.jsonl").trajectory() == by_hand.history.trajectory()
    assert not np.array_equal(result.z, search.z)  # controls
    assert not np.array_equal(result.z, run(model, n, train=BOTH[:-1], dev=None, **options).z)
    assert tokens(result.cost) == tokens(search.cost + by_hand.cost)
    assert result.selection == f"refit on train and dev for {n} evaluations, those of {search.selection}"


class Last(Callback):
    def end(self, run):
        self.incumbent = run.incumbent


def test_a_plan_is_that_of_the_whole_budget(model):
    """sa cools by it, and what dev chose had cooled so far."""
    options = {"optimizer": "sa", "seed": 1}
    result = run(model, refit=True, **options)
    n = result.record["refit"]["evaluations"]
    assert n < 90
    stopped = run(model, 90, train=BOTH, dev=None, callbacks=[After(n)], **options)
    np.testing.assert_array_equal(result.z, stopped.z)
    assert not np.array_equal(result.z, run(model, n, train=BOTH, dev=None, **options).z)


class After(Callback):
    def __init__(self, evaluations):
        self.evaluations = evaluations

    def step(self, run):
        return "enough" if run.cost.candidates >= self.evaluations else None


def test_what_it_says(model, tmp_path):
    result = run(model, refit=True, out=tmp_path)
    after = result.score("test")
    again = Result.load(tmp_path, model, **parts(model))
    assert again.z.tobytes() == result.z.tobytes() == load_point(tmp_path).tobytes()
    assert (str(again), again.scores, again.cost) == (str(result), result.scores, result.cost)
    record = json.loads((tmp_path / "result.json").read_text())
    whole, searched, refit = (
        Cost(**it) for it in (record["cost"], *(record["refit"][k] for k in ("search", "refit")))
    )
    assert tokens(whole) == tokens(searched + refit)
    assert min(tokens(refit)) > 0
    assert f"refit:      {refit.candidates} evaluations, {refit.forward_tokens:,} forward tokens" in str(
        result
    )
    assert f"search:     {searched.candidates} evaluations, {searched.forward_tokens:,}" in str(result)
    assert again.score("test") == after
    said = again.predict(TEST)
    assert (
        np.mean([r["prediction"] == row["label"] for r, row in zip(said, TEST, strict=True)])
        == after["accuracy"]
    )
    with pytest.raises(gfo.GfoError, match="split 'dev': the task has train, test"):
        result.score("dev")
    exported = result.export(tmp_path / "adapter")
    assert (exported.folder / "adapter_model.safetensors").exists()


def parts(model):
    task = gfo.Classification(TRAIN, DEV, TEST, **TASK)
    return {"task": task, "space": gfo.SoftPrompt(model, tokens=3, dim=10, alpha=2.0)}


@pytest.mark.parametrize(("half", "steps"), [("search", 4), ("search", 10), ("refit", 0), ("refit", 2)])
def test_cut_in_either_search_it_goes_on_to_the_bit(model, tmp_path, half, steps):
    """As kill -9 leaves it: so many steps, half of one more, and no result."""
    for name in ("whole", "cut"):
        run(model, refit=True, out=tmp_path / name).score("test")
    cut = tmp_path / "cut"
    (cut / "result.json").unlink()
    if half == "search":
        shutil.rmtree(cut / "refit")
    place = cut if half == "search" else cut / "refit"
    lines = (place / "history.jsonl").read_bytes().splitlines(keepends=True)
    (place / "history.jsonl").write_bytes(b"".join(lines[:steps]) + b"".join(lines[steps:])[:20])
    (place / "result.json").unlink(missing_ok=True)
    resumed = run(model, refit=True, out=cut, resume=True)
    resumed.score("test")
    for folder in (".", "refit"):
        assert outcome(cut / folder) == outcome(tmp_path / "whole" / folder)
    other = run(model, refit=True, seed=1, out=tmp_path / "other")
    other.score("test")
    assert outcome(tmp_path / "other") != outcome(cut)


@pytest.mark.parametrize("half", ["search", "refit"])
def test_ctrl_c_in_either_search(model, tmp_path, monkeypatch, half):
    whole = run(model, refit=True, out=tmp_path / "whole")
    callbacks = [Stop(3)]
    if half == "refit":
        callbacks = []
        monkeypatch.setattr("gfo.run.refit.Last.step", Stop(2).step.__func__, raising=False)
        monkeypatch.setattr("gfo.run.refit.Last.steps", 2, raising=False)
    stopped = run(model, refit=True, out=tmp_path / "cut", callbacks=callbacks)
    monkeypatch.undo()
    assert stopped.stopped == "interrupted"
    assert "refit" not in stopped.record
    assert ("its refit is not done" in stopped.selection) == (half == "refit")
    assert Result.load(tmp_path / "cut", model, **parts(model)).z.tobytes() == stopped.z.tobytes()
    resumed = run(model, refit=True, out=tmp_path / "cut", resume=True)
    assert not np.array_equal(stopped.z, whole.z)
    for folder in (".", "refit"):
        assert outcome(tmp_path / "cut" / folder) == outcome(tmp_path / "whole" / folder)
    assert resumed.z.tobytes() == whole.z.tobytes()


def test_a_run_that_ended_is_refit_and_back(model, tmp_path):
    plain = run(model, out=tmp_path / "run")
    plain.score("test")
    refit = run(model, out=tmp_path / "run", resume=True, refit=True)
    assert refit.scores == {}  # those were another point's
    refit.score("test")
    whole = run(model, out=tmp_path / "whole", refit=True)
    whole.score("test")
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")
    assert run(model, out=tmp_path / "run", resume=True, refit=True).scores == whole.scores
    assert run(model, out=tmp_path / "run", resume=True).z.tobytes() == plain.z.tobytes()


def test_a_larger_budget_may_choose_another_evaluation(model, tmp_path):
    few = run(model, 20, refit=True, out=tmp_path / "run")
    more = run(model, 120, refit=True, out=tmp_path / "run", resume=True)
    whole = run(model, 120, refit=True, out=tmp_path / "whole")
    counts = [result.record["refit"]["evaluations"] for result in (few, more, whole)]
    assert counts[0] < counts[1] == counts[2]
    assert outcome(tmp_path / "run" / "refit") == outcome(tmp_path / "whole" / "refit")
    assert more.z.tobytes() == whole.z.tobytes()


def test_where_dev_likes_the_start_best_there_is_none(model, tmp_path):
    worse = {"optimizer": "random", "options": {"scale": 50.0}, "refit": True, "out": tmp_path}
    result = run(model, 20, dev=[{**row, "label": "ab"[row["label"] == "a"]} for row in DEV], **worse)
    if result.z.any():
        pytest.fail("the start is not the best on dev; take another seed")
    assert result.selection.endswith("; no refit, as dev chose no evaluation")
    assert not (tmp_path / "refit").exists()


def test_it_starts_where_the_search_did(model, tmp_path):
    run(model, out=tmp_path / "first")
    warm = run(model, 45, refit=True, warm_start=tmp_path / "first", out=tmp_path / "whole", seed=1)
    run(model, 45, warm_start=tmp_path / "first", out=tmp_path / "cut", seed=1)
    shutil.rmtree(tmp_path / "first")
    cut = run(model, 45, refit=True, warm_start=tmp_path / "first", out=tmp_path / "cut", seed=1, resume=True)
    assert cut.z.tobytes() == warm.z.tobytes()
    assert (tmp_path / "whole" / "refit").exists()
    assert warm.z.tobytes() != run(model, 45, refit=True, seed=1).z.tobytes()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"dev": None}, "refit: the task has no dev rows; give it dev"),
        ({"dev": TRAIN}, "refit: dev has the rows of train"),
        ({"optimizer": gfo.optimizers.make("cma", domain=gfo.Domain.unbounded(10), seed=0)}, "as a name"),
        ({"objectives": ["loss", "accuracy"]}, "refit: of several objectives"),
        ({"evaluator": lambda z, step: None}, "evaluator"),
    ],
)
def test_what_is_not_refit_is_one_line(model, options, why):
    with pytest.raises(gfo.GfoError, match=why) as error:
        run(model, refit=True, **options)
    assert "\n" not in str(error.value)
