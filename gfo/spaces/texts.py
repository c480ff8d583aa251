"""Prompts that are any text, for methods that have a language model write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from gfo.core.domain import Array
from gfo.core.recording import recorded
from gfo.core.text_domain import TextDomain, check_texts
from gfo.spaces.parts.options import at_least_one


@recorded
class Texts:
    """Any text of at most `length` characters in the template's `{soft}` place.

    For the methods "evoprompt" and "gepa", which have a language model write new ones; for a `gfo.Endpoint`
    or a model of `gfo.load_model`.

    Args:
        start: a prompt of yours, or several: the first population. z = 0 is the first of them.
        length: the most characters of a text.

    Raises:
        GfoError: for no text to start from, or one that is too long.
    """

    takes_model = False

    def __init__(self, start: str | Sequence[str], *, length: int = 1000) -> None:
        texts = (start,) if isinstance(start, str) else tuple(start)
        check_texts("start", texts, at_least_one("length", length))
        self.domain = TextDomain.of(texts, length)

    def text(self, z: Array) -> str:
        """The prompt that z [d] stands for."""
        return self.domain.text(z)

    def measure(self, z: Array) -> Mapping[str, Array]:
        """z [K, d] -> the prompts' lengths in characters, [K]."""
        return {"characters": np.array([float(len(self.text(point))) for point in z])}
