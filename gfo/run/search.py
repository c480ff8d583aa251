"""`search`: hyperparameters of any function or run, with trials that are stopped early and go on."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gfo import optimizers
from gfo.core.checking import checked
from gfo.core.errors import GfoError, shown
from gfo.core.hyperparameters import Hyperparameters
from gfo.core.recording import description
from gfo.core.seeding import stream_seed
from gfo.report.tables import Table, Tabled
from gfo.run.budget import Budget
from gfo.run.callbacks import Callback
from gfo.run.folder import RunFolder
from gfo.run.halving import ASHA, Hyperband
from gfo.run.loop import minimize
from gfo.run.progress import ProgressBar
from gfo.run.result import Result
from gfo.run.trials import Outcome, Record, Trial, Trials

if TYPE_CHECKING:
    from gfo.report.figures import Figure

OPTIMIZER = "bo"


@dataclass(frozen=True, repr=False)
class Study(Tabled):
    """What a search of hyperparameters found; shows itself as a table of its trials.

    Attributes:
        result: of the run, whose losses are those told to the optimizer.
        hyperparameters: what was searched.
        records: what each trial got at each rung, in the order in which they ran.
    """

    result: Result
    hyperparameters: Hyperparameters
    records: tuple[Record, ...]

    @property
    def trials(self) -> list[Record]:
        """The last record of each trial: the best first, those at higher rungs before others."""
        last = {record.trial: record for record in self.records}
        return sorted(last.values(), key=_rank)

    @property
    def best(self) -> dict[str, Any]:
        """The values of the best trial: of those with the largest budget the one with the lowest loss.

        Raises:
            GfoError: if all trials failed.
        """
        return dict(self._best.values)

    @property
    def loss(self) -> float:
        """The best trial's loss; raises as `best`."""
        return self._best.value

    @property
    def _best(self) -> Record:
        first = next(iter(self.trials), None)
        if first is None or first.loss is None:
            raise GfoError("search: no trial has a loss; look at the trials' errors")
        return first

    def table(self) -> Table:
        """A row for each trial, the best first."""
        names = self.hyperparameters.names
        metrics = tuple(dict.fromkeys(name for record in self.records for name in record.metrics))
        rows = [_row(record, names, metrics) for record in self.trials]
        spent = self.result.cost.forward_tokens
        notes = [f"{len(rows)} trials{f', {spent:,} forward tokens' if spent else ''}; {self.result.stopped}"]
        return Table(("trial", *names, "budget", "loss", *metrics), tuple(rows), tuple(notes))

    @checked
    def plot(self, path: str | Path | None = None) -> Figure:
        """Each hyperparameter's values against the trials' last losses; colours are the budgets they reached.

        Raises:
            GfoError: for a path that cannot be written.
        """
        from gfo.report.trials import plot_trials

        trials, space = self.trials, self.hyperparameters
        log = {name: space.is_log(name) for name in space.names}
        reached = [float(record.budget or 0) for record in trials]
        return plot_trials([r.values for r in trials], [r.value for r in trials], reached, log, path)

    def importance(self) -> dict[str, float]:
        """How much of the losses' variance each hyperparameter explains alone, most first.

        Functional ANOVA by a random forest (Hutter, Hoos and Leyton-Brown 2014), Optuna's, of all trials'
        losses at their first rung.

        Raises:
            GfoError: without the extra optuna, or for fewer than two trials with a loss.
        """
        from gfo.run.importance import shares

        first = [record for record in self.records if record.rung == 0]
        return shares(self.hyperparameters, [r.values for r in first], [r.value for r in first])


def _rank(record: Record) -> tuple[Any, ...]:
    failed = record.loss is None
    return failed, -(record.budget or 0), math.inf if failed else record.loss, record.trial


