"""What a batch lets be computed once, and the token rows that are left.

Two frontiers bound what depends on the candidate: the first token that does (the first of the soft
prompt; the very first where modules or attention change; the last where what changes is seen by no other
token), and the first layer that does. Tokens in front of the first are computed once; so are all tokens
below the second. What is left is laid out as contexts (rows whose keys and values are kept) and branches
(continuations of a context, see `gfo.models.branches`), by what all rows of a batch have in common:

| layout       | contexts                                 | branches of each context             |
|--------------|------------------------------------------|--------------------------------------|
| by example   | B texts, once for all candidates         | K candidates: what is left of the row |
| by candidate | K candidates: their common first tokens  | B texts, or what is left of them     |

Rows that differ in front of that token ("Review: {text}\\n{soft}...") are laid out by example. Rows
that are the same up to a token that depends on the candidate ("{soft}Review: {text}...", or "Review:" when
a LoRA changes all tokens) by candidate; what they share in front of that token is computed once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from gfo.core.images import FIRST
from gfo.core.protocols import Batch

T = TypeVar("T")
Row = tuple[int, ...]
"""Token ids; the soft prompt's token p stands as -1 - p, a token that no module changes as UNCHANGED + id."""
UNCHANGED = 2**40
WORTH_STATES = 0.25  # of the tokens, in front; with fewer whole rows cost less than copies of states


@dataclass(frozen=True)
class Tree:
    """A branch with an example's endings behind it: its tokens depth first, each computed once.

    Attributes:
        row: the tokens: the trunk, which all endings see, and the endings without their last tokens, of
            which the first ones are one where they are the same.
        depth: per token, how many stand in front of it on its way.
        end: per token, the place behind the last token that sees it.
        trunk: how many tokens the trunk has.
        wanted: (place, token, answer): the log-likelihood of the token behind the place is a term of the
            answer, which is numbered example * m + ending.
        forced: for an encoder-decoder, whose rows have no endings, the endings without their last tokens,
            none empty. A place then counts through the answer's start and these.
    """

    row: Row
    depth: tuple[int, ...]
    end: tuple[int, ...]
    wanted: tuple[tuple[int, int, int], ...]
    trunk: int
    forced: tuple[Row, ...] = ()

    @cached_property
    def places(self) -> list[int]:
        """The places that are read, in order."""
        return sorted({place for place, _, _ in self.wanted})


@dataclass(frozen=True)
class Plan:
    """The rows of a batch, sorted into what is computed once and what each candidate needs.

    Attributes:
        by_example: the layout; see above.
        shared: computed once for all candidates: by example the B texts, by candidate at most one row.
        own: computed once by each candidate for all examples; empty by example.
        branches: per example, what each candidate computes.
        trees: where log-likelihoods of endings are wanted, the branches as trees; then there may be several
            for an example, or none. By example `shared` is per branch.
    """

    by_example: bool
    shared: tuple[Row, ...]
    own: Row
    branches: tuple[Row, ...]
    trees: tuple[Tree, ...] = ()


def plan(
    batch: Batch,
    P: int,
    *,
    everywhere: bool = False,
    begins: str | None = None,
    contexts: bool = True,
    states: bool = False,
    reuse: bool = True,
    images_whole: bool = False,
) -> Plan:
    """The plan of a batch.

    Args:
        batch: the examples.
        P: tokens of the soft prompt.
        everywhere: whether all tokens depend on the candidate, not the soft prompt's and those behind alone.
        begins: where modules begin to change, for a soft prompt at its place; see `gfo.core.delta.Begin`.
        contexts: whether the model keeps contexts, without which every sequence is whole.
        states: whether it keeps states of texts instead, which serve the layout by example alone.
        reuse: False to compute every sequence whole, the slow way.
        images_whole: whether an image's tokens see each other, so that none of them is computed without
            the others.
    """
    soft = tuple(-1 - p for p in range(P))
    rows = [before + soft + after for before, after in zip(batch.before, batch.after, strict=True)]
    first = _first_changed(batch, rows, everywhere, begins)
    keeps = contexts or (states and _worth_states(rows, first))
    if not (keeps and reuse):
        return Plan(False, (), (), _marked(rows, first) if begins else tuple(rows))
    return _parted(rows, first, contexts, images_whole)


