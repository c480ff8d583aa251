"""What each module's levels cost, from one pass of changes one by one, and the best choice by that.

Additive as long as little is lost: measured on SmolLM2 within 20 % down to half of the bytes. Below, a search
that starts from the choice is for.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gfo.core.bank import Bank
from gfo.core.checking import checked
from gfo.core.delta import Delta
from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError, unknown_name
from gfo.core.protocols import BoundTask, Cost, Task, Tokenizer
from gfo.evaluation.local import LocalEvaluator
from gfo.models.frozen import FrozenModel
from gfo.spaces.compression import Compression
from gfo.spaces.parts.knapsack import knapsack

EXPONENT = 1.03  # of a loss in the ratio of output errors, measured on SmolLM2


@dataclass(frozen=True)
class Sensitivities:
    """What levels cost, by modules changed one at a time.

    Attributes:
        space: whose modules and levels they are.
        level: the one that each module was changed to.
        base: the loss without a change.
        single: how much the loss rose with each module at that level, [d].
        costs: what each level is predicted to add to the loss, [d, L], most bits first.
        cost: what measuring took.
    """

    space: Compression
    level: str
    base: float
    single: Array
    costs: Array
    cost: Cost

    def predicted(self, z: Array) -> Array:
        """The loss of z [K, d] if what modules add is added up, [K]."""
        genes = self.space.domain.clip(z).astype(int)
        return np.asarray(self.base + self.costs[np.arange(genes.shape[1]), genes].sum(axis=1))

    def choice(self, limit_bytes: float | None = None) -> Array:
        """The point [d] of least predicted loss in a file of so many bytes, by default the space's limit.

        Raises:
            GfoError: for a limit below the smallest file, or none at all.
        """
        limit = self.space.limit_bytes if limit_bytes is None else limit_bytes
        room = limit - self.space.rest_bytes
        least = int(self.space.sizes.min(axis=1).sum())
        if not least <= room < math.inf:
            raise GfoError(
                f"choice: limit_bytes = {limit:,}; give at least {least + self.space.rest_bytes:,}, what the "
                "smallest file has, here or as the space's limit"
            )
        return knapsack(self.costs, self.space.sizes, room).astype(np.float64)


class _Singles:
    """Some modules of one layer, each as it is (0) or at one level (1), the weights of a space."""

    def __init__(self, model: FrozenModel, space: Compression, m: int, names: Sequence[str]) -> None:
        self.domain = Domain.box(0, 1, len(names), integer=True)
        self.first = model.linears[names[0]].layer
        self.banks = {}
        for name in names:
            make = functools.partial(_own_or_level, model, space.banks[name], name, m)
            self.banks[name] = Bank(make, 2, space.banks[name].shape)

    def decode(self, z: Tensor) -> Delta:
        """z [K, d] -> the chosen weights."""
        shares = torch.stack([1 - z, z], dim=2).float()  # [K, d, 2]
        bank = {name: (shares[:, i], bank) for i, (name, bank) in enumerate(self.banks.items())}
        return Delta(bank=bank, first_layer=self.first)


def _own_or_level(model: FrozenModel, bank: Bank, name: str, m: int, i: int) -> Tensor:
    return bank[m] if i else model.weight(name)


@dataclass(frozen=True)
class _Bound:
    """A task that is bound already."""

    bound: BoundTask

    def bind(self, tokenizer: Tokenizer) -> BoundTask:
        """The bound task."""
        return self.bound


@checked
def sensitivities(
    model: FrozenModel,
    task: Task,
    space: Compression,
    *,
    level: str | None = None,
    split: str = "train",
    memory: int | None = None,
) -> Sensitivities:
    """How much a task's loss rises with each module alone at one level, all others as they are.

    The modules of a layer are one population; the layers below are computed once for it. Other levels are
    scaled by the ratio of the outputs' squared errors to the power of 1.03, on the space's calibration, or
    without one by that of the weights' errors.

    Args:
        model, task: as for `gfo.tune`.
        space: whose modules are changed.
        level: the level to which; by default the space's with fewest bits.
        split: whose rows are read.
        memory: of the evaluator, see `gfo.LocalEvaluator`.

    Raises:
        GfoError: for a level that the space does not have.
    """
    m = _number(space, level)
    bound, cost = _Bound(task.bind(model)), Cost()
    single, base = np.zeros(space.domain.d), math.nan
    for layer in sorted({model.linears[name].layer for name in space.names}):
        at = [i for i, name in enumerate(space.names) if model.linears[name].layer == layer]
        singles = _Singles(model, space, m, [space.names[i] for i in at])
        z = np.vstack([np.eye(len(at)), np.zeros((1, len(at)))])  # the last without a change
        found = LocalEvaluator(model, bound, singles, memory=memory).score(z, split)
        *losses, base = np.asarray(found.metrics["loss"], dtype=np.float64)
        single[at], cost = np.array(losses) - base, cost + found.cost
    return Sensitivities(
        space, space.levels[m].name, float(base), single, _scaled(single, space.errors, m), cost
    )


def _number(space: Compression, level: str | None) -> int:
    """The number of a level of the space, or without a name of the one with fewest bits, the last."""
    names = [each.name for each in space.levels]
    if level and level not in names:
        raise unknown_name("level of the space", level, names)
    return names.index(level or names[-1])


def _scaled(single: Array, errors: Array, m: int) -> Array:
    """Costs [d, L] of all levels, from those measured at level m [d] and errors of outputs [d, L]."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.nan_to_num(errors / errors[:, m : m + 1], nan=0.0, posinf=0.0)
    costs = np.clip(single, 0.0, None)[:, None] * ratio**EXPONENT
    costs[:, m] = single
    return costs
