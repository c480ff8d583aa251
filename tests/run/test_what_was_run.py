"""What runs are taken as: resumed as one, compared as seeds, or told apart; also those of other formats."""

import functools
import json
import shutil
from pathlib import Path

import pytest

import gfo
from gfo import baselines
from gfo.run.files import FORMAT, read_json

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
FORMAT1 = Path(__file__).parent / "format1"
WORDS = ["good", "bad", "great", "poor", "a joy", "a bore"]


@pytest.fixture
def pieces(tiny):
    rows = [{"text": f"the food was {w}", "label": "ab"[i % 2]} for i, w in enumerate(WORDS)]
    task = gfo.Classification(rows, template="{text}{soft} So:", labels={"a": " good", "b": " bad"})
    return tiny("llama"), task


def tune(pieces, space, *, seed=0, evaluations=12, **options):
    budget = gfo.Budget(evaluations=evaluations)
    settings = {"optimizer": "random", "options": {"population": 6}, **options}
    return gfo.tune(*pieces, space, budget=budget, seed=seed, progress=False, **settings)


def labels(comparison):
    return [group.label for group in comparison.groups]


@pytest.mark.parametrize(
    "change", [{"alpha": 0.3}, {"targets": "k_proj"}, {"projection": "orthogonal"}, {"layers": "upper"}]
)
def test_spaces_that_differ_are_two_groups(pieces, change):
    model = pieces[0]
    runs = [tune(pieces, gfo.Scaling(model, 6), seed=s) for s in (0, 1)]
    runs += [tune(pieces, gfo.Scaling(model, 6, **change), seed=s) for s in (0, 1)]
    found = labels(gfo.compare(runs))
    assert [name.split("(")[1] for name in found] == ["2 seeds)", "2 seeds)"]
    assert all(key in name for key in change for name in found)


def test_tasks_options_and_functions_that_differ_are_two_groups(pieces):
    model, task = pieces
    space = gfo.SoftPrompt(model, 2, 5)
    words = {"template": "{text}{soft} It was", "labels": {"a": " good", "b": " bad"}}
    other = gfo.Classification(task.data.rows["train"], **words)
    assert len(gfo.compare([tune(pieces, space), tune((model, other), space, seed=1)]).groups) == 2
    make = functools.partial(gfo.optimizers.make, "random", domain=space.domain)
    made = [make(seed=0, population=4), make(seed=1, population=6)]
    runs = [tune(pieces, space, optimizer=each, seed=i) for i, each in enumerate(made)]
    assert len(gfo.compare(runs).groups) == 2

    def search(function, seed):
        made = gfo.optimizers.make("random", domain=gfo.Domain.unbounded(3), seed=seed)
        return gfo.minimize(made, function, budget=gfo.Budget(evaluations=20))

    def bowl(z):
        return (z**2).sum(axis=1)

    def shifted(z):
        return ((z - 1) ** 2).sum(axis=1)

    assert len(gfo.compare([search(bowl, 0), search(bowl, 1)]).groups) == 1
    assert len(gfo.compare([search(bowl, 0), search(shifted, 1)]).groups) == 2


def test_seeds_of_spaces_are_seeds(pieces):
    """Those of space and optimizer may vary together, or one of them alone."""
    model = pieces[0]
    for roots in ((0, 1), (0, 0)):
        runs = [tune(pieces, gfo.LoRASubspace(model, 5, seed=i), seed=s) for i, s in enumerate(roots)]
        assert labels(gfo.compare(runs)) == ["random, LoRASubspace (2 seeds)"]
    same = [tune(pieces, gfo.LoRASubspace(model, 5), out=None) for _ in range(2)]
    assert [len(group.runs) for group in gfo.compare(same).groups] == [1, 1]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda m: gfo.LoRASubspace(m, 5, seed=1), "space.seed = 0, not 1"),
        (lambda m: gfo.LoRASubspace(m, 5, alpha=0.2), "space.alpha = None, not 0.2"),
        (lambda m: gfo.LoRASubspace(m, 5, targets=["k_proj"]), r"space.targets = None, not \['k_proj'\]"),
        (lambda m: gfo.BiasSpace(m, 5), "space.kind = LoRASubspace, not BiasSpace"),
    ],
)
def test_a_run_goes_on_with_the_same_space_alone(pieces, tmp_path, make, words):
    first = tune(pieces, gfo.LoRASubspace(pieces[0], 5), out=tmp_path)
    with pytest.raises(gfo.GfoError, match=words) as error:
        tune(pieces, make(pieces[0]), out=tmp_path, resume=True, evaluations=24)
    assert "\n" not in str(error.value)
    again = tune(pieces, gfo.LoRASubspace(pieces[0], 5), out=tmp_path, resume=True, evaluations=24)
    assert again.history.trajectory()[:2] == first.history.trajectory()
    assert len(again.history) == 4


