"""The table of the runs below a folder: finished and not, sorted, filtered, damaged ones left out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import gfo
from gfo.core.protocols import Cost, Scores
from gfo.run.evaluate import FunctionEvaluator

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


class Judged(FunctionEvaluator):
    """A sphere with an accuracy on test."""

    metrics = (gfo.Metric("loss", True, "nats"), gfo.Metric("accuracy", form="share"))

    def score(self, z, split):
        loss = self(z, 0).loss
        return Scores({"loss": loss, "accuracy": 1 / (1 + loss)}, Cost(len(z)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs of two methods and two seeds, one of them killed, one damaged."""
    place = tmp_path_factory.mktemp("study")
    for name in ("cma", "random"):
        for seed in (0, 1):
            made = gfo.optimizers.make(name, domain=gfo.Domain.unbounded(3), seed=seed)
            evaluator = Judged(lambda z: ((z - 1) ** 2).sum(axis=1))
            out = place / name / f"seed{seed}"
            gfo.minimize(made, evaluator, budget=gfo.Budget(evaluations=30), out=out).score("test")
    shutil.copytree(place / "cma" / "seed0", place / "killed")
    (place / "killed" / "result.json").unlink()
    shutil.copytree(place / "cma" / "seed0", place / "damaged")
    (place / "damaged" / "result.json").write_text("{")
    (place / "no run").mkdir()
    (place / "again").symlink_to(place / "cma")
    return place


def names(found):
    return [run.name for run in found.found]


def test_all_runs_are_found_once(folder):
    found = gfo.runs(folder)
    assert names(found) == ["cma/seed0", "cma/seed1", "killed", "random/seed0", "random/seed1"]
    assert [run.ended == "" for run in found.found] == [False, False, True, False, False]
    assert "damaged" in found.notes[0]
    assert found.found[0].numbers["evaluations"] == found.found[2].numbers["evaluations"]
    assert found.found[0].numbers["loss"] == found.found[2].numbers["loss"]
    assert "not yet" in str(found)
    alone = gfo.runs(folder / "cma" / "seed1").found[0]
    assert alone.numbers == found.found[1].numbers


def test_sorted_by_what_is_better(folder):
    by_accuracy = gfo.runs(folder, sort="test.accuracy")
    values = [run.numbers.get("test.accuracy") for run in by_accuracy.found]
    assert values[-1] is None  # the killed one
    assert values[:-1] == sorted(values[:-1], reverse=True)
    losses = [run.numbers["test.loss"] for run in gfo.runs(folder, sort="test.loss").found[:-1]]
    assert losses == sorted(losses)
    assert names(by_accuracy) != names(gfo.runs(folder))  # control: not by name


def test_filtered(folder):
    assert names(gfo.runs(folder, filter="optimizer=random")) == ["random/seed0", "random/seed1"]
    assert names(gfo.runs(folder, filter=["method=cma", "seed=1"])) == ["cma/seed1"]
    assert names(gfo.runs(folder, filter="seed=7")) == []


def test_as_pandas(folder):
    frame = gfo.runs(folder).to_pandas()
    assert frame.loc["random/seed1", "optimizer"] == "random"
    assert frame["test.accuracy"].isna().sum() == 1


def test_runs_of_former_versions():
    found = gfo.runs(RESULTS / "spaces", sort="test.accuracy", filter="space.kind=lora")
    assert len(found.found) > 2
    assert {run.facts["method"] for run in found.found} == {"cma"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sort": "test.acuracy"}, "unknown number of runs 'test.acuracy': did you mean 'test.accuracy'"),
        ({"filter": "optimiser=cma"}, "unknown key of runs 'optimiser': did you mean 'optimizer'"),
        ({"filter": "cma"}, "filter = 'cma' must be KEY=VALUE"),
    ],
)
def test_what_is_not_known_is_one_line(folder, options, words):
    with pytest.raises(gfo.GfoError, match=words) as caught:
        gfo.runs(folder, **options)
    assert "\n" not in str(caught.value)


def test_folders_without_runs(folder, tmp_path):
    with pytest.raises(gfo.GfoError, match="is no folder; give one that run folders are in"):
        gfo.runs(folder / "none")
    with pytest.raises(gfo.GfoError, match="holds no run that can be read"):
        gfo.runs(tmp_path)
    with pytest.raises(gfo.GfoError, match=r"holds no run that can be read; left out: .*damaged"):
        gfo.runs(folder / "damaged")
