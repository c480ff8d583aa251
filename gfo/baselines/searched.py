"""Gradients in a space: AdamW through its decode and gfo's own evaluator, so that only the optimizer differs.

"gradient" searches the space itself. "prompt-tuning" (Lester, Al-Rfou and Constant 2021, arXiv:2104.08691)
and "prefix-tuning" (Li and Liang 2021, arXiv:2101.00190) train every number of what the space decodes 0 to:
the soft prompt in the template's place, where PEFT's always stands in front; keys and values of real words.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gfo.baselines.base import Setting, in_space
from gfo.baselines.training import AdamW, Recipe
from gfo.core.delta import Delta
from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError
from gfo.core.protocols import Cost, Evaluator, SearchSpace
from gfo.core.slots import Prefixes, Prompts
from gfo.evaluation.local import LocalEvaluator


class Free:
    """The space of every number of a change: decode(z) is the change plus z.

    Args:
        start: the change, of one candidate.
    """

    def __init__(self, start: Delta) -> None:
        self._start = start
        self._sizes: list[int] = []
        start.map(self._measured)
        self.domain = Domain.unbounded(sum(self._sizes))

    def decode(self, z: Tensor) -> Delta:
        """z [K, d] -> K candidates, float32; differentiable; decode(0) is the start exactly."""
        parts = iter(torch.split(z.float(), self._sizes, dim=1))  # in the order of `map`
        return self._start.map(lambda start: start + next(parts).view(len(z), *start.shape[1:]))

    def _measured(self, tensor: Tensor) -> Tensor:
        self._sizes.append(tensor.numel())
        return tensor


class Searched:
    """A point of a space as the parameters of a training; see `gfo.baselines.base.Trained`.

    Args:
        setting: model, task and seed.
        space: the space.
        dropout: the share of z's numbers that are 0, and so as at the start, for a step.

    Raises:
        GfoError: for a space with bounds or integer genes, which have no gradient.
    """

    def __init__(self, setting: Setting, space: SearchSpace, dropout: float | None) -> None:
        if space.domain.bounded:
            raise GfoError(
                f"baseline: {type(space).__name__} has bounds or integer genes, which gradients do not keep; "
                "take a space without, such as gfo.SoftPrompt"
            )
        self.evaluator = LocalEvaluator(setting.model, setting.task, space, memory=setting.memory)
        self.splits = self.evaluator.task.splits
        self.domain = space.domain
        self.facts = {"d": space.domain.d}
        start = torch.zeros(1, space.domain.d, dtype=torch.float64, device=setting.model.device)
        self._z = nn.Parameter(start)
        self._dropout = dropout
        self.parameters = [self._z]

    @property
    def judge(self) -> Evaluator:
        """The evaluator of the space."""
        return self.evaluator

    def point(self) -> Array:
        """z as it is now, float64 [d]."""
        return self._z.detach()[0].cpu().numpy().copy()

    def loss(self, step: int) -> tuple[Tensor, Cost]:
        """The loss [1] on the step's batch, and what it and its backward pass cost."""
        return self.evaluator.loss_tensor(nn.functional.dropout(self._z, self._dropout or 0.0), step)

    def moved(self) -> None:
        """Nothing to do: the point says it all."""

    def keep(self) -> None:
        """Nothing to do: the point says it all."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the point says it all."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to do: the point says it all."""

    def save(self, folder: Path, point: Array) -> None:
        """Nothing to do: the point says it all."""


SPACE = Recipe(lr=0.01)
PROMPT = Recipe(lr=0.3)
PREFIX = Recipe(lr=0.01)


@in_space
def gradient(setting: Setting, recipe: Recipe = SPACE) -> AdamW:
    """AdamW on z, which is unit scale in every space, so that one lr serves all.

    The best of five on SmolLM2-135M and a split of SST-2, 16 rows a class, some 90 steps
    (benchmarks/experiments/leaderboard/tuning.toml): a larger one soon fits the few rows, and nothing else.
    """
    return _train(setting, setting.start_space, recipe)


@in_space
def prompt_tuning(setting: Setting, recipe: Recipe = PROMPT) -> AdamW:
    """AdamW on the embeddings of a soft prompt, from its space's start. Weight decay draws to the start.

    The lr is the best of six there (0.1 to 1 are alike). Lester et al. took 0.3, too, but constant, with
    Adafactor, for T5, whose embeddings are a hundred times as large as a Llama's.

    Raises:
        GfoError: for a space that is no soft prompt.
    """
    start = start_of(setting.start_space)
    if [type(slot) for slot in start.slots] != [Prompts]:
        raise GfoError(
            "baseline 'prompt-tuning' trains a soft prompt alone; give it a gfo.SoftPrompt as space"
        )
    return _train(setting, Free(start), recipe)


@in_space
def prefix_tuning(setting: Setting, recipe: Recipe = PREFIX) -> AdamW:
    """AdamW on the keys and values of a prefix, from its space's start. Weight decay draws to the start.

    Without the network through which Li and Liang train the prefix: starting from real words stands in for it
    (Malladi et al. 2023, arXiv:2305.17333, whose grid for the lr is 1e-2, 1e-3).

    Raises:
        GfoError: for a space that is no prefix.
    """
    start = start_of(setting.start_space)
    if [type(slot) for slot in start.slots] != [Prefixes]:
        raise GfoError("baseline 'prefix-tuning' trains a prefix alone; give it a gfo.Prefix as space")
    return _train(setting, Free(start), recipe)


def start_of(space: SearchSpace) -> Delta:
    """What the space decodes 0 to."""
    return space.decode(torch.zeros(1, space.domain.d))


def _train(setting: Setting, space: SearchSpace, recipe: Recipe) -> AdamW:
    return AdamW(Searched(setting, space, recipe.dropout), recipe, seed=setting.seed)
