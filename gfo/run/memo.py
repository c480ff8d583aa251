"""Points that a deterministic objective has been asked for: what they got is told again and costs nothing.

They are counted, in the history and the result. By default so it is where points are of genes, or repaired,
and the evaluator says that its batches do not differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b

import numpy as np

from gfo.core.domain import Array
from gfo.core.protocols import Cost, Evaluation, Evaluator, Optimizer, Repairing

IDLE = 100  # steps in a row without a new point, after which a run ends


def repeats_itself(optimizer: Optimizer, evaluator: Evaluator) -> bool:
    """Whether points come again, and with the same loss: of genes or repaired, on batches that do not differ.

    Of a plain function that is not known.
    """
    discrete = bool(optimizer.domain.integer.any()) or isinstance(evaluator, Repairing)
    return discrete and getattr(evaluator, "batches_differ", True) is False


class Memo:
    """What points got, by their bits.

    A candidate that failed is not remembered.

    Attributes:
        idle: steps without a new point until now, in a row.
        known: how many points of the last step were known.
    """

    def __init__(self) -> None:
        self._got: dict[bytes, dict[str, float]] = {}
        self.idle = self.known = 0

    def new(self, z: Array) -> Array:
        """Which of z [K, d] have to be evaluated, bool [K]: of equal ones the first."""
        here: set[bytes] = set()
        found = np.zeros(len(z), dtype=bool)
        for i, key in enumerate(_keys(z)):
            known = math.isfinite(self._got.get(key, {}).get("loss", math.nan))
            found[i] = not known and key not in here
            here.add(key)
        return found

    def evaluate(self, z: Array, evaluate: Callable[[Array], Evaluation]) -> Evaluation:
        """What z [K, d] got, where `evaluate` is asked for the new points alone."""
        new = self.new(z)
        found = evaluate(z[new]) if new.any() else Evaluation(np.empty(0), Cost())
        self.learn(z, new, found)
        got = [self._got[key] for key in _keys(z)]
        names = dict.fromkeys(name for each in got for name in each)
        told = {name: np.array([each.get(name, math.nan) for each in got]) for name in names}
        return replace(found, loss=told.pop("loss"), values=told, rows=None)

    def learn(self, z: Array, new: Array, found: Evaluation) -> None:
        """Remember what the `new` [K] of z [K, d] got in a step."""
        columns = {"loss": found.loss, **found.values}
        for i, key in enumerate(_keys(z[new])):
            self._got[key] = {name: float(column[i]) for name, column in columns.items()}
        self.idle = 0 if new.any() else self.idle + 1
        self.known = len(new) - int(new.sum())


def _keys(z: Array) -> list[bytes]:
    """What stands for each of z [K, d]."""
    rows = np.ascontiguousarray(z, dtype=np.float64) + 0.0  # -0.0 is 0.0
    return [blake2b(row.tobytes(), digest_size=16).digest() for row in rows]
