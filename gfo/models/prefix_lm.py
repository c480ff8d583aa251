"""Prefix language models: all tokens of a prompt see each other, and the answer's see what is before them.

So what changes is seen by the whole prompt, images included, and candidates share nothing of a row but the
layers below the first changed one (Raffel et al. 2020, arXiv:1910.10683).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from gfo.models.branches import Context, RowLayout, Together
from gfo.models.decoder import Decoder, Placed


class PrefixLM(Decoder):
    """A decoder of transformers that reads a prompt in both directions (PaliGemma, arXiv:2407.07726)."""

    contexts = False

    def place(self, context: Context | None, C: int, rows: RowLayout, dtype: torch.dtype) -> Placed:
        """See `Decoder.place`."""
        position, together = self.stand(rows.positions(context, C), rows, None)
        return Placed(position, self._masks(partial(rows.mask, context, C, dtype=dtype, together=together)))

    def stand(self, number: Tensor, rows: RowLayout, shift: Tensor | None) -> tuple[Tensor, Together]:
        """See `Decoder.stand`: all tokens of a branch that are real, and of no ending, see each other."""
        own = (rows.branch[:, :, None] == rows.branch[:, None, :]) & (rows.branch >= 0)[:, :, None]
        if rows.answer is not None:
            own = own & ~rows.answer[:, :, None] & ~rows.answer[:, None, :]
        return number, Together(own[None], windowed=False)

    def check_branches(self) -> None:
        """Nothing beyond what `gfo.models.checking` compares."""
