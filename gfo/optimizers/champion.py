"""A point to fall back on where losses are noisy: two points meet in each step until one is surely better.

Best-of-a-step selection drifts in noise: of many new points the luckiest wins, not the best. So methods that
keep points, and no mean, ask for two more in each step: the champion, at first the start, and a challenger,
the winner of some step. Their differences within the steps are paired; once the mean is
`SURE` standard errors from 0, the challenger takes the title, or the search goes back to the champion.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from gfo.core.domain import Array, Domain
from gfo.optimizers.base import WIDER, WIDEST, BaseOptimizer
from gfo.optimizers.options import within

FEWEST, MOST, SURE = 3, 20, 2.5
"""Steps that a duel lasts at least and at most, and the standard errors that decide it."""


class Championed(BaseOptimizer):
    """A method that compares points it remembers with new ones."""

    _books: ClassVar[tuple[str, ...]] = (
        *BaseOptimizer._books, "_champion", "_challenger", "_differences", "_rivals", "_wide",
    )  # fmt: skip

    def __init__(self, domain: Domain, seed: int) -> None:
        super().__init__(domain, seed)
        self._champion: Array | None = None
        self._challenger: Array | None = None
        self._differences: list[float] = []  # of the champion's loss and the challenger's, step by step
        self._rivals = 0  # rows of the step that are these two: 0 or 2
        self._wide = 1.0  # what flat stretches made of the first steps

    def _go_back(self, z: Array) -> None:
        """Search about z [d] again: all points since then were worse."""

    def _scattered(self, n: int, first: Array) -> Array:
        """n points about the incumbent after a flat stretch, wider each time, [n, d]; itself the first."""
        self._wide = min(WIDER * self._wide, WIDEST)
        step = within(self.domain, self._wide * first)
        z = self.domain.clip(self.best_z + step * self.rng.standard_normal((n, self.domain.d)))
        z[0] = self.best_z
        return z

    def ask(self, n: int | None = None) -> Array:
        if self._asked is not None:
            return super().ask(None if n is None else n + self._rivals)
        self._rivals = 0
        z = super().ask(n)
        if self.noisy and np.isfinite(self.best_loss):
            self._rivals = 2
            self._champion = self.x0.copy() if self._champion is None else self._champion
            self._challenger = self.best_z.copy() if self._challenger is None else self._challenger
            self._asked = np.concatenate([self._champion[None], self._challenger[None], z])
        return super().ask()

    def _split(self, z: Array, loss: Array) -> tuple[Array, Array]:
        """What the method asked of z [K, d] and loss [K], the duel taken out and counted."""
        if not self._rivals:
            return z, loss
        difference = float(loss[0] - loss[1])
        if np.isfinite(difference):
            self._differences.append(difference)
        return z[2:], loss[2:]

    def tell(self, z: Array, loss: Array) -> None:
        super().tell(z, loss)
        n = len(self._differences)
        if not self._rivals or n < FEWEST:
            return
        mean = float(np.mean(self._differences))
        doubt = SURE * float(np.std(self._differences, ddof=1)) / n**0.5
        if mean > doubt:
            self._champion = self._challenger
        elif mean < -doubt and self._champion is not None:
            self._go_back(self._champion)
        elif n < MOST:
            return
        self._challenger, self._differences = self.best_z.copy(), []

    def recommend(self) -> Array:
        """The incumbent, where losses are noisy the champion: [d]."""
        if self.noisy and self._champion is not None:
            return self._champion.copy()
        return super().recommend()
