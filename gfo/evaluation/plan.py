"""What a batch lets be computed once, and the token rows that are left.

A hidden state depends on the candidate only from the first soft-prompt token on. So the tokens
of an example fall into three parts, and the plan gives each its place in contexts (rows whose
keys and values are kept) and branches (continuations of a context, see `gfo.models.branches`):

| plan         | contexts                        | branches of each context        |
|--------------|---------------------------------|---------------------------------|
| text first   | B texts, once for all candidates | K prompts with the words behind |
| prompt first | K prompts, once for all examples | B texts                         |
| nothing      | none                             | K whole sequences for each text |

The texts in front differ from row to row ("Review: {text}\\n{soft}..."): text first. They are the
same in all rows ("{soft}Review: {text}..."): prompt first, the common tokens in front of it once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from gfo.core.protocols import Batch


class Sharing(Enum):
    """What is computed once."""

    TEXT_FIRST = "text first"
    PROMPT_FIRST = "prompt first"
    NOTHING = "nothing"


@dataclass(frozen=True)
class TokenRow:
    """Tokens of one row: `head`, the soft prompt if `prompt`, `tail`."""

    head: tuple[int, ...] = ()
    prompt: bool = False
    tail: tuple[int, ...] = ()

    def length(self, P: int) -> int:
        """Tokens of the row with a soft prompt of P tokens."""
        return len(self.head) + P * self.prompt + len(self.tail)


@dataclass(frozen=True)
class Plan:
    """The rows of a batch, sorted into what is shared and what each candidate needs.

    Attributes:
        sharing: what is computed once.
        shared: rows computed once for all candidates: B texts, one common text, or none.
        branches: per example what is computed for each candidate.
    """

    sharing: Sharing
    shared: tuple[tuple[int, ...], ...]
    branches: tuple[TokenRow, ...]

    def tokens_for(self, candidates: int, P: int) -> int:
        """Tokens that depend on the candidate, for that many candidates."""
        once = P if self.sharing is Sharing.PROMPT_FIRST else 0
        return candidates * (once + sum(row.length(P) for row in self.branches))


def plan(batch: Batch, *, reuse: bool = True) -> Plan:
    """The plan of a batch; `reuse=False` computes every sequence whole, the slow way."""
    same_before = len(set(batch.before)) == 1
    if not reuse or (same_before and not all(batch.after)):
        whole = tuple(TokenRow(b, True, a) for b, a in zip(batch.before, batch.after, strict=True))
        return Plan(Sharing.NOTHING, (), whole)
    if same_before:
        return Plan(Sharing.PROMPT_FIRST, batch.before[:1], tuple(TokenRow(tail=a) for a in batch.after))
    return Plan(Sharing.TEXT_FIRST, batch.before, tuple(TokenRow((), True, a) for a in batch.after))


def tiles(lengths: Sequence[int], *, most_tokens: int, waste: float = 0.05) -> list[list[int]]:
    """Group rows of like length: indices into `lengths`, shortest rows first.

    Args:
        lengths: tokens of each row.
        most_tokens: the most tokens of a tile, padding included, unless one row has more.
        waste: the most padding of a tile, as a share of its real tokens.
    """
    groups: list[list[int]] = []
    real = 0
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        padded = (len(groups[-1]) + 1) * lengths[i] if groups else 0
        if groups and padded <= most_tokens and padded <= (1 + waste) * (real + lengths[i]):
            groups[-1].append(i)
            real += lengths[i]
        else:
            groups.append([i])
            real = lengths[i]
    return groups
