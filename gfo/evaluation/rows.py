"""Token rows as padded tensors, with places for the candidates' soft prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gfo.evaluation.plan import TokenRow

if TYPE_CHECKING:
    from gfo.models.decoder import Decoder


@dataclass(frozen=True)
class PaddedRows:
    """R rows of n tokens, padded on the right.

    Attributes:
        ids: word tokens, int [R, n]; 0 at padding and in the prompt's places.
        slot: which soft-prompt token stands there, int [R, n]; -1 for words and padding.
        length: real tokens, int [R].
    """

    ids: Tensor
    slot: Tensor
    length: Tensor

    @classmethod
    def of(cls, rows: Sequence[TokenRow], P: int, device: torch.device) -> PaddedRows:
        """Pad rows to the longest, and to one token where all are empty."""
        lengths = [row.length(P) for row in rows]
        ids = torch.zeros(len(rows), max(1, *lengths), dtype=torch.long)
        slot = torch.full_like(ids, -1)
        for i, row in enumerate(rows):
            start = len(row.head)
            end = start + P * row.prompt
            ids[i, :start] = torch.tensor(row.head, dtype=torch.long)
            slot[i, start:end] = torch.arange(end - start)
            ids[i, end : lengths[i]] = torch.tensor(row.tail, dtype=torch.long)
        return cls(ids.to(device), slot.to(device), torch.tensor(lengths, device=device))

    def embed(self, model: Decoder, prompt: Tensor) -> Tensor:
        """Input embeddings [K, R, n, D] with the K soft prompts [K, P, D] in their places."""
        words = model.embed(self.ids)[None].expand(len(prompt), -1, -1, -1)
        if not bool((self.slot >= 0).any()):
            return words
        soft = prompt.to(words.dtype)[:, self.slot.clamp(min=0)]  # (K, R, n, D)
        return torch.where((self.slot >= 0)[None, :, :, None], soft, words)
