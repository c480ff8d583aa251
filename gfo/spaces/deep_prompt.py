"""Deep prompts: the soft prompt's hidden states moved at the entrance of many layers.

Sun, He, Qian, Zhou, Huang and Qiu: BBTv2: Towards a Gradient-Free Future with Large Language Models,
EMNLP 2022 (arXiv:2205.11200), sections 3 and 4: h_l = h_l + A_l z_l at the prompt's places, with A_l
scaled by the spread of the layer's own hidden states, outlier dimensions clipped. The scale is in alpha
alone, so that z is unit scale and the optimizer's step size keeps its meaning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gfo.core.delta import Delta
from gfo.core.domain import Domain
from gfo.core.errors import GfoError
from gfo.core.recording import recorded
from gfo.core.seeding import stream
from gfo.spaces.parts.measure import HasHiddenStates, clipped_spread
from gfo.spaces.parts.options import Layers, at_least_one, dimension, even_sizes, positive, select_layers
from gfo.spaces.parts.projection import make_projection
from gfo.spaces.parts.words import measured_words, start_of

if TYPE_CHECKING:
    from torch import Tensor


@recorded
class DeepPrompt:
    """A soft prompt that stays fixed at the input and is moved at the entrance of chosen layers.

    h_l = h_l + alpha * s_l * A_l z_l at the P places of the prompt, for each chosen layer l. z is cut
    into one part z_l a layer, as equal as can be, or with `joint` z_l is all of z; A_l [P * D, d_l] is a
    fixed random projection with A_l z_l ~ N(0, 1), and s_l the clipped standard deviation of what enters
    layer l.

    Args:
        model: a frozen model of `gfo.load_model`.
        tokens: P, the prompt's length.
        dim: d, the search dimensions of all layers together; at least one a layer where each has its own.
        layers: None for all, "upper" or "lower" for a half, "last", or their numbers, from 0. At layer 0 the
            prompt itself moves. What lies below the lowest is computed once for all candidates.
        init: the fixed prompt: a text, repeated or cut to P tokens; embeddings [P, D]; or None for
            random words of the vocabulary.
        alpha: the size of a typical change, as a share of the hidden states' spread.
        joint: whether all of z moves every layer, by one projection into all of them.
        projection: see `gfo.spaces.parts.projection.make_projection`.
        scale_text: the text whose hidden states give s_l; None for random words.
        seed: of the projections and the random words.

    Attributes:
        blocks: how many dimensions of z each layer has, for the optimizer "blockwise", which visits the
            layers in turn as BBTv2 does; all of them in one block where the projection is joint.
        spread: layer -> s_l.

    Raises:
        GfoError: for sizes out of range, an unknown layer or projection, a text without tokens.
    """

    def __init__(
        self,
        model: HasHiddenStates,
        tokens: int = 8,
        dim: int = 200,
        *,
        layers: Layers = None,
        init: str | Tensor | None = None,
        alpha: float = 0.2,
        joint: bool = False,
        projection: str = "gaussian",
        scale_text: str | None = None,
        seed: int = 0,
    ) -> None:
        self.tokens = at_least_one("tokens", tokens)
        self.p0, self.init_tokens = start_of(model, init, tokens, seed)  # (P, D)
        chosen = select_layers(layers, model.prompt_layers)
        hidden = self._hidden_states(model, scale_text, seed)
        self._width = hidden[chosen[0]].shape[-1]  # D, but for models that project their embeddings
        self._check_dim(dim, tokens * self._width, len(chosen), least=1 if joint else len(chosen))
        self.dim, self.domain = dim, Domain.unbounded(dim)
        self.layers, self.first_layer = tuple(chosen), chosen[0]
        self.blocks = (dim,) if joint else tuple(even_sizes(dim, len(chosen)))
        blocks = self.blocks * len(chosen) if joint else self.blocks
        self.spread = {layer: clipped_spread(hidden[layer]) for layer in chosen}
        self._project = [
            make_projection(
                projection,
                stream(seed, f"projection of layer {layer}"),
                tokens * self._width,
                block,
                scale=positive("alpha", alpha) * self.spread[layer],
                device=model.device,
            )
            for layer, block in zip(chosen, blocks, strict=True)
        ]

    def decode(self, z: Tensor) -> Delta:
        """z [K, d] -> additions float32 [K, P, D] at each layer, and the fixed prompt; differentiable.

        decode(0) adds nothing.
        """
        import torch

        whole = len(self.blocks) < len(self.layers)  # joint: all of z for each
        z_l = [z] * len(self.layers) if whole else torch.split(z, list(self.blocks), dim=1)
        parts = zip(self.layers, self._project, z_l, strict=True)
        places = (len(z), self.tokens, self._width)
        added = {layer: project(part).view(places) for layer, project, part in parts}
        prompt = self.p0.expand(len(z), -1, -1)
        return Delta(prompt=prompt, layer_prompt=added, first_layer=self.first_layer)

    def _hidden_states(self, model: HasHiddenStates, text: str | None, seed: int) -> list[Tensor]:
        """What enters each layer, [1, T, D], of a text or random words."""
        import torch

        if text is None:
            return model.hidden_states(measured_words(model, seed))
        ids = model.encode(text, start=True)[: model.context_length // 2]
        if not ids:
            raise GfoError(f"space: scale_text = {text!r} has no tokens; give some text, or leave it out")
        return model.hidden_states(torch.tensor([ids], device=model.device))

    def _check_dim(self, dim: int, size: int, layers: int, least: int) -> None:
        """At least one dimension a layer that has its own, at most all numbers of the prompts."""
        if dim < least:
            raise GfoError(
                f"space: dim = {dim} is less than one a layer, of {layers}; raise dim, or choose layers"
            )
        dimension(dim, size * layers, f"prompts of {size} numbers in {layers} layers", "lower dim")
