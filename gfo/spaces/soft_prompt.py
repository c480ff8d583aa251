"""Soft prompts in a random subspace: prompt = p0 + alpha * s * A z.

Sun, Shao, Qian, Huang, Qiu: Black-Box Tuning for Language-Model-as-a-Service, ICML 2022
(arXiv:2201.03514), section 3; with the scale in alpha alone, so that z is unit scale and the
optimizer's step size keeps its meaning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gfo.core.delta import Delta
from gfo.core.domain import Domain
from gfo.core.recording import recorded
from gfo.core.seeding import stream
from gfo.spaces.parts.options import at_least_one, dimension, positive
from gfo.spaces.parts.peft_files import HasEmbeddings, read_prompt
from gfo.spaces.parts.projection import make_projection
from gfo.spaces.parts.words import Embeds, start_of, word_spread

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

TUNED_ALPHA = 0.5  # around a prompt that is good already


@recorded
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
        projection: "gaussian", "uniform" (as Black-Box Tuning), "orthogonal", "sparse" or "fastfood": see
            `gfo.spaces.parts.projection`; or "identity", none, for dim = P * D.
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
        self.tokens = at_least_one("tokens", tokens)
        size = tokens * model.hidden_size
        what = f"the size of a prompt of {tokens} tokens x {model.hidden_size}"
        self.dim = dimension(dim, size, what, "lower dim or raise tokens")
        self.domain = Domain.unbounded(dim)
        self.scale = positive("alpha", alpha) * word_spread(model)
        rng = stream(seed, "projection")
        self.project = make_projection(projection, rng, size, dim, scale=self.scale, device=model.device)
        self.p0, self.init_tokens = start_of(model, init, tokens, seed)  # (P, D)

    @classmethod
    def from_peft(
        cls,
        folder: str | Path,
        model: HasEmbeddings,
        dim: int = 200,
        *,
        alpha: float = TUNED_ALPHA,
        projection: str = "gaussian",
        seed: int = 0,
    ) -> SoftPrompt:
        """The space around the prompt of a PEFT adapter; decode(0) is that prompt exactly.

        Args:
            folder: of prompt tuning, or of trainable tokens (which stand in their order in the `{soft}`
                place).
            model: the frozen model that the adapter was made for.
            dim, alpha, projection, seed: as above; a prompt that is good wants smaller steps than random
                words.

        Raises:
            GfoError: for another kind of adapter, one for another model, or missing or extra keys.
        """
        prompt = read_prompt(folder, model)
        return cls(model, len(prompt), dim, init=prompt, alpha=alpha, projection=projection, seed=seed)

    def decode(self, z: Tensor) -> Delta:
        """z [K, d] -> K prompts, float32 [K, P, D]; differentiable; decode(0) is p0 exactly."""
        return Delta(prompt=self.p0 + self.project(z).view(len(z), *self.p0.shape))
