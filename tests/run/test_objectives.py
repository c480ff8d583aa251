"""Several objectives and limits in `gfo.tune`: against every point that there is, to the bit when resumed."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from toy import Half, Parts, all_points, task

import gfo
from gfo.core.metric import Metric
from gfo.core.protocols import Cost, Evaluation, Scores
from gfo.optimizers.dominance import not_beaten
from gfo.run.aims import Aims, Limit
from gfo.run.front import Front
from gfo.run.integrity import check_folder
from gfo.run.loop import minimize
from gfo.run.scored_front import ScoredFront, load_front
from gfo.testing import tiny_model

BOTH = ["loss", "bytes"]
MODEL = tiny_model()
SPACES = {"10 of 2": (Parts(MODEL, 10, 2, seed=5), 500), "7 of 3": (Parts(MODEL, 7, 3, seed=4), 1000)}
SMALL = Parts(MODEL, 6, 2, seed=5)


def tune(space=SMALL, budget=60, **options):
    options = {"progress": False, "budget": gfo.Budget(evaluations=budget)} | options
    return gfo.tune(MODEL, options.pop("task", None) or task(), space, **options)


def everything(space, **options):
    """All points and their losses [N, 2] in loss and bytes."""
    z = all_points(space)
    found = gfo.LocalEvaluator(MODEL, task(**options), space)(z, 0)
    return z, np.column_stack([found.loss, found.values["bytes"]])


@pytest.mark.parametrize("name", SPACES)
def test_nsga2_finds_the_whole_front_and_ga_the_best_within_limits(name):
    """Of 1,024 and 2,187 points with half of as many evaluations."""
    space, budget = SPACES[name]
    z, losses = everything(space)
    front = {tuple(point) for point in z[not_beaten(losses)]}
    assert len(front) == 13
    result = tune(space, budget, objectives=BOTH, options={"population": 40}, task=task(dev=0))
    assert {tuple(point) for point in result.found.z} == front
    assert len(result.front().z) == 13  # no dev rows: all of them
    blind = z[np.random.default_rng(0).choice(len(z), budget, replace=False)]
    assert len(front & set(map(tuple, blind))) < 11  # control
    limit = float(np.quantile(losses[:, 1], 0.3))
    allowed = losses[:, 1] <= limit
    best = losses[allowed, 0].min()
    for optimizer in ("ga", "nsga2"):
        kept = tune(space, budget, optimizer=optimizer, limits={"bytes": limit}, task=task(dev=0))
        assert kept.loss == pytest.approx(best, abs=1e-6)
        assert space.measure(kept.z[None])["bytes"][0] <= limit
        broken = sum(step.broken for step in kept.history)
        assert 0 < broken < sum(len(step.loss) for step in kept.history)
        assert f"limits:     bytes at most {limit:,.0f}: kept by" in str(kept)
    assert losses[:, 0].min() < best - 1e-4  # control: the limit costs something


def test_points_that_are_repaired_to_a_budget():
    """All C(10, 5) = 252 of them: the best with 160 evaluations, the whole front with 200."""
    space = Half(MODEL, 10, 2, seed=5)
    z = np.unique(space.repair(all_points(space)), axis=0)
    assert len(z) == 252
    found = gfo.LocalEvaluator(MODEL, task(dev=0), space)(z, 0)
    losses = np.column_stack([found.loss, found.values["bytes"]])
    for optimizer in ("ga", "nsga2"):
        result = tune(space, 160, optimizer=optimizer, task=task(dev=0))
        assert result.loss == pytest.approx(losses[:, 0].min(), abs=1e-6)
        assert result.z.sum() == 5
    several = tune(space, 200, objectives=BOTH, task=task(dev=0), options={"population": 20})
    assert {tuple(point) for point in several.found.z} == {tuple(point) for point in z[not_beaten(losses)]}
    assert (several.found.z.sum(axis=1) == 5).all()
    assert len(several.found.z) > 4


class Judge:
    """A bowl about 1 with a size, which is what a point has of 1; failures here and there."""

    batches_differ = False

    def __init__(self, d=3, measures=True):
        self.d = d
        if measures:
            self.measure = lambda z: {"size": np.abs(z).sum(axis=1)}

    def __call__(self, z, step):
        loss = ((z - 1) ** 2).sum(axis=1)
        loss[np.floor(1000 * z[:, 0]) % 11 == 0] = np.nan
        return Evaluation(loss, Cost(len(z)), {"size": np.abs(z).sum(axis=1)})

    def score(self, z, split):
        return Scores({"loss": ((z - 1) ** 2).sum(axis=1)}, Cost(len(z)))


OWN = [name for name in gfo.optimizers.names() if name not in ("bo", "nsga2")]


@pytest.mark.parametrize("dev_every", [None, 3])
@pytest.mark.parametrize("name", [*OWN, "nsga2", "nevergrad:DE"])
def test_no_method_recommends_what_breaks_a_limit(name, dev_every):
    """|z| of at most 1.5 in all, where the optimum has 3: the best within is 0.75."""
    domain, limits, budget = gfo.Domain.unbounded(3), {"size": 1.5}, gfo.Budget(evaluations=600)
    for measures in (True, False):
        judge = Judge(measures=measures)
        optimizer = gfo.optimizers.make(name, domain=domain, seed=1)
        result = minimize(optimizer, judge, budget=budget, limits=limits, dev_every=dev_every)
        assert np.abs(result.z).sum() <= 1.5
        assert 0.75 <= result.loss < 3
        broken = [step.violation for step in result.history]
        assert any(value and value > 0 for value in itertools.chain(*broken))
    free = minimize(gfo.optimizers.make(name, domain=domain, seed=1), Judge(), budget=budget)
    assert free.history[0].violation is None
    assert free.loss < result.loss  # control


def test_what_breaks_a_limit_is_told_a_loss_behind_all_that_keep_to_it():
    """Deb (2000): the worst of those that keep to it, plus the violation as a share of the limit."""
    aims = Aims((), [Limit(Metric("size", lower_is_better=True), 2.0)], 1)
    optimizer = gfo.optimizers.make("random", domain=gfo.Domain.unbounded(1), seed=0)
    z = np.arange(4.0)[:, None]

    def told(loss, size):
        return aims.judge(
            optimizer, z[: len(loss)], Evaluation(np.array(loss), values={"size": np.array(size)})
        )

    first = told([1.0, 5.0, np.nan], [3.0, 4.0, 1.0])  # none keeps to it: the worst loss of all so far
    np.testing.assert_array_equal(first.told, [5.5, 6.0, np.nan])
    assert np.isnan(first.loss).all()
    assert aims.allowed(z[3], None).tolist() == [0.0]  # the nearest
    second = told([7.0, 0.1, 3.0], [2.0, 3.0, 1.0])
    np.testing.assert_array_equal(second.told, [7.0, 7.5, 3.0])
    np.testing.assert_array_equal(second.loss, [7.0, np.nan, 3.0])
    np.testing.assert_array_equal(told([0.0, 1.0], [4.0, 2.0]).told, [8.0, 1.0])
    np.testing.assert_array_equal(told([0.0, 1.0], [np.nan, 2.0]).told, [np.nan, 1.0])


def test_a_share_is_to_be_a_limit_at_least():
    limit = Limit(Metric("accuracy", form="share"), 0.8)
    np.testing.assert_allclose(limit.violation(np.array([0.9, 0.8, 0.6, 0.0])), [0, 0, 0.25, 1])
    assert str(limit) == "accuracy at least 80.0%"
    assert Limit(Metric("drift", lower_is_better=True), 0.0).violation(np.array([0.5, -1])).tolist() == [
        0.5,
        0,
    ]


def test_limits_that_no_point_keeps_to_are_said_in_a_line():
    result = tune(optimizer="ga", limits={"bytes": 50.0})
    assert "bytes at most 50: kept by none of" in str(result)
    assert "the result is the nearest, 1 of the limit beyond" in str(result)
    assert SMALL.measure(result.z[None])["bytes"][0] == 100  # no part at all
    assert result.loss is None
    several = tune(objectives=BOTH, limits={"bytes": 50.0})
    with pytest.raises(gfo.GfoError, match=r"front: the run found none \(bytes at most 50"):
        several.front()


def test_a_limit_on_a_metric_of_the_task():
    """Accuracy of the step's rows; on dev it counts, too."""
    result = tune(budget=64, optimizer="random", limits={"accuracy": 0.6}, dev_every=1)
    values = np.concatenate([step.values["accuracy"] for step in result.history])
    violations = np.concatenate([step.violation for step in result.history])
    np.testing.assert_allclose(violations, np.maximum(0.6 - values, 0) / 0.6)
    assert 0 < (violations > 0).sum() < len(violations)
    if "by no point scored on dev" not in result.limited:
        assert result.score("dev")["accuracy"] >= 0.6
    impossible = tune(budget=64, optimizer="random", limits={"accuracy": 0.6}, dev_every=1, task=task(dev=1))
    assert np.isfinite(impossible.z).all()


