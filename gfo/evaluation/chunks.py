"""Sequences that are decoded together: whose they are, how many at once, and which of them go on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from gfo.core.delta import Delta
from gfo.core.domain import Array
from gfo.models.apply import Change


@dataclass(frozen=True)
class Room:
    """How much is computed and kept at once.

    Attributes:
        most: the most tokens of a forward pass.
        kept: the most tokens whose keys and values are kept.
    """

    most: int
    kept: int

    def sequences(self, tokens: int) -> int:
        """The most sequences of so many tokens."""
        return max(1, min(self.most, self.kept // tokens))


@dataclass
class Chunk:
    """Sequences that are decoded together.

    Attributes:
        k: the candidates.
        b: the examples.
        candidate: of each sequence, a number within k, int [N], on the host.
        example: of each sequence, a number within b, int [N], on the host.
        by_example: whether they are sorted by example, all candidates of each; else by candidate.
    """

    k: slice
    b: list[int]
    candidate: Array
    example: Array
    by_example: bool = False

    @property
    def owner(self) -> Array:
        """By what they are sorted: of each sequence its example or candidate, int [N]."""
        return self.example if self.by_example else self.candidate

    @classmethod
    def of(cls, k: slice, b: list[int], *, by_example: bool = False) -> Chunk:
        """All candidates k with all examples b: sorted by example or by candidate."""
        sizes = (len(b), k.stop - k.start) if by_example else (k.stop - k.start, len(b))
        outer, inner = (axis.flatten() for axis in np.indices(sizes))
        return cls(k, b, inner, outer, True) if by_example else cls(k, b, outer, inner)

    def take(self, rows: Array) -> Chunk:
        """Some of the sequences."""
        return replace(self, candidate=self.candidate[rows], example=self.example[rows])


def answers_to(b: list[int], n: int) -> list[int]:
    """The numbers of n answers to each of the examples b."""
    return [n * example + sample for example in b for sample in range(n)]


def each_sample(chunk: Chunk, n: int) -> tuple[Chunk, Array]:
    """A whole chunk with n answers to each example, which are its examples from here on, and the sequence
    that each goes on from, int [N n]."""
    rows = np.arange(len(chunk.example))
    if chunk.by_example:  # all candidates' first samples of an example, then all their second ones
        rows = np.repeat(rows.reshape(len(chunk.b), -1), n, axis=0).ravel()
    else:
        rows = np.repeat(rows, n)
    return Chunk.of(chunk.k, answers_to(chunk.b, n), by_example=chunk.by_example), rows


def of_modules(delta: Delta, chunk: Chunk, device: torch.device) -> Change | None:
    """What of the changes of a chunk's candidates reaches generated tokens: the modules' and the gates'."""
    if not delta.lasting:
        return None
    modules = Delta(*(slot for slot in delta.slots if slot.lasting))
    cycles = len(chunk.example) // delta.candidates if chunk.by_example else None
    return Change(modules, torch.full((1, 1), -1, device=device), cycles)


def kept(alive: Array, chunk: Chunk, *, equally_many: bool) -> Array:
    """The sequences of a chunk to go on with, int, ascending: those alive, bool [N].

    Where there must be equally many for each candidate, others fill up: by example all of an example's with
    one that is alive, by candidate as many as the candidate with most has.
    """
    if not equally_many:
        return np.flatnonzero(alive)
    grid = alive.reshape(len(np.unique(chunk.owner)), -1)
    if chunk.by_example:
        return np.flatnonzero(np.broadcast_to(grid.any(axis=1, keepdims=True), grid.shape))
    count = grid.sum(axis=1)
    first = np.argsort(~grid, axis=1, kind="stable")[:, : count.max()]
    rows = np.arange(len(grid))[:, None] * grid.shape[1] + first
    return np.sort(rows[count > 0].ravel())
