"""A frozen model's text: token ids of texts and texts of token ids, by its tokenizer."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from gfo.core.images import check_no_pictures
from gfo.core.protocols import Tokens
from gfo.core.texts import Pieces, Where, text_number
from gfo.models.text import TextTokens


class HasTexts:
    """The `gfo.core.protocols.Tokenizer` of a model.

    Args:
        tokenizer: the transformers tokenizer.

    Attributes:
        module, config, vocabulary_size, name: the model's.
        text_tokens: what tokenizes its texts.
    """

    module: Any
    config: Any
    vocabulary_size: int
    name: str
    images: Any = None
    """What reads the images of its rows, `gfo.models.images.Images`; None for a model of text."""
    without_images: str = "reads no images; take a model of images and text"
    """Why it has none, in words."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.text_tokens = TextTokens(tokenizer)

    @property
    def special_tokens(self) -> frozenset[int]:
        """Ids of the tokenizer's special tokens."""
        return frozenset(self.tokenizer.all_special_ids)

    @functools.cached_property
    def unused_tokens(self) -> frozenset[int]:
        """Ids of embeddings that no token has: what fills the matrix up to a round size."""
        return frozenset(range(self.vocabulary_size)).difference(self.tokenizer.get_vocab().values())

    @property
    def has_words(self) -> bool:
        """Whether any embedding is that of a token which is text."""
        special = (number for number in self.special_tokens if number < self.vocabulary_size)
        return len(self.unused_tokens.union(special)) < self.vocabulary_size

    def encode(
        self, text: str, *, start: bool = False, end: bool = False, inside: bool = False
    ) -> tuple[int, ...]:
        """Token ids of the text, with the special tokens that the model wants at a start and an end.

        `inside` gives those that it has in running text, without what the tokenizer puts in front of texts.
        """
        behind = [("\n",)] if inside else None
        return self.text_tokens.encode([(text,)], start=start, end=end, behind=behind)[0]

    def running(self, text: Tokens, blanks: str = "") -> Tokens:
        """The tokens that a text has behind another and some blanks, of those that it has alone.

        They are those, behind the blanks', where the tokenizer cannot read them back.
        """
        if not text or not (blanks or self.text_tokens.prefixes):
            return text
        (said,) = self._decoded([text])
        if self.encode(said) != text:
            return self.encode(blanks, inside=True) + text
        return self.encode(blanks + said, inside=True)

    def encode_rows(
        self,
        rows: Sequence[Pieces],
        *,
        start: bool = False,
        end: bool = False,
        behind: Sequence[Pieces] | None = None,
        where: Where = text_number,
    ) -> list[Tokens]:
        """Token ids of many texts in pieces, of which some are images; see `TextTokens.encode`."""
        if self.images is not None:
            return self.images.encode(rows, where, start=start, end=end, behind=behind)  # type: ignore[no-any-return]
        check_no_pictures(rows, where, f"model '{self.name}' {self.without_images}")
        return self.text_tokens.encode(rows, start=start, end=end, behind=behind, where=where)

    def chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Messages as the tokenizer's chat template writes them; see `TextTokens.chat`."""
        if self.images is None:
            return self.text_tokens.chat(messages)
        return self.images.chat(messages)  # type: ignore[no-any-return]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The text of each row of token ids, special tokens left out."""
        return self._decoded(rows, skip_special_tokens=True)

    def write(
        self, prompts: Sequence[str], *, max_tokens: int = 256, temperature: float = 1.0, seed: int = 0
    ) -> list[str | None]:
        """What the model answers each prompt; see `gfo.models.writing.write_answers`."""
        from gfo.models.writing import write_answers

        return write_answers(self, prompts, max_tokens=max_tokens, temperature=temperature, seed=seed)

    @functools.cached_property
    def token_texts(self) -> list[str]:
        """The text of every token of the embedding, by id; empty where the tokenizer has none."""
        return self._decoded([(token,) for token in range(self.vocabulary_size)])

    @functools.cached_property
    def end_tokens(self) -> frozenset[int]:
        """Ids that end what the model writes: the generation config's and the tokenizer's."""
        config = getattr(self.module, "generation_config", None) or self.config
        found = config.eos_token_id
        ends = [*found] if isinstance(found, list | tuple) else [found]
        return frozenset(token for token in (*ends, self.tokenizer.eos_token_id) if token is not None)

    def _decoded(self, rows: Sequence[Sequence[int]], **options: Any) -> list[str]:
        lists = [list(row) for row in rows]
        texts: list[str] = self.tokenizer.batch_decode(lists, clean_up_tokenization_spaces=False, **options)
        return texts
