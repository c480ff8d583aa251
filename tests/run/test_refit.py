"""A refit: the same search on the rows of train and dev, as long as dev had chosen."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from killed import outcome

import gfo
from gfo.core.protocols import Cost
from gfo.report.export import export
from gfo.run.budget import Part
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


def run(model, evaluations=40, *, train=TRAIN, dev=DEV, **options) -> Result:
    task = gfo.Classification(train, dev, TEST, **TASK)
    space = gfo.SoftPrompt(model, tokens=3, dim=10, alpha=2.0)
    budget = options.pop("budget", gfo.Budget(evaluations=evaluations))
    return gfo.tune(model, task, space, budget=budget, progress=False, **{"dev_every": 2, **options})


def tokens(cost):
    return cost.candidates, cost.forward_tokens, cost.tokens_needed


@pytest.mark.parametrize(("optimizer", "point"), [("cma", "recommendation"), ("openai-es", "incumbent")])
def test_it_is_the_same_search_on_the_joined_rows_to_the_bit(model, tmp_path, optimizer, point):
    options = {"optimizer": optimizer, "selection": gfo.Selection(point=point), "seed": 3}
    search = run(model, **options)
    result = run(model, refit=True, out=tmp_path, **options)
    assert result.history.trajectory() == search.history.trajectory()
    n = result.record["refit"]["evaluations"]
    assert 0 < n <= 40
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


@pytest.mark.parametrize(
    ("name", "options"), [("sa", {"cooling": "linear"}), ("pso", {"inertia": "linear"}), ("openai-es", {})]
)
def test_a_part_of_a_budget_is_the_beginning_of_the_whole(name, options):
    """Also of methods that plan by it: sa cools, pso slows down."""

    def points(budget):
        optimizer = gfo.optimizers.make(name, domain=gfo.Domain.unbounded(4), seed=1, **options)
        return [
            step.points for step in gfo.minimize(optimizer, gfo.testing.Rosenbrock(4), budget=budget).history
        ]

    whole = gfo.Budget(evaluations=120)
    part = points(Part(evaluations=60, of=whole, share=0.5))
    assert part == points(whole)[: len(part)]
    assert (part == points(gfo.Budget(evaluations=60))) == (name == "openai-es")  # control


def test_what_it_says(model, tmp_path):
    result = run(model, 40, refit=True, out=tmp_path)
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
    labels = [row["prediction"] for row in again.predict(TEST).found]
    assert (
        np.mean([label == row["label"] for label, row in zip(labels, TEST, strict=True)]) == after["accuracy"]
    )
    with pytest.raises(gfo.GfoError, match="split 'dev': the task has train, test"):
        result.score("dev")
    written = [
        export(r.evaluator, r.z, "peft", tmp_path / name).folder for name, r in (("a", result), ("b", again))
    ]
    files = [(folder / "adapter_model.safetensors").read_bytes() for folder in written]
    assert files[0] == files[1]


def parts(model):
    task = gfo.Classification(TRAIN, DEV, TEST, **TASK)
    return {"task": task, "space": gfo.SoftPrompt(model, tokens=3, dim=10, alpha=2.0)}


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """The folder of a run that was not cut."""
    folder = tmp_path_factory.mktemp("refit") / "whole"
    run(tiny("llama"), 40, refit=True, out=folder).score("test")
    return folder


@pytest.mark.parametrize(("half", "steps"), [("search", 2), ("search", 4), ("refit", 0), ("refit", 2)])
def test_cut_in_either_search_it_goes_on_to_the_bit(model, tmp_path, whole, half, steps):
    """As kill -9 leaves it: so many steps, half of one more, and no result."""
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut)
    (cut / "result.json").unlink()
    if half == "search":
        shutil.rmtree(cut / "refit")
    place = cut if half == "search" else cut / "refit"
    lines = (place / "history.jsonl").read_bytes().splitlines(keepends=True)
    (place / "history.jsonl").write_bytes(b"".join(lines[:steps]) + b"".join(lines[steps:])[:20])
    (place / "result.json").unlink(missing_ok=True)
    run(model, 40, refit=True, out=cut, resume=True).score("test")
    for folder in (".", "refit"):
        assert outcome(cut / folder) == outcome(whole / folder)


def test_a_control_another_seed_leaves_another_folder(model, tmp_path, whole):
    run(model, 40, refit=True, seed=1, out=tmp_path).score("test")
    for folder in (".", "refit"):
        assert outcome(tmp_path / folder) != outcome(whole / folder)


@pytest.mark.parametrize("half", ["search", "refit"])
def test_ctrl_c_in_either_search(model, tmp_path, monkeypatch, whole, half):
    if half == "refit":
        monkeypatch.setattr("gfo.run.refit.Last.step", lambda last, run: Stop(2).step(run))
    callbacks = [Stop(3)] if half == "search" else []
    stopped = run(model, 40, refit=True, out=tmp_path, callbacks=callbacks)
    monkeypatch.undo()
    assert stopped.stopped == "interrupted"
    assert "refit" not in stopped.record
    assert ("its refit is not done" in stopped.selection) == (half == "refit")
    assert load_point(tmp_path).tobytes() == stopped.z.tobytes() != load_point(whole).tobytes()
    run(model, 40, refit=True, out=tmp_path, resume=True).score("test")
    for folder in (".", "refit"):
        assert outcome(tmp_path / folder) == outcome(whole / folder)


def test_a_run_that_ended_is_refit_and_back(model, tmp_path, whole):
    plain = run(model, 40, out=tmp_path)
    plain.score("test")
    refit = run(model, 40, out=tmp_path, resume=True, refit=True)
    assert refit.scores == {}  # those were another point's
    refit.score("test")
    assert outcome(tmp_path) == outcome(whole)
    assert run(model, 40, out=tmp_path, resume=True, refit=True).scores == refit.scores
    assert run(model, 40, out=tmp_path, resume=True).z.tobytes() == plain.z.tobytes()


def test_a_larger_budget_may_choose_another_evaluation(model, tmp_path, whole):
    few = run(model, 20, refit=True, out=tmp_path)
    more = run(model, 40, refit=True, out=tmp_path, resume=True)
    assert few.record["refit"]["evaluations"] < more.record["refit"]["evaluations"]
    more.score("test")
    for folder in (".", "refit"):
        assert outcome(tmp_path / folder)[0] == outcome(whole / folder)[0]
    assert more.z.tobytes() == load_point(whole).tobytes()


def test_where_dev_likes_the_start_best_there_is_none(model, tmp_path):
    worse = {"optimizer": "random", "options": {"scale": 50.0}, "refit": True, "out": tmp_path}
    result = run(model, 20, dev=[{**row, "label": "ab"[row["label"] == "a"]} for row in DEV], **worse)
    if result.z.any():
        pytest.fail("the start is not the best on dev; take another seed")
    assert result.selection.endswith("; no refit, as dev chose no evaluation")
    assert not (tmp_path / "refit").exists()


def test_it_starts_where_the_search_did(model, tmp_path):
    run(model, 18, out=tmp_path / "first")
    warm = run(model, 36, refit=True, warm_start=tmp_path / "first", out=tmp_path / "cut")
    for name in ("result.json", "refit"):
        path = tmp_path / "cut" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(tmp_path / "first")
    cut = run(model, 36, refit=True, warm_start=tmp_path / "first", out=tmp_path / "cut", resume=True)
    assert "refit" in cut.record
    assert cut.z.tobytes() == warm.z.tobytes() != run(model, 36, refit=True).z.tobytes()


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
