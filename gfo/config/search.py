"""Searches of hyperparameters in configs: what [search] names are keys of the config that it stands in."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from gfo.config import Config, make_config, read_values
from gfo.config.dotted import put
from gfo.config.explaining import one_line
from gfo.config.parts import BudgetConfig
from gfo.config.sections import Section
from gfo.core.domain import Array
from gfo.core.errors import GfoError, shown, unknown_name
from gfo.core.files import absolute
from gfo.core.hyperparameters import Hyperparameters, Int, Log, When
from gfo.run.callbacks import Callback, Run
from gfo.run.halving import ASHA, Hyperband
from gfo.run.stored import CONFIG
from gfo.run.trials import Outcome

if TYPE_CHECKING:
    from gfo.run.search import Study

SCALES = ("log", "range", "int")
TABLE, FIGURE, BEST = "trials.csv", "trials.png", "best.json"  # what a search leaves in its folder


class StudyConfig(Section):
    """[study] of a config with [search]: `gfo.search`."""

    optimizer: str = "bo"
    options: dict[str, Any] = Field(default_factory=dict)
    seed: int = 0
    budget: BudgetConfig
    halving: Literal["asha", "hyperband"] | None = None
    rungs: list[int] | None = None
    eta: int = 3
    unit: Literal["forward_tokens", "evaluations"] = "forward_tokens"

    def made(self) -> ASHA | Hyperband | None:
        """Which trials go on.

        Raises:
            GfoError: for rungs without halving, or the other way round.
        """
        if (self.halving is None) != (self.rungs is None):
            raise GfoError("study: give halving and rungs, or neither of them")
        if self.halving is None:
            return None
        return (ASHA if self.halving == "asha" else Hyperband)(self.rungs or (), self.eta)


class Pause(Callback):
    """Stops a run once it has spent so much, so that it can go on; keeps the best scores on dev.

    A run that goes on is not paused before it is where it was.

    Attributes:
        reached: whether that much was spent, and so the run was stopped by this and by nobody else.
        scores: the best on dev, once the run has ended.
    """

    def __init__(self, unit: str, most: int | None) -> None:
        self._unit, self._most = unit, most
        self.reached = False
        self.scores: Mapping[str, float] = {}

    def step(self, run: Run) -> None:
        """End the run as Ctrl-C would."""
        spent = run.cost.forward_tokens if self._unit == "forward_tokens" else run.cost.candidates
        if self._most is not None and spent >= self._most and run.history.again is None:
            self.reached = True
            raise KeyboardInterrupt

    def end(self, run: Run) -> None:
        """Take down what dev says."""
        if run.selection is not None and run.selection.best is not None:
            self.scores = dict(run.selection.best.scores)


@dataclass(frozen=True)
class ConfigTrial:
    """A config as a trial: its run stops at a rung and goes on from there, as if it had not stopped.

    Attributes:
        values: of the config, without [search] and [study]; its budget is that of the last rung.
        name: of the config, in errors.
        unit: what rungs count.
        metric: of dev that is minimised: 1 less the metric where more is better.
    """

    values: Mapping[str, Any]
    name: str
    unit: str
    metric: str = "loss"

    def __call__(self, values: Mapping[str, Any], budget: int | None, folder: Path | None) -> Outcome:
        """Run, or go on, until so much is spent.

        Raises:
            KeyboardInterrupt: if something else stops the run, which goes on from there the next time.
            GfoError: for a task without dev rows.
        """
        assert folder is not None
        config, pause = self.config(values), Pause(self.unit, budget)
        begun = (folder / CONFIG).exists()
        result = config.run(folder, resume=begun, callbacks=[pause], progress=False, test=False)
        if result.stopped == "interrupted" and not pause.reached:
            raise KeyboardInterrupt
        if not pause.scores:
            raise GfoError("the task has no dev rows to compare trials by; give task.dev")
        lower = next(metric.lower_is_better for metric in result.metrics if metric.name == self.metric)
        value = pause.scores[self.metric]
        return Outcome(value if lower else 1 - value, result.cost.forward_tokens, pause.scores)

    @property
    def facts(self) -> dict[str, Any]:
        """What a search that goes on must have as it was."""
        return {"base": dict(self.values), "unit": self.unit, "metric": self.metric}

    def config(self, values: Mapping[str, Any]) -> Config:
        """The config with some hyperparameters' values."""
        nested = copy.deepcopy(dict(self.values))
        for key, value in values.items():
            put(nested, key, value, f"[search] '{key}'")
        return make_config(nested, self.name)