def _first_changed(batch: Batch, rows: Sequence[Row], everywhere: bool, begins: str | None) -> list[int]:
    """The first token of each row that depends on the candidate; the arguments are those of `plan`."""
    if begins in ("{here}", "{soft}"):
        return [len(before) for before in batch.before]
    return [0 if everywhere else _first_soft(row) for row in rows]


def _parted(rows: Sequence[Row], first: Sequence[int], contexts: bool, images_whole: bool) -> Plan:
    """The plan of rows of which what stands in front of the first tokens that depend on the candidate is
    computed once."""
    if images_whole:
        first = [_no_image_cut(row, f) for row, f in zip(rows, first, strict=True)]
    common = _common(rows) if len(set(first)) == 1 else min(first)
    if images_whole:
        common = min(_no_image_cut(row, common) for row in rows)
    if contexts and len(rows) > 1 and common > first[0]:
        return _by_candidate(rows, first[0], common)
    return _by_example(rows, first) if any(first) else Plan(False, (), (), tuple(rows))


def _by_candidate(rows: Sequence[Row], first: int, common: int) -> Plan:
    """The plan of rows with the same `common` first tokens, which depend on the candidate from `first` on."""
    shared = (rows[0][:first],) if first else ()
    return Plan(False, shared, rows[0][first:common], tuple(row[common:] for row in rows))


def _by_example(rows: Sequence[Row], first: Sequence[int]) -> Plan:
    """The plan of rows with the first token of each that depends on the candidate."""
    parts = [(row[:f], row[f:]) for row, f in zip(rows, first, strict=True)]
    shared, branches = zip(*parts, strict=True)
    return Plan(True, shared, (), branches)


def _no_image_cut(row: Row, at: int) -> int:
    """The last place up to `at` in front of which no image goes on behind it."""
    while 0 < at < len(row) and all(FIRST <= token < UNCHANGED for token in row[at - 1 : at + 1]):
        at -= 1
    return at


def _worth_states(rows: Sequence[Row], first: Sequence[int]) -> bool:
    """Whether all rows have tokens in front of the first that depends on the candidate, and enough."""
    return all(first) and sum(first) >= WORTH_STATES * sum(map(len, rows))


def _marked(rows: Sequence[Row], first: Sequence[int]) -> tuple[Row, ...]:
    """Whole rows, in which no module changes the tokens in front of the first of each that it does."""
    return tuple(
        (*(UNCHANGED + token for token in row[:f]), *row[f:]) for row, f in zip(rows, first, strict=True)
    )


def _first_soft(row: Row) -> int:
    """Where the soft prompt begins, and at most the last token."""
    return next((i for i, token in enumerate(row) if token < 0), len(row) - 1)


def _common(rows: Sequence[Row]) -> int:
    """The number of first tokens that all rows share, leaving each one token at least."""
    most = min(map(len, rows)) - 1
    return next((i for i in range(most) if len({row[i] for row in rows}) > 1), most)


def picked(values: Sequence[T], numbers: Iterable[int]) -> list[T]:
    """Some of the values, by their numbers."""
    return [values[i] for i in numbers]


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


def bins(lengths: Sequence[int], sizes: Sequence[int]) -> tuple[int, list[list[int]]]:
    """Pack rows into bins of one size: (size, indices into `lengths` of each bin).

    First-fit decreasing for each size, and of these the one with the least padding.

    Args:
        lengths: tokens of each row.
        sizes: sizes to try, each raised to the longest row.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    tried = ((size, _first_fit(lengths, order, size)) for size in sorted({max(s, *lengths) for s in sizes}))
    return min(tried, key=lambda way: way[0] * len(way[1]))


def _first_fit(lengths: Sequence[int], order: Sequence[int], size: int) -> list[list[int]]:
    """Bins of rows, taken in an order, each in the first bin that has room for it."""
    packed: list[list[int]] = []
    room: list[int] = []
    for i in order:
        fits = next((b for b, left in enumerate(room) if left >= lengths[i]), None)
        if fits is None:
            packed.append([i])
            room.append(size - lengths[i])
        else:
            packed[fits].append(i)
            room[fits] -= lengths[i]
    return packed
