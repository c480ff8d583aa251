"""The loop: budgets, history, selection, callbacks, interruption, folders."""

import json
import math
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

import gfo
from gfo.core.metric import LOSS
from gfo.core.protocols import Cost, Evaluation, Scores
from gfo.run.budget import Budget
from gfo.run.callbacks import Callback
from gfo.run.files import write_json
from gfo.run.history import History
from gfo.run.loop import minimize
from gfo.run.stored import load_point

D = 4
CENTRE = np.array([1.0, -2.0, 0.5, 3.0])


def sphere(z):
    return ((z - CENTRE) ** 2).sum(axis=1)


def make(name="cma", seed=1, **options):
    return gfo.optimizers.make(name, domain=gfo.Domain.unbounded(D), seed=seed, **options)


class WithDev:
    """Train loss is the sphere; dev has its optimum elsewhere, so that selection matters."""

    metrics = (LOSS, gfo.Metric("near"))

    def __init__(self, dev_centre):
        self.dev_centre, self.scored = dev_centre, []

    def __call__(self, z, step):
        return Evaluation(sphere(z), Cost(len(z), forward_tokens=10 * len(z), tokens_needed=9 * len(z)))

    def score(self, z, split):
        self.scored.append((split, z.copy()))
        loss = ((z - self.dev_centre) ** 2).sum(axis=1)
        return Scores({"loss": loss, "near": np.floor(10 - loss)}, Cost(len(z), 7, 7, 0.0))


def test_finds_the_optimum_of_a_plain_function():
    result = minimize(make(), sphere, budget=Budget(evaluations=2000))
    assert np.abs(result.z - CENTRE).max() < 1e-3
    assert result.loss < 1e-6
    assert np.abs(CENTRE).max() > 1  # control: the start is not the answer


def test_evaluations_are_never_exceeded():
    result = minimize(make(population=20), sphere, budget=Budget(evaluations=59))
    assert result.cost.candidates == 40
    assert [step.evaluations for step in result.history] == [20, 40]
    assert "40 of 59 evaluations" in result.stopped


def test_forward_tokens_end_the_run():
    result = minimize(make(population=8), WithDev(CENTRE), budget=Budget(forward_tokens=200))
    assert result.cost.forward_tokens == 240  # the step that reached 200 was the third
    assert result.cost.tokens_needed == 216
    assert "forward tokens" in result.stopped


def test_seconds_end_the_run():
    def slow(z):
        time.sleep(0.3)
        return sphere(z)

    result = minimize(make("random"), slow, budget=Budget(seconds=1.0))
    assert "seconds" in result.stopped
    assert 1 <= len(result.history) <= 4  # four sleeps are more than a second
    assert result.history[-1].seconds >= 1.0


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"evaluations": -5}, "evaluations = -5"),
        ({"evaluations": 0}, "evaluations = 0"),
        ({"seconds": math.nan}, "seconds = nan"),
        ({"forward_tokens": math.inf}, "forward_tokens = inf"),
        ({}, "at least one"),
    ],
)
def test_bad_budgets(limits, words):
    with pytest.raises(gfo.GfoError, match=words):
        Budget(**limits)


def test_budget_below_one_population():
    with pytest.raises(gfo.GfoError, match="10 evaluations are fewer than one population of 20"):
        minimize(make(population=20), sphere, budget=Budget(evaluations=10))


def test_same_seed_same_history_other_seed_another():
    runs = [minimize(make(seed=s), sphere, budget=Budget(evaluations=80)) for s in (1, 1, 2)]
    first, again, other = (run.history.trajectory() for run in runs)
    assert first == again
    assert first != other
    assert "seconds" not in first[0]


