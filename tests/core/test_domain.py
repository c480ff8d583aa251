"""The box: construction, bounds, integer genes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gfo import Domain, GfoError

inf, nan = np.inf, np.nan


def test_unbounded():
    domain = Domain.unbounded(3)
    assert (domain.d, domain.bounded) == (3, False)
    assert domain.low.tolist() == [-inf] * 3
    assert domain.high.tolist() == [inf] * 3
    assert not domain.integer.any()


def test_box_repeats_scalars():
    domain = Domain.box(-1, [1, 2, 3], integer=[True, False, False])
    assert domain.low.tolist() == [-1, -1, -1]
    assert domain.integer.tolist() == [True, False, False]
    assert domain.bounded
    assert Domain.box(0, 1, 4).d == 4
    assert Domain.box([0, -inf], inf).bounded  # one finite bound is enough


def test_arrays_are_copies_and_read_only():
    low = np.zeros(2)
    domain = Domain(low, np.ones(2), np.zeros(2, dtype=bool))
    low[:] = 5
    assert domain.low.tolist() == [0, 0]
    for array in (domain.low, domain.high, domain.integer):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


@pytest.mark.parametrize(
    ("low", "high", "integer", "parts"),
    [
        ([0, 3], [1, 2], False, ["low[1] = 3.0", "high[1] = 2.0", "swap"]),
        ([0, 2], [1, 2], False, ["low[1] = 2.0", "leave out"]),
        ([nan, 0], [1, 2], False, ["low[0] = nan"]),
        ([0, 0], [1, nan], False, ["high[1] = nan"]),
        ([inf, 0], [inf, 1], False, ["low[0] = inf"]),
        ([0, 0], [1, inf], [False, True], ["integer gene 1", "[0.0, inf]", "finite whole"]),
        ([0, -0.5], [1, 2], True, ["integer gene 1", "[-0.5, 2.0]", "finite whole"]),
    ],
)
def test_bad_bounds(low, high, integer, parts):
    with pytest.raises(GfoError) as error:
        Domain.box(low, high, integer=integer)
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in parts)


@pytest.mark.parametrize("shapes", [((2,), (3,), (2,)), ((2,), (2,), (3,)), ((0,),) * 3, ((1, 2),) * 3])
def test_bad_shapes(shapes):
    low, high, integer = (np.full(shape, value) for shape, value in zip(shapes, (0, 1, False), strict=True))
    with pytest.raises(GfoError, match="must be one-dimensional, of one length and not empty"):
        Domain(low, high, integer)


@pytest.mark.parametrize("d", [0, -2])
def test_too_few_dimensions(d):
    with pytest.raises(GfoError, match=rf"d = {d} must be at least 1"):
        Domain.unbounded(d)


@pytest.mark.parametrize("arguments", [([0, 0], 1, 3), ([0, 0], [1, 1, 1], None)])
def test_lengths_that_do_not_fit(arguments):
    with pytest.raises(GfoError, match=r"^Domain: low \(2,\), high .* do not fit together"):
        Domain.box(*arguments)


def test_clip_by_hand():
    domain = Domain.box([-1, 0, -inf], [1, 3, inf], integer=[False, True, False])
    z = np.array([[-2, 1.4, 1e9], [0.5, 2.6, -1e9], [7, 9, 0], [nan, -5, nan]])
    expected = np.array([[-1, 1, 1e9], [0.5, 3, -1e9], [1, 3, 0], [nan, 0, nan]])
    before = z.copy()
    np.testing.assert_array_equal(domain.clip(z), expected)
    np.testing.assert_array_equal(z, before)
    assert domain.contains(expected).tolist() == [True, True, True, False]
    assert domain.contains(z).tolist() == [False] * 4
    assert not domain.contains(np.array([0, 1.5, 0]))  # inside, but not whole


@st.composite
def domains(draw):
    d = draw(st.integers(1, 5))
    low = draw(arrays(np.float64, d, elements=st.one_of(st.just(-inf), st.integers(-9, 9).map(float))))
    size = draw(arrays(np.float64, d, elements=st.one_of(st.just(inf), st.integers(1, 9).map(float))))
    integer = np.isfinite(low) & np.isfinite(size) & draw(arrays(bool, d))
    return Domain(low, np.where(np.isinf(low), 9, low) + size, integer)


@given(domains(), st.data())
def test_clip_is_the_nearest_point_inside(domain, data):
    z = data.draw(arrays(np.float64, (4, domain.d), elements=st.floats(-50, 50)))
    clipped = domain.clip(z)
    assert domain.contains(clipped).all()
    np.testing.assert_array_equal(domain.clip(clipped), clipped)
    inside = domain.contains(z)
    np.testing.assert_array_equal(clipped[inside], z[inside])
    other = domain.clip(data.draw(arrays(np.float64, (4, domain.d), elements=st.floats(-50, 50))))
    assert (np.abs(clipped - z) <= np.abs(other - z)).all()


def test_categorical_genes_are_integer_genes():
    domain = Domain.box([0, -1, 0], [4, 1, 3], integer=[False, False, True], categorical=[True, False, False])
    assert domain.integer.tolist() == [True, False, True]
    assert domain.categorical.tolist() == [True, False, False]
    assert domain.clip(np.array([1.4, 0.3, 2.6])).tolist() == [1.0, 0.3, 3.0]
    assert not Domain.box(0, 1, 3).categorical.any()
    assert not Domain(np.zeros(2), np.ones(2), np.zeros(2, dtype=bool)).categorical.any()
    with pytest.raises(GfoError, match=r"categorical gene 1 has bounds \[0.0, 2.5\]"):
        Domain.box([0, 0], [1, 2.5], categorical=True)
    with pytest.raises(GfoError, match="do not fit together"):
        Domain.box([0, 0], [1, 2], categorical=[True, False, True])


@pytest.mark.parametrize("names", [("a",), ("a", "a"), ("a", 3), "ab"])
def test_names_are_one_different_text_a_dimension(names):
    with pytest.raises(GfoError, match="names"):
        Domain(np.zeros(2), np.ones(2), np.zeros(2, dtype=bool), names=names)


def test_parts_and_joins_keep_kinds_and_names():
    domain = Domain.box(0, 3, 3, categorical=[True, False, True], names=("a", "b", "c"))
    part = domain.part(slice(1, 3))
    assert part.names == ("b", "c")
    assert part.categorical.tolist() == [False, True]
    both = Domain.joined([part, Domain.box(0, 1, 1, names=("d",))])
    assert both.names == ("b", "c", "d")
    assert both.categorical.tolist() == [False, True, False]
    assert Domain.joined([domain, domain]).names is None  # the same names twice
    assert Domain.joined([domain, Domain.unbounded(1)]).names is None
