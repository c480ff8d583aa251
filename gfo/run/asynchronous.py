"""A run without barriers, as the loop sees it: what it asks for next is the part that is done next.

Parts are asked ahead, so that every worker has one, and told as they come. A step of the history is a part
that was told: which one (`part`), and how many had been asked by then (`asked`). These are all events in
their order: a resumed run asks and tells so again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from gfo.core.asynchronous import Asynchronous, Concurrent
from gfo.core.domain import Array
from gfo.core.errors import GfoError
from gfo.core.protocols import Evaluation, Evaluator, Optimizer, Planning, Repairing, Scores
from gfo.core.recording import arguments_of, remember
from gfo.core.registry import entries
from gfo.run.budget import Budget
from gfo.run.history import Step


class Stream:
    """The run's optimizer, and what evaluates; any other attribute is the optimizer's.

    Args:
        optimizer: that takes parts.
        evaluator: that takes several calls.
        budget: of the run; no more is asked than it allows.

    Attributes:
        part: the number of the part at hand.
        asked: how many parts have been asked.
        again: the recorded step that is next, of a run that goes on; the loop says.
    """

    saves_state = False  # what is under way is in no state

    def __init__(self, optimizer: Optimizer, evaluator: Evaluator, budget: Budget) -> None:
        self._optimizer: Any = optimizer
        self._evaluator, self._calls, self._budget = evaluator, cast(Concurrent, evaluator), budget
        self.domain = optimizer.domain
        self.part, self.asked = -1, 0
        self.again: Step | None = None
        self._candidates = 0
        self._points: dict[int, Array] = {}  # of parts that were asked and not told
        self._under_way: dict[int, int] = {}  # calls, and their parts
        self._found: Evaluation | Exception | None = None
        self._sizes: dict[int | None, int] = {}  # of recorded parts: the last one may have been smaller
        remember(self, arguments_of(optimizer) or {})

    @classmethod
    def of(cls, optimizer: Optimizer, evaluator: Evaluator, budget: Budget) -> Stream:
        """The stream of the two.

        Raises:
            GfoError: if one of them cannot, or losses of parts cannot be compared.
        """
        if not isinstance(optimizer, Asynchronous):
            name = getattr(optimizer, "name", type(optimizer).__name__)
            raise GfoError(
                f"asynchronous: optimizer '{name}' waits for whole steps; take {', '.join(able())}"
            )
        if not isinstance(evaluator, Concurrent):
            raise GfoError(
                f"asynchronous: a {type(evaluator).__name__} evaluates one call at a time; give gfo.Workers"
            )
        if getattr(evaluator, "batches_differ", False):
            raise GfoError("asynchronous: parts would be of different batches; leave batch_size out")
        return cls(optimizer, evaluator, budget)

    def recall(self, recorded: Sequence[Step]) -> None:
        """Go on with a run of these steps."""
        self._sizes = {step.part: len(step.loss) for step in recorded}

    def ask(self) -> Array:
        """The points [n, d] of the part that is told next."""
        if self.again is not None:
            while self.asked < (self.again.asked or 0):
                self._ask_part(self._sizes.get(self.asked, self._size))
            self.part = -1 if self.again.part is None else self.again.part
        else:
            self._fill()
            self.part = self._next()
        if self.part not in self._points:
            raise GfoError(f"history: step {self._number} is of no part that was asked; begin a new run")
        return self._points[self.part].copy()

    def tell(self, z: Array, loss: Array) -> None:
        """The losses [n] of the part at hand."""
        del self._points[self.part]
        self._optimizer.tell_part(self.part, z, loss)

    def __call__(self, z: Array, step: int) -> Evaluation:
        """What the part at hand got; other points are evaluated now."""
        found, self._found = self._found, None
        if found is None or not np.array_equal(z, self._points[self.part]):
            self._found = found
            return self._evaluator(z, step)
        if isinstance(found, Exception):
            raise found
        return found

    def score(self, z: Array, split: str) -> Scores:
        """Metrics of z [K, d] on a whole split."""
        return self._evaluator.score(z, split)

    def recommend(self) -> Array:
        """The point to use now, [d]."""
        found: Array = self._optimizer.recommend()
        return found

    def should_stop(self) -> str | None:
        """Why the method wants to stop, or None."""
        reason: str | None = self._optimizer.should_stop()
        return reason

    def plan(self, evaluations: int | None = None, *, batches_differ: bool = False) -> None:
        """What lies ahead."""
        if isinstance(self._optimizer, Planning):
            self._optimizer.plan(evaluations, batches_differ=batches_differ)

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's, without what is under way."""
        state: dict[str, Any] = self._optimizer.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The optimizer's."""
        self._optimizer.load_state_dict(state)

    def close(self) -> None:
        """Want nothing more of what is under way."""
        self._calls.forget(list(self._under_way))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._optimizer, name)

    @property
    def _number(self) -> int:
        return 0 if self.again is None else self.again.step

    @property
    def _size(self) -> int:
        """Points of the next part: fewer where the budget ends; 0 where it has."""
        most = self._budget.evaluations
        return self._calls.part if most is None else min(self._calls.part, most - self._candidates)

    def _ask_part(self, n: int) -> int:
        """Ask for a part; its number."""
        part, self.asked = self.asked, self.asked + 1
        z = self._optimizer.ask_part(part, n)
        self._points[part] = self._evaluator.repair(z) if isinstance(self._evaluator, Repairing) else z
        self._candidates += n
        return part

    def _fill(self) -> None:
        """Have as many parts evaluated as keep all workers busy, first those asked before a stop."""
        for part in sorted(self._points.keys() - self._under_way.values()):
            self._submit(part)
        while len(self._under_way) < self._calls.at_once and self._size > 0:
            self._submit(self._ask_part(self._size))

    def _submit(self, part: int) -> None:
        self._under_way[self._calls.submit(self._points[part], 0)] = part

    def _next(self) -> int:
        """The part that is done next; with none under way one that the budget does not allow."""
        if not self._under_way:
            return self._ask_part(1)
        call, self._found = self._calls.finished(list(self._under_way))
        return self._under_way.pop(call)


def able() -> list[str]:
    """The names of the optimizers that take parts."""
    found = []
    for name, entry in entries("optimizer").items():
        loaded = entry.load() if not entry.is_family else None
        if hasattr(loaded, "ask_part") or name.startswith("optuna:"):
            found.append(name)
    return found
