"""Searches of hyperparameters: promotions go on and cost what they add, killed is as whole, bad input."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import gfo
from gfo import ASHA, Budget, GfoError, GfoWarning, Hyperband, Hyperparameters, Log, Outcome, When
from gfo.run.trials import TRIALS

RUNGS = [100, 300, 900, 2700]
SPACE = Hyperparameters(
    {
        "lr": Log(1e-5, 1e-1),
        "batch": [4, 8, 16],
        "optimizer": ["sgd", "adam"],
        "momentum": When("optimizer", "sgd", (0.0, 0.9)),
    }
)


def final(lr, batch, optimizer, momentum=None):
    """Where a trial's curve goes: the best is (1e-3, 8, adam)."""
    return (
        (math.log10(lr) + 3) ** 2 + 0.3 * (optimizer == "sgd") + 0.1 * (momentum or 0) + abs(batch - 8) / 40
    )


def curve(budget, folder, **values):
    """A trial that goes on where it stood, and says what it did.

    One that was killed between its end and its record is asked again for what it has.
    """
    done = folder / "done.json"
    parts = json.loads(done.read_text()) if done.exists() else []
    assert not parts or parts[-1] <= budget, "it was run again"
    time.sleep(0.002)
    if budget not in parts:
        (folder / "new.json").write_text(json.dumps([*parts, budget]))
        os.replace(folder / "new.json", done)
    return Outcome(final(**values) + 5 / (1 + budget / 100), budget, {"speed": 1 / budget})


def searched(folder, *, trial=curve, tokens=9000, **options):
    given = {"optimizer": "random", "halving": ASHA(RUNGS), "progress": False, "seed": 1} | options
    return gfo.search(trial, SPACE, budget=Budget(forward_tokens=tokens), out=folder, **given)


def same(study):
    """What must be the same to the bit."""
    records = [
        (r.step, r.trial, r.z, r.values, r.rung, r.budget, r.loss, r.forward_tokens) for r in study.records
    ]
    return records, study.best, [list(step.loss) for step in study.result.history]


@pytest.mark.parametrize("optimizer", ["random", "ga", "bo", "de", "optuna:tpe"])
def test_it_finds_the_best_and_counts_what_was_added(tmp_path, optimizer):
    if optimizer.startswith("optuna"):
        pytest.importorskip("optuna")
    study = searched(tmp_path / "s", optimizer=optimizer, tokens=20_000)
    assert study.best["optimizer"] == "adam"
    assert abs(math.log10(study.best["lr"]) + 3) < 0.5
    assert study.trials[0].budget == RUNGS[-1]
    reached = {r.trial: r.budget for r in study.records}  # the last of each
    assert study.result.cost.forward_tokens == sum(reached.values())
    assert len(study.trials) == study.result.cost.candidates
    for trial, budget in reached.items():
        done = json.loads((tmp_path / "s" / "trials" / f"{trial:04d}" / "done.json").read_text())
        assert done == RUNGS[: RUNGS.index(budget) + 1]


def test_told_losses_are_on_the_scale_of_the_first_rung(tmp_path):
    """By hand: a trial's last loss and the mean gains until its rung."""
    study = searched(tmp_path / "s")
    told = np.concatenate([step.loss for step in study.result.history])
    # all curves fall by the same amounts, so that what is told is the loss at the first rung
    expected = [final(**r.values) + 5 / 2 for r in sorted(study.trials, key=lambda r: r.trial)]
    np.testing.assert_allclose(told, expected, atol=1e-12)
    assert max(r.loss for r in study.trials[:1]) < min(told)  # control: what trials had is another number


def test_hyperband(tmp_path):
    study = searched(tmp_path / "s", halving=Hyperband(RUNGS), tokens=60_000)
    first = [r.trial for r in study.records if r.budget == 100 and r.rung == 0]
    assert first[:27] == list(range(27))
    begun = {r.trial: r.budget for r in study.records if r.rung == 0}
    sizes = [27, 12, 6, 4]
    expected = np.repeat(RUNGS, sizes).tolist()
    assert [begun[t] for t in range(sum(sizes))] == expected
    assert begun[sum(sizes)] == 100  # a new round
    assert study.best["optimizer"] == "adam"


