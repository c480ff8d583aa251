"""What happened, one JSON line a step."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gfo.core.domain import Array
from gfo.core.errors import GfoError

HISTORY = "history.jsonl"


@dataclass(frozen=True)
class Step:
    """One step of the loop.

    Attributes:
        step: its number, from 0.
        evaluations: candidates evaluated so far.
        forward_tokens: tokens that went through the model in the search so far.
        tokens_needed: tokens that had to.
        loss: the losses of the step's candidates; None where one failed.
        best: the lowest loss so far, None while all failed.
        dev: scores of the recommendation on dev after this step, or None if it was not scored; a score that
            is not finite is None.
        seconds: wall-clock time since the start; the only value that differs between two runs
            with one seed.
        spread: how far the step's candidates lay apart, see `spread_of`; None where there is none, and in
            histories that were written before it was recorded.
    """

    step: int
    evaluations: int
    forward_tokens: int
    tokens_needed: int
    loss: list[float | None]
    best: float | None
    dev: dict[str, float | None] | None
    seconds: float
    spread: float | None = None

    @property
    def mean_loss(self) -> float:
        """The mean over the candidates that did not fail; nan if all did."""
        good = [value for value in self.loss if value is not None]
        return sum(good) / len(good) if good else math.nan


class History:
    """The steps of a run, also written to a file as they happen.

    Args:
        path: a file for the JSON lines, started anew; None keeps the steps in memory only.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._steps: list[Step] = []
        self._path = path
        if path is not None:
            path.write_text("", encoding="utf-8")

    def append(self, step: Step) -> None:
        """Add a step."""
        self._steps.append(step)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(step), allow_nan=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> History:
        """The history in a file.

        Raises:
            GfoError: if the file cannot be read as such.
        """
        history = cls()
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
            history._steps = [Step(**json.loads(line)) for line in lines]
        except (OSError, ValueError, TypeError) as error:
            raise GfoError(f"history: cannot read {path} ({error}); give the folder of a gfo run") from None
        return history

    def trajectory(self) -> list[dict[str, Any]]:
        """The steps without their times: equal for two runs with one seed on one machine."""
        return [{k: v for k, v in asdict(step).items() if k != "seconds"} for step in self._steps]

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[Step]:
        return iter(self._steps)

    def __getitem__(self, index: int) -> Step:
        return self._steps[index]


def plain_losses(loss: Array) -> list[float | None]:
    """Losses [K] as JSON has them: None for those that failed."""
    return [float(value) if np.isfinite(value) else None for value in loss]


def plain_scores(scores: Mapping[str, float]) -> dict[str, float | None]:
    """Scores as JSON has them: None for those that are not finite."""
    return {name: value if math.isfinite(value) else None for name, value in scores.items()}


def spread_of(z: Array, integer: Array) -> float | None:
    """The root mean square distance of candidates z [K, d] from their mean, a dimension: about an
    isotropic distribution's standard deviation, in the search space's units.

    It is what every method has, whether or not it has a step size. Integer genes (bool [d]) are left out,
    as their differences mean little.

    Returns:
        The spread, or None for fewer than two candidates, or without other genes.
    """
    points = z[:, ~integer]
    if len(points) < 2 or not points.size:
        return None
    with np.errstate(all="ignore"):
        spread = float(np.sqrt(np.mean((points - points.mean(axis=0)) ** 2)))
    return spread if math.isfinite(spread) else None
