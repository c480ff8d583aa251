"""NSGA-II: ranks, crowding and limits by hand, hypervolumes in closed form, fronts beside pymoo's."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from gfo import optimizers
from gfo.core.domain import Domain
from gfo.core.errors import GfoError
from gfo.optimizers import dominance
from gfo.optimizers import genetic_operators as op
from gfo.optimizers.nsga2 import NSGA2
from gfo.optimizers.random_search import RandomSearch
from gfo.testing import check_optimizer
from gfo.testing.several_objectives import check_front

NAN = math.nan


def zdt1(z):
    """Zitzler et al. (2000): f2 = 1 - sqrt(f1) on the front, d = 30."""
    g = 1 + 9 * z[:, 1:].mean(axis=1)
    return np.column_stack([z[:, 0], g * (1 - np.sqrt(z[:, 0] / g))])


def dtlz2(z):
    """Deb et al. (2002): the unit sphere's octant is the front, M = 3, d = 12."""
    g = 1 + ((z[:, 2:] - 0.5) ** 2).sum(axis=1)
    a, b = z[:, 0] * np.pi / 2, z[:, 1] * np.pi / 2
    return np.column_stack([g * np.cos(a) * np.cos(b), g * np.cos(a) * np.sin(b), g * np.sin(a)])


def made(M, d, seed=0, domain=None, **options):
    names = [f"f{m}" for m in range(M)]
    domain = domain or Domain.box(0.0, 1.0, d)
    return optimizers.make("nsga2", domain=domain, seed=seed, objectives=names, **options)


def searched(optimizer, f, evaluations):
    used = 0
    while used < evaluations:
        z = optimizer.ask()
        optimizer.tell(z, f(z))
        used += len(z)
    return optimizer.parents_told[:, :-1]


def brute_ranks(losses):
    """Front by front, by the definition."""
    ranks, left, rank = np.full(len(losses), -1), set(range(len(losses))), 0
    while left:
        beaten = {
            i
            for i, j in itertools.permutations(left, 2)
            if (losses[j] <= losses[i]).all() and (losses[j] < losses[i]).any()
        }
        for i in left - beaten:
            ranks[i] = rank
        left, rank = beaten, rank + 1
    return ranks


@pytest.mark.parametrize("M", [1, 2, 3, 5])
def test_ranks_are_those_of_the_definition(M):
    losses = np.random.default_rng(M).integers(0, 6, (60, M)).astype(float)  # with equal points
    ranks = dominance.pareto_ranks(losses)
    np.testing.assert_array_equal(ranks, brute_ranks(losses))
    first = dominance.not_beaten(losses)
    assert len(np.unique(losses[first], axis=0)) == first.sum()  # of equal ones the first
    assert set(map(tuple, losses[first])) == set(map(tuple, losses[ranks == 0]))


def test_limits_rank_by_feasibility_first():
    losses = np.array([[1.0, 4], [0, 0], [2, 5], [0, 0], [9, 9], [NAN, NAN]])
    violation = np.array([0, 0.5, 0, 0.1, 0, 0])
    ranks = dominance.constrained_ranks(losses, violation)
    assert ranks.tolist() == [0, 4, 1, 3, 2, 5]
    assert dominance.constrained_ranks(losses, np.zeros(6)).tolist() == [1, 0, 2, 0, 3, 4]  # control


def test_crowding_by_hand():
    losses = np.array([[0.0, 10], [1, 6], [4, 2], [10, 0]])
    found = dominance.crowding_distances(losses)
    assert found.tolist() == [np.inf, 4 / 10 + 8 / 10, 9 / 10 + 6 / 10, np.inf]
    assert dominance.spread_out(losses, 3).tolist() == [0, 2, 3]


def test_the_order_is_by_rank_then_crowding():
    losses = np.array([[0.0, 10], [1, 6], [4, 2], [10, 0], [11, 11], [4, 2]])
    places = dominance.standing(losses, np.zeros(6))
    assert places[[0, 3]].tolist() == [0, 0]  # the ends
    assert places[4] == places.max()
    assert places[1] > 0
    assert places[1] < places.max()


def test_hypervolume_is_the_closed_form_on_zdt1_and_dtlz2():
    """2/3 of the unit square under f2 = 1 - sqrt(f1); a cube without an eighth of a ball."""
    x = np.linspace(0, 1, 20_001)
    front = np.column_stack([x, 1 - np.sqrt(x)])
    steps = float(((x[1:] - x[:-1]) * np.sqrt(x[:-1])).sum())  # of so many points, by hand
    assert dominance.hypervolume(front, np.ones(2)) == pytest.approx(steps, abs=1e-12)
    assert steps == pytest.approx(2 / 3, abs=1e-4)
    angles = np.linspace(0, np.pi / 2, 160)
    a, b = (grid.ravel() for grid in np.meshgrid(angles, angles))
    octant = np.column_stack([np.cos(a) * np.cos(b), np.cos(a) * np.sin(b), np.sin(a)])
    volume = dominance.hypervolume(octant, np.ones(3))
    assert 1 - np.pi / 6 - 0.02 < volume < 1 - np.pi / 6
    assert dominance.hypervolume(octant + 1, np.ones(3)) == 0.0
    assert dominance.hypervolume(np.array([[0.25], [0.5]]), np.ones(1)) == 0.75