def test_history_holds_every_loss_and_the_best(tmp_path):
    result = minimize(make(population=6), sphere, budget=Budget(evaluations=60), out=tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert [line["evaluations"] for line in lines] == list(range(6, 61, 6))
    best = math.inf
    for line in lines:
        best = min(best, *line["loss"])
        assert line["best"] == best
    assert History.read(tmp_path / "run" / "history.jsonl").trajectory() == result.history.trajectory()


def test_failed_candidates_are_null_and_do_not_end_the_run():
    def fails(z):
        loss = sphere(z)
        loss[0], loss[1], loss[2] = np.nan, np.inf, -np.inf
        return loss

    result = minimize(make(population=8), fails, budget=Budget(evaluations=800))
    assert result.history[0].loss[:3] == [None, None, None]
    assert result.loss is not None
    assert result.loss < sphere(np.zeros((1, D)))[0] / 100
    json.dumps(result.summary(), allow_nan=False)


def test_all_failed_has_no_best():
    result = minimize(make(population=8), lambda z: np.full(len(z), np.nan), budget=Budget(evaluations=16))
    assert result.loss is None
    assert math.isnan(result.history[0].mean_loss)


def test_wrong_shape_of_a_function_is_named():
    with pytest.raises(gfo.GfoError, match=r"shape \(8, 4\) for 8 points"):
        minimize(make(population=8), lambda z: z, budget=Budget(evaluations=16))


def test_selection_is_the_recommendation_with_the_lowest_dev_loss():
    evaluator = WithDev(CENTRE / 3)  # passed early on the way to CENTRE
    result = minimize(make(population=10), evaluator, budget=Budget(evaluations=600), dev_every=2)
    points = np.concatenate([z for split, z in evaluator.scored if split == "dev"])
    losses = ((points - CENTRE / 3) ** 2).sum(axis=1)
    assert np.array_equal(result.z, points[losses.argmin()])
    assert not np.array_equal(result.z, points[-1])  # control: the last one would be another
    assert f"of {len(points)} snapshots" in result.selection
    assert result.scoring.candidates == len(points)
    assert result.cost.candidates == 600  # dev is not counted as search


def test_selection_as_black_box_tuning_has_it():
    """The incumbent, by another metric than the loss, the first of equals."""
    evaluator, asked = WithDev(CENTRE / 3), []

    class Keeps(Callback):
        def step(self, run):
            asked.append((run.incumbent.copy(), run.history[-1].best))

    result = minimize(
        make(population=10),
        evaluator,
        budget=Budget(evaluations=600),
        callbacks=[Keeps()],
        dev_every=2,
        selection=gfo.Selection(metric="near", point="incumbent"),
    )
    scored = np.concatenate([z for split, z in evaluator.scored if split == "dev"])[1:]
    assert np.array_equal(scored, [z for z, _ in asked[1::2]])
    np.testing.assert_allclose([sphere(z[None])[0] for z, _ in asked], [loss for _, loss in asked])
    near = np.floor(10 - ((scored - CENTRE / 3) ** 2).sum(axis=1))
    assert np.array_equal(result.z, scored[near.argmax()])
    assert len(np.unique(near)) < len(near)  # there are equals
    assert result.selection == f"the incumbent with the highest dev near of {1 + len(scored)} snapshots"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"point": "incumbents"}, "unknown selection point 'incumbents': did you mean 'incumbent'"),
        ({"metric": "nearness"}, "unknown selection metric 'nearness': did you mean 'near'"),
    ],
)
def test_bad_selection(options, words):
    def run():
        selection = gfo.Selection(**options)
        minimize(make(), WithDev(CENTRE), budget=Budget(evaluations=64), dev_every=1, selection=selection)

    with pytest.raises(gfo.GfoError, match=words):
        run()


def test_without_dev_the_last_recommendation():
    optimizer = make()
    result = minimize(optimizer, sphere, budget=Budget(evaluations=100))
    assert np.array_equal(result.z, optimizer.recommend())
    assert result.selection == "the last recommendation"


def test_the_last_recommendation_is_scored_even_between_intervals():
    evaluator = WithDev(CENTRE)
    minimize(make(population=10), evaluator, budget=Budget(evaluations=50), dev_every=3)
    assert len(evaluator.scored) == 3  # before the first step, after the third, after the last


class Counts(Callback):
    def __init__(self, stop_at):
        self.stop_at, self.calls = stop_at, []

    def start(self, run):
        self.calls.append("start")

    def step(self, run):
        self.calls.append(run.history[-1].step)
        return "enough" if run.history[-1].step == self.stop_at else None

    def end(self, run):
        self.calls.append("end")


def test_callbacks_see_each_step_and_can_stop():
    counts = Counts(stop_at=2)
    result = minimize(make(), sphere, budget=Budget(evaluations=1000), callbacks=[counts])
    assert counts.calls == ["start", 0, 1, 2, "end"]
    assert result.stopped == "enough"


def test_the_method_stops_by_itself():
    result = minimize(make(), sphere, budget=Budget(evaluations=100_000))
    assert result.cost.candidates < 100_000
    assert "budget" not in result.stopped


def test_ctrl_c_keeps_what_was_found(tmp_path):
    calls = []

    def interrupted(z):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return sphere(z)

    counts = Counts(stop_at=None)
    result = minimize(make(), interrupted, budget=Budget(evaluations=1000), out=tmp_path, callbacks=[counts])
    assert result.stopped == "interrupted"
    assert counts.calls[-1] == "end"
    assert len(History.read(tmp_path / "history.jsonl")) == 4
    assert np.array_equal(load_point(tmp_path), result.z)
    assert json.loads((tmp_path / "result.json").read_text())["stopped"] == "interrupted"


def test_an_error_in_the_function_still_ends_the_callbacks():
    def broken(z):
        raise RuntimeError("mine")

    counts = Counts(stop_at=None)
    with pytest.raises(gfo.GfoError, match=r"each of the first 8 candidates failed \(RuntimeError: mine\)"):
        minimize(make(), broken, budget=Budget(evaluations=100), callbacks=[counts])
    assert counts.calls == ["start", "end"]


