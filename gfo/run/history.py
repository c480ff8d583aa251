"""What happened, one JSON line a step."""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gfo.core.domain import Array
from gfo.core.errors import GfoError
from gfo.core.protocols import Cost
from gfo.run.files import cannot_write

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
        seconds: wall-clock time since the start, without what lay between a stop and its resumption; times
            are the only values that differ between two runs with one seed.
        spread: how far the step's candidates lay apart, see `spread_of`; None where there is none, and in
            histories that were written before it was recorded.
        points: a checksum of the step's candidates, by which a resumed run knows that it asks for the same.
        search_seconds: the part of the time that evaluating took.
        scoring: what scoring on dev took so far, as `Cost` has it; None without.
        values: other numbers of the step's candidates by name, such as further objectives; None without.
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
    points: str = ""
    search_seconds: float = 0.0
    scoring: dict[str, Any] | None = None
    values: dict[str, list[float | None]] | None = None

    @property
    def cost(self) -> Cost:
        """Of the search so far."""
        return Cost(self.evaluations, self.forward_tokens, self.tokens_needed, self.search_seconds)

    @property
    def failed(self) -> int:
        """How many of its candidates failed."""
        return sum(value is None for value in self.loss)

    @property
    def mean_loss(self) -> float:
        """The mean over the candidates that did not fail; nan if all did."""
        good = [value for value in self.loss if value is not None]
        return sum(good) / len(good) if good else math.nan


class History:
    """The steps of a run, also written to a file as they happen.

    Attributes:
        recorded: as given.
        last: the step appended last; None before the first.

    Args:
        path: a file for the JSON lines; None keeps the steps in memory only.
        recorded: the steps that the file has, which will be appended again, first; without them it is
            started anew.

    Raises:
        GfoError: if the file cannot be written.
    """

    def __init__(self, path: Path | None = None, recorded: Sequence[Step] = ()) -> None:
        self._steps: list[Step] = []
        self.last: Step | None = None
        self._path = path
        self.recorded = tuple(recorded)
        if path is not None and not recorded:
            _write(path, "w", "")

    @property
    def again(self) -> Step | None:
        """The recorded step that is to be appended next; None behind them."""
        return self.recorded[len(self)] if len(self) < len(self.recorded) else None

    def append(self, step: Step) -> None:
        """Add a step; a recorded one is in the file already."""
        if self._path is not None and len(self._steps) >= len(self.recorded):
            _write(self._path, "a", json.dumps(asdict(step), allow_nan=False) + "\n")
        self._steps.append(step)
        self.last = step

    @classmethod
    def read(cls, path: Path) -> History:
        """The history in a file; a last line that was not written to its end is left out.

        Raises:
            GfoError: if the file cannot be read as such.
        """
        history = cls()
        for step in _read(path)[0]:
            history.append(step)
        return history

    @classmethod
    def resumed(cls, path: Path) -> History:
        """The history in a file as `recorded`, to go on behind it; an unfinished last line is cut off.

        Raises:
            GfoError: if the file cannot be read as such, or written.
        """
        if not path.exists():
            return cls(path)
        steps, size = _read(path)
        try:
            os.truncate(path, size)
        except OSError as error:
            raise cannot_write(path.parent, error) from None
        return cls(path, steps)

    def trajectory(self) -> list[dict[str, Any]]:
        """The steps without their times: equal for two runs with one seed on one machine."""
        return [_timeless(asdict(step)) for step in self._steps]

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[Step]:
        return iter(self._steps)

    def __getitem__(self, index: int) -> Step:
        return self._steps[index]


def _write(path: Path, mode: str, text: str) -> None:
    try:
        with path.open(mode, encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise cannot_write(path.parent, error) from None


def _read(path: Path) -> tuple[list[Step], int]:
    """The steps in a file, and the bytes that they take."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise GfoError(
            f"history: cannot read {path} ({error.strerror}); give the folder of a gfo run"
        ) from None
    steps: list[Step] = []
    for number, line in enumerate(lines, 1):
        try:
            step = Step(**json.loads(line))
            if step.step != len(steps) or not line.endswith(b"\n"):
                raise ValueError(f"it says step {step.step}")
        except (ValueError, TypeError) as error:
            if number == len(lines) and not line.endswith(b"\n"):
                break  # the process was stopped while it wrote
            raise GfoError(
                f"history: cannot read {path}, line {number} is not step {len(steps)} ({error}); "
                "put back a copy of the file, or delete that line and those behind it"
            ) from None
        steps.append(step)
    return steps, sum(map(len, lines[: len(steps)]))


def _timeless(values: dict[str, Any]) -> dict[str, Any]:
    """Without times."""
    return {
        key: _timeless(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if key not in ("seconds", "search_seconds")
    }


def checksum(z: Array) -> str:
    """CRC-32 of the bits of points [K, d]."""
    return f"{zlib.crc32(np.ascontiguousarray(z, dtype=np.float64).tobytes()):08x}"


def plain_losses(loss: Array) -> list[float | None]:
    """Losses [K] as JSON has them: None for those that failed."""
    plain = loss.astype(object)
    plain[~np.isfinite(loss)] = None
    found: list[float | None] = plain.tolist()
    return found


def recorded_losses(losses: Sequence[float | None]) -> Array:
    """Losses as JSON has them -> [K], nan for those that failed."""
    return np.array(losses, dtype=np.float64)


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
