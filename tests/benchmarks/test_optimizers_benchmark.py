"""The optimizer benchmark: its counts against runs known by construction, statistics by hand, files."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.optimizers import __main__ as optimizers
from benchmarks.optimizers import cells, problems
from benchmarks.optimizers.methods import PAIRS, REFERENCES, Pair, installed
from benchmarks.optimizers.problems import Finished, Recorder
from benchmarks.optimizers.statistics import Runs, compare, ecdf, interval, quantiles, summary
from gfo import testing

ROOT = Path(__file__).parents[2]


def toward(f, *distances):
    """Points at these shares of the way from the optimum to the start, zero: gaps are their squares."""
    return f.optimum * (1 - np.array(distances)[:, None])


def test_evaluations_are_those_of_the_first_point_that_reaches_each_precision():
    f = testing.Sphere(4, seed=1)
    recorder = Recorder(f, 100, [0.3, 0.1, 0.01, 0.001])
    np.testing.assert_allclose(recorder(toward(f, 1.0, 0.6, 0.5)), f(toward(f, 1.0, 0.6, 0.5)))
    assert recorder.hits == [3, None, None, None]  # 0.36 is not within 0.3, 0.25 is
    recorder(toward(f, 0.9, 0.05, 0.3))
    assert recorder.hits == [3, 5, 5, None]
    assert recorder.one(toward(f, 0.04)[0]) == pytest.approx(0.0016 * (f.optimum**2).sum())
    with pytest.raises(Finished):
        recorder.look(toward(f, 0.02)[0])  # a recommendation costs no evaluation
    assert recorder.hits == [3, 5, 5, 7]
    assert recorder.evaluations == 7
    assert all(a <= b for a, b in zip(recorder.seconds, recorder.seconds[1:], strict=False))


def test_what_is_found_behind_the_budget_does_not_count():
    f = testing.Sphere(3, seed=1)
    recorder = Recorder(f, 4, [0.3, 0.1])
    recorder(toward(f, 1.0, 1.0, 0.9))
    with pytest.raises(Finished):
        recorder(toward(f, 0.5, 0.1))  # evaluations 4 and 5
    assert recorder.hits == [4, None]


def test_precisions_are_of_the_loss_without_noise():
    f = testing.NoisySphere(3, seed=1, noise=1e6)
    recorder = Recorder(f, 100, [0.3])
    losses = recorder(np.repeat(toward(f, 0.9), 50, axis=0))
    assert losses.min() < 0
    assert recorder.hits == [None]
    recorder(toward(f, 0.9, 0.9))
    assert recorder.evaluations == 52


def test_seconds_are_the_methods_own(monkeypatch):
    clock = iter([0.0, 5.0, 8.0, 10.0, 11.0])  # begin; entered, left; entered, left
    monkeypatch.setattr(problems.time, "process_time", lambda: next(clock))
    f = testing.Sphere(3, seed=1)
    recorder = Recorder(f, 100, [0.3, 0.1])
    recorder(toward(f, 0.9))
    recorder(toward(f, 0.5))
    assert recorder.seconds == [7.0, None]  # 5 before the first call, 2 between the calls


def line(method, function, d, hits, **changes):
    """A line of raw results; hits are evaluations to 0.3 and to 0.01, None otherwise."""
    hits = [[first, None, None, last, None, None] for first, last in hits]
    seconds = [None if row[3] is None else row[3] / 1000 for row in hits]
    cell = {"method": method, "function": function, "d": d, "seeds": len(hits), "box": True, "low": False}
    return {**cell, "budget": 100, "hits": hits, "seconds": seconds, **changes}


def test_ecdf_by_hand():
    lines = [line("a", "sphere", 2, [(10, 20), (30, None)]), line("a", "rastrigin", 2, [(40, None)] * 3)]
    # sphere: 2 seeds x 6 precisions, reached at 10, 20, 30; rastrigin: 3 x 6, reached at 40 three times
    share = ecdf(Runs([*lines, line("a", "one-max", 2, [(1, 1)])]), "a", 2, np.array([9, 10, 25, 30, 50]))
    np.testing.assert_allclose(share, [0, 1 / 24, 2 / 24, 3 / 24, 3 / 24 + 3 / 36])
    assert ecdf(Runs(lines), "a", 3, np.array([1])) is None


def test_quartiles_with_unsolved_runs():
    inf = math.inf
    assert quantiles(np.array([5.0, inf, 3.0, 1.0, 4.0])) == (4.0, 3.0, 5.0)
    assert quantiles(np.array([5.0, inf, inf, 1.0, 4.0])) == (5.0, 4.0, inf)
    assert quantiles(np.array([inf, inf, 1.0])) == (inf, inf, inf)


def test_the_rule_by_hand():
    p = Pair("a", ("b",), "", functions=("sphere", "ellipsoid", "rosenbrock", "rastrigin"))
    found = {
        "sphere": (24, 20),  # 1.2 times: within
        "ellipsoid": (25, 20),  # 1.25 times: not
        "rosenbrock": (None, 30),  # the reference alone
        "rastrigin": (90, None),  # ours alone
    }
    lines = [
        line(name, f, 2, [(1, at)] * 3)
        for f, both in found.items()
        for name, at in zip("ab", both, strict=True)
    ]
    compared = compare(Runs(lines), p, "b")
    expected = {"functions": 4, "both": 2, "within": 1, "ours": 3, "theirs": 3, "kept": False}
    assert summary(compared) == expected
    assert [c.function for c in compared if c.exception] == ["ellipsoid", "rosenbrock"]
    assert summary(compare(Runs(lines), p, "b", 0.3))["kept"]
    short = [{**r, "budget": 50} if r["method"] == "b" else r for r in lines]
    assert summary(compare(Runs(short), p, "b"))["ours"] == 2  # 90 is behind the smaller budget


def test_the_interval_of_a_ratio_covers_it_and_shrinks():
    rng = np.random.default_rng(1)
    few, many = (interval(*(rng.lognormal(0, 0.3, (2, n)) * [[3.0], [2.0]])) for n in (15, 1500))
    assert few[0] < 1.5 < few[1]
    assert many[0] < 1.5 < many[1]
    assert many[1] - many[0] < 0.3 * (few[1] - few[0])
    assert interval(np.full(5, np.inf), np.ones(5)) == (math.inf, math.inf)


def test_hopeless_cells_end_early(monkeypatch):
    reached = [None, None, None, None, None, 1.0, 1.0, 1.0]
    monkeypatch.setattr(cells, "_run", lambda cell, seed: {"hits": [seed], "seconds": reached[seed]})
    cell = cells.Cell("snes", "sphere", 2, 8, False, 100)
    assert cells.run_cell(cell)["hits"] == [[s] for s in range(5)]
    reached[2] = 1.0
    assert cells.run_cell(cell)["hits"] == [[s] for s in range(8)]


SMALL = [
    "--methods",
    "sobol",
    "--functions",
    "sphere,rastrigin",
    "--dims",
    "2",
    "--seeds",
    "3",
    "--most",
    "64",
]


def test_an_interrupted_run_goes_on_where_it_ended(tmp_path, monkeypatch, capsys):
    assert optimizers.main([*SMALL, "--out", str(tmp_path)]) == 0
    raw = tmp_path / "runs.jsonl"
    whole, table = raw.read_text(), (tmp_path / "table.md").read_text()
    assert len(whole.splitlines()) == 3 + 2 * 2  # low budget; two functions, ours and scipy's
    assert "within 1.2 x" in table
    assert "| sobol | scipy:Sobol |" in table
    found = json.loads((tmp_path / "results.json").read_text())
    assert {row["method"] for row in found["medians"]} == {"sobol", "scipy:Sobol"}
    assert all(row["budget"] == 64 and row["seeds"] == 3 for row in found["medians"])
    assert {"python", "numpy", "scipy"} <= set(found["versions"])
    assert (tmp_path / "ecdf-d2.png").stat().st_size > 1000

    kept = whole.splitlines(keepends=True)[:4]
    raw.write_text("".join(kept) + whole.splitlines()[4][:50])  # cut off while writing
    run_cell, again = optimizers.run_cell, []
    monkeypatch.setattr(optimizers, "run_cell", lambda cell: again.append(cell) or run_cell(cell))
    assert optimizers.main([*SMALL, "--out", str(tmp_path)]) == 0
    assert [cell.method for cell in again] == ["sobol", "scipy:Sobol", "scipy:Sobol"]

    def without_seconds(text):
        return [{**json.loads(x), "seconds": 0} for x in text.splitlines()]

    assert without_seconds(raw.read_text()) == without_seconds(whole)
    assert "7 cells, 3 of them to run" in capsys.readouterr().err


def test_cells_run_in_processes_of_their_own(tmp_path):
    """The command as it is typed: its module has another name in the processes that it starts."""
    command = [sys.executable, "-m", "benchmarks.optimizers", *SMALL, "--processes", "2"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == 3 + 2 * 2


def test_ctrl_c_keeps_what_is_done(tmp_path, monkeypatch, capsys):
    run_cell, calls = optimizers.run_cell, []

    def stopped(cell):
        calls.append(cell)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return run_cell(cell)

    monkeypatch.setattr(optimizers, "run_cell", stopped)
    assert optimizers.main([*SMALL, "--out", str(tmp_path)]) == 130
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == 2
    assert "goes on where" in capsys.readouterr().err


def test_every_reference_runs_and_gets_nearer():
    checked = 0
    for name, reference in REFERENCES.items():
        if not installed(name):
            continue
        sphere = problems.problem("sphere", 2, 3, box=name.split(":")[0] != "pycma")
        recorder = Recorder(sphere, 300, [0.9999, 0.1])
        try:
            reference.run(recorder, 1)
        except Finished:
            checked += 1
        assert recorder.hits[0] is not None, name
        if name != "nevergrad:SPSA":  # its fixed gain of 1e-5 hardly moves
            assert recorder.hits[1] is not None, name
    assert checked >= 8


@pytest.mark.parametrize(("name", "reference"), [("cma", "pycma"), ("sep-cma", "pycma:diagonal")])
def test_ours_and_pycma_by_itself_are_the_same_run(name, reference):
    runs = [cells._run(cells.Cell(m, "ellipsoid", 3, 1, False, 400), 2) for m in (name, reference)]
    assert runs[0]["hits"] == runs[1]["hits"]
    assert runs[0]["hits"][2] is not None


def test_after_500_evaluations_at_d_200_every_method_is_below_random_search():
    """A short search for a soft prompt, from zero, in an unbounded domain of unit scale."""
    for function in ("sphere", "ellipsoid", "logistic"):
        chosen = {
            p.name: cells.Cell(p.name, function, 200, 2, False, 500, True)
            for p in PAIRS
            if p.name != "sobol"  # draws at random, too
        }
        reached = {name: np.array(cells.run_cell(cell)["loss"]) for name, cell in chosen.items()}
        for name, loss in reached.items():
            if name != "random":
                assert (loss < 0.9 * reached["random"]).all(), (name, function)
                assert (loss < 0.9).all(), (name, function)


def test_overhead_is_written(tmp_path, capsys):
    assert optimizers.main(["--overhead", "--methods", "snes,ipop", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "overhead.json").read_text())
    assert (found["d"], found["candidates"]) == (1000, 64)
    assert min(found["ask_tell_cpu_seconds"][name] for name in ("snes", "ipop")) > 0
    assert "snes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "psoo"], "unknown method 'psoo': did you mean 'pso'"),
        (["--functions", "sphere,spheer"], "unknown function 'spheer': did you mean 'sphere'"),
        (["--dims", "2,x"], "--dims x: must be whole numbers"),
        (["--dims", "1"], "--dims 1"),
        (["--seeds", "2"], "--seeds 2: medians and spread need at least 3"),
        (["--most", "0"], "--most 0: must be at least 1"),
        (["--processes", "0"], "--processes 0"),
        (["--out", "no-such-folder"], "no such folder"),
        (["--data", "folder"], "is read with --overhead only"),
        (["--overhead", "--out", ".", "--data", "no-such-folder"], "has no file kshot16"),
        (["--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_bad_option_is_one_line_and_exit_code_2(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert optimizers.main(arguments) == 2
    *_, error = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert message in error


def test_a_damaged_file_of_results_is_named(tmp_path, capsys):
    (tmp_path / "runs.jsonl").write_text('{"method": "sobol"}\n{}\n')
    assert optimizers.main([*SMALL, "--out", str(tmp_path)]) == 2
    assert "runs.jsonl, line 1 is no result" in capsys.readouterr().err
