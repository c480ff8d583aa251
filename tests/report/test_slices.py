"""Slices: the plane, the losses on it, what is evaluated and what it costs."""

import numpy as np
import pytest

import gfo
from gfo.core.protocols import Cost, Evaluation
from gfo.report.slices import Plane, take_slice

D = 5
RESULT = np.array([3.0, 0.0, 4.0, 0.0, 0.0])


def plane(third=None, seed=0):
    return Plane.through(np.zeros(D), RESULT, third, np.random.default_rng(seed))


class Counts:
    """The squared length of z, and what was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, z):
        self.asked.append(z.copy())
        return Evaluation((z**2).sum(axis=1), Cost(len(z), 7 * len(z), 7 * len(z), 0.5))


def test_the_plane_is_orthogonal_and_square():
    found = plane()
    assert found.u @ found.v == pytest.approx(0)
    assert np.linalg.norm(found.v) == pytest.approx(5)
    assert not np.allclose(found.v, plane(seed=1).v)
    points = found.points(np.array([0.0, 1.0]), np.array([0.0, 0.0]))
    assert np.array_equal(points, [np.zeros(D), RESULT])


def test_a_third_point_lies_in_the_plane():
    third = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    found = plane(third)
    a, b = third @ found.u / 25, third @ found.v / 25
    assert np.allclose(found.points(np.array([a]), np.array([b]))[0], third)
    other = plane()  # control: a random plane does not hold it
    a, b = third @ other.u / 25, third @ other.v / 25
    assert not np.allclose(other.points(np.array([a]), np.array([b]))[0], third)


def test_losses_by_hand():
    """|start + a u + b v|^2 = 25 (a^2 + b^2), whatever the direction."""
    evaluate = Counts()
    found = take_slice(evaluate, plane(), gfo.Domain.unbounded(D), points=5)
    a, b = np.meshgrid([-0.5, 0, 0.5, 1, 1.5], [-1, -0.5, 0, 0.5, 1])
    assert np.allclose(found.loss, 25 * (a**2 + b**2))
    assert found.ends == pytest.approx((0, 25))
    assert [len(z) for z in evaluate.asked] == [2, 5, 5, 5, 5, 5]  # both ends, then a row at a time
    assert found.cost == Cost(27, 189, 189, 3.0)


def test_points_out_of_bounds_are_not_evaluated():
    evaluate, domain = Counts(), gfo.Domain.box(-4.0, 4.0, D)
    found = take_slice(evaluate, plane(), domain, points=5)
    assert all(domain.contains(z).all() for z in evaluate.asked)
    points = plane().points(*np.meshgrid(found.a, found.b))
    assert np.array_equal(np.isnan(found.loss), ~domain.contains(points))
    assert 0 < np.isnan(found.loss).sum() < 25


def test_the_figure_shows_ends_cost_and_directions(tmp_path):
    figure = take_slice(Counts(), plane(), gfo.Domain.unbounded(D)).plot(tmp_path / "slice.png")
    axes = figure.axes[0]
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[0, 0]], [[1, 0]]]
    assert [text.get_text() for text in axes.texts] == ["start 0", "result 25"]
    assert axes.get_title() == "227 evaluations, 1,589 forward tokens, 8 s"
    assert "random" in axes.get_ylabel()
    third = take_slice(Counts(), plane(np.ones(D)), gfo.Domain.unbounded(D), 3).plot()
    assert third.axes[0].get_ylabel() == "towards the third point"
    assert (tmp_path / "slice.png").exists()


def constant(value):
    return lambda z: Evaluation(np.full(len(z), value))


def holes(z):
    return Evaluation(np.where(z[:, 0] > 2, np.nan, np.exp(z[:, 0])))


@pytest.mark.parametrize("evaluate", [constant(0.5), constant(0.0), holes])
def test_flat_losses_and_holes_are_drawn(evaluate, tmp_path):
    figure = take_slice(evaluate, plane(), gfo.Domain.unbounded(D), 7).plot(tmp_path / "slice.png")
    assert len(figure.axes) == 2  # the plane and its colours


def test_a_failed_end_says_so():
    axes = take_slice(holes, plane(), gfo.Domain.unbounded(D), 7).plot().axes[0]
    assert [text.get_text() for text in axes.texts] == ["start 1", "result, failed"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Plane.through(RESULT, RESULT, None, np.random.default_rng(0)), "is the starting point"),
        (lambda: plane(2 * RESULT), "on the line from start to result"),
        (lambda: plane(np.zeros(D)), "on the line from start to result"),
        (lambda: plane(np.ones(3)), r"shape \(3,\).*give \(5,\)"),
        (lambda: Plane.through(np.zeros(1), np.ones(1), None, np.random.default_rng(0)), "one dimension"),
        (lambda: take_slice(Counts(), plane(), gfo.Domain.unbounded(D), 1), "points = 1"),
        (lambda: take_slice(Counts(), plane(), gfo.Domain.box(0, 9, D, True)), "integer genes"),
        (
            lambda: take_slice(constant(np.nan), plane(), gfo.Domain.unbounded(D), 3).plot(),
            "no loss in the plane",
        ),
    ],
)
def test_bad_input(make, words):
    with pytest.raises(gfo.GfoError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)
