"""Label words: what a model says for each label, as tokens, and the label scores that its answers give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gfo.core.errors import GfoError, check_name
from gfo.core.protocols import Tokenizer, Tokens
from gfo.core.texts import Pieces, Where
from gfo.tasks.parts.running import tokens_behind
from gfo.tasks.parts.templates import is_list

if TYPE_CHECKING:
    from torch import Tensor

NORMALIZE = {
    "sum": "the log-likelihood of the whole word",
    "mean": "its mean over the word's tokens, so that long words are not at a disadvantage",
}
Words = Mapping[str, tuple[str, ...]]
"""Label -> the words that stand for it."""


def words_by_label(labels: Mapping[Any, str | Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Labels as text with their words as tuples.

    Raises:
        GfoError: for fewer than two labels, labels that are equal as text, or a label without a word.
    """
    if len(labels) < 2:
        raise GfoError(f"labels = {dict(labels)}: give at least two labels with their words")
    if len({str(label) for label in labels}) < len(labels):
        raise GfoError(f"labels = {dict(labels)}: two labels are the same as text; give each another name")
    return {str(label): _words_of(label, given) for label, given in labels.items()}


def _words_of(label: Any, given: Any) -> tuple[str, ...]:
    """The words of a label, one at least, each with some text."""
    words = tuple(given) if is_list(given) else (given,)
    if not words:
        raise GfoError(f"labels: '{label}' has no word; give it at least one")
    for word in words:
        if not isinstance(word, str) or not word.strip():
            raise GfoError(f"labels: the word for '{label}' is {word!r}; give it some text")
    return words


def _word(named: Sequence[tuple[str, str]]) -> Where:
    """What errors call a label's word."""
    return lambda i: f"labels: the word {named[i][1]!r} for '{named[i][0]}'"


class LabelWords:
    """The words of C labels in one model's tokens.

    A label's score is the logarithm of its words' mean probability (as the average of Hu et al. 2022,
    arXiv:2108.02035, so that a label gains nothing by the number of its words). A word of several tokens
    has the likelihood of all of them.

    Args:
        words: of each label.
        tokenizer: of the model.
        normalize: a name of NORMALIZE.
        behind: a row's text, which the words go on with: they have the tokens of the running text.
        likelihoods: whether the answers must be log-likelihoods in the whole vocabulary; else, where each
            word has one token, they are its logits, which cost less.

    Attributes:
        vocabulary: the words' tokens, where each has one and logits will do; for a model that reads the
            sentence, the tokens of each label text. Else None.
        endings: the words' tokens, where `vocabulary` is None; else empty.

    Raises:
        GfoError: for a word without tokens, two words of the same tokens, a word of several for a masked
            language model, one that another label's word begins with, where likelihoods are summed, or
            likelihoods of a model that does not say the next word.
    """

    def __init__(
        self,
        words: Words,
        tokenizer: Tokenizer,
        normalize: str = "sum",
        behind: Pieces = (),
        *,
        likelihoods: bool = False,
    ) -> None:
        check_name("normalize", normalize, NORMALIZE)
        self.labels = tuple(words)
        self._sizes = [len(some) for some in words.values()]
        self._mean = normalize == "mean"
        named = [(label, word) for label, some in words.items() for word in some]
        self._tokens = _encoded(named, tokenizer, behind)
        self._check([(*name, ids) for name, ids in zip(named, self._tokens, strict=True)], tokenizer)
        if likelihoods and tokenizer.reads != "next":
            raise GfoError(
                "confidence: it is the likelihood of the next word, and this model reads the whole text; "
                "leave it out"
            )
        self.vocabulary = None if likelihoods else _vocabulary(self._tokens, tokenizer)
        self.endings = self._tokens if self.vocabulary is None else ()

    def wanted(self, rows: int) -> dict[str, Any]:
        """What a batch of so many rows wants: the fields `vocabulary` and `endings` of a `Batch`."""
        return {"vocabulary": self.vocabulary, "endings": (self.endings,) * rows if self.endings else ()}

    def scores(self, answers: Tensor) -> Tensor:
        """Logits or log-likelihoods of the words [K, B, m] -> of the labels, [K, B, C]; differentiable."""
        import torch

        if self.endings and self._mean:
            answers = answers / torch.tensor([len(ids) for ids in self._tokens], device=answers.device)
        if len(self._tokens) == len(self._sizes):
            return answers
        parts = torch.split(answers, self._sizes, dim=-1)
        return torch.stack(
            [part.logsumexp(dim=-1) - torch.tensor(part.shape[-1]).log() for part in parts], -1
        )

    def _check(self, tokens: Sequence[tuple[str, str, Tokens]], tokenizer: Tokenizer) -> None:
        owner: dict[Tokens, tuple[str, str]] = {}
        for label, word, ids in tokens:
            _check_number(label, word, ids, tokenizer)
            if ids in owner:
                other, same = owner[ids]
                raise GfoError(
                    f"labels: the words {same!r} for '{other}' and {word!r} for '{label}' have the same "
                    "tokens; give words that differ"
                )
            owner[ids] = label, word
        if not self._mean and tokenizer.reads == "next":
            _check_beginnings(tokens, owner)


def _vocabulary(
    tokens: tuple[Tokens, ...], tokenizer: Tokenizer
) -> tuple[int, ...] | tuple[Tokens, ...] | None:
    """What a batch of words with these tokens has as its `vocabulary`: see `LabelWords`."""
    if tokenizer.reads == "sentence":
        return tokens
    return tuple(ids[0] for ids in tokens) if all(len(ids) == 1 for ids in tokens) else None


def _encoded(named: Sequence[tuple[str, str]], tokenizer: Tokenizer, behind: Pieces) -> tuple[Tokens, ...]:
    """The tokens of labels' words: of the running text, or of a text each for a model of sentences."""
    texts = [(word,) for _, word in named]
    sentence = tokenizer.reads == "sentence"
    if sentence or not behind:
        return tuple(tokenizer.encode_rows(texts, start=sentence, end=sentence, where=_word(named)))
    return tuple(tokens_behind([behind] * len(texts), texts, tokenizer, _word(named)))


def _check_number(label: str, word: str, ids: Tokens, tokenizer: Tokenizer) -> None:
    """Raise GfoError for a word without tokens, or of several for a masked language model."""
    if not ids:
        raise GfoError(f"labels: the word {word!r} for '{label}' has no tokens in this model; give another")
    if tokenizer.reads == "mask" and len(ids) > 1:
        raise GfoError(
            f"labels: the word {word!r} for '{label}' has {len(ids)} tokens, and a masked language "
            "model says one in the place of {mask}; give a word of one token"
        )


def _check_beginnings(
    tokens: Sequence[tuple[str, str, Tokens]], owner: Mapping[Tokens, tuple[str, str]]
) -> None:
    """Raise GfoError for a word that another label's word begins with."""
    for label, word, ids in tokens:
        for n in range(1, len(ids)):
            other, short = owner.get(ids[:n], (label, ""))
            if other != label:
                raise GfoError(
                    f"labels: the word {short!r} for '{other}' begins {word!r} for '{label}', so it is "
                    'never the less likely one; give other words, or normalize = "mean"'
                )