def test_without_halving(tmp_path):
    found = gfo.search(final, SPACE, optimizer="ga", budget=Budget(evaluations=150), seed=3, progress=False)
    assert found.loss == pytest.approx(final(**found.best))
    assert found.loss < 0.05
    assert len(found.records) == found.result.cost.candidates
    start = SPACE.point({"lr": 1e-3, "batch": 8, "optimizer": "adam"}).tolist()
    begun = gfo.search(
        final, SPACE, optimizer="sa", options={"x0": start}, budget=Budget(evaluations=8), progress=False
    )
    assert begun.loss < 0.05


def test_jobs_side_by_side_give_the_same(tmp_path):
    with ThreadPoolExecutor(3) as pool:
        two = searched(tmp_path / "b", executor=pool)
    assert same(two) == same(searched(tmp_path / "a"))
    assert same(two) != same(searched(tmp_path / "c", seed=2))


@pytest.mark.parametrize("halving", [ASHA(RUNGS), Hyperband(RUNGS)], ids=["asha", "hyperband"])
def test_killed_twenty_times(tmp_path, halving):
    """SIGKILL at any moment; what is resumed ends to the bit as what was not stopped."""
    whole = searched(tmp_path / "whole", halving=halving)
    rng, kills = np.random.default_rng(0), 0
    for _ in range(200):
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                searched(tmp_path / "killed", halving=halving, resume=True)
            os._exit(0)
        time.sleep(rng.uniform(0.005, 0.08))
        os.kill(child, signal.SIGKILL)
        kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        if kills == 20:
            break
    end = searched(tmp_path / "killed", halving=halving, resume=True)
    assert same(end) == same(whole)
    assert kills == 20
    again = searched(tmp_path / "killed", halving=halving, resume=True)  # it had ended
    assert same(again) == same(whole)
    more = searched(tmp_path / "killed", halving=halving, resume=True, tokens=12_000)
    assert same(more) == same(searched(tmp_path / "more", halving=halving, tokens=12_000))
    assert len(more.records) > len(end.records)


