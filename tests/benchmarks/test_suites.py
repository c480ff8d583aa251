"""The suites of others: their figures by hand, their functions' optima, runs that go on."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest

import gfo
from benchmarks.optimizers import nevergrad_names
from benchmarks.optimizers.__main__ import main
from benchmarks.optimizers.methods import method
from benchmarks.optimizers.problems import Finished, Recorder
from benchmarks.optimizers.suite_runs import area, comparisons, read_lines, suite_cells
from benchmarks.optimizers.suites import NOISY, SUITES, TARGETS, Ioh
from gfo.core.domain import Domain
from gfo.core.errors import GfoError


def test_area_by_hand():
    """Reached at once: 1; at the square root of the budget: a half; never: 0."""
    assert area(np.array([1.0]), 100) == 1
    assert area(np.array([10.0]), 100) == pytest.approx(0.5)
    assert area(np.array([1.0, 10.0, np.inf, 1000.0]), 100) == pytest.approx(1.5 / 4)


@pytest.mark.parametrize("name", NOISY)
def test_noisy_functions_are_least_at_their_optimum(name):
    f = NOISY[name](20, seed=1)
    exact = getattr(f, "exact", f)
    here = np.ones((1, 20))  # at 0 all batches of a logistic problem lose ln 2
    if name == "minibatches":
        shared = f(np.repeat(here, 2, axis=0))
        assert shared[0] == shared[1]  # a batch is that of all candidates
        assert shared[0] != f(here)[0]  # control: and another one the next time
        assert exact(here)[0] == exact(here)[0]
    near = exact(f.optimum[None] + 0.1 * np.random.default_rng(0).standard_normal((50, 20)))
    assert exact(f.optimum[None])[0] == pytest.approx(0, abs=1e-12)
    assert (near > 1e-6).all()
    if name in ("minibatches", "multiplicative noise"):
        assert f(here)[0] != f(here)[0]  # control: without `exact` it is noisy


def test_the_narrow_valley_is_steep_in_all_directions_but_one():
    f = NOISY["narrow valley"](6, seed=0)
    hessian = np.empty((6, 6))
    steps = np.eye(6)
    for i in range(6):
        for j in range(6):
            pair = f(f.optimum + np.stack([steps[i] + steps[j], steps[i], steps[j]]))
            hessian[i, j] = pair[0] - pair[1] - pair[2]
    curvatures = np.linalg.eigvalsh(hessian)
    np.testing.assert_allclose(curvatures / curvatures[0], [1, *[1000] * 5], rtol=1e-6)


def test_problems_of_ioh():
    ioh = pytest.importorskip("ioh")
    ones, zeros = np.ones((1, 64)), np.zeros((2, 64))
    f = Ioh("PBO", 1, 1, 64)
    assert (f(ones)[0], f(zeros)[1], f.minimum) == (-64, 0, -64)
    turned = Ioh("PBO", 1, 2, 64)
    assert -60 < turned(ones)[0] < -4  # control: other bits are right
    each = turned(np.vstack([zeros[:1], np.eye(64)]))
    assert turned((each[1:] < each[0]).astype(float)[None])[0] == -64
    sphere = Ioh("BBOB", 1, 2, 5)
    optimum = ioh.get_problem(1, 2, 5, ioh.ProblemClass.BBOB).optimum
    assert sphere(np.array([optimum.x]))[0] == pytest.approx(sphere.minimum)
    precisions = SUITES["bbob"].precisions(20.0)
    np.testing.assert_allclose(np.array(precisions) * 20, TARGETS)


def test_comparisons_take_the_best_rival():
    suite = SUITES["noisy"]
    shares = {"cma": [0.2, 0.4, 0.3], "pycma": [0.6, 0.5, 0.7], "cmaes:CMA": [0.1, 0.2, 0.15]}
    lines = [{"function": "narrow valley", "d": 500, "method": m, "share": s} for m, s in shares.items()]
    [found] = comparisons(suite, ["cma"], lines)
    assert found["figure"] == 0.3
    assert found["to_best_of_all"] == pytest.approx(2.0)
    assert found["rivals"].items() <= {"pycma": 0.6, "cmaes:CMA": 0.15}.items()
    assert found["best_rival"] == min(found["rivals"], key=found["rivals"].get)
    assert found["to_rival"] == pytest.approx(0.3 / min(found["rivals"].values()))


def test_a_run_that_was_cut_off_goes_on(tmp_path, capsys):
    command = ["--suite", "noisy", "--methods", "random", "--dims", "3", "--instances", "1"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    path = tmp_path / "suites" / "noisy.jsonl"
    whole = path.read_text()
    assert {cell.function for cell in read_lines(path)} == set(NOISY)
    path.write_text(whole[:-20])  # killed within the last line
    assert main([*command, "--out", str(tmp_path)]) == 0
    assert "4 cells, 1 of them to run" in capsys.readouterr().err
    assert path.read_text() == whole
    assert len(json.loads((tmp_path / "suites" / "noisy.json").read_text())["comparisons"]) == 4
    path.write_text("{}\n" + whole)
    with pytest.raises(GfoError, match="line 1 is no result"):
        read_lines(path)


def test_methods_for_bits_alone_are_run_on_bits():
    cells = suite_cells(SUITES["pbo"], ["cma", "ga"], [64], 2)
    assert {cell.method for cell in cells} <= {"ga", "pymoo:GA"}


def test_an_unknown_suite_is_one_line(capsys):
    assert main(["--suite", "bbbo"]) == 2
    assert "bbob" in capsys.readouterr().err


def test_what_is_solved_counts_as_solved():
    """Below a hundredth of the start all losses are the same in ratios; above they are not."""
    suite = SUITES["noisy"]
    shares = {"spsa": [1e-30], "cma": [0.008], "ga": [0.04]}
    lines = [{"function": "narrow valley", "d": 500, "method": m, "share": s} for m, s in shares.items()]
    ratios = {entry["method"]: entry["to_best_of_all"] for entry in comparisons(suite, list(shares), lines)}
    assert ratios == {"spsa": 1, "cma": 1, "ga": pytest.approx(4)}


def test_without_bounds_a_method_goes_where_bounded_it_may_not():
    class Slope(gfo.testing.BenchmarkFunction):
        def _loss(self, z):
            return np.abs(z - 20.0).sum(axis=1)

    lowest = {}
    for name in ("cma", "cma:unbounded", "pycma", "pycma:unbounded"):
        f = Slope(Domain.box(-5.0, 5.0, 4), np.full(4, np.nan), 0.0)
        recorder = Recorder(f, 600, [], 1.0)
        with contextlib.suppress(Finished):
            method(name).run(recorder, 1)
        lowest[name] = recorder.lowest
    assert min(lowest["cma"], lowest["pycma"]) >= 4 * 15
    assert lowest["cma:unbounded"] == lowest["pycma:unbounded"] < 1


def test_settings_are_options_of_a_method():
    f = NOISY["narrow valley"](4, seed=0)
    for name, K in (("openai-es", 8), ("openai-es:noise", 48)):
        recorder, asked = Recorder(f, 96, [], 0.5), []
        recorder.look = lambda z, recorder=recorder, asked=asked: asked.append(recorder.evaluations)
        with contextlib.suppress(Finished):
            method(name).run(recorder, 0)
        assert asked[0] == K


def test_a_name_of_nevergrad_runs_or_says_why_in_a_line(monkeypatch):
    found = [nevergrad_names.within_limit("DiscreteOnePlusOne")]
    assert [found[0][where] for where in nevergrad_names.DOMAINS] == ["runs"] * 4
    monkeypatch.setattr(nevergrad_names, "LIMIT_S", 0.0)
    found.append(nevergrad_names.within_limit("DE"))
    text = "\n".join(nevergrad_names.table(found))
    assert "Of 2 names in nevergrad's registry 1 run on all four domains" in text
    assert "| DE | R^5, box, genes, mixed | over 0 s |" in text
