"""Acquisition functions of Bayesian optimization, and the batches that maximise them.

With the posterior mean mu and standard deviation s of the loss and the best loss f, u = (f - mu) / s,

    EI = s (u Phi(u) + phi(u))            Jones, Schonlau and Welch (1998), doi:10.1023/A:1008306431147
    log-ei = ln EI, without underflow     Ament et al. (2023), NeurIPS, arXiv:2310.20708
    ucb = -mu + sqrt(beta) s              Srinivas et al. (2010), ICML, arXiv:0912.3995
    thompson: the minimiser of a draw from the posterior; Thompson (1933), doi:10.1093/biomet/25.3-4.285

A batch of K points from a Gaussian process maximises its q-EI or q-UCB, by Monte Carlo over 128 quasi-random
draws: Wilson, Hutter and Deisenroth (2018), NeurIPS, arXiv:1805.10196.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import erfcx, log1p, ndtr

from gfo.core.domain import Array
from gfo.optimizers.surrogates import GaussianProcess
from gfo.optimizers.trust_region import sobol

DRAWS = 128
RESTARTS = 2
RAW_SAMPLES = 64
ITERATIONS = 30


def log_ei(mean: Array, sd: Array, best: float) -> Array:
    """ln EI [m] of losses with mean [m] and standard deviation [m] under `best`."""
    sd = np.maximum(sd, 1e-12)
    u = (best - mean) / sd
    with np.errstate(all="ignore"):
        phi = np.exp(-(u**2) / 2) / np.sqrt(2 * np.pi)
        plain = np.log(phi + u * ndtr(u))
        # for u < 0: phi + u Phi = phi (1 - |u| sqrt(pi / 2) erfcx(|u| / sqrt(2))); the bracket nears 1 / u^2
        bracket = log1p(-np.abs(u) * np.sqrt(np.pi / 2) * erfcx(np.abs(u) / np.sqrt(2)))
        tail = np.where(u < -1e3, -2 * np.log(np.abs(u)), bracket)
    log_h = np.where(u > -1, plain, -(u**2) / 2 - np.log(2 * np.pi) / 2 + tail)
    return np.asarray(np.log(sd) + log_h)


def ucb(mean: Array, sd: Array, beta: float) -> Array:
    """-mean + sqrt(beta) sd [m]: to be maximised."""
    return np.asarray(-mean + np.sqrt(beta) * sd)


def starts(K: int, centre: Array, low: Array, high: Array, rng: np.random.Generator) -> Array:
    """Batches of K points [64, K, d] in the box: half anywhere, half at many distances from the centre."""
    d, half = len(centre), RAW_SAMPLES // 2
    anywhere = low + (high - low) * sobol(d, half * K, rng)
    steps = (high - low) * 10.0 ** -rng.uniform(0.5, 3, (half, K, 1))
    near = np.clip(centre + steps * rng.standard_normal((half, K, d)), low, high)
    return np.concatenate([anywhere.reshape(half, K, d), near])


def maximise(function: Any, raw: Array, low: Array, high: Array) -> Array:
    """The batch [K, d] in the box that maximises the function: L-BFGS-B from the best of raw [n, K, d]."""
    import torch
    from botorch.optim import optimize_acqf

    with torch.no_grad():
        value = function(torch.from_numpy(raw)).numpy()
    best = np.argsort(-value, kind="stable")[:RESTARTS]
    x, _ = optimize_acqf(
        function,
        torch.from_numpy(np.stack([low, high])),
        q=raw.shape[1],
        num_restarts=RESTARTS,
        batch_initial_conditions=torch.from_numpy(raw[best]),
        options={"maxiter": ITERATIONS},
        retry_on_optimization_warning=False,
    )
    return np.asarray(np.clip(x.detach().numpy(), low, high))


def batch_acquisition(gp: GaussianProcess, K: int, *, name: str, best: float, beta: float, seed: int) -> Any:
    """BoTorch's acquisition function of X [..., K, d]; it maximises, so its best value is -best."""
    import torch
    from botorch.acquisition import analytic, logei, monte_carlo
    from botorch.sampling import SobolQMCNormalSampler

    if K == 1 and name == "ucb":
        return analytic.UpperConfidenceBound(gp.model, beta)
    if K == 1:
        return analytic.LogExpectedImprovement(gp.model, -best)
    sampler = SobolQMCNormalSampler(torch.Size([DRAWS]), seed=seed)
    if name == "ucb":
        return monte_carlo.qUpperConfidenceBound(gp.model, beta, sampler=sampler)
    return logei.qLogExpectedImprovement(gp.model, -best, sampler=sampler)


def thompson(gp: GaussianProcess, K: int, candidates: Array) -> Array:
    """The minimisers [K, d] of K draws from the posterior at the candidates [n, d], all different."""
    import torch
    from botorch.generation import MaxPosteriorSampling

    with torch.no_grad():
        return np.asarray(
            MaxPosteriorSampling(gp.model, replacement=False)(torch.from_numpy(candidates), K).numpy()
        )


def best_of_groups(value: Array, K: int, rng: np.random.Generator) -> Array:
    """Indices [K] of the largest value in each of K random groups of the n values: all different."""
    groups = np.array_split(rng.permutation(len(value)), K)
    return np.array([group[np.argmax(value[group])] for group in groups])