def _row(record: Record, names: Sequence[str], metrics: Sequence[str]) -> tuple[str, ...]:
    """A trial's cells."""
    values = [_cell(record.values.get(name)) for name in names]
    loss = "failed" if record.loss is None else f"{record.loss:.4g}"
    others = [_cell(record.metrics.get(name)) for name in metrics]
    return (str(record.trial), *values, f"{record.budget:,}" if record.budget else "", loss, *others)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class FunctionTrial:
    """A function of the values as a trial; it is given `budget` and `folder` if it has such arguments.

    Attributes:
        function: gives a loss, or an `Outcome`.
    """

    function: Callable[..., Any]

    def __call__(self, values: Mapping[str, Any], budget: int | None, folder: Path | None) -> Outcome:
        """What the function gives."""
        known = inspect.signature(self.function).parameters
        more = {
            name: value
            for name, value in (("budget", budget), ("folder", folder))
            if name in known and name not in values
        }
        found = self.function(**values, **more)
        return found if isinstance(found, Outcome) else Outcome(float(found))


@checked
def search(
    trial: Callable[..., Any],
    hyperparameters: Hyperparameters,
    *,
    optimizer: str = OPTIMIZER,
    options: Mapping[str, Any] | None = None,
    halving: ASHA | Hyperband | None = None,
    budget: Budget,
    seed: int = 0,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    out: str | Path | RunFolder | None = None,
    resume: bool = False,
    executor: Executor | None = None,
) -> Study:
    """Search hyperparameters of a function or of runs.

    Args:
        trial: a function of the values by name that gives a loss; with `halving` also of `budget`, what it
            may spend from its start on, and `folder`, where it finds what it left when it is called again
            with more: it goes on. Or a `gfo.run.trials.Trial`.
        hyperparameters, optimizer, options, seed: what is searched, and by what; see `gfo.optimizers`. The
            first trial is in the middle of all ranges, but for "random"; `options` may have another `x0`.
        halving: which trials go on to larger budgets; None runs each trial once.
        budget: evaluations are trials, forward tokens what trials say that they took.
        callbacks, progress, out, resume: as of `gfo.tune`; trials have folders of their own in `out`.
        executor: runs the trials of a step side by side, such as a `ProcessPoolExecutor`.

    Raises:
        GfoError: for bad input, or if all trials of the first step fail.
    """
    if not optimizers.takes_genes(optimizer):
        hyperparameters = Hyperparameters(hyperparameters.space, continuous=True)
    run = _as_trial(trial, hyperparameters, rungs=halving is not None)
    begun = _suited(optimizer, hyperparameters) | dict(options or {})
    made = optimizers.make_with(optimizer, hyperparameters.domain, stream_seed(seed, "optimizer"), begun)
    facts: dict[str, Any] = {"optimizer": optimizer, "options": dict(options or {}), "seed": seed}
    facts |= {"hyperparameters": description(hyperparameters), "halving": halving and description(halving)}
    facts |= getattr(trial, "facts", {})
    watching = [*callbacks, *([ProgressBar()] if progress else [])]
    held = None if out is None else RunFolder.of(out, resume=resume)
    with contextlib.nullcontext() if held is None else held as folder:
        judge = Trials(run, hyperparameters, halving, folder, executor)
        kept: dict[str, Any] = {"out": held, "resume": resume, "record": facts}
        result = minimize(made, judge, budget=budget, callbacks=watching, **kept)
        judge.catch_up(len(result.history))
    return Study(result, hyperparameters, tuple(judge.records))


def _suited(optimizer: str, hyperparameters: Hyperparameters) -> dict[str, Any]:
    """Options of a method, of those that it has: to begin in the middle, where its own start is a corner, and
    to know which points stand for the same values.
    """
    domain = hyperparameters.domain
    middle = hyperparameters.repair((domain.low + domain.high)[None] / 2)[0]
    suited = {"x0": middle.tolist(), "repair": hyperparameters.repair}
    known = optimizers.options_of(optimizer) or ()
    return {name: value for name, value in suited.items() if name in known}


def _as_trial(trial: Callable[..., Any], hyperparameters: Hyperparameters, *, rungs: bool) -> Trial:
    """The trial, or a function as one.

    Raises:
        GfoError: for a function without an argument that it will be given.
    """
    known = inspect.signature(trial).parameters
    if list(known) == ["values", "budget", "folder"]:
        return trial
    if not any(p.kind is p.VAR_KEYWORD for p in known.values()):
        for name in (*hyperparameters.names, *(["budget"] if rungs else [])):
            if name not in known:
                raise GfoError(
                    f"search: the function has no argument '{name}'; its arguments are {shown(list(known))}"
                )
    return FunctionTrial(trial)
