"""MeZO: the gradient along one random direction, from two forward passes.

Malladi, Gao, Nichani, Damian, Lee, Chen and Arora 2023: Fine-Tuning Language Models with Just Forward
Passes, arXiv:2305.17333, algorithm 1: Spall's simultaneous perturbation (1992), whose direction u is not held
but drawn again from its seed:

    g = (L(theta + eps u) - L(theta - eps u)) / (2 eps),  theta <- theta - lr g u,  u ~ N(0, I)

The paper perturbs the weights in place and takes it back, which drifts by rounding, in half precision by
more than the updates. Here theta is held in float32 beside the weights that compute, which are written from
it: nothing drifts in any number of steps, for the weights' size in memory once more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gfo.baselines.base import Trained, Trainer, as_array, fill, positive
from gfo.core.domain import Array
from gfo.core.protocols import Evaluation
from gfo.core.seeding import stream_seed


class MeZO(Trainer):
    """MeZO on what is trained.

    Args:
        trained: what changes.
        lr: the learning rate, constant as in the paper.
        eps: half the distance of the two points evaluated.
        seed: the directions of step t come from the stream "direction t" under it.
    """

    def __init__(self, trained: Trained, *, lr: float, eps: float, seed: int) -> None:
        super().__init__(trained, losses=2)
        self._lr, self._eps, self._root = positive("lr", lr), positive("eps", eps), seed
        self._theta = [p.detach().float().clone() for p in trained.parameters]
        self._direction = 0  # the seed of u
        for parameter in trained.parameters:
            parameter.requires_grad_(False)

    def __call__(self, z: Array, step: int) -> Evaluation:
        """The losses [2] at theta + eps u and theta - eps u, on one batch."""
        self._direction = stream_seed(self._root, f"direction {step}")
        try:
            found = []
            for sign in (1.0, -1.0):
                self._write(sign * self._eps)
                found.append(self.trained.judge(z[:1], step))
        finally:
            self._write(0.0)
        return Evaluation(np.concatenate([e.loss for e in found]), found[0].cost + found[1].cost)

    def tell(self, z: Array, loss: Array) -> None:
        """One update along the direction evaluated; none where a loss is nan."""
        g = float(loss[0] - loss[1]) / (2 * self._eps)
        if not np.isfinite(g):
            return
        for theta, u in zip(self._theta, self._noise(), strict=True):
            theta.sub_(u, alpha=self._lr * g)
        self._write(0.0)
        self.trained.moved()

    def state_dict(self) -> dict[str, Any]:
        """theta in float32, which the weights that compute are written from, and what else is trained."""
        return {**super().state_dict(), "parameters": [as_array(theta) for theta in self._theta]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Train on where `state_dict` was called."""
        super().load_state_dict(state)
        fill(self._theta, map(torch.from_numpy, state["parameters"]))

    def _noise(self) -> Iterator[Tensor]:
        """u, one tensor after the other from one generator, so that no two are alike; the same each time."""
        generator = torch.Generator(self._theta[0].device).manual_seed(self._direction)
        for theta in self._theta:
            yield torch.randn(theta.shape, generator=generator, device=theta.device)

    @torch.no_grad()
    def _write(self, size: float) -> None:
        """theta + size u into the weights that compute."""
        noise = self._noise() if size else iter(self._theta)
        for parameter, theta, u in zip(self.trained.parameters, self._theta, noise, strict=True):
            parameter.copy_(theta + size * u if size else theta)
