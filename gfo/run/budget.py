"""How much a run may spend."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from gfo.core.checking import checked
from gfo.core.errors import GfoError
from gfo.core.protocols import Cost


@checked
@dataclass(frozen=True)
class Budget:
    """Limits of a run; the first one reached ends it, and None is no limit.

    Attributes:
        evaluations: candidates evaluated in the search.
        forward_tokens: tokens that went through the model in the search.
        seconds: wall-clock time, scoring on dev included.

    Raises:
        GfoError: for a limit that is not positive, or none at all.
    """

    evaluations: int | None = None
    forward_tokens: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in given.items():
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise GfoError(f"budget: {name} = {value} must be a positive number")
        if all(value is None for value in given.values()):
            raise GfoError(f"budget: give at least one of {', '.join(given)}")

    def share_spent(self, cost: Cost, seconds: float) -> float:
        """How much of the budget is gone, 0 to 1 or more: the largest share of any limit."""
        return max(
            (cost.candidates / self.evaluations) if self.evaluations else 0.0,
            (cost.forward_tokens / self.forward_tokens) if self.forward_tokens else 0.0,
            (seconds / self.seconds) if self.seconds else 0.0,
        )

    def no_room(self, cost: Cost, seconds: float, population: int) -> str | None:
        """Why another step of `population` candidates is not allowed, in words, or None.

        Evaluations are never exceeded; tokens and seconds end the run once they are spent.
        """
        if self.evaluations is not None and cost.candidates + population > self.evaluations:
            return f"budget: {cost.candidates} of {self.evaluations} evaluations spent"
        if self.forward_tokens is not None and cost.forward_tokens >= self.forward_tokens:
            return f"budget: {cost.forward_tokens} of {self.forward_tokens} forward tokens spent"
        if self.seconds is not None and seconds >= self.seconds:
            return f"budget: {seconds:.0f} of {self.seconds:.0f} seconds spent"
        return None
