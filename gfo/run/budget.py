"""How much a run may spend."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

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
        requests, dollars: asked of the server of a `gfo.Endpoint` in the search, and what it takes for them.

    Raises:
        GfoError: for a limit that is not positive, or none at all.
    """

    evaluations: int | None = None
    forward_tokens: int | None = None
    seconds: float | None = None
    requests: int | None = None
    dollars: float | None = None

    def __post_init__(self) -> None:
        given = {f.name: getattr(self, f.name) for f in fields(Budget)}
        for name, value in given.items():
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise GfoError(f"budget: {name} = {value} must be a positive number")
        if all(value is None for value in given.values()):
            raise GfoError(f"budget: give at least one of {', '.join(given)}")

    def check_server(self, model: Any) -> None:
        """Raise GfoError for limits that are of a server, where the model is none or has no prices."""
        for name in ("requests", "dollars"):
            if getattr(self, name) is not None and not hasattr(model, "prices"):
                given = f"{name} = {getattr(self, name)}"
                raise GfoError(f"budget: {given} is of a gfo.Endpoint; limit evaluations")
        if self.dollars is not None and model.prices is None:
            raise GfoError(
                f"budget: dollars = {self.dollars}, but the Endpoint has no prices; give it "
                "prices = (dollars for a million tokens read, and written), or limit requests"
            )

    def share_spent(self, cost: Cost, seconds: float) -> float:
        """How much of the budget is gone, 0 to 1 or more: the largest share of any limit."""
        return max(
            (cost.candidates / self.evaluations) if self.evaluations else 0.0,
            (cost.forward_tokens / self.forward_tokens) if self.forward_tokens else 0.0,
            (seconds / self.seconds) if self.seconds else 0.0,
            (cost.requests / self.requests) if self.requests else 0.0,
            (cost.dollars / self.dollars) if self.dollars else 0.0,
        )

    @property
    def planned(self) -> int | None:
        """The evaluations that methods plan for; None where they are not known."""
        return self.evaluations

    def share_planned(self, cost: Cost, seconds: float) -> float:
        """How much of what methods plan for is gone, 0 to 1 or more."""
        return self.share_spent(cost, seconds)

    def no_room(self, cost: Cost, seconds: float, population: int) -> str | None:
        """Why another step of `population` candidates is not allowed, in words, or None.

        Evaluations are never exceeded; all others end the run once they are spent.
        """
        if self.evaluations is not None and cost.candidates + population > self.evaluations:
            return f"budget: {cost.candidates} of {self.evaluations} evaluations spent"
        spent: dict[str, tuple[float, str]] = {
            "forward_tokens": (cost.forward_tokens, "{:.0f} of {:.0f} forward tokens"),
            "seconds": (seconds, "{:.0f} of {:.0f} seconds"),
            "requests": (cost.requests, "{:.0f} of {:.0f} requests"),
            "dollars": (cost.dollars, "${:.4g} of ${:.4g}"),
        }
        for name, (value, said) in spent.items():
            most = getattr(self, name)
            if most is not None and value >= most:
                return f"budget: {said.format(value, most)} spent"
        return None


@checked
@dataclass(frozen=True)
class Part(Budget):
    """The first evaluations of a larger budget: methods plan as if all of that were to be spent.

    Attributes:
        of: the larger one.
        share: how much of it they take, 0 to 1.
    """

    of: Budget = field(kw_only=True)
    share: float = field(kw_only=True)

    @property
    def planned(self) -> int | None:
        """The evaluations of the larger one."""
        return self.of.planned

    def share_planned(self, cost: Cost, seconds: float) -> float:
        """How much of the larger one is gone."""
        return self.share * self.share_spent(cost, seconds)


def described(cost: Cost) -> str:
    """What was spent, in words: "1,000 evaluations, 64 requests, $0.02, 3 s"."""
    parts = [f"{cost.candidates:,} evaluations"]
    parts += [f"{cost.forward_tokens:,} forward tokens"] if cost.forward_tokens else []
    parts += [f"{cost.requests:,} requests"] if cost.requests else []
    parts += [f"${cost.dollars:.4g}"] if cost.dollars else []
    return ", ".join([*parts, f"{cost.seconds:,.0f} s"])