def test_an_objective_that_is_to_be_high():
    result = tune(objectives=["accuracy", "bytes"], task=task(dev=0))
    z, _ = everything(SMALL)
    evaluator = gfo.LocalEvaluator(MODEL, task(dev=0), SMALL, values=["accuracy"])
    accuracy = evaluator(z, 0).values["accuracy"]
    front = result.front()
    assert front.values[0, 0] == accuracy.max()
    assert (np.diff(front.values[:, 0]) < 0).all()
    assert (np.diff(front.values[:, 1]) < 0).all()
    assert "accuracy" in str(front)
    np.testing.assert_allclose(evaluator.score(z, "train").metrics["accuracy"], accuracy)


def test_the_front_is_chosen_on_dev_shown_picked_and_exported(tmp_path):
    result = tune(objectives=BOTH, budget=64, out=tmp_path / "run")
    before = result.scoring.candidates
    front = result.front()
    assert result.scoring.candidates == before  # the run had read dev
    dev = gfo.LocalEvaluator(MODEL, task(), SMALL).score(result.found.z, "dev").metrics["loss"]
    sizes = SMALL.measure(result.found.z)["bytes"]
    kept = not_beaten(np.column_stack([dev, sizes]))
    assert {tuple(z) for z in front.z} == {tuple(z) for z in result.found.z[kept]}
    assert kept.sum() < len(kept)  # control: some points of the search are beaten on dev
    assert (np.diff(front.values[:, 0]) > 0).all()
    assert f"chosen on dev: {kept.sum()} of {len(kept)} points" in str(front)
    table = front.to_pandas()
    assert list(table["bytes"]) == list(SMALL.measure(front.z)["bytes"])
    assert {"train loss", "dev loss", "dev accuracy", "knee"} <= set(table)
    limit = float(np.median(front.values[:, 1]))
    picked = result.pick(bytes=limit)
    best = int(np.flatnonzero(front.values[:, 1] <= limit)[0])
    np.testing.assert_array_equal(picked.z, front.z[best])
    np.testing.assert_array_equal(result.pick(best).z, front.z[best])
    assert f"point {best} of the front" in str(picked)
    scores = picked.score("test")
    direct = gfo.LocalEvaluator(MODEL, task(), SMALL).score(picked.z[None], "test").metrics["loss"][0]
    assert scores["loss"] == pytest.approx(direct)
    assert "test" not in json.loads((tmp_path / "run" / "result.json").read_text())["scores"].get("after", {})
    picked.export_peft(tmp_path / "adapter")
    assert (tmp_path / "adapter" / "adapter_config.json").exists()
    result.plot_front(tmp_path / "front.png")
    result.plot(tmp_path / "steps.png")
    assert (tmp_path / "front.png").stat().st_size > 5000


