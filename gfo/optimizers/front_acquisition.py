"""The next points of Bayesian optimization with several objectives: those whose front would grow the most.

    NEHVI(x) = E[HV(front of the told points and x) - HV(front of the told points)]

over draws of all of them from the posterior: Daulton, Balandat and Bakshy (2021), NeurIPS, arXiv:2105.08195;
its logarithm without underflow: Ament et al. (2023), NeurIPS, arXiv:2310.20708. A Gaussian process models
each objective; the hypervolume is counted from a tenth of the width of the front beyond its worst values
(Ishibuchi et al. 2018, doi:10.1162/evco_a_00226). A batch is chosen one point after the other, of candidates
all over the box and near the front; where no gene is a whole number each is moved uphill from the best two.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gfo.core.domain import Array, Domain
from gfo.optimizers import genetic_operators as op
from gfo.optimizers.acquisition import DRAWS, ITERATIONS, RESTARTS
from gfo.optimizers.dominance import not_beaten
from gfo.optimizers.drawing import scatter
from gfo.optimizers.surrogates import GaussianProcess, standardise

CANDIDATES = 256
"""Of each kind: anywhere, and near the front."""
BEYOND = 0.1


def front_candidates(domain: Domain, z: Array, losses: Array, rng: np.random.Generator) -> Array:
    """Points anywhere in a box, and others near the front of z [n, d] with losses [n, M]: [2 C, d]."""
    anywhere = scatter(domain, rng.random((CANDIDATES, domain.d)))
    front = z[not_beaten(losses)]
    near = front[rng.integers(len(front), size=CANDIDATES)]
    width = domain.high - domain.low
    steps = width * 10.0 ** -rng.uniform(0.5, 3, (CANDIDATES, 1)) * rng.standard_normal(near.shape)
    near = np.where(domain.integer, near, near + steps)
    if domain.integer.any():
        near = op.mutate_integer(rng, near, domain=domain, rate=min(1.0, 1.5 / domain.d))
    return domain.clip(np.concatenate([anywhere, near]))


def front_acquisition(x: Array, losses: Array, *, kernel: str, ard: bool, seed: int) -> Any:
    """BoTorch's qLogNEHVI of X [..., 1, d], by points told x [n, d] of the unit cube and losses [n, M]."""
    import torch
    from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
    from botorch.models import ModelListGP
    from botorch.sampling import SobolQMCNormalSampler

    y = np.column_stack([standardise(column)[0] for column in losses.T])
    models = [GaussianProcess(x, column, kernel=kernel, ard=ard, variance=None).model for column in y.T]
    front = y[not_beaten(y)]
    worst = front.max(axis=0)
    reference = -(worst + BEYOND * np.maximum(worst - front.min(axis=0), 1e-6))  # BoTorch maximises
    return qLogNoisyExpectedHypervolumeImprovement(
        ModelListGP(*models),
        reference.tolist(),
        torch.from_numpy(x),
        sampler=SobolQMCNormalSampler(torch.Size([DRAWS // 2]), seed=seed),
        prune_baseline=True,
    )


def best_batch(function: Any, candidates: Array, K: int, *, climb: bool) -> Array:
    """K points [K, d] of the unit cube, each the best of the candidates [C, d] beside those before it."""
    import torch
    from botorch.optim import optimize_acqf

    d, chosen = candidates.shape[1], np.empty((0, candidates.shape[1]))
    bounds = torch.from_numpy(np.stack([np.zeros(d), np.ones(d)]))
    for _ in range(K):
        function.set_X_pending(torch.from_numpy(chosen) if len(chosen) else None)
        with torch.no_grad():
            value = function(torch.from_numpy(candidates[:, None])).numpy()
        best = np.argsort(-value, kind="stable")[:RESTARTS]
        point = candidates[best[:1]]
        if climb:
            initial = torch.from_numpy(candidates[best][:, None])
            settings = {"batch_initial_conditions": initial, "options": {"maxiter": ITERATIONS}}
            found, _ = optimize_acqf(
                function, bounds, q=1, num_restarts=RESTARTS, retry_on_optimization_warning=False, **settings
            )
            point = np.clip(found.detach().numpy(), 0, 1)
        chosen = np.concatenate([chosen, point])
        candidates = np.delete(candidates, best[0], axis=0)
    return chosen
