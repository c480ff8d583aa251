"""The benchmark of successive halving, on curves that are known."""

from __future__ import annotations

import json

import numpy as np

from benchmarks.halving.__main__ import EVERY, RESULTS, RUNGS, STEPS, find, main
from gfo import ASHA


def test_curves_that_never_cross_are_found_and_others_are_not(tmp_path):
    fall = np.linspace(1, 0, STEPS // EVERY)
    apart = [(i + fall).tolist() for i in np.linspace(0, 5, 64)]
    crossing = [*apart[1:], (9 - 9.5 * (fall < 0.01)).tolist()]  # the best looks worst until the end
    for curves, share in ((apart, 1.0), (crossing, 0.0)):
        assert np.mean([find(curves, ASHA(RUNGS[4], 4), 1.0, seed)[0] for seed in range(5)]) == share
    lines = [{"options": {"lr": i}, "dev": curve} for i, curve in enumerate(apart)]
    (tmp_path / "curves.json").write_text(json.dumps({"curves": lines}))
    assert main(["--orders", "3", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "orders.json").read_text())
    assert found["orders"] == 3
    assert all(way["found"] <= 1 and way["spent"] < 0.5 for way in found["ways"].values())


def test_the_best_of_the_committed_grid_is_found_at_a_quarter_of_its_cost():
    """By halving; the control's two rungs are too few, as the order at the first says little."""
    lines = json.loads((RESULTS / "curves.json").read_text())["curves"]
    curves = [line["dev"] for line in lines]
    assert len(curves) == 64
    tried = {eta: [find(curves, ASHA(RUNGS[eta], eta), 0.25, seed) for seed in range(200)] for eta in RUNGS}
    assert np.mean([found for found, _ in tried[2]]) >= 0.9
    assert max(spent for _, spent in tried[2]) <= 0.25
    assert np.mean([found for found, _ in tried[4]]) < 0.5


def test_bad_input(tmp_path, capsys):
    assert main(["--orders", "0"]) == 2
    assert "--orders" in capsys.readouterr().err