def test_a_run_goes_on_to_the_bit_and_its_folder_opens_again(tmp_path):
    def run(out, budget, **options):
        limits = {"bytes": 500.0}
        return tune(objectives=BOTH, limits=limits, budget=budget, out=out, dev_every=2, **options)

    whole = run(tmp_path / "whole", 60, options={"population": 12})
    run(tmp_path / "parts", 30, options={"population": 12})
    parts = run(tmp_path / "parts", 60, options={"population": 12}, resume=True)
    assert parts.history.trajectory() == whole.history.trajectory()
    assert parts.history[-1].hypervolume > parts.history[0].hypervolume
    np.testing.assert_array_equal(parts.front().z, whole.front().z)
    np.testing.assert_array_equal(parts.front().train, whole.front().train)
    assert str(parts.front()) == str(whole.front())
    opened = load_front(tmp_path / "parts")
    np.testing.assert_array_equal(opened.z, whole.front().z)
    assert str(opened) == str(whole.front())
    again = run(tmp_path / "parts", 60, options={"population": 12}, resume=True)
    assert again.scoring.candidates == parts.scoring.candidates  # nothing was read on dev again
    assert [each.name for each in check_folder(tmp_path / "parts") if each.damaged] == []
    with pytest.raises(gfo.GfoError, match=r"has limits.bytes = 500.0, not None|limits.bytes"):
        tune(
            objectives=BOTH,
            budget=80,
            out=tmp_path / "parts",
            resume=True,
            dev_every=2,
            options={"population": 12},
        )
    file = tmp_path / "parts" / "front.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(gfo.GfoError, match=r"front.safetensors does not hold the points of result.json"):
        load_front(tmp_path / "parts")
    assert [each.name for each in check_folder(tmp_path / "parts") if each.damaged] == ["front.safetensors"]