CASES = {"zdt1": (zdt1, 30, 2), "dtlz2": (dtlz2, 12, 3)}
REFERENCE = 1.1


def pymoo_front(f, d, M, seed, evaluations):
    pytest.importorskip("pymoo")
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import Problem
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.optimize import minimize

    class Given(Problem):
        def __init__(self):
            super().__init__(n_var=d, n_obj=M, xl=0.0, xu=1.0)

        def _evaluate(self, x, out, *_, **__):
            out["F"] = f(x)

    algorithm = NSGA2(pop_size=100, crossover=SBX(eta=20, prob=0.9), mutation=PM(eta=20))
    return minimize(Given(), algorithm, ("n_eval", evaluations), seed=seed).F


@pytest.mark.filterwarnings("ignore")  # pymoo's own
@pytest.mark.parametrize("name", CASES)
def test_fronts_cover_what_those_of_pymoo_do(name):
    """Mean of three seeds after 15,000 evaluations: within 2 %. Both start from random points."""
    f, d, M = CASES[name]
    reference = np.full(M, REFERENCE)
    ours, theirs = [], []
    for seed in range(3):
        x0 = np.random.default_rng(seed).random(d)
        ours.append(dominance.hypervolume(searched(made(M, d, seed, x0=x0), f, 15_000), reference))
        theirs.append(dominance.hypervolume(pymoo_front(f, d, M, seed + 1, 15_000), reference))
    assert np.mean(ours) == pytest.approx(np.mean(theirs), rel=0.02)
    random = f(np.random.default_rng(0).random((15_000, d)))  # control
    assert dominance.hypervolume(random, reference) < 0.9 * np.mean(ours)


def test_the_whole_contract_for_several_objectives():
    names = ["f0", "f1"]

    def factory(domain, seed):
        return optimizers.make("nsga2", domain=domain, seed=seed, objectives=names, sigma0=0.3)

    check_optimizer(factory, reduction=0.05)


def test_the_contract_finds_an_optimizer_that_looks_at_one_objective_alone():
    class OneEye(NSGA2):
        def tell(self, z, loss):
            super().tell(z, np.repeat(loss[:, :1], loss.shape[1], axis=1))

    with pytest.raises(AssertionError, match="near one objective's optimum alone"):
        check_front(lambda domain, seed: OneEye(domain, seed, objectives=["a", "b"]))
    with pytest.raises(AssertionError, match="does not come near the points between"):
        check_front(lambda domain, seed: Blind(domain, seed))


class Blind(RandomSearch):
    """Several objectives in name."""

    objectives = ("a", "b")

    def tell(self, z, loss):
        super().tell(z, loss[:, 0])


@pytest.mark.parametrize(
    "domain",
    [
        Domain.unbounded(1),
        Domain.box(0.0, 1.0, 1),
        Domain.box(0, 1, 8, integer=True),
        Domain.box(0, 5, 4, categorical=True),
        Domain.box([0, -4, -np.inf], [1, 4, np.inf], integer=[True, True, False]),
    ],
)
def test_every_domain(domain):
    optimizer = made(2, domain.d, domain=domain, population=12)
    for n in (None, 5, None, 30, None):
        z = optimizer.ask(n)
        assert domain.contains(z).all()
        assert len(z) == (n or 12)
        part = len(z) // 2
        optimizer.tell(z[part:], np.column_stack([z[part:, 0], -z[part:].sum(axis=1)]))
    assert domain.contains(optimizer.recommend())
    fresh = made(2, domain.d, domain=domain, population=12, seed=3)
    fresh.load_state_dict(optimizer.state_dict())
    np.testing.assert_array_equal(fresh.ask(), optimizer.ask())


def test_points_of_whole_numbers_are_not_asked_twice():
    domain, seen = Domain.box(0, 1, 8, integer=True), set()
    optimizer = made(2, 8, domain=domain, population=20)
    for _ in range(6):
        z = optimizer.ask()
        seen |= {row.tobytes() for row in z}
        optimizer.tell(z, np.column_stack([z.sum(axis=1), (1 - z).sum(axis=1)]))
    assert len(seen) > 110  # of 120, and of 256 that there are


