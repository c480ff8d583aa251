"""Configs: TOML or JSON <-> objects, the only place that turns names into objects."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from operator import methodcaller
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from gfo.config.explaining import one_line
from gfo.config.files import known_keys, nested_values, override_value
from gfo.config.logs import callbacks, check_logs
from gfo.config.parts import (
    OF_A_MACHINE,
    AnyModelConfig,
    BaselineConfig,
    BudgetConfig,
    EndpointConfig,
    EvaluatorConfig,
    ModelConfig,
    OptimizerConfig,
    RacingConfig,
    SelectionConfig,
    StopConfig,
)
from gfo.config.recipes import concrete, settled
from gfo.config.sections import SAID, Section
from gfo.config.spaces import SpaceConfig
from gfo.config.tasks import TaskConfig
from gfo.core.errors import GfoError
from gfo.core.files import absolute
from gfo.core.seeding import stream_seed
from gfo.run.auto import AUTO
from gfo.run.budget import Budget
from gfo.run.files import CHECKSUM
from gfo.run.stored import CONFIG as CONFIG
from gfo.tasks.parts.sources import DATA

if TYPE_CHECKING:
    from gfo.core.domain import Domain
    from gfo.core.protocols import Evaluator, SearchSpace, Task
    from gfo.evaluation.workers import Workers
    from gfo.run.callbacks import Callback
    from gfo.run.result import Result

DEMO = DATA / "demo.toml"
DATA_DIRS: Any = {"data_dir": True, "tasks": {"__all__": {"data_dir"}}}  # a machine's own
OWN: Any = {
    "task": DATA_DIRS,
    "model": OF_A_MACHINE,
    "optimizer": {"options": {"rewrite": OF_A_MACHINE}},
}


class Config(Section):
    """A run, whole."""

    seed: int = 0
    dev_every: int = 5
    warm_start: str | None = None
    refit: bool | None = None
    objectives: list[str] | None = None
    limits: dict[str, float] | None = None
    model: AnyModelConfig = Field(default_factory=ModelConfig)
    task: TaskConfig
    space: SpaceConfig = Field(default_factory=dict, validate_default=True)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    baseline: BaselineConfig | None = None
    budget: BudgetConfig
    selection: SelectionConfig = Field(default_factory=SelectionConfig)
    stop: StopConfig = Field(default_factory=StopConfig)
    racing: RacingConfig | None = None
    evaluator: EvaluatorConfig | None = None
    log: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @field_validator("log")
    @classmethod
    def _known_logs(cls, log: dict[str, Any]) -> dict[str, Any]:
        try:
            check_logs(log)
        except GfoError as error:
            raise PydanticCustomError(SAID, "{sentence}", {"sentence": str(error)}) from None
        return log

    @model_validator(mode="before")
    @classmethod
    def _auto(cls, values: Any) -> Any:
        """A search without a space takes a recipe's; without an optimizer its optimizer, too."""
        if not isinstance(values, dict) or values.get("baseline"):
            return values
        if values.get("space", {"kind": AUTO}) != {"kind": AUTO}:
            return values
        method = {} if values.get("objectives") else {"optimizer": {"name": AUTO}}
        return {**method, **values, "space": {"kind": AUTO}}

    @model_validator(mode="after")
    def _suits_objectives(self) -> Config:
        """Without a name the optimizer is one that takes the objectives."""
        if self.objectives and "name" not in self.optimizer.model_fields_set:
            from gfo import optimizers

            self.optimizer.name = optimizers.SEVERAL
        return self

    def run(
        self,
        out: Path,
        *,
        resume: bool = False,
        callbacks: Sequence[Callback] = (),
        progress: bool = True,
        test: bool = True,
        load: Callable[[Any], Any] = methodcaller("load"),
    ) -> Result:
        """Tune, score on the test rows (unless interrupted), and keep everything in `out`.

        With `resume`, go on with the run that `out` holds, if it holds one. Relative paths are in the folder
        that the process works in now; config.json has them whole. `load` gives the model.
        """
        parts = ("model", "task", "space")
        here = self.model_copy(update={name: getattr(self, name).anchored() for name in parts})
        if self.warm_start is not None:
            here.warm_start = str(absolute(self.warm_start))
        settings = {"callbacks": callbacks, "progress": progress}
        if resume and os.path.exists(absolute(out) / CONFIG):
            here = settled(here, load_config(absolute(out) / CONFIG))
        return here._run(absolute(out), resume, settings, load, test=test)

    def _run(
        self,
        out: Path,
        resume: bool,
        settings: dict[str, Any],
        load: Callable[[Any], Any],
        *,
        test: bool,
    ) -> Result:
        """The same, with paths that mean the same everywhere."""
        from gfo.run.files import write_json
        from gfo.run.folder import RunFolder
        from gfo.run.terms import check_terms

        if resume and os.path.exists(out / CONFIG):
            then = load_config(out / CONFIG).record()
            check_terms(out, {"config": then}, {"config": self.record()})
        self.check()
        settings |= self._settings()
        settings["callbacks"] = [*self.stop.callbacks(), *callbacks(self.log, out), *settings["callbacks"]]
        task = self.task.build(stream_seed(self.seed, "task"))
        with (folder := RunFolder(out, resume=resume)):
            model = load(self.model)
            here = concrete(self, model, task, tell=settings["progress"])
            space = here.build_space(model)
            write_json(out / CONFIG, here.values())
            settings |= {"record": {"config": here.record()}, "out": folder}
            with here.workers() as workers:
                if workers is not None and self.evaluator is not None:
                    settings |= {"evaluator": workers, "asynchronous": self.evaluator.asynchronous}
                return here._scored(here._search(model, task, space, resume, settings), test=test)

    def _scored(self, result: Result, *, test: bool) -> Result:
        """The result with its scores on test, unless it has them, or was interrupted."""
        scored = not test or "test" in result.scores.get("after", {})
        if not scored and self.task.has_test and result.stopped != "interrupted":
            result.score("test")
        return result

    def workers(self) -> contextlib.AbstractContextManager[Workers | None]:
        """What evaluates in other processes, to be entered; None without."""
        if self.evaluator is None:
            return contextlib.nullcontext()
        return self.evaluator.made(functools.partial(search_evaluator, self.values()))

    def check(self, domain: Domain | None = None) -> None:
        """Fail early for an optimizer or a baseline that would fail once the model is loaded.

        Args:
            domain: of the space; None for as much as is known of it without a model.

        Raises:
            GfoError: for options that cannot be used, or a domain that the optimizer cannot search.
        """
        from gfo import baselines, optimizers

        if self.baseline is not None:
            self._check_baseline()
            baselines.check(self.baseline.name, self.baseline.options)
            return
        if self.racing is not None:
            self.racing.made()
        if self.optimizer.name == AUTO:
            if self.optimizer.options:
                raise GfoError("optimizer: auto has no options; name the optimizer that they are of")
            return
        name, options = self._optimizer()
        optimizers.check(name, options)
        domain = domain or self.space.domain()
        if domain is not None:
            optimizers.make_with(name, domain, 0, options)

    def _check_baseline(self) -> None:
        """Raise GfoError for what a search has, and no baseline."""
        if isinstance(self.model, EndpointConfig):
            raise GfoError("model: baselines are of models that are here; leave url out, or [baseline]")
        if self.racing is not None:
            raise GfoError("racing: baselines have no candidates to race; leave [racing] out")
        for key in ("warm_start", "objectives", "limits", "evaluator"):
            if getattr(self, key) is not None:
                raise GfoError(f"config: {key} is of an [optimizer]; leave it out with [baseline]")

    def _optimizer(self) -> tuple[str, dict[str, Any]]:
        """Its name and its options, several objectives among them."""
        from gfo import optimizers

        name, options = optimizers.for_objectives(
            self.optimizer.name, self.optimizer.options, self.objectives or ()
        )
        return str(name), dict(options or {})

    def _settings(self) -> dict[str, Any]:
        """What `gfo.tune` and `gfo.baselines.run` take alike."""
        from gfo.run.selection import Selection

        return {
            "budget": Budget(**self.budget.model_dump()),
            "seed": self.seed,
            "dev_every": self.dev_every,
            "selection": Selection(**self.selection.model_dump()),
            "memory": self.model.memory,
            "refit": bool(self.refit),
        }

    def _search(
        self,
        model: Any,
        task: Task,
        space: SearchSpace | None,
        resume: bool,
        settings: Mapping[str, Any],
    ) -> Result:
        """Run the optimizer or the baseline."""
        from gfo import baselines
        from gfo.run.tune import tune

        if self.baseline is not None:
            name, options = self.baseline.name, self.baseline.options
            return baselines.run(name, model, task, space, options=options, resume=resume, **settings)
        assert space is not None
        racing = None if self.racing is None else self.racing.made()
        settings = {**settings, "racing": racing, "warm_start": self.warm_start, "resume": resume}
        settings |= {"objectives": self.objectives or (), "limits": self.limits}
        name, options = self.optimizer.name, self.optimizer.made()
        return tune(model, task, space, optimizer=name, options=options, **settings)

    def record(self) -> dict[str, Any]:
        """The config as results have it: without logs and what is a machine's own, as where a folder is."""
        values = self.model_dump(exclude_none=True, exclude={**OWN, "log": True, **self._unused})
        found = {key: _without_folders(value) for key, value in values.items()}
        if self.warm_start is not None:  # its folder may be gone when the run goes on
            found["warm_start"] = os.path.basename(self.warm_start.rstrip("/")) or self.warm_start
        return found

    def local_evaluator(
        self,
        folder: Path | None = None,
        *,
        model: Any = None,
        task: Task | None = None,
        space: SearchSpace | None = None,
        values: Sequence[str] = (),
    ) -> Evaluator:
        """The evaluator of the run, for scoring what it found; of weights trained, those in the run's folder.

        Args:
            folder: of the run.
            model, task, space: in place of those that the config says.
            values: that a step is to give beside the loss.

        Raises:
            GfoError: for weights that are not in the folder.
        """
        from gfo import baselines
        from gfo.evaluation.choice import evaluator_for
        from gfo.run.refit import learnt_of

        task = task or learnt_of(folder, self.task.build(stream_seed(self.seed, "task")))
        model = model or self.model.load()
        space = space or self.build_space(model)
        memory = self.model.memory
        if self.baseline is not None:
            name, options = self.baseline.name, self.baseline.options
            method = baselines.make(name, model, task, space, seed=self.seed, memory=memory, **options)
            if folder is not None:
                baselines.put_back(method, folder)
            return method.judge
        assert space is not None
        racing = None if self.racing is None else self.racing.made()
        return evaluator_for(model, task, space, memory=memory, racing=racing, values=values)

    @property
    def method(self) -> str:
        """What searches or is trained, in words."""
        return self.baseline.name if self.baseline else f"{self.space.kind}, {self.optimizer.name}"

    @property
    def _unused(self) -> dict[str, Any]:
        """Keys whose defaults a run does not use, and so does not write down."""
        from gfo import baselines

        if self.baseline is None:
            return {}
        return {"optimizer": True} | ({} if baselines.needs_space(self.baseline.name) else {"space": True})

    @property
    def needs_model(self) -> bool:
        """Whether a model is needed to know whether the optimizer can search the space."""
        return self.baseline is None and self.space.domain() is None

    def values(self) -> dict[str, Any]:
        """The config as config.json has it."""
        found: dict[str, Any] = self.model_dump(mode="json", exclude_none=True, exclude=self._unused)
        return found

    def build_space(self, model: Any) -> SearchSpace | None:
        """The space; None for a baseline that needs none."""
        from gfo import baselines

        if self.baseline is not None and not baselines.needs_space(self.baseline.name):
            return None
        return self.space.build(model, stream_seed(self.seed, "space"))


