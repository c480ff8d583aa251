"""What a frozen model computes for random words, from which spaces take their scales."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from gfo.spaces.parts.targets import HasLinears
from gfo.spaces.parts.words import HasContextLength, measured_words

if TYPE_CHECKING:
    from torch import Tensor

CLIPPINGS, CLIP_AT = 5, 3.0  # times that values are clipped at mean +- 3 standard deviations


@runtime_checkable
class HasHiddenStates(HasContextLength, Protocol):
    """A model whose hidden states can be had."""

    layers: int

    @property
    def prompt_layers(self) -> int: ...

    def hidden_states(self, ids: Tensor) -> list[Tensor]: ...


@runtime_checkable
class HasModules(HasLinears, HasHiddenStates, Protocol):
    """A model whose modules can be had."""

    module: Any
    images: Any

    def layer_of(self, name: str) -> int | None: ...
    def lowest_layer(self, name: str) -> int: ...
    def module_outputs(self, names: Sequence[str], ids: Tensor) -> dict[str, Tensor]: ...


def module_outputs(model: HasModules, names: Sequence[str], seed: int) -> dict[str, Tensor]:
    """The modules' outputs for random words, or an image of noise where they read images, [..., out]."""
    texts = [name for name in names if name in model.linears]
    images = [name for name in names if name not in model.linears]
    found = model.module_outputs(texts, measured_words(model, seed)) if texts else {}
    return found | (model.images.outputs(images) if images else {})


def clipped_spread(values: Tensor) -> float:
    """Standard deviation of values [...] clipped 5 times at mean +- 3 standard deviations.

    A few dimensions, and the first token, have hidden states many times as large as the others; BBTv2
    clips them in this way.
    """
    values = values.float()
    for _ in range(CLIPPINGS):
        mean, std = values.mean(), values.std()
        values = values.clamp(mean - CLIP_AT * std, mean + CLIP_AT * std)
    return float(values.std())