def test_the_recommendation_is_the_lowest_first_objective_that_keeps_to_limits():
    optimizer = made(2, 2, population=6)
    z = optimizer.ask()
    losses = np.array([[3.0, 1], [1, 9], [1, 8], [0, 0], [NAN, 0], [5, 5]])
    optimizer.tell_limited(z, losses, np.array([0, 0, 0, 0.2, 0, 0]))
    np.testing.assert_array_equal(optimizer.recommend(), z[2])
    assert optimizer.best_loss == 1
    without = made(2, 2, population=6)
    without.tell(without.ask(), losses)
    np.testing.assert_array_equal(without.recommend(), z[3])  # control


def test_limits_move_the_front():
    """x of [0, 1], both objectives in x, x >= 0.3 wanted: the search ends there."""

    def f(z):
        return np.column_stack([z[:, 0], 1 - z[:, 0] + z[:, 1:].sum(axis=1)])

    optimizer = made(2, 5, population=20, x0=np.full(5, 0.1))
    for _ in range(40):
        z = optimizer.ask()
        optimizer.tell_limited(z, f(z), np.maximum(0.3 - z[:, 0], 0) / 0.3)
    assert optimizer.parents[:, 0].min() >= 0.3
    assert optimizer.parents[:, 0].min() < 0.35
    assert searched(made(2, 5, population=20, x0=np.full(5, 0.1)), f, 800)[:, 0].min() < 0.1  # control


def test_batches_that_differ_are_not_compared():
    """Half of the population is asked again beside its offspring, and an easy batch does not stay."""
    optimizer = made(2, 3, population=20)
    optimizer.plan(1000, batches_differ=True)
    rng = np.random.default_rng(0)
    optimizer.tell(z := optimizer.ask(), zdt1(z) - 100)
    for _ in range(30):
        again = optimizer.parents[:10]
        z = optimizer.ask()
        assert len(z) == 20
        np.testing.assert_array_equal(z[:10], again)
        optimizer.tell(z, zdt1(z) + rng.standard_normal())
    assert np.median(zdt1(optimizer.parents)[:, 1]) < 1.0


def test_small_budgets_have_small_populations():
    optimizer = made(2, 3)
    optimizer.plan(400)
    assert len(optimizer.ask()) == 20
    assert len(made(2, 3).ask()) == 100
    fixed = made(2, 3, population=50)
    fixed.plan(400)
    assert len(fixed.ask()) == 50


def test_crossover_and_mutation_within_bounds():
    """No child leaves the box, nor piles up on its bounds; at infinity both are the unbounded ones."""
    rng, box = np.random.default_rng(0), Domain.box(0.0, 1.0, 1)
    a, b = np.full((20_000, 1), 0.1), np.full((20_000, 1), 0.4)
    child = op.simulated_binary(rng, a, b, eta=2.0, domain=box)
    assert box.contains(child).all()
    assert ((child == 0) | (child == 1)).mean() == 0
    assert (child < 0.25).mean() == pytest.approx(0.5, abs=0.02)
    free = op.simulated_binary(rng, a, b, eta=2.0, domain=Domain.unbounded(1))
    assert (free < 0).any()
    moved = op.polynomial(rng, a, width=np.ones(1), domain=box, eta=20.0, rate=0.5)
    assert (moved != a).mean() == pytest.approx(0.5, abs=0.02)
    assert box.contains(moved).all()
    share = np.abs(
        op.polynomial(rng, a, width=np.ones(1), domain=Domain.unbounded(1), eta=20.0, rate=1.0) - a
    )
    assert share.mean() == pytest.approx(1 / 22, rel=0.03)  # of (eta + 1) (1 - x)^eta


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: made(2, 3, population=1), "population = 1"),
        (lambda: made(2, 3, p_c=2.0), "p_c = 2.0 must be a finite number at least 0 and at most 1"),
        (
            lambda: optimizers.make("nsga2", domain=Domain.unbounded(2), seed=0, objectives=["a", "a"]),
            "objectives = ['a', 'a'] must be names, each of them once",
        ),
        (
            lambda: optimizers.make("nsga2", domain=Domain.unbounded(2), seed=0, objectives=[]),
            "objectives = []",
        ),
        (
            lambda: (o := made(2, 3)).tell(z := o.ask(), z[:, 0]),
            "give [K, 2], a column for each of f0, f1",
        ),
        (lambda: (o := made(2, 3)).tell(z := o.ask(), np.zeros((len(z), 3))), "give [K, 2]"),
        (lambda: made(2, 3).tell(np.zeros((2, 3)), np.zeros((2, 2))), "tell without ask"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(GfoError) as error:
        call()
    assert message in str(error.value)
    assert "\n" not in str(error.value)
