"""Training by AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101), as fine-tuning is usually done.

Gradients are clipped by their norm; the learning rate warms up linearly and then falls linearly, by a cosine
or not at all (Devlin et al. 2019, arXiv:1810.04805, appendix A.2). Where it stands is told by the share of
the budget that is spent, whatever the budget counts, so that both end together.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from gfo.baselines.base import Trained, Trainer, as_array, positive
from gfo.core.domain import Array
from gfo.core.errors import GfoError, unknown_name
from gfo.core.protocols import Evaluation
from gfo.core.seeding import stream_seed
from gfo.run.callbacks import Run

SCHEDULES = ("linear", "cosine", "constant")


@dataclass(frozen=True)
class Recipe:
    """How AdamW is run; the options of all baselines that it trains.

    Attributes:
        lr: the highest learning rate.
        weight_decay: decoupled, a share of lr.
        warmup: the share of the budget in which the rate rises from 0; RoBERTa's by default (Liu et al. 2019,
            arXiv:1907.11692, table 10), and LoRA's.
        schedule: how it falls to 0 afterwards: "linear", "cosine", or "constant".
        clip: the largest norm of the gradient; None to leave it.
        dropout: the share of numbers that a step leaves out: of a point of a space, or of LoRA's inputs and
            wherever the model has dropout. None is 0, but leaves the model's own as its config has it.
        patience: end the run when dev has not become better in so many reads of it. None never does; what dev
            liked best is the result in any case.

    Raises:
        GfoError: for values out of range.
    """

    lr: float
    weight_decay: float = 0.0
    warmup: float = 0.06
    schedule: str = "linear"
    clip: float | None = 1.0
    dropout: float | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise unknown_name("schedule", self.schedule, SCHEDULES)
        _check_share("warmup", self.warmup, "a share of the budget")
        _check_share("dropout", self.dropout or 0, "a share")
        if not 0 <= self.weight_decay < math.inf:
            raise GfoError(f"baseline: weight_decay = {self.weight_decay} must be 0 or more")
        if self.patience is not None and self.patience < 1:
            raise GfoError(f"baseline: patience = {self.patience} must be at least 1, or left out")
        positive("lr", self.lr)
        if self.clip is not None:
            positive("clip", self.clip)

    def rate(self, share: float) -> float:
        """The learning rate when this share of the budget, 0 to 1, is spent."""
        if share < self.warmup:
            return self.lr * share / self.warmup
        left = (1 - share) / (1 - self.warmup)
        falls = {"linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2, "constant": 1.0}
        return self.lr * falls[self.schedule]


def _check_share(name: str, value: float, what: str) -> None:
    if not 0 <= value < 1:
        raise GfoError(f"baseline: {name} = {value} must be {what}, from 0 to below 1")


class AdamW(Trainer):
    """AdamW on what is trained.

    Args:
        trained: what changes.
        recipe: how.
        seed: of dropout.
    """

    def __init__(self, trained: Trained, recipe: Recipe, *, seed: int) -> None:
        super().__init__(trained, patience=recipe.patience)
        self._recipe, self._seed = recipe, seed
        self._adam = torch.optim.AdamW(trained.parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
        self._share_spent = 0.0

    def __call__(self, z: Array, step: int) -> Evaluation:
        """The loss [1] on the step's batch, and its gradients; nan where it is not finite."""
        start = time.perf_counter()
        self._adam.zero_grad(set_to_none=True)
        with seeded(stream_seed(self._seed, f"dropout {step}"), self.trained.parameters[0].device):
            loss, cost = self.trained.loss(step)
        torch.autograd.backward(loss.sum())
        value = loss.detach().double().cpu().numpy()
        cost = replace(cost, seconds=time.perf_counter() - start)
        self._share_spent = self._share(cost)
        return Evaluation(np.where(np.isfinite(value), value, np.nan), cost)

    def tell(self, z: Array, loss: Array) -> None:
        """One update; none where the loss is nan."""
        if not np.isfinite(loss).all():
            return
        if self._recipe.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.trained.parameters, self._recipe.clip)
        for group in self._adam.param_groups:
            group["lr"] = self._recipe.rate(self._share_spent)
        self._adam.step()
        self.trained.moved()

    def state_dict(self) -> dict[str, Any]:
        """The parameters, AdamW's step and moments of each (None before its first gradient), and the rest."""
        held = [self._adam.state.get(parameter) for parameter in self.trained.parameters]
        moments = [of and {key: as_array(value) for key, value in of.items()} for of in held]
        return {**super().state_dict(), "adamw": moments}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Train on where `state_dict` was called."""
        super().load_state_dict(state)
        moments = {
            i: {key: torch.from_numpy(value) for key, value in of.items()}
            for i, of in enumerate(state["adamw"])
            if of
        }
        groups = self._adam.state_dict()["param_groups"]
        self._adam.load_state_dict({"state": moments, "param_groups": groups})

    def end(self, run: Run) -> None:
        """After the last step: let the gradients go, too."""
        super().end(run)
        self._adam.zero_grad(set_to_none=True)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Within, torch draws from this seed; its own generators go on as if nothing had been drawn."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
