"""Readable prompts: integer genes that pick the soft prompt's tokens from a list of candidates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from gfo.core.delta import Delta
from gfo.core.domain import Domain
from gfo.core.errors import GfoError, shown
from gfo.core.recording import recorded
from gfo.core.seeding import stream
from gfo.spaces.parts.options import at_least_one
from gfo.spaces.parts.words import Embeds, initial_words, ordinary_tokens

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class HasTokens(Embeds, Protocol):
    """What a discrete prompt needs of a model."""

    tokenizer: Any


@recorded
class DiscretePrompt:
    """P tokens in the template's `{soft}` place, each one of n candidates.

    A gene is the number of a candidate, 1 to n, or 0 for the word of `init` in this place. For methods that
    take integer genes, such as "ga" and "random". Genes near each other mean nothing.

    Args:
        model: a frozen model of `gfo.load_model`.
        tokens: P, the number of genes.
        candidates: words, each a single token (most want a leading blank), or token ids; or "frequent", the
            default: the words that the tokenizer was taught first, which are the most frequent, as
            byte-pair and WordPiece vocabularies are ordered.
        number: n, for "frequent" and for `similar_to`.
        similar_to: instead of `candidates` a text: its tokens, and those whose embeddings have the highest
            cosine similarity to one of them.
        init: what z = 0 decodes to: a text, repeated or cut to P tokens, or None for random ones of the
            candidates.
        seed: of the random words.

    Attributes:
        candidates: the ids of the n candidates.
        init_tokens: the ids at z = 0.

    Raises:
        GfoError: for a word of several tokens, too few candidates, an id out of range, a text without tokens.
    """

    def __init__(
        self,
        model: HasTokens,
        tokens: int = 8,
        candidates: Sequence[str | int] | str | None = None,
        *,
        number: int = 500,
        similar_to: str | None = None,
        init: str | None = None,
        seed: int = 0,
    ) -> None:
        import torch

        self.tokens = at_least_one("tokens", tokens)
        at_least_one("number", number)
        self._tokenizer = model.tokenizer
        self.candidates = _candidates(model, candidates, number, similar_to)
        if init is None:
            drawn = stream(seed, "initial words").choice(self.candidates, tokens)
            self.init_tokens: tuple[int, ...] = tuple(drawn.tolist())
        else:
            self.init_tokens = initial_words(model, init, tokens, seed)
        self.domain = Domain.box(0, len(self.candidates), tokens, integer=True)
        self.dim = tokens
        ids = torch.tensor([[first, *self.candidates] for first in self.init_tokens], device=model.device)
        self._ids = ids  # (P, 1 + n)
        words = torch.tensor(sorted({*self.init_tokens, *self.candidates}), device=model.device)
        self._embeddings = model.embed(words).float()
        self._row = torch.searchsorted(words, ids)

    def decode(self, z: Tensor) -> Delta:
        """z [K, P], whole numbers -> K prompts, float32 [K, P, D]; decode(0) is the start."""
        return Delta(prompt=self._embeddings[self._pick(self._row, z)])

    def tokens_of(self, z: Any) -> list[int]:
        """Ids of the tokens that z [P] stands for."""
        import torch

        return self._pick(self._ids, torch.as_tensor(z)[None])[0].tolist()  # type: ignore[no-any-return]

    def text(self, z: Any) -> str:
        """The prompt that z [P] stands for, as text. (Its own tokens may be others.)"""
        return str(self._tokenizer.decode(self.tokens_of(z)))

    def _pick(self, table: Tensor, z: Tensor) -> Tensor:
        """The entries [K, P] of a table [P, 1 + n] at z [K, P]."""
        gene = z.detach().to(table.device).round().long().clamp(0, len(self.candidates))
        return table.expand(len(z), -1, -1).gather(2, gene[:, :, None])[:, :, 0]


def _candidates(
    model: HasTokens, candidates: Sequence[str | int] | str | None, number: int, similar_to: str | None
) -> tuple[int, ...]:
    """The ids of the candidates, each once."""
    if similar_to is not None and candidates is not None:
        raise GfoError("space: candidates and similar_to are both given; give one of them")
    if similar_to is not None:
        found = _similar(model, similar_to, number)
    elif candidates is None or isinstance(candidates, str):
        if candidates not in (None, "frequent"):
            raise GfoError(f"space: candidates = '{candidates}'; give a list of words, or 'frequent'")
        found = _frequent(model, number)
    else:
        found = [_token(model, word) for word in candidates]
    if not found:
        raise GfoError("space: candidates: none; give some words")
    return tuple(dict.fromkeys(found))


def _token(model: HasTokens, word: str | int) -> int:
    """The id of a candidate."""
    if not isinstance(word, str):
        if not 0 <= word < model.vocabulary_size:
            raise GfoError(f"space: candidates: id {word} must be 0 to {model.vocabulary_size - 1}")
        if word in model.unused_tokens:
            raise GfoError(f"space: candidates: id {word} is of no token of the tokenizer; give another")
        return int(word)
    ids = model.encode(word, inside=True)
    if len(ids) != 1:
        raise GfoError(
            f"space: candidates: {shown(word)} has {len(ids)} tokens; give words of one token, with or "
            "without their leading blank"
        )
    return ids[0]


def _frequent(model: HasTokens, number: int) -> list[int]:
    """The first ordinary ids that are words: letters, behind a blank if the tokenizer has blanks."""
    found: list[int] = []
    for i in ordinary_tokens(model):
        if len(found) == number:
            break
        text = str(model.tokenizer.decode([i]))
        if text.strip().isalpha() and len(text.strip()) > 1:
            found.append(i)
    return found


def _similar(model: HasTokens, text: str, number: int) -> list[int]:
    """A text's tokens, and those with embeddings nearest to one of them, nearest first."""
    import torch

    own = model.encode(text, inside=True)
    if not own:
        raise GfoError(f"space: similar_to = {text!r} has no tokens; give some text")
    words = model.embed(torch.arange(model.vocabulary_size, device=model.device)).float()
    words = torch.nn.functional.normalize(words, dim=1)
    nearness = (words @ words[list(own)].T).amax(1)  # (V,)
    nearness[sorted(model.special_tokens | model.unused_tokens)] = -np.inf
    number = min(number, len(ordinary_tokens(model)))
    return nearness.argsort(descending=True, stable=True)[:number].tolist()  # type: ignore[no-any-return]