@pytest.mark.parametrize("calls", [1, 8, 17, 20])
def test_killed_between_a_trials_end_and_its_record(tmp_path, calls):
    """The trial is asked again for the budget that it has reached, and nothing else differs."""
    whole = searched(tmp_path / "whole")
    count = iter(range(calls - 1))

    def killed(budget, folder, **values):
        found = curve(budget, folder, **values)
        if next(count, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            searched(tmp_path / "killed", trial=killed)
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    kept = (tmp_path / "killed" / TRIALS).read_text().splitlines() if calls > 1 else []
    assert len(kept) == calls - 1  # what ended last has no record
    assert same(searched(tmp_path / "killed", resume=True)) == same(whole)


def test_a_warning_made_an_error_is_no_trials_failure(tmp_path):
    """It ends the search, whose trials are not tried again under other numbers."""

    def fails(budget, folder, **values):
        if folder.name == "0020":
            raise ValueError("once")
        return curve(budget, folder, **values)

    with pytest.raises(GfoWarning, match="trial 20 failed"):  # as the suite takes warnings
        searched(tmp_path / "a", trial=fails)
    with pytest.warns(GfoWarning, match="trial 20 failed"):
        whole = searched(tmp_path / "b", trial=fails)
    assert same(searched(tmp_path / "a", trial=fails, resume=True)) == same(whole)


def test_failed_trials(tmp_path):
    def fails(lr, budget, **values):
        if lr > 1e-3:
            raise ValueError("too fast\nin two lines")
        return -math.log10(lr) / budget if lr < 1e-4 else math.nan

    with pytest.warns(GfoWarning, match=r"trial \d+ failed \(ValueError: too fast\); it is nan"):
        study = gfo.search(
            fails,
            SPACE,
            halving=ASHA([1, 3]),
            optimizer="random",
            budget=Budget(evaluations=40),
            out=tmp_path,
            progress=False,
        )
    assert study.result.failed
    assert study.best["lr"] < 1e-4
    assert {r.error for r in study.records} == {None, "ValueError: too fast"}
    assert "failed" in str(study.table())
    lines = (tmp_path / TRIALS).read_text().splitlines()
    assert len(lines) == len(study.records)
    assert all(json.loads(line)["loss"] is None or json.loads(line)["values"]["lr"] < 1e-4 for line in lines)


def test_the_table(tmp_path):
    study = searched(tmp_path / "s")
    table = study.table()
    assert table.header == ("trial", "lr", "batch", "optimizer", "momentum", "budget", "loss", "speed")
    assert table.rows[0][0] == str(study.trials[0].trial)
    assert "9," in table.notes[0]
    assert study.to_csv().count("\n") == len(table.rows) + 1


def refused(call, *parts):
    with pytest.raises(GfoError) as error:
        call()
    assert "\n" not in str(error.value)
    assert [part for part in parts if part not in str(error.value)] == [], str(error.value)


def test_bad_input(tmp_path):
    budget = Budget(evaluations=16)
    refused(lambda: gfo.search(final, SPACE, halving=ASHA(RUNGS), budget=budget), "no argument 'budget'")
    refused(lambda: gfo.search(lambda lr: lr, SPACE, budget=budget), "no argument 'batch'", "['lr']")
    refused(lambda: gfo.search(final, SPACE, optimizer="boo", budget=budget), "unknown optimizer 'boo'")
    refused(lambda: gfo.search(final, {"lr": Log(1e-5, 1e-1)}, budget=budget), "hyperparameters")

    def broken(**values):
        raise RuntimeError("no data")

    refused(
        lambda: gfo.search(broken, SPACE, optimizer="random", budget=budget, progress=False),
        "each of the first",
        "RuntimeError: no data",
    )
    searched(tmp_path / "s")
    refused(lambda: searched(tmp_path / "s"), "holds a run already")
    refused(lambda: searched(tmp_path / "s", resume=True, halving=ASHA([1, 2])), "halving")
    (tmp_path / "s" / TRIALS).write_text('{"trial": 0}\n')
    refused(lambda: searched(tmp_path / "s", resume=True, tokens=12_000), TRIALS, "line 1", "new folder")


def test_importance_and_the_figure(tmp_path):
    """The learning rate explains most of what is lost; what does nothing explains nothing."""
    pytest.importorskip("optuna")

    def loss(lr, batch, optimizer, momentum=None):
        return (math.log10(lr) + 3) ** 2 + 0.3 * (optimizer == "sgd")

    study = gfo.search(loss, SPACE, optimizer="random", budget=Budget(evaluations=128), progress=False)
    found = study.importance()
    assert list(found)[:2] == ["lr", "optimizer"]
    assert found["lr"] > 0.8
    assert found["batch"] < 0.05
    figure = study.plot(tmp_path / "trials.png")
    assert (tmp_path / "trials.png").stat().st_size > 10_000
    assert len([axes for axes in figure.axes if axes.get_xlabel()]) == len(SPACE.names)


@pytest.mark.parametrize("optimizer", ["bo", "sa", "optuna:tpe"])
def test_it_begins_in_the_middle(optimizer):
    """Of every range, where the method's own start is a corner; another start is an option."""
    if optimizer.startswith("optuna"):
        pytest.importorskip("optuna")

    def first(**options):
        study = gfo.search(
            final, SPACE, optimizer=optimizer, options=options, budget=Budget(evaluations=16), progress=False
        )
        return study.records[0].values

    begun = first()
    assert (begun["lr"], begun["batch"]) == (pytest.approx(1e-3), 8)
    other = Hyperparameters(SPACE.space, continuous=not gfo.optimizers.takes_genes(optimizer))
    at = other.point({"lr": 1e-4, "batch": 16, "optimizer": "adam"})
    assert first(x0=at.tolist())["lr"] == pytest.approx(1e-4)


class Until(gfo.Callback):
    """Ends a run after some steps."""

    def __init__(self, steps):
        self.steps = steps

    def step(self, run):
        return "enough" if len(run.history) >= self.steps else None


@pytest.mark.parametrize("options", [{"population": 1}, {"population": 4}, {"acquisition": "thompson"}])
def test_bo_asks_for_no_choices_twice(options):
    """It finds nearly all that there are; without `repair` it asks again for what it knows."""
    space = {"a": [1, 2, 3, 4], "b": ["x", "y", "z"]}

    def loss(a, b):
        return (a - 2) ** 2 + "zyx".index(b) / 3

    def tried(steps, **more):
        given = {"optimizer": "bo", "budget": Budget(evaluations=12), "progress": False}
        given |= {"options": options | more, "callbacks": [Until(steps)]}
        return gfo.search(loss, Hyperparameters(space), **given)

    steps = {1: 11, 4: 3}.get(options.get("population"), 2)
    study = tried(steps)
    values = [tuple(record.values.values()) for record in study.records]
    assert len(set(values)) == len(values) >= 9
    if options == {"population": 1}:
        assert (study.best, study.loss) == ({"a": 2, "b": "z"}, 0.0)
        assert len(tried(steps, repair=None).records) < len(values)
