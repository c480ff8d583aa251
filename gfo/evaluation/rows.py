"""Token rows as tensors: padded, or packed one behind the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gfo.evaluation.plan import Row
from gfo.models.branches import Rows


@dataclass(frozen=True)
class TokenRows:
    """R rows of T tokens.

    Attributes:
        ids: word tokens, int [R, T]; 0 at padding and in the soft prompt's places.
        slot: which soft-prompt token stands there, int [R, T]; -1 for words and padding.
        length: real tokens, int [R].
        real: real tokens of all rows.
    """

    ids: Tensor
    slot: Tensor
    length: Tensor
    real: int

    @classmethod
    def padded(cls, rows: Sequence[Row], device: Any) -> TokenRows:
        """Rows side by side, padded to the longest on the right."""
        T = max(1, *map(len, rows)) if rows else 1
        token = torch.zeros(len(rows), T, dtype=torch.long)
        length = torch.tensor([len(row) for row in rows])
        for i, row in enumerate(rows):
            token[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        slot = torch.where(token < 0, -1 - token, -1)
        real = int(length.sum())
        return cls(token.clamp(min=0).to(device), slot.to(device), length.to(device), real)

    def embed(self, model: Any) -> Tensor:
        """Input embeddings [R, T, D] of the words."""
        return model.embed(self.ids)  # type: ignore[no-any-return]

    def places(self, candidates: int, P: int) -> Tensor:
        """Which of K * P soft-prompt tokens stands where, int [K, R, T]: the same rows for each candidate."""
        first = torch.arange(candidates, device=self.slot.device)[:, None, None] * P
        return torch.where(self.slot >= 0, first + self.slot, -1)


def packed(
    rows: Sequence[Row], groups: Sequence[Sequence[int]], T: int, device: Any, read_token: int | None = None
) -> tuple[TokenRows, Rows]:
    """Branches one behind the other in len(groups) rows of T tokens.

    Args:
        rows: the branches.
        groups: which branches each row holds, in order.
        T: tokens of a row; the rest is padding.
        device: of the tensors.
        read_token: the token that is read where it stands last; None for a branch's last token.

    Returns:
        The tokens, and how the branches lie; branches are counted through the groups.
    """
    tokens = TokenRows.padded([sum((rows[i] for i in group), ()) for group in groups], device)
    missing = T - tokens.ids.shape[1]
    ids = torch.nn.functional.pad(tokens.ids, (0, missing))
    slot = torch.nn.functional.pad(tokens.slot, (0, missing), value=-1)
    branch = torch.full((len(groups), T), -1)
    position = torch.zeros(len(groups), T, dtype=torch.long)
    read: list[int] = []
    for r, group in enumerate(groups):
        column = 0
        for i in group:
            end = column + len(rows[i])
            branch[r, column:end] = len(read)
            position[r, column:end] = torch.arange(end - column)
            back = 0 if read_token is None else rows[i][::-1].index(read_token)
            read.append(r * T + end - 1 - back)
            column = end
    lie = Rows(branch.to(device), position.to(device), torch.tensor([read], device=device))
    return TokenRows(ids, slot, tokens.length, tokens.real), lie
