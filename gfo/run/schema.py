"""What the files of a run folder have to hold where gfo relies on it: a folder may be anybody's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gfo.core.errors import GfoError
from gfo.run.files import format_of, read_json
from gfo.run.state import load_state

RESULT, RUN = "result.json", "run.json"
GO_ON = f"put back a copy, or delete {RESULT} and go on (gfo resume, resume=True), which writes it anew"
Checked = TypeVar("Checked", bound=BaseModel)
Scores = dict[str, dict[str, dict[str, float | None]]]


class _Keys(BaseModel):
    """Others may stand beside those that are named."""

    model_config = ConfigDict(strict=True, extra="allow")


class _Held(BaseModel):
    """Values of a state, arrays among them."""

    model_config = ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True)


class CostRecord(BaseModel):
    """A `gfo.core.protocols.Cost`."""

    model_config = ConfigDict(strict=True, extra="forbid")

    candidates: int = 0
    forward_tokens: int = 0
    tokens_needed: int = 0
    seconds: float = 0.0
    requests: int = 0
    dollars: float = 0.0


class MetricRecord(_Keys):
    """A `gfo.Metric`."""

    name: str = Field(min_length=1)
    lower_is_better: bool
    form: str


class FrontRecord(_Keys):
    """A `gfo.run.scored_front.ScoredFront`, without its points."""

    objectives: list[MetricRecord] = Field(min_length=2)
    values: list[list[float]] = Field(min_length=1)
    scores: list[dict[str, float | None]]
    standard_errors: list[dict[str, float | None]]
    rows: int | None
    notes: list[str] = Field(default_factory=list)
    points: str


class RefitRecord(_Keys):
    """What two searches cost, of `gfo.run.refit`."""

    evaluations: int
    search: CostRecord
    refit: CostRecord


class ResultRecord(_Keys):
    """result.json."""

    steps: int
    stopped: str
    scores: Scores
    standard_errors: Scores = Field(default_factory=dict)
    rows: dict[str, int] = Field(default_factory=dict)
    metrics: list[MetricRecord] = Field(default_factory=list)
    cost: CostRecord
    scoring_cost: CostRecord
    config: dict[str, Any] = Field(default_factory=dict)
    point: str = ""
    front: FrontRecord | None = None
    refit: RefitRecord | None = None


class PlanRecord(_Keys):
    """What the optimizer was told of the run ahead."""

    evaluations: int | None
    batches_differ: bool


class RunRecord(_Keys):
    """run.json."""

    terms: dict[str, Any]
    evaluator: dict[str, Any] = Field(default_factory=dict)
    metrics: list[MetricRecord] = Field(default_factory=list)
    versions: dict[str, str] = Field(default_factory=dict)
    plan: PlanRecord | None = None


class SnapshotRecord(_Held):
    """A `gfo.run.selection.Snapshot`."""

    z: np.ndarray
    step: int
    scores: dict[str, float]


class StateRecord(_Held):
    """state.safetensors."""

    steps: int = Field(ge=1)
    optimizer: dict[str, Any]
    points: np.ndarray
    incumbent: np.ndarray | None
    loss_now: np.ndarray | None = None
    best: SnapshotRecord | None


def read_result(folder: Path) -> dict[str, Any]:
    """What result.json holds.

    Raises:
        GfoError: if it cannot be read, is of a newer gfo, was changed, or does not hold what it has to.
    """
    values = read_json(folder / RESULT, changed=GO_ON)
    _check(values, ResultRecord, folder / RESULT, "give the folder of a finished run")
    if format_of(values) > 1 and not values.get("point"):
        raise GfoError(f"{folder / RESULT}: point: field required; give the folder of a finished run")
    return values


def read_run(folder: Path) -> dict[str, Any]:
    """What run.json holds.

    Raises:
        GfoError: as `read_result`.
    """
    remedy = f"the run cannot go on without {RUN}: put back a copy, or begin a new run"
    values = read_json(folder / RUN, remedy=remedy)
    _check(values, RunRecord, folder / RUN, remedy)
    return values


def read_state(path: Path, d: int) -> dict[str, Any] | None:
    """A run's saved state, of points of d dimensions; None if it is missing, damaged or another run's."""
    state = load_state(path)
    try:
        StateRecord.model_validate(state)
    except ValidationError:
        return None
    assert state is not None
    best = state["best"] or {}
    points = [state["points"], *(point for point in (state["incumbent"], best.get("z")) if point is not None)]
    return state if all(np.shape(point)[-1:] == (d,) for point in points) else None


def _check(values: Mapping[str, Any], record: type[Checked], path: Path, remedy: str) -> None:
    try:
        record.model_validate(values)
    except ValidationError as error:
        raise GfoError(f"{path}: {first_error(error)}; {remedy}") from None


def first_error(error: ValidationError) -> str:
    """Where pydantic met the first one, and what it is."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}"
