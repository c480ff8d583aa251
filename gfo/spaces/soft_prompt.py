"""Soft prompts in a random subspace: prompt = p0 + alpha * s * A z.

Sun, Shao, Qian, Huang, Qiu: Black-Box Tuning for Language-Model-as-a-Service, ICML 2022
(arXiv:2201.03514), section 3; with the scale in alpha alone, so that z is unit scale and the
optimizer's step size keeps its meaning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from gfo.core.delta import Delta
from gfo.core.domain import Domain
from gfo.core.errors import GfoError, unknown_name
from gfo.core.seeding import stream
from gfo.spaces.projection import PROJECTIONS

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SCALE_SAMPLE = 4096  # word embeddings from which their spread is measured


class Embeds(Protocol):
    """What a soft prompt needs of a model."""

    hidden_size: int
    vocabulary_size: int

    @property
    def special_tokens(self) -> frozenset[int]: ...
    @property
    def device(self) -> torch.device: ...
    def encode(self, text: str, *, start: bool = False) -> tuple[int, ...]: ...
    def embed(self, ids: Tensor) -> Tensor: ...


class SoftPrompt:
    """P embeddings in the template's `{soft}` place, searched in d dimensions.

    prompt = p0 + alpha * s * A z, where A [P * D, d] is a fixed random projection with A z ~ N(0, 1)
    for z ~ N(0, 1), and s is the standard deviation of the model's word embeddings. So a typical z
    moves each coordinate of the prompt by alpha times the spread of the words.

    Args:
        model: a `gfo.Model`.
        tokens: P, the prompt's length.
        dim: d, the search dimensions, at most P * D.
        init: what z = 0 decodes to: a text, repeated or cut to P tokens; embeddings [P, D]; or None
            for random words of the vocabulary (as Black-Box Tuning).
        alpha: the size of a typical change. The default is for random words and optimizers that start
            with steps of half a unit; from a good text take half of it or less.
        projection: "gaussian" or "uniform".
        seed: of the projection and the random words.

    Raises:
        GfoError: for sizes out of range, an unknown projection, a text without tokens, embeddings
            of another shape.
    """

    def __init__(
        self,
        model: Embeds,
        tokens: int = 8,
        dim: int = 200,
        *,
        init: str | Tensor | None = None,
        alpha: float = 2.0,
        projection: str = "gaussian",
        seed: int = 0,
    ) -> None:
        import torch

        if tokens < 1:
            raise GfoError(f"space: tokens = {tokens} must be at least 1")
        size = tokens * model.hidden_size
        if not 1 <= dim <= size:
            raise GfoError(
                f"space: dim = {dim} must be 1 to {size}, the size of a prompt of {tokens} tokens x "
                f"{model.hidden_size}; lower dim or raise tokens"
            )
        if not (np.isfinite(alpha) and alpha > 0):
            raise GfoError(f"space: alpha = {alpha} must be a positive number")
        if projection not in PROJECTIONS:
            raise unknown_name("projection", projection, PROJECTIONS)
        self.tokens, self.dim = tokens, dim
        self.domain = Domain.unbounded(dim)
        self.init_tokens: tuple[int, ...] | None = None
        self.p0 = self._start(model, init, seed)  # (P, D)
        A = torch.from_numpy(PROJECTIONS[projection](stream(seed, "projection"), size, dim))
        self.scale = alpha * _word_spread(model)
        self.A = (self.scale * A).to(model.device)  # (P * D, d)

    def decode(self, z: Tensor) -> Delta:
        """z [K, d] -> K prompts, float32 [K, P, D]; differentiable; decode(0) is p0 exactly."""
        step = z.to(self.A) @ self.A.T  # (K, P * D)
        return Delta(prompt=self.p0 + step.view(len(z), *self.p0.shape))

    def _start(self, model: Embeds, init: str | Tensor | None, seed: int) -> Tensor:
        import torch

        if init is None:
            ordinary = [i for i in range(model.vocabulary_size) if i not in model.special_tokens]
            ids: Sequence[int] = stream(seed, "initial words").choice(ordinary, self.tokens).tolist()
        elif isinstance(init, str):
            text = model.encode(init)
            if not text:
                raise GfoError(f"space: init = {init!r} has no tokens; give some text, or leave init out")
            ids = (text * self.tokens)[: self.tokens]
        else:
            given = torch.as_tensor(init, dtype=torch.float32, device=model.device)
            if given.shape != (self.tokens, model.hidden_size):
                wanted = (self.tokens, model.hidden_size)
                raise GfoError(f"space: init has the shape {tuple(given.shape)}; give {wanted}")
            return given.clone()
        self.init_tokens = tuple(ids)
        return model.embed(torch.tensor(ids, device=model.device)).float()


def _word_spread(model: Embeds) -> float:
    """Standard deviation of the coordinates of the word embeddings, from an even sample of words."""
    import torch

    step = max(1, model.vocabulary_size // SCALE_SAMPLE)
    words = model.embed(torch.arange(0, model.vocabulary_size, step, device=model.device))
    return float(words.float().std())