def _without_folders(value: Any) -> Any:
    """Nested values with folders of this machine as their names alone: runs travel."""
    if isinstance(value, dict):
        return {key: _without_folders(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_folders(inner) for inner in value]
    if isinstance(value, str) and os.path.isabs(value) and os.path.isdir(value):
        return os.path.basename(value) or value
    return value


def search_evaluator(config: str | Path | dict[str, Any]) -> Evaluator:
    """What evaluates in the search of a config, a path or its values, as a worker makes it."""
    found = make_config(config, "of a worker") if isinstance(config, dict) else load_config(config)
    return found.local_evaluator(values=(*(found.objectives or ()), *(found.limits or {})))


def open_evaluator(folder: Path, **parts: Any) -> Evaluator:
    """The evaluator of the run in a folder; parts as in `Config.local_evaluator`."""
    return load_config(folder / CONFIG).local_evaluator(folder, **parts)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The config in a TOML or JSON file, with "key.key=value" overrides (values as in TOML).

    Raises:
        GfoError: for a file that cannot be read or parsed, or a key or value that is not known.
    """
    return make_config(read_values(path, overrides), absolute(path, "config"))


def read_values(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The nested values of a config's file, with overrides, before they are checked.

    Raises:
        GfoError: for a file that cannot be read or parsed.
    """
    path = absolute(path, "config")
    values = nested_values(path)
    if CHECKSUM in values:
        values = known_keys(values, path, Config.model_validate)
    for override in overrides:
        override_value(values, override)
    return values


def make_config(values: dict[str, Any], name: str | Path) -> Config:
    """The config that nested values stand for; errors call it by the name.

    Raises:
        GfoError: for a key or value that is not known.
    """
    if "optimizer" in values and "baseline" in values:
        raise GfoError(f"config: {name}: it has [optimizer] and [baseline]; give one of them")
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise one_line(error, name, values) from None
