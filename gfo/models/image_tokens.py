"""Tokens of images that a text model does not take as words: where they stand, what they see, what is added.

| what                                   | families                               | here        |
|----------------------------------------|----------------------------------------|-------------|
| positions of three axes                | Qwen2-VL (arXiv:2409.12191) and later  | `positions` |
| an image's tokens see each other       | Gemma 3 (arXiv:2503.19786)             | `together`  |
| features added behind the first layers | Qwen3-VL (DeepStack, arXiv:2406.04334) | `deepened`  |

Tokens are numbered as all others are; where images have positions of their own, those are kept as what they
are beyond the numbers, once an image, whatever stands in front of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from gfo.core.images import FIRST
from gfo.models.branches import RowLayout, Together
from gfo.models.features import FeatureStore
from gfo.models.structure import hooked


class ImageTokens:
    """How a text model takes the tokens of images, beside their embeddings.

    Args:
        features: of all images, [size, D], behind which stand those that are added, [size, deep * D].
        width: D.
        whole: whether an image's tokens see each other.

    Attributes:
        whole: as given.
        deep: behind how many first layers features are added.
    """

    def __init__(self, features: FeatureStore, width: int, whole: bool) -> None:
        self._features, self._width, self.whole, self.deep = features, width, whole, 0
        self._moves: list[Tensor] = []
        self._table: Tensor | None = None

    @property
    def moved(self) -> bool:
        """Whether images have positions of their own."""
        return bool(self._moves)

    def add(self, moves: Tensor) -> None:
        """A new image, by how far its tokens stand beyond their numbers on three axes, and how much further
        what is behind it stands than before the token, int [size, 4]."""
        self._moves.append(moves)
        self._table = None

    def positions(self, number: Tensor, rows: RowLayout, shift: Tensor | None) -> Tensor:
        """Where tokens stand, int [C * R, T], or on each of three axes, [3, C * R, T].

        Args:
            number: of the tokens, those in front of the rows included, int [C * R, T].
            rows: with ids.
            shift: of the C contexts in front of them, int [C]; None for nothing.
        """
        if not self._moves or rows.ids is None:
            return number
        moves = self._moves_of(rows.ids)  # ([C,] R, T, 4)
        step = moves[..., 3]
        behind = step.cumsum(-1) - step  # of all images in front of it in the row
        first = _first_columns(rows.branch).expand_as(behind)
        moved = moves[..., :3] + (behind - behind.gather(-1, first))[..., None]
        R, T = rows.branch.shape
        moved = moved.expand(len(number) // R, R, T, 3)
        if shift is not None:
            moved = moved + shift[:, None, None, None]
        return number + moved.flatten(0, 1).movedim(-1, 0)

    def shift_behind(self, ids: Tensor, shift: Tensor | None) -> Tensor | None:
        """The shift [C] of what stands behind words [C, S] and a shift that is there already, if any."""
        if not self._moves:
            return shift
        own = self._moves_of(ids)[..., 3].sum(-1)
        return own if shift is None else shift + own

    def together(self, rows: RowLayout) -> Together | None:
        """Which tokens of rows see each other whatever their order; None for none."""
        if not self.whole or rows.ids is None:
            return None
        image = (rows.ids >= FIRST).reshape(-1, *rows.branch.shape)  # (C or 1, R, T)
        if not bool(image.any()):
            return None
        own = (rows.branch[:, :, None] == rows.branch[:, None, :]) & (rows.branch >= 0)[:, :, None]
        begins = image & ~nn.functional.pad(image, (1, 0))[..., :-1]
        run = torch.where(image, begins.cumsum(-1), -1)  # what nothing parts is one, as transformers has it
        same = image[..., None] & (run[..., :, None] == run[..., None, :])
        return Together(own & same, windowed=True)

    def deepened(self, layers: Sequence[nn.Module], ids: Tensor) -> AbstractContextManager[None]:
        """Within, what is added behind the first layers of a pass of words [rows, T] is added."""
        image = ids >= FIRST
        if not self.deep or not bool(image.any()):
            return hooked()
        own = self._features.take(ids[image] - FIRST)
        parts = torch.split(own[:, self._width :], self._width, dim=-1)
        return hooked(*(_adding(layer, image, part) for layer, part in zip(layers, parts, strict=False)))

    def _moves_of(self, ids: Tensor) -> Tensor:
        """The moves of words [...], int [..., 4]."""
        if self._table is None:
            self._table = torch.cat(self._moves)
        image = ids >= FIRST
        return torch.where(image[..., None], self._table[(ids - FIRST).clamp(min=0)], 0)


def moves_of(position: Tensor, image: Tensor) -> Tensor:
    """How far an image's tokens stand beyond their numbers; see `ImageTokens.add`.

    Args:
        position: where the tokens of a row with it alone stand, int [3, T].
        image: which of them are the image's, bool [T].
    """
    T, last = len(image), int(image.nonzero()[-1])
    own = position - torch.arange(T, device=position.device)
    behind = int(own[0, last + 1]) if last + 1 < T else int(position.max()) + 1 - T
    moves = torch.zeros(T, 4, dtype=torch.long, device=position.device)
    moves[:, :3], moves[last, 3] = own.T, behind
    return moves[image]


def _adding(layer: nn.Module, image: Tensor, features: Tensor) -> Any:
    """A hook that adds features [n, D] to what leaves a layer, in the n places of `image`, bool [rows, T]."""

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        hidden = output if isinstance(output, Tensor) else output[0]
        hidden = hidden.clone()
        hidden[image] += features.to(hidden)
        return hidden if isinstance(output, Tensor) else (hidden, *output[1:])

    return layer.register_forward_hook(hook)


def _first_columns(branch: Tensor) -> Tensor:
    """The column in which each token's branch [R, T] begins, int [R, T]."""
    column = torch.arange(branch.shape[1], device=branch.device).expand_as(branch)
    begins = torch.ones_like(branch, dtype=torch.bool)
    begins[:, 1:] = branch[:, 1:] != branch[:, :-1]
    return torch.where(begins, column, 0).cummax(dim=1).values
