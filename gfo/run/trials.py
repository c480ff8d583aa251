"""Trials of hyperparameters as an evaluator: each a run that goes on where it stood when it is given more.

What a trial got is written down as it ends, so that a study that is stopped loses the one that runs.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gfo.core.domain import Array
from gfo.core.errors import GfoError, GfoWarning
from gfo.core.files import append, make_folder, write_whole
from gfo.core.hyperparameters import Hyperparameters
from gfo.core.protocols import Cost, Evaluation, Scores
from gfo.core.reading import parse_json, read_text
from gfo.run.halving import Bracket, Halving

TRIALS = "trials.jsonl"


@dataclass(frozen=True)
class Outcome:
    """What a trial has reached.

    Attributes:
        loss: what is minimised; nan for one that failed.
        forward_tokens: that it has taken from its start on.
        metrics: other numbers, by name.
    """

    loss: float
    forward_tokens: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)


class Trial(Protocol):
    """What is tried: something that runs with some values until a budget is spent."""

    def __call__(self, values: Mapping[str, Any], budget: int | None, folder: Path | None) -> Outcome:
        """Run with the values, or go on, until `budget` is spent in all.

        A trial that was killed after its end and before its record is asked again for what it has reached.

        Args:
            values: of the hyperparameters.
            budget: tokens, epochs or whatever the rungs count, from the trial's start on; None without rungs.
            folder: the trial's own, in which it finds what it left there; None for a study without one.
        """
        ...


@dataclass(frozen=True)
class Job:
    """A trial to be run to a rung: its number, point and values, the rung and its budget."""

    trial: int
    z: tuple[float, ...]
    values: Mapping[str, Any]
    rung: int
    budget: int | None


@dataclass(frozen=True)
class Record:
    """What a trial got at a rung, a line of trials.jsonl.

    Attributes:
        step: of the study, in which it ran.
        trial, z, values, rung, budget: as of the job.
        loss: None for a trial that failed.
        forward_tokens: from the trial's start on.
        seconds: of this part.
        metrics: other numbers.
        error: what it failed with, in a line.
    """

    step: int
    trial: int
    z: tuple[float, ...]
    values: dict[str, Any]
    rung: int
    budget: int | None
    loss: float | None
    forward_tokens: int = 0
    seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    error: str | None = None

    @property
    def value(self) -> float:
        """The loss, nan where the trial failed."""
        return math.nan if self.loss is None else self.loss


class Trials:
    """Trials as an evaluator: z [K, d] begins K of them, and those that may go on do so in the same step.

    With rungs, the loss told of a trial that was stopped is brought to the first rung's scale: its last loss,
    and the mean of what trials gained from rung to rung until there. So losses of all rungs can be compared.

    Args:
        trial: what is run.
        hyperparameters: what z stands for.
        halving: which trials go on; None runs each once.
        folder: where trials have theirs, and what they got is kept.
        executor: runs the jobs of a step side by side; the trial must then be picklable.

    Attributes:
        records: what all trials got, in order.
    """

    batches_differ = False

    def __init__(
        self,
        trial: Trial,
        hyperparameters: Hyperparameters,
        halving: Halving | None = None,
        folder: Path | None = None,
        executor: Executor | None = None,
    ) -> None:
        self.hyperparameters, self._trial, self._halving = hyperparameters, trial, halving
        self._folder, self._executor = folder, executor
        self._open: list[Bracket] = []  # in which trials may still begin or go on
        self._bracket: list[Bracket] = []  # of each trial
        self._reached: list[dict[int, Record]] = []  # of each trial, by its bracket's rungs
        self._kept = [] if folder is None else read_records(folder)
        self._failed: Record | None = None  # to be warned of
        self.records: list[Record] = []

    def repair(self, z: Array) -> Array:
        """z [K, d], where points that stand for the same values become equal."""
        return self.hyperparameters.repair(z)

    def __call__(self, z: Array, step: int) -> Evaluation:
        """Losses [K] of K new trials; the cost is of all that ran, older ones that went on among them.

        Raises:
            GfoError: if all trials of the first step fail, or the folder's are of another study.
        """
        self.catch_up(step)
        first = len(self._bracket)
        jobs = [self._begin(row) for row in z]
        cost = Cost(candidates=len(z))
        while jobs:
            for record in self._run(jobs, step):
                cost += self._note(record)
            jobs = self._next()
        trials = range(first, len(self._bracket))
        if step == 0:
            self._check_any(trials)
        self._warn()
        return Evaluation(np.array([self._told(trial) for trial in trials]), cost)

    def _check_any(self, trials: Sequence[int]) -> None:
        """Raise GfoError if all of the trials failed."""
        if all(self._reached[trial][0].error for trial in trials):
            raise GfoError(
                f"each of the first {len(trials)} trials failed ({self.records[-1].error}); mend that"
            )

    def _warn(self) -> None:
        """Of the first trial that failed, once."""
        if (failed := self._failed) is not None:
            self._failed = None
            text = f"trial {failed.trial} failed ({failed.error}); it is nan, as is any that fails later"
            warnings.warn(text, GfoWarning, stacklevel=6)

    def score(self, z: Array, split: str) -> Scores:
        """The losses [K] that trials with these values had last; nan for others."""
        had = {record.z: record.loss for record in self.records}
        loss = [had.get(tuple(row)) for row in self.repair(z).tolist()]
        return Scores({"loss": np.array([math.nan if x is None else x for x in loss])})

    def _begin(self, z: Array) -> Job:
        """A new trial's first job, in the first bracket with a place."""
        bracket = self._with_a_place()
        trial = len(self._bracket)
        bracket.begun += 1
        self._bracket.append(bracket)
        self._reached.append({})
        point = tuple(z.tolist())
        return Job(trial, point, self.hyperparameters.values(z), 0, bracket.rungs[0] or None)

    def _with_a_place(self) -> Bracket:
        """The first open bracket with a place; where none has, new ones are opened."""
        if all(bracket.full for bracket in self._open):
            self._open = [bracket for bracket in self._open if not bracket.ended]
            new = [Bracket((0,), 2)] if self._halving is None else self._halving.brackets()
            self._open += new
        return next(bracket for bracket in self._open if not bracket.full)

    def _next(self) -> list[Job]:
        """The jobs of trials that may go on now."""
        jobs = []
        for bracket in self._open:
            for trial, rung in bracket.promotions():
                begun = self._reached[trial][0]
                jobs.append(Job(trial, begun.z, begun.values, rung, bracket.rungs[rung]))
        return jobs

    def _run(self, jobs: Sequence[Job], step: int) -> Iterator[Record]:
        """What each job gives, in their order, as it ends; what is kept is not run again."""
        known = {(record.trial, record.rung): record for record in self._kept}
        fresh = self._attempted([job for job in jobs if (job.trial, job.rung) not in known], step)
        for job in jobs:
            record = known.get((job.trial, job.rung))
            if record is None:
                record = next(fresh)
                self._keep(record)
            elif record.z != job.z:
                raise self._another(record)
            yield record

    def _attempted(self, jobs: Sequence[Job], step: int) -> Iterator[Record]:
        """What jobs give when they are run, in their order, as it ends."""
        if not jobs:
            return iter(())
        tasks = [(self._trial, job, step, self._home(job.trial)) for job in jobs]
        run = map if self._executor is None else self._executor.map
        return iter(run(attempt, *zip(*tasks, strict=True)))

    def _note(self, record: Record) -> Cost:
        """Take down what a trial got; what it took since its last rung."""
        reached = self._reached[record.trial]
        before = reached[record.rung - 1].forward_tokens if record.rung else 0
        self._bracket[record.trial].tell(record.trial, record.rung, record.value)
        reached[record.rung] = record
        self.records.append(record)
        tokens = max(record.forward_tokens - before, 0)  # 0 of one that failed
        return Cost(forward_tokens=tokens, tokens_needed=tokens, seconds=record.seconds)

    def _told(self, trial: int) -> float:
        """A trial's last loss on the first rung's scale."""
        last = self._reached[trial][max(self._reached[trial])]
        budgets = () if self._halving is None else self._halving.rungs
        return last.value + sum(
            self._gain(low, high) for low, high in pairwise(budgets) if high <= (last.budget or 0)
        )

    def _gain(self, low: int, high: int) -> float:
        """The mean of what trials' losses fell by from one budget to the next; 0 where none had both."""
        fell = []
        for reached in self._reached:
            at = {record.budget: record.value for record in reached.values()}
            fell.append(at.get(low, math.nan) - at.get(high, math.nan))
        finite = [value for value in fell if math.isfinite(value)]
        return sum(finite) / len(finite) if finite else 0.0

    def catch_up(self, step: int) -> None:
        """Of a study that goes on: the trials of the steps before, as they were."""
        if self.records:
            return
        for record in [record for record in self._kept if record.step < step]:
            if record.rung == 0:
                job = self._begin(np.array(record.z))
                if (job.trial, job.z) != (record.trial, record.z):
                    raise self._another(record)
            self._note(record)

    def _another(self, record: Record) -> GfoError:
        return GfoError(
            f"{self._folder}/{TRIALS}: trial {record.trial} is of another study; begin in a new folder"
        )

    def _home(self, trial: int) -> Path | None:
        return None if self._folder is None else self._folder / "trials" / f"{trial:04d}"

    def _keep(self, record: Record) -> None:
        """Write down what a trial got; the first that failed is to be warned of."""
        if self._folder is not None:
            path = self._folder / TRIALS
            if not path.exists():
                write_whole(path, "")
            append(path, json.dumps(asdict(record)) + "\n", sync=True)
        if record.error is not None and not any(old.error for old in self.records):
            self._failed = record