def test_a_run_goes_on_with_the_same_task_alone(pieces, tmp_path):
    model, task = pieces
    space = gfo.SoftPrompt(model, 2, 5)
    tune(pieces, space, out=tmp_path)
    options = {"template": "{text}{soft} So:", "labels": {"a": " good", "b": " bad"}}
    other = gfo.Classification(task.data.rows["train"], loss="hinge", **options)
    with pytest.raises(gfo.GfoError, match=r"task\.loss = ce, not hinge"):
        tune((model, other), space, out=tmp_path, resume=True)
    made = gfo.optimizers.make("random", domain=space.domain, seed=9, population=6)
    tune(pieces, space, out=tmp_path / "own", optimizer=made)
    made = gfo.optimizers.make("random", domain=space.domain, seed=8, population=6)
    with pytest.raises(gfo.GfoError, match=r"options\.seed = 9, not 8"):
        tune(pieces, space, out=tmp_path / "own", optimizer=made, resume=True)


def test_runs_that_vary_nothing_are_one(pieces, tmp_path):
    model, task = pieces
    space = gfo.SoftPrompt(model, 2, 5)
    runs = []
    for seed in (0, 1, 2):
        budget, out = gfo.Budget(evaluations=3), tmp_path / str(seed)
        runs.append(
            baselines.run(
                "prompt-tuning", model, task, space, budget=budget, seed=seed, progress=False, out=out
            )
        )
    for given in (runs, [run.folder for run in runs]):
        comparison = gfo.compare(given)
        assert labels(comparison) == ["prompt-tuning, SoftPrompt"]
        assert "3 runs are equal in every number: nothing varies; one is shown" in str(comparison)
        assert "±" not in str(comparison)
    mapped = gfo.compare({"mine": runs, "other": [tune(pieces, space), tune(pieces, space, seed=1)]})
    assert [len(group.runs) for group in mapped.groups] == [1, 2]
    assert len(mapped.notes) == 1


class Unrecorded:
    """A space of the user's that says nothing of its arguments."""

    def __init__(self, model, alpha):
        self._space = gfo.SoftPrompt(model, 2, 5, alpha=alpha)
        self.domain, self.decode = self._space.domain, self._space.decode


def test_what_was_not_recorded_is_not_grouped_but_by_the_user(pieces):
    model = pieces[0]
    runs = [tune(pieces, Unrecorded(model, 1.0 + seed), seed=seed) for seed in (0, 1)]
    comparison = gfo.compare(runs)
    assert [len(group.runs) for group in comparison.groups] == [1, 1]
    assert "Unrecorded: made with arguments that were not recorded" in str(comparison)
    assert "gfo.recorded" in str(comparison)
    assert [len(group.runs) for group in gfo.compare({"mine": runs}).groups] == [2]
    known = gfo.recorded(type("Recorded", (Unrecorded,), {"__init__": Unrecorded.__init__}))
    groups = gfo.compare([tune(pieces, known(model, 1.0), seed=seed) for seed in (0, 1)])
    assert labels(groups) == ["random, Recorded (2 seeds)"]
    assert not groups.notes


def test_the_format_is_written_and_a_newer_one_refused(pieces, tmp_path):
    space = gfo.SoftPrompt(pieces[0], 2, 5)
    tune(pieces, space, out=tmp_path)
    for name in ("run.json", "result.json"):
        assert json.loads((tmp_path / name).read_text())["format"] == FORMAT
    for name, call in (
        ("run.json", lambda: tune(pieces, space, out=tmp_path, resume=True)),
        ("result.json", lambda: gfo.compare([tmp_path])),
    ):
        whole = (tmp_path / name).read_text()
        for wrong in (FORMAT + 1, "x", 0):
            (tmp_path / name).write_text(json.dumps({**json.loads(whole), "format": wrong}))
            with pytest.raises(gfo.GfoError, match=rf"{name}: format = {wrong!r}, .* update gfo") as error:
                call()
            assert "\n" not in str(error.value)
        (tmp_path / name).write_text(whole)
        call()


def test_a_python_run_of_format_1_says_why_it_cannot_go_on(pieces, tmp_path):
    shutil.copytree(FORMAT1 / "python", tmp_path / "run")
    with pytest.raises(gfo.GfoError, match=r"did not record what .* finish it with gfo 0\.1\.0"):
        tune(pieces, gfo.SoftPrompt(pieces[0], 3, 10), out=tmp_path / "run", resume=True)
    assert labels(gfo.compare([tmp_path / "run"])) == ["random, SoftPrompt"]


FOLDERS = sorted(path.parent for path in RESULTS.rglob("result.json"))


def test_committed_runs_open_compare_and_plot(tmp_path):
    assert len(FOLDERS) > 30
    comparison = gfo.compare(FOLDERS)
    assert sum(len(group.runs) for group in comparison.groups) == len(FOLDERS)
    comparison.plot(tmp_path / "all.png")
    assert (tmp_path / "all.png").stat().st_size > 10_000
    old = [folder for folder in FOLDERS if RESULTS / "demo" / "auto" not in folder.parents]  # of 0.1.0
    assert all("format" not in read_json(folder / "result.json") for folder in old)
