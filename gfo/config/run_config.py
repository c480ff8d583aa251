"""What a run is, as a config says it, and how it is run."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from operator import methodcaller
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

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
from gfo.config.sections import SAID, Section
from gfo.config.spaces import SpaceConfig
from gfo.config.tasks import TaskConfig
from gfo.core.errors import GfoError
from gfo.core.files import absolute
from gfo.core.seeding import stream_seed
from gfo.run.auto import AUTO, choose, method_for, say
from gfo.run.budget import Budget
from gfo.run.stored import CONFIG as CONFIG

if TYPE_CHECKING:
    from gfo.core.domain import Domain
    from gfo.core.protocols import Evaluator, SearchSpace, Task
    from gfo.evaluation.workers import Workers
    from gfo.run.callbacks import Callback
    from gfo.run.result import Result

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
        if not isinstance(values, dict) or "space" in values or values.get("baseline"):
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
        if resume:
            here = here.settled(absolute(out))
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
        from gfo.run.checkpoint import check_terms
        from gfo.run.files import write_json
        from gfo.run.folder import RunFolder

        if resume and os.path.exists(out / CONFIG):
            then = read_run_config(out).record()
            check_terms(out, {"config": then}, {"config": self.record()})
        self.check()
        settings |= self._settings()
        settings["callbacks"] = [*self.stop.callbacks(), *callbacks(self.log, out), *settings["callbacks"]]
        task = self.task.build(stream_seed(self.seed, "task"))
        with (folder := RunFolder(out, resume=resume)):
            model = load(self.model)
            here = self.concrete(model, task, tell=settings["progress"])
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
        from gfo.config import search_evaluator

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

        task = task or self.task.build(stream_seed(self.seed, "task"))
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
        return {"optimizer": True, "space": not baselines.needs_space(self.baseline.name)}

    def concrete(self, model: Any, task: Task, *, tell: bool = True) -> Config:
        """The config with names in the place of "auto", by a recipe; a line says what was taken."""
        method: dict[str, Any] = {"name": self.optimizer.name, "options": self.optimizer.options}
        if self.baseline is not None or AUTO not in (self.space.kind, method["name"]):
            return self
        if self.space.kind != AUTO:
            space = self.build_space(model)
            assert space is not None
            method["name"] = method_for(space.domain, self.objectives or ())
            return self._with(self.space.model_dump(exclude_none=True), method)
        choice = choose(model, task, Budget(**self.budget.model_dump()))
        if method["name"] == AUTO:
            method["name"], method["options"] = choice.method(self.objectives or ())
        if tell:
            say(choice.describe(method["name"]))
        return self._with({"kind": choice.recipe.space[0], **choice.options}, method)

    def settled(self, folder: Path) -> Config:
        """The config with what a run in a folder has taken for "auto"; itself where there is none."""
        if AUTO not in (self.space.kind, self.optimizer.name) or not (folder / CONFIG).exists():
            return self
        then = read_run_config(folder)
        kept = {
            "space": then.space if self.space.kind == AUTO else self.space,
            "optimizer": then.optimizer if self.optimizer.name == AUTO else self.optimizer,
        }
        return self.model_copy(update=kept)

    @property
    def needs_model(self) -> bool:
        """Whether a model is needed to know whether the optimizer can search the space."""
        return self.baseline is None and self.space.domain() is None

    def _with(self, space: dict[str, Any], optimizer: dict[str, Any]) -> Config:
        return Config.model_validate({**dict(self), "space": space, "optimizer": optimizer})

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


def read_run_config(folder: Path) -> Config:
    """The config of the run in a folder."""
    from gfo.config import load_config

    return load_config(folder / CONFIG)


def _without_folders(value: Any) -> Any:
    """Nested values with folders of this machine as their names alone: runs travel."""
    if isinstance(value, dict):
        return {key: _without_folders(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_folders(inner) for inner in value]
    if isinstance(value, str) and os.path.isabs(value) and os.path.isdir(value):
        return os.path.basename(value) or value
    return value