def fronted(values, names=("loss", "bytes")):
    values = np.array(values, dtype=float)
    metrics = tuple(Metric(name, lower_is_better=True, form="measure") for name in names)
    return ScoredFront(metrics, np.arange(len(values), dtype=float)[:, None], values)


def test_the_knee_is_the_point_furthest_below_the_chord():
    """Scaled: (0, 1), (.1, .3), (.6, .1), (1, 0); below the chord by .6 and .3."""
    front = fronted([[1.0, 1000], [1.1, 300], [1.6, 100], [2, 0]])
    assert front.knee == 1
    assert front.pick("knee", {}) == 1
    assert fronted([[0, 2], [1, 1], [2, 0]]).knee is None  # a straight line
    assert fronted([[0, 2], [1.5, 1.5], [2, 0]]).knee is None  # bent outwards
    assert fronted([[0, 2], [2, 0]]).knee is None
    assert fronted([[0, 1, 1], [1, 0, 1], [1, 1, 0], [0.2, 0.2, 0.2]], ("a", "b", "c")).knee == 3


def test_large_fronts_are_thinned_before_dev_is_read():
    metrics = (Metric("loss", lower_is_better=True), Metric("bytes", lower_is_better=True))
    front, x = Front.empty(metrics, 1), np.linspace(0, 1, 300)
    front.add(x[:, None], np.column_stack([x, 1 - x]))
    found, cost = ScoredFront.of(front, Judge())
    assert len(found.z) == 100
    assert cost.candidates == 0  # without dev rows
    assert found.z[0, 0] == 0
    assert found.z[-1, 0] == 1  # the ends stay
    assert "300 points; the 100 least crowded" in str(found)
    assert np.diff(found.z[:, 0]).max() < 6.5 / 299  # of 299 / 99 on average


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"objectives": ["loss", "byte"]},
            "unknown objective or limit 'byte': did you mean 'bytes'? known are",
        ),
        ({"limits": {"bites": 3.0}}, "unknown objective or limit 'bites': did you mean 'bytes'?"),
        ({"objectives": ["loss", "loss"]}, "objectives: 'loss' is given twice; give each once"),
        ({"objectives": ["bytes"]}, "objectives = ['bytes']: give two or more"),
        ({"objectives": BOTH, "optimizer": "cma"}, "optimizer 'cma' takes one objective; take 'nsga2'"),
        ({"objectives": BOTH, "optimizer": "nsga3"}, "unknown optimizer 'nsga3': did you mean 'nsga2'"),
        (
            {"limits": {"bytes": float("inf")}, "optimizer": "ga"},
            "limits: bytes = inf must be a finite number",
        ),
        ({"limits": {"bytes": "80 MB"}}, "limits"),
        ({"objectives": "loss"}, "objectives"),
        ({"objectives": ["accuracy", "bytes"], "racing": gfo.Racing()}, "racing: candidates see other rows"),
    ],
)
def test_bad_input_is_one_line(options, message):
    with pytest.raises(gfo.GfoError) as error:
        tune(**options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda front: front.pick(None, {}), 'give "knee", the number of a point, or limits'),
        (lambda front: front.pick("knee", {"bytes": 3.0}), 'give "knee", the number of a point, or limits'),
        (lambda front: front.pick("elbow", {}), "unknown choice of pick 'elbow'"),
        (lambda front: front.pick("knee", {}), "the front of 2 points has no knee"),
        (lambda front: front.pick(2, {}), "pick: 2 is no point; they have the numbers 0 to 1"),
        (lambda front: front.pick(None, {"byte": 3}), "unknown objective 'byte': did you mean 'bytes'"),
        (
            lambda front: front.pick(None, {"bytes": 50}),
            "no point has bytes at most 50; the best bytes is 100",
        ),
    ],
)
def test_picks_that_cannot_be(call, message):
    with pytest.raises(gfo.GfoError) as error:
        call(fronted([[1.0, 2000], [2, 100]]))
    assert message in str(error.value)


