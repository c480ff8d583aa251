"""What is called at each step of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gfo.core.domain import Array
from gfo.core.protocols import Cost, Evaluator, Optimizer
from gfo.run.budget import Budget
from gfo.run.history import History

if TYPE_CHECKING:
    from gfo.run.selection import DevSelection


@dataclass
class Run:
    """A run as callbacks see it; theirs to read, not to change.

    Attributes:
        cost: of the search, without scoring.
        seconds: wall-clock time since the start.
        incumbent: the candidate [d] with the lowest loss so far; None before the first.
    """

    optimizer: Optimizer
    evaluator: Evaluator
    budget: Budget
    history: History
    selection: DevSelection | None = None
    cost: Cost = field(default_factory=Cost)
    seconds: float = 0.0
    incumbent: Array | None = None

    @property
    def share_spent(self) -> float:
        """How much of the budget is gone, 0 to 1."""
        return min(1.0, self.budget.share_spent(self.cost, self.seconds))


class Callback:
    """Overwrite what you need; each method is called with the run as it stands."""

    def start(self, run: Run) -> None:
        """Before the first step."""

    def step(self, run: Run) -> str | None:
        """After each step (`run.history[-1]`); a text ends the run with it as the reason."""
        return None

    def end(self, run: Run) -> None:
        """After the last step, also when the run was interrupted or failed."""
