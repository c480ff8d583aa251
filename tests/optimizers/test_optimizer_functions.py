"""The test functions have the optima and the condition numbers that they claim."""

from __future__ import annotations

import numpy as np
import pytest

from gfo.core.domain import Domain
from gfo.core.errors import GfoError
from gfo.testing import (
    Ellipsoid,
    IntegerSphere,
    MixedSphere,
    NoisySphere,
    OneMax,
    Rastrigin,
    Rosenbrock,
    Sphere,
)

ALL = [Sphere, Ellipsoid, Rosenbrock, Rastrigin, OneMax, IntegerSphere, MixedSphere]


@pytest.mark.parametrize("function", ALL)
def test_the_optimum_is_the_least_of_its_neighbourhood_and_not_at_zero(function):
    f = function(6, seed=4)
    assert f(f.optimum[None])[0] == pytest.approx(f.minimum, abs=1e-12)
    rng = np.random.default_rng(0)
    around = f.domain.clip(f.optimum + rng.standard_normal((500, 6)) * rng.choice([0.01, 0.3, 2.0], (500, 1)))
    around = around[(around != f.optimum).any(axis=1)]
    assert (f(around) > f.minimum).all()
    assert f(f.domain.clip(np.zeros((1, 6))))[0] > f.minimum
    assert not np.array_equal(function(6, seed=5).optimum, f.optimum)


@pytest.mark.parametrize("d", [2, 10, 40])
def test_the_ellipsoid_has_its_condition_number_and_is_rotated(d):
    f = Ellipsoid(d, condition=1e4, seed=1)
    eye = np.eye(d)
    at = f(f.optimum + eye)
    pairs = np.array([f(f.optimum + eye + eye[i]) for i in range(d)])
    hessian = pairs - at - at[:, None]  # exact for a quadratic: f(e_i + e_j) - f(e_i) - f(e_j)
    eigenvalues = np.linalg.eigvalsh(hessian)
    assert eigenvalues[-1] / eigenvalues[0] == pytest.approx(1e4, rel=1e-6)
    assert np.abs(hessian - np.diag(np.diag(hessian))).max() > 10.0


def test_rosenbrock_and_rastrigin_by_hand():
    f = Rosenbrock(3, seed=1)
    x = np.array([0.5, -1.0, 2.0])
    z = f.optimum + (x - 1) @ f.rotation
    assert f(z[None])[0] == pytest.approx(100 * (0.25 + 1) ** 2 + 0.25 + 100 * (1 - 2) ** 2 + 4)
    f = Rastrigin(2, seed=1)
    z = f.optimum + np.array([0.25, 0.5]) @ f.rotation  # x = (0.5, 1)
    assert f(z[None])[0] == pytest.approx(20 + 0.25 + 10 + 1 - 10)


def test_noise_has_its_size_and_is_not_in_the_exact_value():
    f = NoisySphere(4, noise=0.5, seed=1)
    z = np.tile(f.optimum + 1.0, (4000, 1))
    assert f(z).std() == pytest.approx(0.5, rel=0.05)
    np.testing.assert_allclose(f.exact(z), 4.0)


def test_optima_lie_inside_a_domain_that_is_given():
    f = Ellipsoid(20, seed=1, domain=Domain.box(-0.5, 0.7, 20))
    assert f.domain.contains(f.optimum)
    assert (np.abs(f.optimum - 0.1) <= 0.5 + 1e-12).all()


def test_wrong_shapes():
    with pytest.raises(GfoError, match=r"z has shape \(3, 4\), must be \[K, 5\]"):
        Sphere(5)(np.zeros((3, 4)))
