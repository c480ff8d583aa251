"""Methods of other libraries that ask and tell one candidate at a time and give no state of their own.

Their state is what they were told: loading it asks and tells it all again.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError
from gfo.optimizers.base import BaseOptimizer
from gfo.optimizers.options import start_point, whole


class ReplayedOptimizer(BaseOptimizer):
    """A method that is brought back by telling it once more; it adds `_begin`, `_ask` and `_learn`.

    Attributes:
        budget: evaluations planned, where the method wants to know; None where nobody said.
    """

    integers = True
    varies = True
    injects = False

    def __init__(self, domain: Domain, seed: int) -> None:
        super().__init__(domain, seed)
        self.budget: int | None = None
        self._budget_given = False
        self._losses: list[Array] = []

    @abstractmethod
    def _begin(self) -> None:
        """The library's optimizer as new; called before the first ask, and again before telling it all."""

    @abstractmethod
    def _learn(self, z: Array, loss: Array) -> None:
        """Tell the library the losses [K] of what it was asked for last, nan where a candidate failed."""

    def _plan_for(self, budget: int | None) -> None:
        """Keep an option `budget`; without it the plan's is taken."""
        self.budget = None if budget is None else whole(self.name, "budget", budget)
        self._budget_given = budget is not None

    def plan(self, evaluations: int | None = None, *, batches_differ: bool = False) -> None:
        super().plan(evaluations, batches_differ=batches_differ)
        if not self._budget_given and not self._losses and self._asked is None:
            self.budget = self.evaluations

    def _tell(self, z: Array, loss: Array) -> None:
        self._learn(z, loss)
        self._losses.append(loss)

    def _skip(self, z: Array) -> None:
        self._losses.append(np.full(len(z), np.nan))

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimizer": self.name,
            "seed": self.seed,
            "d": self.domain.d,
            "population": self.population,
            "budget": self.budget,
            "losses": [loss.copy() for loss in self._losses],
            "best_z": self.best_z.copy(),
            "best_loss": self.best_loss,
            "asked": 0 if self._asked is None else len(self._asked),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._check_state(state)
        if state["population"] != self.population:
            raise GfoError(
                f"optimizer '{self.name}' with population = {self.population} cannot load a state with "
                f"{state['population']}"
            )
        self.seed = int(state["seed"])
        self.budget = state.get("budget", self.budget)
        self._asked = None
        self._failed_steps, self._flat_steps, self._last_loss, self._said = 0, 0, np.inf, True
        self.best_z, self.best_loss = start_point(self.domain), np.inf
        self._losses = []
        self._begin()
        for loss in state["losses"]:
            self.tell(self.ask(len(loss)), loss)
        self.best_z, self.best_loss = np.array(state["best_z"]), float(state["best_loss"])
        self._said = False
        if state["asked"]:
            self.ask(None if state["asked"] is True else int(state["asked"]))