def test_run_folder(tmp_path):
    record = {"seed": 7, "optimizer": "cma"}
    evaluator = WithDev(CENTRE)
    result = minimize(
        make(), evaluator, budget=Budget(evaluations=64), out=tmp_path, dev_every=4, record=record
    )
    result.score("test")
    saved = json.loads((tmp_path / "result.json").read_text())
    assert saved["seed"] == 7
    assert saved["cost"]["candidates"] == 64
    assert saved["scores"]["before"]["test"]["loss"] == pytest.approx((CENTRE**2).sum())
    assert saved["scores"]["after"]["test"]["loss"] < saved["scores"]["before"]["test"]["loss"]
    assert saved["versions"]["numpy"] == np.__version__
    assert saved["hardware"]["cores"] >= 1
    assert np.array_equal(load_file(tmp_path / "best.safetensors")["z"], result.z)
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_that_holds_a_run_is_refused(tmp_path):
    minimize(make(), sphere, budget=Budget(evaluations=16), out=tmp_path)
    before = (tmp_path / "history.jsonl").read_bytes()
    with pytest.raises(gfo.GfoError, match="holds a run already"):
        minimize(make(), sphere, budget=Budget(evaluations=16), out=tmp_path)
    assert (tmp_path / "history.jsonl").read_bytes() == before


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(gfo.GfoError, match=r"cannot write there .*; name another folder"):
        minimize(make(), sphere, budget=Budget(evaluations=16), out=tmp_path / "file" / "run")


def test_damaged_files_are_named(tmp_path):
    (tmp_path / "best.safetensors").write_bytes(b"abc")
    (tmp_path / "history.jsonl").write_text('{"step": 0}\n')
    with pytest.raises(gfo.GfoError, match=r"no readable best\.safetensors"):
        load_point(tmp_path)
    with pytest.raises(gfo.GfoError, match="cannot read"):
        History.read(tmp_path / "history.jsonl")


@pytest.mark.parametrize("split", ["test", "dev", "tset"])
def test_a_function_has_no_rows_to_hold_out(split):
    result = minimize(make(), sphere, budget=Budget(evaluations=64))
    with pytest.raises(gfo.GfoError, match=rf'split "{split}": a function has no rows'):
        result.score(split)
    assert result.scores == {}
    assert result.score("train")["loss"] == pytest.approx(sphere(result.z[None])[0])


def test_dev_of_a_function_is_refused_before_the_first_step():
    with pytest.raises(gfo.GfoError, match="dev_every = 2: a function has no dev rows"):
        minimize(make(), lambda z: 1 / 0, budget=Budget(evaluations=64), dev_every=2)
    minimize(make(), WithDev(CENTRE), budget=Budget(evaluations=64), dev_every=2)  # control


class Plans:
    """Cools down by the number of evaluations ahead."""

    def __init__(self, name="random"):
        self.inner, self.plans = make(name, population=8), []
        self.domain = self.inner.domain

    def plan(self, evaluations=None, *, batches_differ=False):
        self.plans.append((evaluations, batches_differ))

    def ask(self):
        share = 1.0 if not self.plans or self.plans[0][0] is None else 10 / self.plans[0][0]
        return share * self.inner.ask()

    def tell(self, z, loss):
        self.inner.ask()
        self.inner.tell(z, loss)

    def __getattr__(self, name):
        return getattr(self.inner, name)


class Differs(WithDev):
    batches_differ = True


@pytest.mark.parametrize(
    ("evaluator", "budget", "expected"),
    [
        (sphere, Budget(evaluations=24), (24, False)),
        (WithDev(CENTRE), Budget(evaluations=24, forward_tokens=10**6), (24, False)),
        (Differs(CENTRE), Budget(forward_tokens=100), (None, True)),
    ],
)
def test_the_optimizer_is_told_once_what_lies_ahead(evaluator, budget, expected):
    optimizer = Plans()
    minimize(optimizer, evaluator, budget=budget)
    assert optimizer.plans == [expected]


def test_a_run_that_goes_on_keeps_its_plan(tmp_path):
    def run(out, evaluations, **options):
        optimizer = Plans()
        return optimizer, minimize(
            optimizer, sphere, budget=Budget(evaluations=evaluations), out=out, **options
        )

    run(tmp_path / "a", 24)
    optimizer, longer = run(tmp_path / "a", 48, resume=True)
    assert optimizer.plans == [(24, False)]
    assert len(longer.history) == 6
    other, _ = run(tmp_path / "b", 48)
    assert other.plans == [(48, False)]  # control: a new run has another
    facts = json.loads((tmp_path / "a" / "run.json").read_text())
    assert facts.pop("plan") == {"evaluations": 24, "batches_differ": False}
    write_json(tmp_path / "a" / "run.json", facts)  # as before there were plans
    with pytest.raises(gfo.GfoError, match="asks for other points"):
        run(tmp_path / "a", 64, resume=True)
