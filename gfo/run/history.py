"""What happened, one JSON line a step, each with a checksum of itself and all lines before it."""

from __future__ import annotations

import functools
import json
import math
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import numpy as np
from pydantic import ConfigDict, ValidationError, create_model

from gfo.core.domain import Array
from gfo.core.errors import GfoError
from gfo.core.files import append, cut, write_whole
from gfo.core.protocols import Cost
from gfo.core.reading import parse_json, read_bytes
from gfo.report.tables import Table
from gfo.run.files import CHECKSUM, PUT_BACK, short_digest
from gfo.run.schema import first_error

if TYPE_CHECKING:
    import pandas

HISTORY = "history.jsonl"
COLUMNS = ("step", "evaluations", "forward_tokens", "seconds", "mean_loss", "best", "spread")
SYNC_EVERY = 10.0  # seconds: what a machine that loses its power may lose of a run


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
        known: how many of the step's candidates had been asked before, and cost nothing.
        violation: how far the step's candidates break limits, 0 where they do not; None without limits.
        hypervolume: what the front covers after the step; None for one objective.
        requests, dollars: asked of a server in the search so far, and what it takes for them.
        part, asked: of an asynchronous run, the part that was told, and how many had been asked by then.
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
    known: int = 0
    violation: list[float | None] | None = None
    hypervolume: float | None = None
    requests: int = 0
    dollars: float = 0.0
    part: int | None = None
    asked: int | None = None

    @property
    def cost(self) -> Cost:
        """Of the search so far."""
        tokens = self.forward_tokens, self.tokens_needed
        return Cost(self.evaluations, *tokens, self.search_seconds, self.requests, self.dollars)

    @property
    def failed(self) -> int:
        """How many of its candidates failed."""
        return sum(value is None for value in self.loss)

    @property
    def broken(self) -> int:
        """How many of its candidates break a limit."""
        return sum(bool(value) for value in self.violation or ())

    @property
    def kept(self) -> int:
        """How many of its candidates keep to the limits."""
        return (self.violation or []).count(0)

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
        checked: whether the lines of the recorded steps have checksums, as all but those of gfo 0.1.0.
        ends: whether the file that was read ends with a whole line.

    Args:
        path: a file for the JSON lines; None keeps the steps in memory only.
        recorded: the steps that the file has, which will be appended again, first; without them it is
            started anew.
        checksum: of the recorded steps' last line; None if they have none.

    Raises:
        GfoError: if the file cannot be written.
    """

    def __init__(
        self, path: Path | None = None, recorded: Sequence[Step] = (), checksum: str | None = ""
    ) -> None:
        self._steps: list[Step] = []
        self.last: Step | None = None
        self._path = path
        self.recorded = tuple(recorded)
        self.checked = checksum is not None
        self._checksum = checksum or ""
        self.ends = True
        self._synced = time.monotonic()
        if path is not None and not recorded:
            write_whole(path, "")

    @property
    def again(self) -> Step | None:
        """The recorded step that is to be appended next; None behind them."""
        return self.recorded[len(self)] if len(self) < len(self.recorded) else None

    def append(self, step: Step) -> None:
        """Add a step; a recorded one is in the file already."""
        if self._path is not None and len(self._steps) >= len(self.recorded):
            line, self._checksum = _sealed(step, self._checksum)
            due = time.monotonic() - self._synced >= SYNC_EVERY
            append(self._path, line, sync=due)
            self._synced = time.monotonic() if due else self._synced
        self._steps.append(step)
        self.last = step

    def sync(self) -> None:
        """Have all steps on the disk."""
        if self._path is not None:
            append(self._path, b"", sync=True)

    def seal(self) -> None:
        """Write the recorded steps anew, with checksums."""
        lines, self._checksum, self.checked = [], "", True
        for step in self.recorded:
            line, self._checksum = _sealed(step, self._checksum)
            lines.append(line)
        if self._path is not None:
            write_whole(self._path, "".join(lines))

    def check_sealed(self, folder: Path, format_: int) -> None:
        """Raise GfoError for lines without checksums in a folder of a format that has them."""
        if not self.checked and format_ > 1:
            raise GfoError(f"history: the lines in {folder} have lost their checksums; {PUT_BACK}")

    @classmethod
    def read(cls, path: Path) -> History:
        """The history in a file; a last line that was not written to its end is left out.

        Raises:
            GfoError: if the file cannot be read as such.
        """
        steps, size, checksum = _read(path)
        history = cls(checksum=checksum)
        history.ends = size == path.stat().st_size
        for step in steps:
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
        steps, size, checksum = _read(path)
        cut(path, size)
        return cls(path, steps, checksum)

    def cut(self, steps: int) -> None:
        """Leave out the recorded steps behind the first ones, also in the file: they will be done again.

        Raises:
            GfoError: if the file cannot be written.
        """
        if steps < len(self.recorded):
            self.recorded = self.recorded[:steps]
            self.seal()

    def records(self) -> list[dict[str, Any]]:
        """A mapping a step: COLUMNS, and the scores on dev as "dev_NAME", None where there was no reading."""
        names = dict.fromkeys(name for step in self._steps for name in step.dev or ())
        return [
            {column: getattr(step, column) for column in COLUMNS}
            | {f"dev_{name}": (step.dev or {}).get(name) for name in names}
            for step in self._steps
        ]

    def table(self) -> Table:
        """`records` as text."""
        records = self.records()
        rows = (tuple("" if v is None else f"{v:.6g}" for v in record.values()) for record in records)
        return Table(tuple(records[0]) if records else COLUMNS, tuple(rows))

    def to_csv(self, path: str | Path | None = None) -> str:
        """A row a step: see `Table.to_csv`."""
        return self.table().to_csv(path)

    def to_latex(self, path: str | Path | None = None) -> str:
        """A row a step: see `Table.to_latex`."""
        return self.table().to_latex(path)

    def to_pandas(self) -> pandas.DataFrame:
        """`records`, by step, as numbers."""
        import pandas

        return pandas.DataFrame(self.records()).set_index("step")

    def trajectory(self) -> list[dict[str, Any]]:
        """The steps without their times: equal for two runs with one seed on one machine."""
        return [_timeless(asdict(step)) for step in self._steps]

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[Step]:
        return iter(self._steps)

    def __getitem__(self, index: int) -> Step:
        return self._steps[index]


def _sealed(step: Step, before: str) -> tuple[str, str]:
    """The line of a step behind the line with the checksum `before`, and its own checksum."""
    text = json.dumps(asdict(step), allow_nan=False)
    checksum = short_digest((before + text).encode())
    return f'{text[:-1]}, "{CHECKSUM}": "{checksum}"}}\n', checksum


def _read(path: Path) -> tuple[list[Step], int, str | None]:
    """The steps in a file, the bytes that they take, and the last checksum; None without checksums."""
    content = read_bytes(path, "history", remedy="give the folder of a gfo run")
    steps: list[Step] = []
    read, checksum = 0, None
    for number, line in enumerate(content.splitlines(keepends=True), 1):
        try:
            step, found = _next(line, len(steps), checksum)
        except (ValueError, TypeError) as error:
            if read + len(line) == len(content) and not line.endswith(b"\n"):
                break  # the process was stopped while it wrote
            raise GfoError(
                f"history: cannot read {path}, line {number} is not step {len(steps)} ({_reason(error)}); "
                "put back a copy of the file, or delete that line and those behind it"
            ) from None
        steps.append(step)
        read, checksum = read + len(line), found
    return steps, read, checksum if steps else ""


def _next(line: bytes, number: int, before: str | None) -> tuple[Step, str | None]:
    """The step of that number in a line behind one with the checksum `before`, and its own checksum."""
    step, found = _unsealed(line, before or "")
    if step.step != number or not line.endswith(b"\n"):
        raise ValueError(f"it says step {step.step}")
    if number and (found is None) != (before is None):
        raise ValueError("only some lines have a checksum")
    return step, found


def _unsealed(line: bytes, before: str) -> tuple[Step, str | None]:
    """The step of a line, and its checksum, which is right; None for a line without."""
    values = parse_json(line.decode("utf-8"), "it", "")
    if not isinstance(values, dict):
        raise ValueError(f"it is a {type(values).__name__}")
    checksum = values.pop(CHECKSUM, None)
    text = line.removesuffix(f', "{CHECKSUM}": "{checksum}"}}\n'.encode()) + b"}"
    if checksum is not None and checksum != short_digest(before.encode() + text):
        raise ValueError("its checksum is another")
    _line_model().model_validate(values)
    step = Step(**values)
    Cost(**step.scoring or {})
    _check_as_many(step)
    return step, checksum


def _check_as_many(step: Step) -> None:
    """Raise ValueError for a step that has not a value, and a violation, for each loss."""
    others = (*(step.values or {}).values(), step.violation or step.loss)
    if any(len(some) != len(step.loss) for some in others):
        raise ValueError("its values are not as many as its losses")


@functools.cache
def _line_model() -> Any:
    """What a line has to hold: what a step has, of the same types."""
    types = get_type_hints(Step)
    defaults = {name: getattr(Step, name, ...) for name in types}
    config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())
    return create_model("Line", __config__=config, **{n: (types[n], defaults[n]) for n in types})  # type: ignore[call-overload]


def _reason(error: Exception) -> str:
    """Why a line is no step, on one line."""
    return first_error(error) if isinstance(error, ValidationError) else str(error).removesuffix("; ")


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
