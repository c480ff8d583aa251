"""Prompts of words and phrases from a list, without weights: for models that are asked as texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError, shown
from gfo.core.recording import recorded
from gfo.spaces.parts.options import at_least_one


@recorded
class Words:
    """m places in the template's `{soft}` place, each with one of n words or phrases, or with none.

    A gene is the number of a word, 1 to n, or 0 for what `init` has in this place. For methods that take
    integer genes, such as "ga" and "1+1-ea". It needs no weights: a `gfo.Endpoint` is asked with the text, as
    is a model of `gfo.load_model`.

    Args:
        words: the words or phrases.
        places: m, the number of genes.
        joint: what stands between two of them.
        init: words of the first places at z = 0; by default none, so that a gene 0 leaves its place empty.

    Raises:
        GfoError: for no words, an empty one, one that is there twice, or more words in `init` than places.
    """

    takes_model = False

    def __init__(
        self, words: Sequence[str], places: int = 4, *, joint: str = " ", init: Sequence[str] = ()
    ) -> None:
        self.words = tuple(words)
        _check(self.words)
        self.places = at_least_one("places", places)
        if isinstance(init, str) or len(init) > places:
            raise GfoError(f"space: init = {shown(init)}; give a list of {places} words at most")
        self.joint, self.init = joint, (*init, *[""] * (places - len(init)))
        self.domain = Domain.box(0, len(self.words), places, categorical=True)

    def text(self, z: Array) -> str:
        """The prompt that z [m] stands for."""
        genes = np.rint(np.nan_to_num(np.asarray(z, dtype=np.float64))).clip(0, len(self.words))
        numbers = genes.astype(int).tolist()
        chosen = (self.words[n - 1] if n else self.init[i] for i, n in enumerate(numbers))
        return self.joint.join(word for word in chosen if word)

    def measure(self, z: Array) -> Mapping[str, Array]:
        """z [K, m] -> the prompts' lengths in characters, [K]."""
        return {"characters": np.array([float(len(self.text(point))) for point in z])}


def _check(words: Sequence[str]) -> None:
    """Raise GfoError for words that genes cannot stand for."""
    if not words:
        raise GfoError("space: words = []; give some words or phrases")
    for word in words:
        if not word.strip():
            raise GfoError(
                f"space: words has {word!r}; give each some text (a gene 0 leaves its place empty)"
            )
    if len(set(words)) < len(words):
        twice = next(word for word in words if words.count(word) > 1)
        raise GfoError(f"space: words has {twice!r} twice; give each once")
