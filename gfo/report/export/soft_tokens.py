"""A soft prompt as new tokens: a tokenizer that has them, the rows of the embedding matrix, the template."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gfo.core.images import PLACE
from gfo.core.protocols import Tokens

if TYPE_CHECKING:
    from torch import Tensor

    from gfo.report.export.candidate import Candidate

ROWS = 100  # of each split, on which tokenizations are compared


@dataclass(frozen=True)
class SoftTokens:
    """New tokens that stand for a soft prompt.

    Attributes:
        tokenizer: a copy of the model's, with them.
        texts: how they are written, P of them.
        ids: their ids.
        rows: their rows of the embedding matrix, float32 [P, D]; the model's factor on embeddings is
            taken out.
        note: where tokenizing a whole text gives other tokens than gfo searched with, in words, or None.
    """

    tokenizer: Any
    texts: tuple[str, ...]
    ids: tuple[int, ...]
    rows: Tensor
    note: str | None

    @classmethod
    def of(cls, candidate: Candidate) -> SoftTokens:
        """The tokens of a candidate's prompt.

        Raises:
            GfoError: for a model whose embeddings are not rows of a matrix.
        """
        from tokenizers import AddedToken

        model, prompt = candidate.model, candidate.delta.prompt
        assert prompt is not None
        rows = prompt[0] / model.embedding_scale
        tokenizer = copy.deepcopy(model.tokenizer)
        texts = _free_names(tokenizer, len(rows))
        # special: no normalizer touches them, and decoding can leave them out
        tokens = [
            AddedToken(text, lstrip=False, rstrip=False, normalized=False, special=True) for text in texts
        ]
        tokenizer.add_tokens(tokens, special_tokens=True)
        ids = tuple(tokenizer.convert_tokens_to_ids(list(texts)))
        return cls(tokenizer, texts, ids, rows, _difference(candidate, tokenizer, texts, ids))

    @property
    def vocabulary_size(self) -> int:
        """The rows that the embedding matrix must have at least."""
        return max(self.ids) + 1


def _free_names(tokenizer: Any, P: int) -> tuple[str, ...]:
    """<soft_0> to <soft_P-1>, or names with a number more if the vocabulary has these."""
    known, tries = tokenizer.get_vocab(), 0
    while True:
        name = "soft" if not tries else f"soft{tries}"
        texts = tuple(f"<{name}_{i}>" for i in range(P))
        if not any(text in known for text in texts):
            return texts
        tries += 1


def _difference(
    candidate: Candidate, tokenizer: Any, texts: tuple[str, ...], ids: tuple[int, ...]
) -> str | None:
    """Whether the whole text has gfo's tokens, which tokenizes in front of the prompt and behind it apart."""
    task = candidate.task
    if not hasattr(task, "texts"):
        return None
    ends = getattr(task, "template", None) is None or task.template.ends  # a chat has its own special tokens
    compared = different = 0
    example = ""
    for (before, after), first, last in _compared(task):
        joint = tuple(tokenizer(before + "".join(texts) + after, add_special_tokens=ends)["input_ids"])
        compared += 1
        if joint != (*first, *ids, *last):
            different += 1
            example = example or before + "".join(texts) + after
    if not different:
        return None
    return (
        f"the tokenizer gives other tokens around the soft tokens than gfo searched with in {different} of "
        f"{compared} rows, as in {example!r}: tokenize the text in front of them and behind them apart"
    )


def _compared(task: Any) -> Iterator[tuple[tuple[str, str], Tokens, Tokens]]:
    """The first rows of each split: the texts around the prompt, and their tokens."""
    for split in task.splits:
        batch = task.all_rows(split)
        rows = zip(task.texts(split), batch.before, batch.after, strict=True)
        for texts, first, last in list(rows)[:ROWS]:
            if PLACE not in "".join(texts):  # in whose place the processor puts an image's tokens
                yield texts, first, last
