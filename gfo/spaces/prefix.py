"""Prefixes: keys and values in front of all tokens, at chosen layers, moved in a random subspace.

Li and Liang 2021, Prefix-Tuning, arXiv:2101.00190. They start from the keys and values of real words, as
in MeZO (Malladi et al. 2023, arXiv:2305.17333): random numbers fail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from gfo.core.delta import Delta
from gfo.core.errors import GfoError, shown
from gfo.core.recording import recorded
from gfo.spaces.parts.options import Layers, at_least_one, positive, select_layers
from gfo.spaces.parts.projection import Projected
from gfo.spaces.parts.words import HasContextLength, initial_words, measured_words

if TYPE_CHECKING:
    from torch import Tensor


class HasContexts(HasContextLength, Protocol):
    """What a prefix needs of a model."""

    name: str
    contexts: bool
    layers: int

    def context(self, entry: Tensor, length: Tensor) -> tuple[Any, Tensor]: ...


@recorded
class Prefix:
    """Keys and values of P' words, searched in d dimensions.

    key = key0 + alpha * s * (A z), and the values likewise: key0 and value0 are those of real words at
    the positions 0 to P' - 1, A is one fixed random projection into all layers, with A z ~ N(0, 1), and
    s the spread of each key and value coordinate between words, so that every layer and coordinate
    moves by the same share of it.

    Args:
        model: a frozen decoder of `gfo.load_model`.
        tokens: P'.
        dim: d, the search dimensions.
        layers: None for all, "upper" or "lower" for a half, "last", or their numbers. What lies below the
            lowest is computed once for all candidates.
        init: the words: a text, repeated or cut to P' tokens, or None for random ones.
        alpha: the size of a typical change, as a share of the spread.
        projection: see `gfo.spaces.parts.projection.make_projection`.
        seed: of the projection and the random words.

    Raises:
        GfoError: for a model without keys and values in front, sizes out of range, an unknown layer or
            projection, a text without tokens.
    """

    def __init__(
        self,
        model: HasContexts,
        tokens: int = 8,
        dim: int = 200,
        *,
        layers: Layers = None,
        init: str | None = None,
        alpha: float = 0.3,
        projection: str = "auto",
        seed: int = 0,
    ) -> None:
        import torch

        if not getattr(model, "contexts", False):
            name = shown(getattr(model, "name", model))
            raise GfoError(
                f"space: a prefix needs a decoder that keeps keys and values, but {name} is none, or "
                "runs in whole rows: take SoftPrompt or DeepPrompt"
            )
        self.tokens = at_least_one("tokens", tokens)
        chosen = select_layers(layers, model.layers)
        self.layers, self.first_layer = tuple(chosen), chosen[0]
        self.init_tokens = initial_words(model, init, tokens, seed)
        first = torch.tensor([self.init_tokens], device=model.device)
        start, words = (_keys_values(model, ids, chosen) for ids in (first, measured_words(model, seed)))
        self.start = start  # of each layer keys and values, (H_kv, P', D_h), whose D_h may differ
        positive("alpha", alpha)
        scale = {
            layer: alpha * torch.cat([_spread(t, len(self.init_tokens)).flatten() for t in pair])
            for layer, pair in zip(chosen, words, strict=True)
        }
        what = f"the keys and values of {tokens} tokens in {len(chosen)} layers"
        remedy = "lower dim or raise tokens"
        self._project = Projected(scale, dim, projection, seed, model.device, what=what, remedy=remedy)
        self.dim, self.domain = dim, self._project.domain

    def decode(self, z: Tensor) -> Delta:
        """z [K, d] -> K prefixes, float32; differentiable; decode(0) is that of the words exactly."""
        import torch

        prefix = {}
        for start, (layer, part) in zip(self.start, self._project(z).items(), strict=True):
            moved = torch.split(part, [t.numel() for t in start], dim=1)
            key, value = (t + own.view(len(z), *t.shape) for t, own in zip(start, moved, strict=True))
            prefix[layer] = key, value  # (K, H_kv, P', D_h)
        return Delta(prefix=prefix, first_layer=self.first_layer)


def _keys_values(model: HasContexts, ids: Tensor, layers: list[int]) -> list[tuple[Tensor, ...]]:
    """float32 keys and values of words, ids [1, S], at positions 0 to S - 1: of each layer, [H_kv, S, D_h].

    Raises:
        GfoError: for a layer that keeps none.
    """
    import torch

    with torch.no_grad():
        length = torch.tensor([ids.shape[1]], device=model.device)
        context, _ = model.context(model.embed(ids), length)
    if without := [layer for layer in layers if context.layers[layer] is None]:
        raise GfoError(
            f"space: layers {without} of model '{model.name}' keep no keys and values of their own, so that "
            "they take no prefix; leave them out of layers"
        )
    return [tuple(part[0].float() for part in context.layers[layer]) for layer in layers]


def _spread(words: Tensor, tokens: int) -> Tensor:
    """Of keys or values [H_kv, S, D_h] between words, all but the first, which is unlike: for P' tokens."""
    return words[:, 1:].std(dim=1, keepdim=True).expand(-1, tokens, -1)
