"""`gfo.compare` of real runs, and how results show themselves."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import gfo
from gfo import baselines
from gfo.core.domain import Domain
from gfo.run.evaluate import FunctionEvaluator
from gfo.run.history import History, spread_of
from gfo.run.result import Result

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def rows(end):
    return [{"text": "the food was good " * n + end, "label": "a" if n % 2 else "b"} for n in range(1, 9)]


def sphere(z):
    return ((z - 1) ** 2).sum(axis=1)


class Everywhere(FunctionEvaluator):
    """The function is dev and test, too."""

    def score(self, z, split):
        return super().score(z, "train")


def search(seed=0, optimizer="snes", function=sphere, evaluations=60, **options):
    made = gfo.optimizers.make(optimizer, domain=Domain.unbounded(4), seed=seed)
    return gfo.minimize(made, Everywhere(function), budget=gfo.Budget(evaluations=evaluations), **options)


@pytest.fixture
def pieces(tiny):
    model = tiny("llama")
    task = gfo.Classification(
        rows("")[:6],
        rows("bad"),
        rows("great"),
        template="Review: {text}\n{soft}Sentiment:",
        labels={"a": "good", "b": "bad"},
    )
    return model, task


def tune(pieces, *, alpha=1.0, seed=0, **options):
    space = gfo.SoftPrompt(pieces[0], tokens=3, dim=10, alpha=alpha)
    budget = gfo.Budget(evaluations=24)
    return gfo.tune(*pieces, space, budget=budget, seed=seed, progress=False, **options)


def test_seeds_are_aggregated_and_methods_are_not():
    runs = [search(seed, name) for name in ("snes", "random") for seed in (0, 1, 2)]
    comparison = gfo.compare(runs)
    assert [group.label for group in comparison.groups] == ["snes (3 seeds)", "random (3 seeds)"]
    mean, deviation = comparison.rows()[0]["train_loss"]
    losses = [run.loss for run in runs[:3]]
    assert mean == pytest.approx(np.mean(losses))
    assert deviation == pytest.approx(np.std(losses, ddof=1))
    assert deviation > 0
    again = gfo.compare([runs[0], search(0, "snes")])  # the same seed twice is no spread over seeds
    assert [group.label for group in again.groups] == ["snes #1", "snes #2"]


def test_folders_are_compared_as_results_are(tmp_path):
    results = [search(seed, out=tmp_path / f"seed{seed}") for seed in (0, 1)]
    for result in results:
        result.score("test")
    folders = sorted(tmp_path.iterdir())
    assert str(gfo.compare(folders)) == str(gfo.compare(results))
    assert "test loss" in str(gfo.compare([str(folders[0])]))
    (folders[1] / "result.json").unlink()  # as of a run that was killed
    unfinished = gfo.compare(folders).groups
    assert [len(group.runs) for group in unfinished] == [1, 1]
    assert unfinished[1].runs[0].seconds == results[1].history[-1].seconds


def test_runs_of_another_space_are_another_group(pieces):
    runs = [tune(pieces), tune(pieces, seed=1), tune(pieces, alpha=2.0, seed=2)]
    groups = gfo.compare(runs).groups
    assert [len(group.runs) for group in groups] == [2, 1]
    assert groups[0].label == "cma, SoftPrompt, alpha 1.0 (2 seeds)"
    options = [tune(pieces, options={"population": n}, seed=n) for n in (6, 8)]
    assert [g.label for g in gfo.compare(options).groups] == [
        "cma, SoftPrompt, population 6", "cma, SoftPrompt, population 8",
    ]  # fmt: skip


def test_baselines_are_compared_with_searches(pieces, tmp_path):
    """With one that is trained, and one without steps."""
    model, task = pieces
    space = gfo.SoftPrompt(model, tokens=3, dim=10)
    runs = [tune(pieces, out=tmp_path / "search")]
    for name in ("gradient", "manual"):
        budget = gfo.Budget(evaluations=4)
        out = tmp_path / name
        runs.append(baselines.run(name, model, task, space, budget=budget, progress=False, out=out))
    for result in runs:
        result.score("test")
    comparison = gfo.compare(runs)
    assert [group.label.split(",")[0] for group in comparison.groups] == ["cma", "gradient", "manual"]
    assert str(comparison) == str(gfo.compare([result.folder for result in runs]))
    assert [len(text.get_text()) > 0 for text in comparison.plot().legends[0].get_texts()] == [True, True]
    assert comparison.rows()[2]["evaluations"] == 0
    assert "nothing to search" in str(runs[2])
    with pytest.raises(gfo.GfoError, match="the run has no steps"):
        runs[2].plot()


def test_a_mapping_names_and_groups():
    runs = [search(seed) for seed in (0, 1, 2)]
    groups = gfo.compare({"mine": runs[:2], "alone": runs[2]}, x="seconds").groups
    assert [(group.label, len(group.runs)) for group in groups] == [("mine", 2), ("alone", 1)]


def test_committed_results_can_be_compared():
    """Histories that were written before the spread was recorded."""
    folders = sorted((RESULTS / "optimizers_sst2").glob("*--seed0"))
    comparison = gfo.compare(folders)
    assert [group.label for group in comparison.groups] == [f.name.removesuffix("--seed0") for f in folders]
    rows = {row["label"]: row for row in comparison.rows()}
    saved = json.loads((RESULTS / "optimizers_sst2" / "sep-cma--seed0" / "result.json").read_text())
    assert rows["sep-cma"]["test_accuracy"][0] == saved["scores"]["after"]["test"]["accuracy"]
    demo = gfo.compare(sorted((RESULTS / "demo" / "soft-prompt").iterdir()))
    assert [group.label for group in demo.groups] == ["cma, soft-prompt (3 seeds)"]
    history = History.read(RESULTS / "demo" / "soft-prompt" / "seed0" / "history.jsonl")
    assert {step.spread for step in history} == {None}


@pytest.mark.parametrize(
    ("runs", "x", "words"),
    [
        ([], "evaluations", r"runs = \[\]; give a list"),
        ({}, "evaluations", "give a list"),
        ("runs/a", "evaluations", "runs = 'runs/a'; give a list"),
        (["nowhere"], "evaluations", r"cannot read nowhere/history\.jsonl: .*; give the folder of a gfo run"),
        ({"a": []}, "evaluations", "a label has no runs"),
        (["empty"], "evaluations", "empty has no steps yet"),
        ({"a": "empty"}, "evaluations", "no steps yet"),
        (["damaged"], "evaluations", r"damaged/result\.json is not JSON"),
        (["nowhere"], "tokens", "unknown x 'tokens': did you mean 'forward_tokens'"),
    ],
)
def test_bad_input(runs, x, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("empty/history.jsonl").touch()
    search(out="damaged")
    Path("damaged/result.json").write_text("{")
    with pytest.raises(gfo.GfoError, match=words) as caught:
        gfo.compare(runs, x=x)
    assert "\n" not in str(caught.value)


def test_tokens_of_a_function_are_refused():
    comparison = gfo.compare([search()], x="forward_tokens")
    with pytest.raises(gfo.GfoError, match="counted none; take evaluations or seconds"):
        comparison.plot()


def test_the_spread_of_candidates():
    z = np.array([[1.0, 0.0, 7.0], [3.0, 4.0, 9.0]])
    whole = np.array([False, False, True])
    assert spread_of(z, whole) == pytest.approx(np.sqrt((1 + 1 + 4 + 4) / 4))  # the integer gene is left out
    assert spread_of(z, ~whole & True) == pytest.approx(1.0)
    assert spread_of(z, np.ones(3, dtype=bool)) is None
    assert spread_of(z[:1], whole) is None
    assert spread_of(np.array([[np.inf], [1.0]]), np.zeros(1, dtype=bool)) is None
    cloud = 0.3 * np.random.default_rng(0).standard_normal((4000, 50)) + 8.0
    assert spread_of(cloud, np.zeros(50, dtype=bool)) == pytest.approx(
        0.3, rel=0.01
    )  # of a Gaussian, its sigma


def test_the_history_holds_the_spread_of_what_was_asked():
    seen = []

    def noted(z):
        seen.append(z)
        return sphere(z)

    result = search(function=noted)
    assert [step.spread for step in result.history] == pytest.approx(
        [np.sqrt(z.var(axis=0).mean()) for z in seen]
    )
    assert len({step.spread for step in result.history}) > 1
    assert "spread" in result.history.trajectory()[0]


def test_dev_losses_that_are_not_finite_are_kept_as_null(tmp_path):
    result = search(
        function=lambda z: np.full(len(z), np.nan), dev_every=2, out=tmp_path / "run", evaluations=20
    )
    dev = [step.dev for step in History.read(tmp_path / "run" / "history.jsonl")]
    assert {"loss": None} in dev
    assert (tmp_path / "run" / "plot.png").exists()
    assert "none was finite" in str(result)


def test_a_result_shows_itself():
    result = search()
    assert "not scored" in str(result)
    result.score("test")
    text = str(result)
    before, after = (result.scores[when]["test"]["loss"] for when in ("before", "after"))
    assert text.splitlines()[1].split() == [
        "test",
        "loss",
        f"{before:.4f}",
        f"{after:.4f}",
        f"{after - before:+.4f}",
    ]
    for word in ("56 evaluations", "ended:      budget: 56 of 60", "the last recommendation", "not scored"):
        assert (word in text) == (word != "not scored")
    assert repr(result) == text
    assert f"{after:.4f}" in result._repr_html_()
    assert "<table" in result._repr_html_()


def test_the_slice_of_a_result(pieces, tmp_path):
    result = tune(pieces, options={"sigma0": 1.0}, dev_every=100)
    result.z = np.linspace(-1, 1, 10)  # dev may have liked the start best
    before = result.scoring
    figure = result.plot_slice(tmp_path / "slice.png", points=3)
    assert result.scoring.candidates == before.candidates + 11
    assert result.scoring.forward_tokens > before.forward_tokens
    start, end = result.evaluator(np.stack([np.zeros(10), result.z]), 0).loss
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == [f"start {start:.4g}", f"result {end:.4g}"]
    dev = result.evaluator.score(np.stack([np.zeros(10), result.z]), "dev").metrics["loss"]
    on_dev = [text.get_text() for text in result.plot_slice(points=2, split="dev").axes[0].texts]
    assert on_dev == [f"start {dev[0]:.4g}", f"result {dev[1]:.4g}"]
    assert on_dev != texts
    with pytest.raises(gfo.GfoError, match="split 'tset'"):
        result.plot_slice(points=2, split="tset")


def test_nearest_words_of_a_result(pieces):
    model = pieces[0]
    result = tune(pieces)
    table = result.nearest_words(k=2)
    assert len(table.rows) == 3
    assert "not to believe" in str(table)
    result.z = np.zeros(10)  # where each token is a word
    words = [repr(model.tokenizer.decode([i])) for i in result.evaluator.space.init_tokens]
    assert [row[1] for row in result.nearest_words(k=1).rows] == [f"{word} 1.00" for word in words]
    with pytest.raises(gfo.GfoError, match="k = 0 must be 1 to"):
        result.nearest_words(k=0)
    with pytest.raises(gfo.GfoError, match="the space has no soft prompt"):
        search().nearest_words()


def test_saving_a_figure_where_it_cannot_be_saved_is_an_error_of_one_line(tmp_path):
    result = search(out=tmp_path / "run")
    with pytest.raises(gfo.GfoError, match="cannot write there"):
        result.plot(tmp_path / "none" / "plot.png")
    shutil.rmtree(tmp_path / "run")
    assert isinstance(result, Result)
    assert result.plot().axes  # a figure needs no folder


def test_methods_are_paired_by_task_and_seed(pieces):
    """Two methods on two tasks: the same method whatever the task, and a pair for each task and seed."""
    model, task = pieces
    labels = {"a": "good", "b": "bad"}
    other = gfo.Classification(
        rows("")[:6], rows("bad"), rows("great"), template="It is {text}\n{soft}So:", labels=labels
    )
    runs = []
    for name in ("cma", "random"):
        for each in (task, other):
            for seed in (0, 1):
                runs.append(tune((model, each), optimizer=name, seed=seed))
                runs[-1].score("test")
    comparison = gfo.compare(runs)
    assert len(comparison.groups) == 4
    assert [group.method for group in comparison.groups] == ["cma", "cma", "random", "random"]
    [row] = comparison.differences("loss").rows
    losses = [run.score("test")["loss"] for run in runs]
    mean = np.mean(np.subtract(losses[:4], losses[4:]))
    assert row[:3] == ("cma - random", "4", f"{mean:+.4f}")
    wins = sum(a < b for a, b in zip(losses[:4], losses[4:], strict=True))
    assert comparison.wins("loss").rows[0][2] == str(wins)
    named = gfo.compare({"one": runs[:4], "two": runs[4:]})  # as the user names them
    assert named.differences("loss").rows[0][1:] == row[1:]
