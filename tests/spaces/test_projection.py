"""Projections: unit-variance rows, columns, sameness by seed, and Fastfood against its matrices."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from gfo import GfoError
from gfo.spaces.parts.projection import KINDS, PROJECTIONS, hadamard, make_projection

CPU = torch.device("cpu")
NAMES = [kind for kind in KINDS if kind not in ("auto", "identity")]


def matrix(kind, rows, d, seed=0, **options):
    """A [rows, d] from what it does to the unit vectors."""
    project = make_projection(kind, np.random.default_rng(seed), rows, d, device=CPU, **options)
    return project(torch.eye(d)).T


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize(("rows", "d"), [(3000, 5), (3001, 200), (640, 64), (2000, 1)])
def test_rows_have_unit_variance(kind, rows, d):
    A = matrix(kind, rows, d)
    assert A.shape == (rows, d)
    assert A.dtype == torch.float32
    square = (A**2).sum(1)  # variance of a coordinate of A z
    assert float(square.mean()) == pytest.approx(1, abs=5 * np.sqrt(2 / (rows * d)))
    assert float(A.mean()) * np.sqrt(d) == pytest.approx(0, abs=5 / np.sqrt(rows * d))
    if d == 200:
        assert float(square.std()) < 0.15
        columns = (A**2).sum(0)
        assert 0.6 * rows / d < float(columns.min())
        assert float(columns.max()) < 1.5 * rows / d
        coherence = torch.nn.functional.normalize(A, dim=0)
        worst = (coherence.T @ coherence - torch.eye(d)).abs().max()
        assert float(worst) < (1e-5 if kind == "orthogonal" else 6 / np.sqrt(rows))


@pytest.mark.parametrize("kind", NAMES)
def test_linear_scaled_and_seeded(kind):
    scale = torch.linspace(0.5, 3, 700)
    plain, scaled = matrix(kind, 700, 30), matrix(kind, 700, 30, scale=scale)
    torch.testing.assert_close(scaled, plain * scale[:, None])
    torch.testing.assert_close(matrix(kind, 700, 30, scale=2.5), plain * 2.5)
    assert torch.equal(plain, matrix(kind, 700, 30))
    assert float((plain - matrix(kind, 700, 30, seed=1)).abs().max()) > 0.1
    z = torch.randn(4, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    project = make_projection(kind, np.random.default_rng(0), 700, 30, device=CPU)
    torch.testing.assert_close(project(z), z.float() @ plain.T)
    assert torch.equal(project(torch.zeros(1, 30)), torch.zeros(1, 700))


@pytest.mark.parametrize("kind", NAMES)
def test_gradient(kind):
    A = matrix(kind, 300, 20)
    z = torch.ones(1, 20, requires_grad=True)
    weight = torch.randn(300, generator=torch.Generator().manual_seed(0))
    project = make_projection(kind, np.random.default_rng(0), 300, 20, device=CPU)
    (gradient,) = torch.autograd.grad((project(z) * weight).sum(), z)
    torch.testing.assert_close(gradient[0], A.T @ weight)


def test_sparse_rows():
    A = matrix("sparse", 5000, 40)
    assert set((A != 0).sum(1).tolist()) == {3}
    assert sorted(set(A[A != 0].tolist())) == pytest.approx([-(3**-0.5), 3**-0.5])
    # places are even: each of 40 columns, and each pair of neighbours, as often as chance has it
    assert float((A != 0).sum(0).float().std()) < 3 * np.sqrt(5000 * 3 / 40)
    together = ((A != 0).float().T @ (A != 0).float()).fill_diagonal_(0)
    expected = 5000 * 3 * 2 / (40 * 39)
    assert float(together[0, 1:].min()) > expected - 5 * np.sqrt(expected)
    assert float(together[0, 1:].max()) < expected + 5 * np.sqrt(expected)
    assert set((matrix("sparse", 50, 2) != 0).sum(1).tolist()) == {2}


def test_hadamard():
    x = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0))
    H = torch.from_numpy(scipy.linalg.hadamard(16)).float()
    torch.testing.assert_close(hadamard(x), x @ H.T)
    assert torch.equal(hadamard(x[..., :1]), x[..., :1])


def test_fastfood_is_its_product():
    """A block against H G Pi H B written out, from the numbers it drew."""
    project = make_projection("fastfood", np.random.default_rng(0), 50, 11, device=CPU)
    H = torch.from_numpy(scipy.linalg.hadamard(16)).float()
    blocks = []
    for sign, order, normal in zip(project._sign, project._order, project._normal, strict=True):
        permutation = torch.eye(16)[order]
        blocks.append(H @ torch.diag(normal) @ permutation @ H @ torch.diag(sign))
    expected = torch.cat(blocks)[:50, :11]
    torch.testing.assert_close(matrix("fastfood", 50, 11), expected)
    assert len(blocks) == 4
    gaussian = project._normal / project._normal.std()
    assert float(gaussian.abs().max()) > 1.8  # entries of many sizes, not signs


def test_auto_is_dense_until_it_is_large(monkeypatch):
    monkeypatch.setattr("gfo.spaces.parts.projection.DENSE_MOST", 600)
    assert torch.equal(matrix("auto", 60, 10), matrix("gaussian", 60, 10))
    assert torch.equal(matrix("auto", 61, 10), matrix("fastfood", 61, 10))


@pytest.mark.parametrize("scale", [0.5, torch.arange(1.0, 13.0)])
def test_identity(scale):
    """No projection: each number is its coordinate times its scale."""
    z = torch.randn(3, 12, dtype=torch.float64)
    project = make_projection("identity", np.random.default_rng(0), 12, 12, scale=scale, device=CPU)
    torch.testing.assert_close(project(z), (z * scale).float())
    with pytest.raises(GfoError, match=r"dim = 5: projection = 'identity' .* give dim = 12"):
        make_projection("identity", np.random.default_rng(0), 12, 5, device=CPU)


def test_unknown():
    with pytest.raises(GfoError, match="unknown projection 'hadamart'"):
        matrix("hadamart", 5, 2)
    assert set(PROJECTIONS) < set(KINDS)
