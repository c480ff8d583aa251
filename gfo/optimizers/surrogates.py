"""Surrogates of Bayesian optimization: a Gaussian process (BoTorch) and a random forest (scikit-learn).

Gaussian process: Rasmussen and Williams (2006), Gaussian processes for machine learning, MIT Press.
Given losses y [n] at X [n, d], with a constant prior mean m,

    mean(x) = m + k(x, X) (K + s^2 I)^-1 (y - m)                                eq. 2.25
    cov(x, x') = k(x, x') - k(x, X) (K + s^2 I)^-1 k(X, x')                     eq. 2.26
    matern: k = (1 + sqrt(5) r + 5 r^2 / 3) exp(-sqrt(5) r)                     eq. 4.17, nu = 5/2
    se:     k = exp(-r^2 / 2),   r^2 = sum_i (x_i - x'_i)^2 / l_i^2             eq. 4.9

The length scales l, the noise s^2 and m maximise the marginal likelihood times the priors of Hvarfner,
Hellsten and Nardi (2024), Vanilla Bayesian optimization performs great in high dimensions, ICML,
arXiv:2402.02229: l_i ~ LogNormal(sqrt(2) + ln(d) / 2, sqrt(3)), s^2 ~ LogNormal(-4, 1).
BoTorch: Balandat et al. (2020), NeurIPS, arXiv:1910.06403.

Random forest: Hutter, Hoos and Leyton-Brown (2011), Sequential model-based optimization for general
algorithm configuration (SMAC), doi:10.1007/978-3-642-25566-3_40: mean and variance of the predictions
of the trees; 10 trees, 5/6 of the coordinates tried at a split, nodes of fewer than 10 points not split.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata

from gfo.core.domain import Array
from gfo.core.errors import GfoError

MIN_VARIANCE = 1e-6
"""Least noise variance of standardised losses, without which Cholesky decompositions fail."""
_MESSAGES = (
    "`torch.jit.script` is deprecated",
    "A not p.d., added jitter",
    "Runtime Error when computing Cholesky",
    "Negative variance values detected",
    "`scipy_minimize` terminated with status",
    "Optimization failed in",
    "Unable to find non-zero acquisition function values",
)  # re-raised by `-W error`; none is news to the user


class Surrogate(Protocol):
    """A model of the standardised losses."""

    lengthscales: Array  # [d], all 1 where the model has none

    def predict(self, x: Array) -> tuple[Array, Array]:
        """Mean [m] and standard deviation [m] at x [m, d]."""
        ...


def standardise(loss: Array) -> tuple[Array, float, float]:
    """Losses [n] with mean 0 and variance 1, and the centre and scale that undo it for the better half.

    The worse half is moved to where a normal distribution with the spread of the better half has it,
    in the same order, so that a few huge losses do not set the scale: half-rank warping, Song et al.
    (2024), The Vizier Gaussian process bandit algorithm, arXiv:2408.11527.
    """
    median = float(np.median(loss))
    bad = loss > median
    spread = float(np.sqrt(np.mean((loss[~bad] - median) ** 2))) or float(loss.std())
    quantile = (rankdata(loss) - 0.5) / len(loss)
    warped = np.where(bad, median + spread * ndtri(np.maximum(quantile, 0.5)), loss)
    centre, scale = float(warped.mean()), float(warped.std()) or 1.0
    return (warped - centre) / scale, centre, scale


class GaussianProcess:
    """A Gaussian process fitted to x [n, d] and standardised losses y [n]; use it within `working`.

    Args:
        kernel: "matern" (5/2) or "se".
        ard: a length scale for each dimension, or one for all.
        variance: of the noise of y; None infers it.
        maxiter: iterations of L-BFGS-B; a fit that fails leaves the modes of the priors.
    """

    def __init__(
        self, x: Array, y: Array, *, kernel: str, ard: bool, variance: float | None, maxiter: int = 30
    ) -> None:
        import torch
        from botorch.models import SingleTaskGP

        d = x.shape[1]
        train_x, train_y = torch.from_numpy(x), torch.from_numpy(-y)[:, None]  # BoTorch maximises
        noise = None if variance is None else torch.full_like(train_y, max(variance, MIN_VARIANCE))
        self.model = SingleTaskGP(
            train_x, train_y, noise, covar_module=_kernel(kernel, d, ard), outcome_transform=None
        )
        self._fit(maxiter)
        self.model.eval()
        scales = self.model.covar_module.lengthscale.detach().numpy().ravel()  # [d] or [1]
        self.lengthscales: Array = np.broadcast_to(scales, d).copy()

    def _fit(self, maxiter: int) -> None:
        import torch
        from botorch.optim.fit import fit_gpytorch_mll_scipy
        from gpytorch.mlls import ExactMarginalLogLikelihood

        before = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.train()
        likelihood = ExactMarginalLogLikelihood(self.model.likelihood, self.model)
        try:
            fit_gpytorch_mll_scipy(likelihood, options={"maxiter": maxiter, "ftol": 1e-6})
            fitted = all(bool(torch.isfinite(p).all()) for p in self.model.parameters())
        except failures():
            fitted = False
        if not fitted:
            self.model.load_state_dict(before)

    def predict(self, x: Array) -> tuple[Array, Array]:
        import torch

        with torch.no_grad():
            posterior = self.model.posterior(torch.from_numpy(x))
            mean, variance = posterior.mean[:, 0].numpy(), posterior.variance[:, 0].numpy()
        return -mean, np.sqrt(np.maximum(variance, 0.0))


def _kernel(name: str, d: int, ard: bool) -> Any:
    from gpytorch.constraints import GreaterThan
    from gpytorch.kernels import MaternKernel, RBFKernel
    from gpytorch.priors import LogNormalPrior

    prior = LogNormalPrior(loc=2**0.5 + np.log(d) / 2, scale=3**0.5)
    options: dict[str, Any] = {
        "ard_num_dims": d if ard else None,
        "lengthscale_prior": prior,
        "lengthscale_constraint": GreaterThan(2.5e-2, transform=None, initial_value=prior.mode),
    }
    return MaternKernel(nu=2.5, **options) if name == "matern" else RBFKernel(**options)


class RandomForest:
    """A random forest fitted to x [n, d] and standardised losses y [n]."""

    def __init__(self, x: Array, y: Array, *, seed: int) -> None:
        from sklearn.ensemble import RandomForestRegressor

        self.model = RandomForestRegressor(
            n_estimators=10, max_features=5 / 6, min_samples_split=10, random_state=seed
        )
        self.model.fit(x, y)
        self.lengthscales: Array = np.ones(x.shape[1])

    def predict(self, x: Array) -> tuple[Array, Array]:
        trees = np.stack([tree.predict(x) for tree in self.model.estimators_])  # [10, m]
        return trees.mean(axis=0), trees.std(axis=0)


@contextlib.contextmanager
def working(seed: int) -> Iterator[None]:
    """BoTorch at work: quiet, with gradients, exact, and torch's global generator seeded and put back."""
    import gpytorch
    import torch

    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        exact = gpytorch.settings.max_cholesky_size(1_000_000)  # no conjugate gradients
        with quiet(), torch.inference_mode(False), torch.enable_grad(), exact:
            yield
    finally:
        torch.set_rng_state(before)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        for message in _MESSAGES:
            warnings.filterwarnings("ignore", message=f".*{message}")
        yield


def failures() -> tuple[type[Exception], ...]:
    """What a model can raise on data it cannot take, such as a matrix that is not positive definite."""
    try:
        from botorch.exceptions import BotorchError
    except ImportError:
        return (RuntimeError, ValueError, ArithmeticError)
    return (RuntimeError, ValueError, ArithmeticError, BotorchError)


def check_botorch(method: str) -> None:
    """Import BoTorch, or say how to install it."""
    try:
        with quiet():
            import botorch  # noqa: F401
    except ImportError as error:
        raise GfoError(
            f"optimizer '{method}' needs BoTorch, which is not installed; pip install 'gfo-llm[bo]'"
        ) from error
