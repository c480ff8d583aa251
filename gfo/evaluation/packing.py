"""How the branches of a batch are put together in groups of rows, with little padding."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from gfo.evaluation.plan import Plan, bins, picked, tiles
from gfo.evaluation.rows import TokenRows, forced, packed

if TYPE_CHECKING:
    from gfo.models.branches import RowLayout
    from gfo.models.frozen import FrozenModel

SPARE = 0.05  # of the places for branches behind a text
TEXT_WASTE = 0.5  # padding that texts may have where they are attended to (they are computed without)
TEXTS_TOGETHER = 8  # at least, where there are as many: fewer make passes too small, whatever the padding
TEXT_ROW = (
    32  # tokens of a row behind a text, or more: each row copies the text's keys, and sees its other branches
)
COPY = 20  # what copying a key costs, in products of it and a token's query: long texts want longer rows
PACKED_ROW = 64  # tokens of a row of packed texts, or the longest: as short as padding allows
LONG_BRANCH = 128  # tokens; a longer one has a row to itself, beside those of like length, else padding grows
FEW_TEXTS = 64  # so few are packed in several ways to find the one with the least padding


def groups_of_texts(todo: Plan, most: int, *, held: Callable[[int], int] | None = None) -> list[list[int]]:
    """By example: branches of like length behind texts of like length, of at most `most` tokens each.

    Args:
        todo: the plan.
        most: see above.
        held: where only texts of one length may go together: as many tokens as take the memory of what is
            kept of a text, by its length.
    """
    groups: list[list[int]] = []
    for group in tiles(list(map(len, todo.branches)), most_tokens=most):
        texts = list(map(len, picked(todo.shared, group)))
        longest = max(map(len, picked(todo.branches, group)))
        sizes = [n + held(n) for n in texts] if held else []
        parts = tiles(sizes, most_tokens=most, waste=0.0) if held else _near(texts, longest, most)
        groups += [picked(group, part) for part in parts]
    return groups


def _near(texts: list[int], longest: int, most: int) -> list[list[int]]:
    """Texts of like length together, by their lengths and that of the longest branch: numbers of texts."""
    return _together(tiles(texts, most_tokens=most, waste=TEXT_WASTE), min(TEXTS_TOGETHER, most // longest))


def lay_out(
    model: FrozenModel, todo: Plan, most: int
) -> tuple[list[list[int]], list[tuple[TokenRows, RowLayout]]]:
    """By candidate: the branches in groups of at most `most` tokens, and how each group lies in rows."""
    layouts = _in_rows(model, todo, most)
    groups = [[i for row in rows for i in row] for _, rows in layouts]
    laid = [packed(todo.branches, rows, T, model.device, model.read_token, todo.trees) for T, rows in layouts]
    if todo.trees and not model.causal and model.read_token is None:
        laid = [_with_forced(todo, group, *each) for group, each in zip(groups, laid, strict=True)]
    return groups, laid


def _in_rows(model: FrozenModel, todo: Plan, most: int) -> list[tuple[int, list[list[int]]]]:
    """Groups of rows, as `_packed_together`: short branches packed, the others alone."""
    lengths = list(map(len, todo.branches))
    packs = [i for i, length in enumerate(lengths) if model.contexts and length <= LONG_BRANCH]
    alone = sorted(set(range(len(lengths))) - set(packs))
    layouts = _packed_together(lengths, packs, most) if packs else []
    return layouts + _alone(todo, lengths, alone, most, waste=0.0 if model.equal_lengths else 0.05)


def _with_forced(
    todo: Plan, group: list[int], tokens: TokenRows, lie: RowLayout
) -> tuple[TokenRows, RowLayout]:
    """A group of an encoder-decoder's branches, with what is forced in the decoder behind each."""
    read, ways = forced(picked(todo.trees, group), tokens.ids.device)
    return tokens, replace(lie, read=read, forced=ways)


def _packed_together(lengths: list[int], packs: list[int], most: int) -> list[tuple[int, list[list[int]]]]:
    """Groups of packed rows, each (tokens of a row, branches of each row), of at most `most` tokens."""
    some = picked(lengths, packs)
    T, rows = bins(some, _row_sizes(some))
    at_once = max(1, most // T)
    rows = [picked(packs, row) for row in rows]
    return [(T, rows[i : i + at_once]) for i in range(0, len(rows), at_once)]


def _alone(
    todo: Plan, lengths: list[int], alone: list[int], most: int, waste: float
) -> list[tuple[int, list[list[int]]]]:
    """Groups of rows of one branch each, of like length, as `_packed_together`."""
    found = []
    for tile in tiles(picked(lengths, alone), most_tokens=most, waste=waste):
        for part in _forced_together(todo, picked(alone, tile), most):
            found.append((max(picked(lengths, part)), [[i] for i in part]))
    return found


def _forced_together(todo: Plan, tile: list[int], most: int) -> list[list[int]]:
    """A tile in parts whose forced tokens, padded, are at most `most` each, unless one row has more."""
    if not todo.trees:
        return [tile]
    parts: list[list[int]] = []
    number = longest = 0
    for i in tile:
        ways = todo.trees[i].forced
        number, longest = number + len(ways), max([longest, *map(len, ways)])
        if parts and number * longest <= most:
            parts[-1].append(i)
        else:
            parts.append([i])
            number, longest = len(ways), max([0, *map(len, ways)])
    return parts


def _together(groups: list[list[int]], least: int) -> list[list[int]]:
    """Neighbouring groups joined until each has at least `least` members, or all are in one."""
    joined: list[list[int]] = []
    for group in groups:
        if joined and min(len(joined[-1]), len(group)) < least:
            joined[-1] += group
        else:
            joined.append(list(group))
    return joined


def _row_sizes(lengths: list[int]) -> list[int]:
    """Sizes of packed rows to try: so that some number of rows is full, or nearly."""
    total = sum(lengths)
    if len(lengths) > FEW_TEXTS:
        return [PACKED_ROW]
    counts = range(max(1, 2 * total // (3 * PACKED_ROW)), 2 * total // PACKED_ROW + 2)
    return [int(-(-total * slack // count)) for count in counts for slack in (1.0, 1.02, 1.05)]


@lru_cache
def rows_of_branches(K: int, n: int, *, spare: float = SPARE, text: int = 0) -> tuple[int, int]:
    """(R, m): into how many rows of m branches K branches of n tokens are best laid, with some to spare.

    A row of T tokens behind a text copies its S keys, and each token sees S + T of them; so what a token
    costs beside its products, COPY S / T + S + T, is least at T = sqrt(COPY S).
    """
    best = max(TEXT_ROW, math.isqrt(COPY * text))
    choices = [(R, -(-K // R)) for R in range(1, K + 1)]
    choices = [(R, m) for R, m in choices if R * m <= (1 + spare) * K]
    return min(choices, key=lambda choice: max(choice[1] * n / best, best / (choice[1] * n)))
