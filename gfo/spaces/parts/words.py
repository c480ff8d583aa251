"""Words that spaces start from: random ones of the vocabulary, or those of a text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from gfo.core.errors import GfoError
from gfo.core.seeding import stream

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SCALE_SAMPLE = 4096  # word embeddings from which their spread is measured
MEASURED_WORDS = 128  # of which hidden states, keys and values are measured


@runtime_checkable
class Embeds(Protocol):
    """What prompts need of a model."""

    hidden_size: int
    vocabulary_size: int

    @property
    def special_tokens(self) -> frozenset[int]: ...
    @property
    def unused_tokens(self) -> frozenset[int]: ...
    @property
    def device(self) -> torch.device: ...
    def encode(self, text: str, *, start: bool = False, inside: bool = False) -> tuple[int, ...]: ...
    def embed(self, ids: Tensor) -> Tensor: ...


@runtime_checkable
class HasContextLength(Embeds, Protocol):
    """A model that tells how many tokens it takes."""

    context_length: int


def ordinary_tokens(model: Embeds) -> list[int]:
    """Ids of the tokens that are text, ascending."""
    left_out = model.special_tokens | model.unused_tokens
    return [i for i in range(model.vocabulary_size) if i not in left_out]


def random_words(model: Embeds, tokens: int, seed: int, *, name: str = "initial words") -> tuple[int, ...]:
    """Ids of random ordinary words, from the stream `name` (as Black-Box Tuning starts)."""
    return tuple(stream(seed, name).choice(ordinary_tokens(model), tokens).tolist())


def initial_words(model: Embeds, init: str | None, tokens: int, seed: int) -> tuple[int, ...]:
    """Ids of a text as it is in running text, repeated or cut to `tokens`, or of random words for None.

    Raises:
        GfoError: for a text without tokens.
    """
    if init is None:
        return random_words(model, tokens, seed)
    text = model.encode(init, inside=True)
    if not text:
        raise GfoError(f"space: init = {init!r} has no tokens; give some text, or leave init out")
    return (text * tokens)[:tokens]


def start_of(
    model: Embeds, init: str | Tensor | None, tokens: int, seed: int
) -> tuple[Tensor, tuple[int, ...] | None]:
    """The embeddings [P, D] that a prompt starts from, float32, and their words if they are of words.

    Raises:
        GfoError: for a text without tokens, or embeddings of another shape.
    """
    import torch

    if init is None or isinstance(init, str):
        ids = initial_words(model, init, tokens, seed)
        return model.embed(torch.tensor(ids, device=model.device)).float(), ids
    given = torch.as_tensor(init, dtype=torch.float32, device=model.device)
    wanted = (tokens, model.hidden_size)
    if given.shape != wanted:
        raise GfoError(f"space: init has the shape {tuple(given.shape)}; give {wanted}")
    return given.clone(), None


def measured_words(model: HasContextLength, seed: int) -> Tensor:
    """Ids [1, T] of random words, to measure spreads on: 128, or half of a shorter context."""
    import torch

    T = min(MEASURED_WORDS, max(2, model.context_length // 2))
    ids = random_words(model, T, seed, name="measured words")
    return torch.tensor([ids], device=model.device)


def word_spread(model: Embeds) -> float:
    """Standard deviation of the coordinates of the word embeddings, from an even sample of words."""
    import torch

    step = max(1, model.vocabulary_size // SCALE_SAMPLE)
    some = [i for i in range(0, model.vocabulary_size, step) if i not in model.unused_tokens]
    words = model.embed(torch.tensor(some, device=model.device))
    return float(words.float().std())