def attempt(trial: Trial, job: Job, step: int, folder: Path | None) -> Record:
    """Run a job; an exception is a loss of None."""
    begun, error = time.perf_counter(), None
    try:
        if folder is not None:
            make_folder(folder)
        outcome = trial(dict(job.values), job.budget, folder)
    except Exception as failed:
        first = next(iter(str(failed).splitlines()), "")
        outcome, error = Outcome(math.nan), f"{type(failed).__name__}: {first}".removesuffix(": ")
    loss = float(outcome.loss) if math.isfinite(outcome.loss) else None
    return Record(
        step,
        **asdict(job),
        loss=loss,
        forward_tokens=outcome.forward_tokens,
        seconds=time.perf_counter() - begun,
        metrics=dict(outcome.metrics),
        error=error,
    )


def read_records(folder: Path) -> list[Record]:
    """What a folder's trials got; a last line that was cut off is left out, and cut.

    Raises:
        GfoError: for lines that are no records.
    """
    path = folder / TRIALS
    if not path.exists():
        return []
    text = read_text(path, "trials")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        write_whole(path, whole)
    return [_record(line, f"{path}, line {i}") for i, line in enumerate(whole.splitlines(), 1)]


def _record(line: str, where: str) -> Record:
    values = parse_json(line, where, "begin in a new folder")
    try:
        return Record(**{**values, "z": tuple(values["z"])})
    except (TypeError, KeyError):
        raise GfoError(f"{where}: no trial's record; begin in a new folder") from None