@dataclass(frozen=True)
class SearchConfig:
    """A search of hyperparameters as a config has it.

    Attributes:
        study: how it is searched.
        hyperparameters: keys of the config, and their values.
        trial: the config.
    """

    study: StudyConfig
    hyperparameters: Hyperparameters
    trial: ConfigTrial

    def run(self, out: Path, *, jobs: int = 1, progress: bool = True) -> Study:
        """Search, or go on, in a folder with one for each trial; its best config is written there, too."""
        from gfo.run.budget import Budget
        from gfo.run.files import write_json
        from gfo.run.search import search

        study, out = self.study, absolute(out)
        with _pool(jobs) as executor:
            found = search(
                self.trial,
                self.hyperparameters,
                optimizer=study.optimizer,
                options=study.options,
                halving=study.made(),
                budget=Budget(**study.budget.model_dump()),
                seed=study.seed,
                progress=progress,
                out=out,
                resume=True,
                executor=executor,
            )
        if any(record.loss is not None for record in found.records):
            found.to_csv(out / TABLE)
            found.plot(out / FIGURE)
            write_json(out / BEST, self.trial.config(found.best).values())
        return found


def _pool(jobs: int) -> Any:
    """What runs so many trials side by side."""
    if jobs < 1:
        raise GfoError(f"--jobs {jobs} must be at least 1")
    if jobs == 1:
        return nullcontext()
    return ProcessPoolExecutor(jobs, mp_context=get_context("spawn"))


def load_search(path: str | Path, overrides: Sequence[str] = ()) -> SearchConfig:
    """The search in a TOML or JSON file: a run's config with the sections [search] and [study].

    Raises:
        GfoError: for a file that cannot be read, a key of [search] that the config does not have, or values
            that it cannot take.
    """
    path = absolute(path, "config")
    values = read_values(path, overrides)
    asked, how = values.pop("search", None), values.pop("study", None)
    if not isinstance(asked, dict) or not asked:
        raise GfoError(f"config: {path}: it has no [search]; name a key there, as in 'baseline.options.lr'")
    try:
        study = StudyConfig.model_validate({} if how is None else how)
    except ValidationError as error:
        raise one_line(error, f"{path}: [study]", how) from None
    if values.get("refit"):
        raise GfoError(f"{path}: refit is of one config, not of [search]; leave it out, and refit the best")
    halving = study.made()
    if halving is not None:
        values["budget"] = {study.unit: halving.rungs[-1]}
    hyperparameters = Hyperparameters({key: _values(key, given) for key, given in _flat(asked).items()})
    metric = values.get("selection", {}).get("metric", "loss")
    trial = ConfigTrial(values, str(path), study.unit, metric)
    for z in _corners(hyperparameters):
        try:
            trial.config(hyperparameters.values(z)).check()
        except GfoError as error:
            raise GfoError(f"[search] of {path}: {error}") from None
    return SearchConfig(study, hyperparameters, trial)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as dotted keys, down to what are values of a hyperparameter."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and not set(value) & {*SCALES, "choices"}:
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _values(key: str, given: Any) -> Any:
    """What a config says of a hyperparameter's values, as `Hyperparameters` has it."""
    if isinstance(given, list):
        return given
    if not isinstance(given, dict):
        raise GfoError(
            f"[search] '{key}' = {shown(given)}; give a list, {{ log = [a, b] }}, {{ range = [a, b] }} or "
            "{ int = [a, b] }"
        )
    scale, *others = (kind for kind in given if kind != "when")
    known = (*SCALES, "choices")
    if others or scale not in known:
        raise GfoError(f"[search] '{key}': {unknown_name('kind of values', (others or [scale])[0], known)}")
    found = given[scale] if scale == "choices" else _scaled(key, scale, given[scale])
    if "when" not in given:
        return found
    when = given["when"]
    if not (isinstance(when, dict) and len(when) == 1):
        raise GfoError(
            f"[search] '{key}': when = {shown(when)}; give one key and its value, {{ KEY = VALUE }}"
        )
    ((name, value),) = when.items()
    return When(name, value, found)


def _scaled(key: str, scale: str, given: Any) -> Any:
    """The range [low, high] on a scale."""
    if not (isinstance(given, list) and len(given) == 2):
        raise GfoError(f"[search] '{key}': {scale} = {shown(given)}; give [low, high]")
    low, high = given
    try:
        return (low, high) if scale == "range" else {"log": Log, "int": Int}[scale](low, high)
    except GfoError as error:
        raise GfoError(f"[search] '{key}': {error}") from None


def _corners(hyperparameters: Hyperparameters) -> Array:
    """Points [n, d] that between them have each bound, and each choice for which there is no condition."""
    domain = hyperparameters.domain
    most = max(3, *(len(hyperparameters.choices(name)) for name in hyperparameters.names))
    return hyperparameters.repair(np.linspace(domain.low, domain.high, most))
