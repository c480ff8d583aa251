"""Statistics of methods on the same blocks: by hand, by Demsar's own numbers, and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import ttest_rel

from gfo.report.statistics import critical_difference, friedman, holm, mean_ranks, paired, wins

NAN = math.nan


def test_paired_by_hand():
    found = paired(np.array([0.9, 0.8, 0.7, NAN]), np.array([0.8, 0.6, 0.4, 0.1]))
    assert found.n == 3
    assert found.mean == pytest.approx(0.2)
    assert found.p == pytest.approx(2 / 8)  # all three signs as they are, or all turned
    assert found.effect == pytest.approx(0.2 / 0.1)
    assert 0.1 - 1e-9 <= found.low < 0.2 < found.high <= 0.3 + 1e-9
    turned = paired(np.array([0.8, 0.6, 0.4]), np.array([0.9, 0.8, 0.7]))
    assert (turned.mean, turned.p) == (pytest.approx(-0.2), found.p)
    mixed = paired(np.array([1.0, 0.0, 0.0]), np.zeros(3))
    assert mixed.p == 1.0  # its one difference may have either sign


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        ([], [], (0, NAN, NAN, NAN, NAN, NAN)),
        ([NAN], [1.0], (0, NAN, NAN, NAN, NAN, NAN)),
        ([1.0], [0.5], (1, 0.5, NAN, NAN, 1.0, NAN)),
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], (3, 0.0, 0.0, 0.0, 1.0, NAN)),
        ([1.5, 2.5, 3.5], [1.0, 2.0, 3.0], (3, 0.5, 0.5, 0.5, 0.25, NAN)),
    ],
)
def test_paired_at_the_edges(first, second, found):
    np.testing.assert_allclose(paired(np.array(first), np.array(second)), found)


def test_paired_agrees_with_the_t_test_where_that_is_right():
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.2, 0.6):
        a = rng.standard_normal(40)
        b = a + 0.5 * rng.standard_normal(40) - shift
        found, theirs = paired(a, b), ttest_rel(a, b)
        interval = theirs.confidence_interval(0.95)
        assert found.p == pytest.approx(theirs.pvalue, abs=0.02)
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=0.05)


def test_paired_is_wrong_as_often_as_it_says():
    """Where methods do not differ p is below 0.1 in a tenth of cases."""
    rng = np.random.default_rng(1)
    low = np.mean([paired(*rng.standard_normal((2, 8))).p < 0.1 for _ in range(400)])
    assert low == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 400))


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, NAN]) == pytest.approx([0.03, 0.06, 0.06, NAN], nan_ok=True)
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_wins_by_hand():
    values = np.array([[1.0, 2.0, NAN], [3.0, 3.0, 1.0]])
    assert wins(values, lower_is_better=True).tolist() == [[1, 1.5, 0], [0.5, 1, 0], [1, 1, 0.5]]
    higher = wins(values, lower_is_better=False)
    assert higher[0].tolist() == [1, 0.5, 1]


def test_ranks_by_hand():
    values = np.array([[1.0, 2.0, 3.0], [2.0, 2.0, 5.0], [NAN, 0.0, 0.0]])
    ranks, blocks = mean_ranks(values, lower_is_better=True)
    assert (ranks.tolist(), blocks) == ([1.25, 1.75, 3.0], 2)
    assert mean_ranks(values, lower_is_better=False)[0].tolist() == [2.75, 2.25, 1.0]


def test_critical_difference_of_demsar():
    """Section 3.2.2: four classifiers on 14 data sets, 2.569 sqrt(4 * 5 / (6 * 14)) = 1.25; table 5a."""
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)
    for k, q in ((2, 1.960), (5, 2.728), (10, 3.164)):
        assert critical_difference(k, 6) == pytest.approx(q * math.sqrt(k * (k + 1) / 36), abs=2e-3)
    assert critical_difference(4, 14, alpha=0.1) == pytest.approx(2.291 * math.sqrt(20 / 84), abs=2e-3)


def test_friedman_sees_what_differs_and_nothing_else():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((12, 4))
    assert friedman(noise + np.array([0, 0, 0, 3])) < 0.01
    assert friedman(noise) > 0.05
    assert math.isnan(friedman(noise[:2]))
    assert math.isnan(friedman(np.ones((5, 4))))
