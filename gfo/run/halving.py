"""Which trials go on: successive halving by rungs, asynchronous (ASHA) and in brackets (Hyperband).

ASHA: Li, Jamieson, Rostamizadeh, Gonina, Ben-tzur, Hardt, Recht and Talwalkar 2020, arXiv:1810.05934,
Algorithm 2. Hyperband: Li, Jamieson, DeSalvo, Rostamizadeh and Talwalkar 2018, JMLR 18 (185), Algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from gfo.core.errors import GfoError
from gfo.core.recording import recorded


@dataclass
class Bracket:
    """Trials at rungs of rising budgets, of which the best 1 / eta of a rung go on to the next.

    Attributes:
        rungs: the budget of each rung, rising.
        eta: of how many trials one goes on.
        size: n, how many trials begin in it; then a rung is halved once all of its trials are done. None for
            any number, of which each rung's best go on as soon as they are among the best of those so far.
        losses: a rung each: trial -> loss there, inf for one that failed.
        begun: how many trials have begun in it.
    """

    rungs: tuple[int, ...]
    eta: int
    size: int | None = None
    losses: list[dict[int, float]] = field(default_factory=list)
    begun: int = 0

    def __post_init__(self) -> None:
        self.losses = [{} for _ in self.rungs]

    @property
    def full(self) -> bool:
        """Whether no trial can begin in it."""
        return self.size is not None and self.begun >= self.size

    @property
    def ended(self) -> bool:
        """Whether no trial can begin or go on in it."""
        return self.full and self._done(len(self.rungs) - 1)

    def tell(self, trial: int, rung: int, loss: float) -> None:
        """A trial's loss at a rung; nan for one that failed, which never goes on."""
        self.losses[rung][trial] = math.inf if math.isnan(loss) else loss

    def promotions(self) -> list[tuple[int, int]]:
        """(trial, the rung it goes on to) of all that may go on now, the highest rungs first."""
        return [
            (trial, rung + 1)
            for rung in reversed(range(len(self.rungs) - 1))
            for trial in self._best(rung)
            if trial not in self.losses[rung + 1]
        ]

    def _best(self, rung: int) -> list[int]:
        """The best 1 / eta of a rung that may be halved; of equal ones the earlier trials."""
        here = self.losses[rung]
        if self.size is not None and not self._done(rung):
            return []
        ranked = sorted(here, key=lambda trial: (here[trial], trial))
        return [trial for trial in ranked[: len(here) // self.eta] if math.isfinite(here[trial])]

    def _done(self, rung: int) -> bool:
        """Whether all trials that will ever be at a rung have their losses there."""
        if rung == 0:
            return self.full and len(self.losses[0]) == self.begun
        return self._done(rung - 1) and len(self.losses[rung]) >= len(self._best(rung - 1))


@recorded
class ASHA:
    """Asynchronous successive halving: a trial goes on as soon as it is among the best 1 / eta of its rung.

    Args:
        rungs: budgets in tokens, epochs or whatever the trials count, rising; of a run in forward tokens.
        eta: of how many trials one goes on.

    Raises:
        GfoError: for budgets that do not rise, or an eta below 2.
    """

    def __init__(self, rungs: Sequence[int], eta: int = 3) -> None:
        self.rungs, self.eta = _rungs(rungs, eta), eta

    def brackets(self) -> list[Bracket]:
        """One without an end."""
        return [Bracket(self.rungs, self.eta)]


@recorded
class Hyperband:
    """Brackets of successive halving, each begun at a larger budget with fewer trials, round after round.

    Bracket s = s_max, ..., 0 has n = ceil((s_max + 1) / (s + 1) eta^s) trials, which begin at rung s_max - s.

    Args:
        rungs: s_max + 1 budgets, each eta times the one before.
        eta: of how many trials one goes on.

    Raises:
        GfoError: for budgets that do not rise by eta, or an eta below 2.
    """

    def __init__(self, rungs: Sequence[int], eta: int = 3) -> None:
        self.rungs, self.eta = _rungs(rungs, eta), eta
        for low, high in pairwise(self.rungs):
            if high != low * eta:
                raise GfoError(f"rungs: {high} is not eta = {eta} times {low}; give budgets that rise by eta")

    def brackets(self) -> list[Bracket]:
        """Those of one round."""
        most = len(self.rungs) - 1
        sizes = [math.ceil((most + 1) * self.eta**s / (s + 1)) for s in range(most + 1)]
        return [Bracket(self.rungs[most - s :], self.eta, sizes[s]) for s in reversed(range(most + 1))]


Halving = ASHA | Hyperband


def _rungs(rungs: Sequence[int], eta: int) -> tuple[int, ...]:
    """The rungs, checked."""
    if eta < 2:
        raise GfoError(f"eta = {eta} must be at least 2")
    if not rungs or rungs[0] < 1 or any(a >= b for a, b in pairwise(rungs)):
        raise GfoError(f"rungs = {list(rungs)}: give budgets of at least 1, each above the one before")
    return tuple(rungs)
