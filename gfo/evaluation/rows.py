"""Token rows as tensors: padded, or packed one behind the other, with the ways in which they fork."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gfo.evaluation.plan import UNCHANGED, Row, Tree
from gfo.models.branches import Forced, RowLayout


@dataclass(frozen=True)
class TokenRows:
    """R rows of T tokens.

    Attributes:
        ids: word tokens, int [R, T]; 0 at padding and in the soft prompt's places.
        slot: which soft-prompt token stands there, int [R, T]; -1 for words and padding.
        length: real tokens, int [R].
        real: real tokens of all rows.
        changed: which of them modules change, bool [R, T]; None for all.
    """

    ids: Tensor
    slot: Tensor
    length: Tensor
    real: int
    changed: Tensor | None = None

    @classmethod
    def padded(cls, rows: Sequence[Row], device: Any, least: int = 1) -> TokenRows:
        """Rows side by side, padded on the right to the longest, or to the least number of tokens."""
        T = max([least, *map(len, rows)])
        token = torch.zeros(len(rows), T, dtype=torch.long)
        length = torch.tensor([len(row) for row in rows])
        for i, row in enumerate(rows):
            token[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        slot = torch.where(token < 0, -1 - token, -1)
        changed = token < UNCHANGED
        ids = torch.where(changed, token, token - UNCHANGED).clamp(min=0)
        some = None if bool(changed.all()) else changed.to(device)
        return cls(ids.to(device), slot.to(device), length.to(device), int(length.sum()), some)

    def embed(self, model: Any) -> Tensor:
        """Input embeddings [R, T, D] of the words."""
        return model.embed(self.ids)  # type: ignore[no-any-return]

    def places(self, candidates: int, P: int) -> Tensor:
        """Which of K * P soft-prompt tokens stands where, int [K, R, T]: the same rows for each candidate."""
        first = torch.arange(candidates, device=self.slot.device)[:, None, None] * P
        return torch.where(self.slot >= 0, first + self.slot, -1)

    def changes(self, candidates: int) -> Tensor | None:
        """Which tokens of K copies of the rows modules change, bool [K * R, T]; None for all."""
        return None if self.changed is None else self.changed.repeat(candidates, 1)


@dataclass(frozen=True)
class Forks:
    """How the trees of C rows of n tokens fork.

    Attributes:
        depth: int [C, n]; see `gfo.evaluation.plan.Tree`.
        end: int [C, n].
        place: the places read, int [C, J], the last again where a row has fewer.
        real: which of the C * J places are no such repetition, int [M].
    """

    depth: Tensor
    end: Tensor
    place: Tensor
    real: Tensor

    @classmethod
    def of(cls, trees: Sequence[Tree], n: int, device: Any) -> Forks:
        """Of rows padded to n tokens."""
        J = max(len(tree.places) for tree in trees)
        depth = [[*tree.depth, *[0] * (n - len(tree.row))] for tree in trees]
        end = [[*tree.end, *range(len(tree.row) + 1, n + 1)] for tree in trees]
        place = [tree.places + tree.places[-1:] * (J - len(tree.places)) for tree in trees]
        real = [c * J + j for c, tree in enumerate(trees) for j in range(len(tree.places))]
        return cls(*(torch.tensor(numbers, device=device) for numbers in (depth, end, place, real)))

    def lie(self, K: int, R: int, m: int, ids: Tensor) -> RowLayout:
        """K copies of each tree in R rows of m, of words as they lie there, int [C, R, m * n]."""
        (C, n), J = self.depth.shape, self.place.shape[1]
        column = torch.arange(m * n, device=self.depth.device).expand(R, -1)
        first = torch.arange(K, device=column.device) * n  # m * n columns a row: copy k begins at k * n
        end = (self.end[:, None] + first[:m, None]).reshape(C, 1, m * n).expand(-1, R, -1)
        position = self.depth.repeat(1, m)[:, None].expand(-1, R, -1)
        read = (first[:, None] + self.place[:, None]).reshape(C, K * J)
        return RowLayout(column // n, position, read, end, ids=ids)

    def reading(self, hidden: Tensor) -> Tensor:
        """Hidden states [C, K * J, D] of what is read of K copies -> [K, M, D]."""
        C, J = self.place.shape
        states = hidden.reshape(C, -1, J, hidden.shape[-1]).transpose(0, 1).flatten(1, 2)  # (K, C * J, D)
        return states if len(self.real) == C * J else states[:, self.real]


def packed(
    rows: Sequence[Row],
    groups: Sequence[Sequence[int]],
    T: int,
    device: Any,
    read_token: int | None = None,
    trees: Sequence[Tree] = (),
) -> tuple[TokenRows, RowLayout]:
    """Branches one behind the other in len(groups) rows of T tokens.

    Args:
        rows: the branches.
        groups: which branches each row holds, in order.
        T: tokens of a row; the rest is padding.
        device: of the tensors.
        read_token: the token that is read where it stands last; None for a branch's last token.
        trees: how the branches fork and where they are read instead; empty where none does.

    Returns:
        The tokens, and how the branches lie; branches are counted through the groups.
    """
    tokens = TokenRows.padded([sum((rows[i] for i in group), ()) for group in groups], device, T)
    branch = torch.full((len(groups), T), -1)
    position = torch.zeros(len(groups), T, dtype=torch.long)
    end, answer = torch.arange(1, T + 1).repeat(len(groups), 1), branch >= 0
    read: list[int] = []
    for count, (r, column, i) in enumerate(_places(rows, groups)):
        at = r, slice(column, column + len(rows[i]))
        branch[at] = count
        if not trees:
            position[at] = torch.arange(len(rows[i]))
            read.append(r * T + column + _read_place(rows[i], read_token))
        else:
            position[at] = torch.tensor(trees[i].depth)
            end[at] = column + torch.tensor(trees[i].end)
            answer[r, column + trees[i].trunk : column + len(rows[i])] = True
            read += [r * T + column + place for place in trees[i].places]
    where = torch.tensor([read], device=device)
    lie = RowLayout(branch.to(device), position.to(device), where, ids=tokens.ids)
    return tokens, replace(lie, end=end.to(device), answer=answer.to(device)) if trees else lie


def _places(rows: Sequence[Row], groups: Sequence[Sequence[int]]) -> Iterator[tuple[int, int, int]]:
    """(row, column, number) of branches one behind the other: where each begins."""
    for r, group in enumerate(groups):
        column = 0
        for i in group:
            yield r, column, i
            column += len(rows[i])


def _read_place(row: Row, read_token: int | None) -> int:
    """Where a branch is read that does not fork."""
    return len(row) - 1 - (0 if read_token is None else row[::-1].index(read_token))


def forced(trees: Sequence[Tree], device: Any) -> tuple[Tensor, Forced | None]:
    """An encoder-decoder's R rows, one a tree: the places read, int [1, M], and the tokens forced."""
    ways = [(r, way) for r, tree in enumerate(trees) for way in tree.forced]
    if not ways:
        return torch.arange(len(trees), device=device)[None], None
    endings = TokenRows.padded([way for _, way in ways], device)
    T, read, n = endings.ids.shape[1], [], 0
    for r, tree in enumerate(trees):
        at = [r]
        for way in tree.forced:
            at += range(len(trees) + n * T, len(trees) + n * T + len(way))
            n += 1
        read += [at[place] for place in tree.places]
    row = torch.tensor([r for r, _ in ways], device=device)
    return torch.tensor([read], device=device), Forced(endings.ids, row, endings.real)
