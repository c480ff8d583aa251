"""The benchmark of racing, on losses that are known."""

from __future__ import annotations

import json

import numpy as np
import pytest

import gfo
from benchmarks.racing.__main__ import RESULTS, main
from benchmarks.racing.losses import Population
from benchmarks.racing.orders import race, raced, simulated
from gfo.core.seeding import stream

HOW = gfo.Racing(block=2, first=4, p=0.1, survivors=1)


def population(seed=0, K=6, B=12):
    rng = np.random.default_rng(seed)
    return 0.4 * rng.normal(size=(K, 1)) + rng.normal(size=(1, B)) + 0.5 * rng.normal(size=(K, B))


def test_the_numbers_are_those_by_hand():
    losses = population()
    best = min(range(6), key=lambda k: sum(losses[k]) / 12)
    share, same, fewer = [], [], []
    for seed in range(10):
        how = gfo.Racing(block=2, first=4, p=0.1, survivors=1, seed=seed)
        told, seen = race(losses, how)
        share.append(sum(map(sum, seen.tolist())) / 72)
        same.append(min(range(6), key=lambda k: told[k]) == best)
        some = stream(seed, "order of rows").permutation(12)[: round(share[-1] * 12)]
        fewer.append(min(range(6), key=lambda k: sum(losses[k, i] for i in some)) == best)
    found = raced(losses, HOW, 10)
    assert found["share"] == pytest.approx(np.mean(share), abs=1e-4)
    assert found["same"] == np.mean(same)
    assert found["fewer"] == np.mean(fewer)
    assert 0 < found["share"] < 1


def test_candidates_that_are_apart_are_told_apart_and_equal_ones_are_not():
    apart = np.arange(6.0)[:, None] + np.linspace(0, 1, 12)
    assert raced(apart, HOW, 5) == {
        "share": round((12 + 5 * 4) / 72, 4),
        "same": 1,
        "fewer": 1,
        "correlation": 1,
    }
    assert raced(population(), gfo.Racing(survivors=6), 5)["share"] == 1  # nobody may leave
    equal = population() - population().mean(axis=1)[:, None]
    assert raced(equal, HOW, 30)["same"] < 0.8


def test_false_drops_follow_p():
    few, many = (simulated(gfo.Racing(p=p), 0.3, races=60) for p in (0.002, 0.3))
    assert few["dropped"] <= 0.05 < many["dropped"]
    assert few["share"] > many["share"]


def test_the_default_on_the_committed_losses():
    """At most .65 of the tokens for the same best in 95 % of 200 orders; all on as many rows find it less."""
    records = json.loads((RESULTS / "losses.json").read_text())["populations"]
    assert len(records) == 12
    found = {}
    for each in map(Population.of, records):
        found[each.task, each.space, each.when] = raced(each.losses, gfo.Racing(), 200)
    assert max(row["share"] for row in found.values()) <= 0.65
    assert min(row["same"] for row in found.values()) >= 0.95
    assert all(row["fewer"] < row["same"] for row in found.values())
    written = json.loads((RESULTS / "orders.json").read_text())["raced"]
    for row in written[:12]:
        assert row["same"] == found[row["task"], row["space"], row["when"]]["same"]


def test_the_command_goes_by_the_file(tmp_path, capsys):
    made = Population("sst2", "ia3, read", "start", 0.1, population(K=8, B=32))
    (tmp_path / "losses.json").write_text(json.dumps({"populations": [made.record]}))
    np.testing.assert_allclose(Population.of(made.record).losses, made.losses, atol=1e-5)
    arguments = ["--out", str(tmp_path), "--orders", "2", "--figure", str(tmp_path / "races.png")]
    assert main(arguments) == 0
    facts = json.loads((tmp_path / "orders.json").read_text())
    assert {row["space"] for row in facts["raced"]} == {"ia3, read"}
    assert (tmp_path / "races.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--orders", "0"], "--orders 0: must be at least 1"),
        (["--part", "searches"], "--part searches: it needs rows; give --data"),
        (["--out", "{tmp}"], "it holds no losses.json; give --data"),
    ],
)
def test_bad_input(tmp_path, arguments, words, capsys):
    assert main([a.format(tmp=tmp_path) for a in arguments]) == 2
    assert words in capsys.readouterr().err