def test_one_objective_has_no_front():
    result = tune(optimizer="ga")
    with pytest.raises(gfo.GfoError, match="the run had one objective; give gfo"):
        result.front()
    assert result.history[0].violation is None
    assert result.history[0].hypervolume is None


def test_candidates_of_different_batches_are_not_compared():
    """The front is the newest step's; with one batch, of all steps."""
    fronts = {}
    for size in (2, None):
        result = tune(
            objectives=BOTH, budget=60, task=task(dev=0, batch_size=size), options={"population": 20}
        )
        steps = [np.column_stack([step.loss, step.values["bytes"]]) for step in result.history]
        wanted = steps[-1] if size else np.concatenate(steps)
        fronts[size] = {tuple(row) for row in result.found.values}
        assert fronts[size] == {tuple(row) for row in wanted[not_beaten(wanted)]}
        assert len(steps) > 2


def test_a_function_of_several_objectives():
    def f(z):
        return np.column_stack([(z**2).sum(axis=1), ((z - 1) ** 2).sum(axis=1)])

    def made():
        domain = gfo.Domain.box(-2.0, 2.0, 2)
        return gfo.optimizers.make(
            "nsga2", domain=domain, seed=0, objectives=["near 0", "near 1"], population=20
        )

    result = minimize(made(), f, budget=gfo.Budget(evaluations=1000))
    front = result.front()
    np.testing.assert_allclose(front.values, f(front.z))
    assert np.abs(front.z[:, 0] - front.z[:, 1]).max() < 0.2  # between 0 and 1, on the diagonal
    assert front.z.min() > -0.1
    assert front.z.max() > 0.9
    assert front.values[front.knee].sum() == pytest.approx(1.0, abs=0.05)  # half-way
    with pytest.raises(gfo.GfoError, match=r"shape \(20,\) for 20 points; give \(20, 2\)"):
        minimize(made(), lambda z: z[:, 0], budget=gfo.Budget(evaluations=40))


def test_an_optimizer_made_before_brings_its_objectives():
    names = ["loss", "accuracy"]
    made = gfo.optimizers.make("nsga2", domain=SMALL.domain, seed=0, objectives=names, population=16)
    assert [metric.name for metric in tune(optimizer=made).front().objectives] == names
    with pytest.raises(gfo.GfoError, match="are not those of the optimizer given; make it with them"):
        tune(optimizer=made, objectives=BOTH)
