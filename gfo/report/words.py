"""The words of the vocabulary that a soft prompt lies nearest to.

To look at, not to believe: for any text there are soft prompts that solve a task and have that text as
their nearest words (Khashabi et al. 2022, Prompt Waywardness, arXiv:2112.08348).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gfo.core.errors import GfoError
from gfo.report.tables import Table
from gfo.spaces.parts.words import ordinary_tokens

if TYPE_CHECKING:
    from torch import Tensor

    from gfo.models.frozen import FrozenModel

ROWS_AT_ONCE = 16384  # of the vocabulary, in float32
WARNING = (
    "To look at, not to believe: a soft prompt does not act like its nearest words (Khashabi et al. 2022, "
    "arXiv:2112.08348)."
)


def nearest_words(prompt: Tensor, embeddings: Tensor, k: int = 5) -> tuple[Tensor, Tensor]:
    """The k embeddings nearest to each token of a prompt, by cosine.

    Args:
        prompt: [P, D].
        embeddings: [V, D], of words, in any dtype.
        k: 1 to V.

    Returns:
        Rows of `embeddings`, int64 [P, k], the nearest first, and their cosines, float32 [P, k].

    Raises:
        GfoError: for a k out of range.
    """
    import torch

    if not 1 <= k <= len(embeddings):
        raise GfoError(f"k = {k} must be 1 to {len(embeddings)}, the number of words")
    normalize = torch.nn.functional.normalize
    tokens = normalize(prompt.detach().float().to(embeddings.device), dim=-1)  # (P, D)
    found = [
        tokens @ normalize(part.detach().float(), dim=-1).T for part in torch.split(embeddings, ROWS_AT_ONCE)
    ]  # (P, V) in parts
    cosines, rows = torch.cat(found, dim=1).topk(k, dim=1)
    return rows, cosines


def words_near(model: FrozenModel, prompt: Tensor, k: int = 5) -> Table:
    """A table of a prompt's tokens [P, D], the k ordinary words nearest to each and their cosines.

    Raises:
        GfoError: for a k out of range.
    """
    import torch

    ids = ordinary_tokens(model)
    found, cosines = nearest_words(prompt, model.embed(torch.tensor(ids, device=model.device)), k)
    cells = [
        [f"{model.tokenizer.decode([ids[row]])!r} {cosine:.2f}" for row, cosine in zip(*pair, strict=True)]
        for pair in zip(found.tolist(), cosines.tolist(), strict=True)
    ]
    rows = [(str(i), *near) for i, near in enumerate(cells)]
    return Table(("token", "nearest word, cosine", *[""] * (k - 1)), tuple(rows), (WARNING,))
