"""ASHA and Hyperband: rungs and promotions against the papers' algorithms and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gfo import ASHA, GfoError, Hyperband
from gfo.run.halving import Bracket

RUNGS = (1, 3, 9, 27)


def run_all(bracket, losses):
    """Begin trials one by one and run all promotions behind each; the losses [n, rungs]."""
    order = []
    for trial in range(len(losses)):
        bracket.begun += 1
        jobs = [(trial, 0)]
        while jobs:
            for job, rung in jobs:
                bracket.tell(job, rung, losses[job][rung])
                order.append((job, rung))
            jobs = bracket.promotions()
    return order


def algorithm_2(losses, eta, rungs):
    """ASHA as the paper has it, for one worker: promotion of the top 1 / eta, the highest rung first."""
    done = [{} for _ in range(rungs)]
    promoted = [set() for _ in range(rungs)]
    order, fresh = [], 0
    while True:
        job = None
        for k in range(rungs - 2, -1, -1):
            top = sorted(done[k], key=lambda t: (done[k][t], t))[: len(done[k]) // eta]
            ready = [t for t in top if t not in promoted[k]]
            if ready:
                job = (ready[0], k + 1)
                promoted[k].add(ready[0])
                break
        if job is None:
            if fresh == len(losses):
                return order
            job = (fresh, 0)
            fresh += 1
        done[job[1]][job[0]] = losses[job[0]][job[1]]
        order.append(job)


@pytest.mark.parametrize("eta", [2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_asha_is_algorithm_2(eta, seed):
    losses = np.random.default_rng(seed).random((60, 4))
    (bracket,) = ASHA(RUNGS, eta).brackets()
    order = run_all(bracket, losses)
    assert sorted(order) == sorted(algorithm_2(losses, eta, 4))
    shuffled = algorithm_2(losses[::-1], eta, 4)
    assert sorted(order) != sorted((59 - trial, rung) for trial, rung in shuffled)  # it depends on the order


@pytest.mark.parametrize("n", [1, 8, 27, 100])
def test_rungs_of_trials_that_come_best_first(n):
    """Then the first floor(n / eta) are promoted, and no others: floor(n / eta^k) at rung k."""
    losses = np.tile(np.arange(n)[:, None], (1, 4))
    (bracket,) = ASHA(RUNGS, 3).brackets()
    run_all(bracket, losses)
    assert [sorted(rung) for rung in bracket.losses] == [list(range(n // 3**k)) for k in range(4)]


def test_rungs_of_hyperband():
    """n = ceil((s_max + 1) eta^s / (s + 1)) and floor(n / eta^i), for R = 81 and eta = 3."""
    brackets = Hyperband([1, 3, 9, 27, 81]).brackets()
    assert [(b.size, b.rungs[0]) for b in brackets] == [(81, 1), (34, 3), (15, 9), (8, 27), (5, 81)]
    rng = np.random.default_rng(0)
    sizes = []
    for bracket in brackets:
        losses = rng.random((bracket.size, len(bracket.rungs)))
        run_all(bracket, losses)
        sizes.append([len(rung) for rung in bracket.losses])
        for k in range(len(bracket.rungs) - 1):
            here = sorted(bracket.losses[k], key=bracket.losses[k].get)
            assert set(bracket.losses[k + 1]) == set(here[: len(here) // 3])
        assert bracket.full
        assert bracket.ended
    assert sizes == [[81, 27, 9, 3, 1], [34, 11, 3, 1], [15, 5, 1], [8, 2], [5]]


def test_a_bracket_waits_for_all_of_its_trials():
    bracket = Bracket((1, 3), 3, size=6)
    for trial in range(6):
        assert not bracket.full
        bracket.begun += 1
        bracket.tell(trial, 0, float(trial))
        assert bool(bracket.promotions()) == (trial == 5)
    assert bracket.promotions() == [(0, 1), (1, 1)]
    bracket.tell(0, 1, 1.0)
    assert not bracket.ended
    bracket.tell(1, 1, 1.0)
    assert bracket.ended


@pytest.mark.parametrize("size", [None, 9])
def test_failed_trials_never_go_on(size):
    bracket = Bracket((1, 3, 9), 3, size=size)
    losses = np.full((9, 3), math.nan)
    losses[4] = 1.0
    order = run_all(bracket, losses)
    assert {trial for trial, rung in order if rung} <= {4}
    assert (4, 1) in order
    assert bracket.ended == (size is not None)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ASHA([]), ["rungs = []"]),
        (lambda: ASHA([0, 3]), ["at least 1"]),
        (lambda: ASHA([3, 3]), ["[3, 3]", "above the one before"]),
        (lambda: ASHA([1, 3], eta=1), ["eta = 1"]),
        (lambda: Hyperband([1, 3, 10]), ["10 is not eta = 3 times 3"]),
    ],
)
def test_bad_input(make, words):
    with pytest.raises(GfoError) as error:
        make()
    assert [word for word in words if word not in str(error.value)] == []
