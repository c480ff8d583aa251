"""Configs: TOML or JSON <-> objects, the only place that turns names into objects."""

from __future__ import annotations

import os
import tomllib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError, model_validator

from gfo.config.parts import (
    BaselineConfig,
    BudgetConfig,
    ModelConfig,
    OptimizerConfig,
    RacingConfig,
    SelectionConfig,
    StopConfig,
)
from gfo.config.sections import SAID, UNKNOWN_KEY, Section
from gfo.config.spaces import SpaceConfig
from gfo.config.tasks import TaskConfig
from gfo.core.errors import GfoError, GfoWarning, unknown_name
from gfo.core.files import absolute
from gfo.core.reading import parse_json, parse_toml, read_text
from gfo.core.seeding import stream_seed
from gfo.run.files import CHECKSUM, check_unchanged
from gfo.run.stored import CONFIG as CONFIG
from gfo.tasks.parts.datasets import DATA

if TYPE_CHECKING:
    from gfo.core.protocols import Evaluator, SearchSpace, Task
    from gfo.models.frozen import FrozenModel
    from gfo.run.callbacks import Callback
    from gfo.run.result import Result

DEMO = DATA / "demo.toml"
DATA_DIRS: Any = {"data_dir": True, "tasks": {"__all__": {"data_dir"}}}  # a machine's own


class Config(Section):
    """A run, whole."""

    seed: int = 0
    dev_every: int = 5
    warm_start: str | None = None
    objectives: list[str] | None = None
    limits: dict[str, float] | None = None
    model: ModelConfig = Field(default_factory=ModelConfig)
    task: TaskConfig
    space: SpaceConfig = Field(default_factory=dict, validate_default=True)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    baseline: BaselineConfig | None = None
    budget: BudgetConfig
    selection: SelectionConfig = Field(default_factory=SelectionConfig)
    stop: StopConfig = Field(default_factory=StopConfig)
    racing: RacingConfig | None = None

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
    ) -> Result:
        """Tune, score on the test rows (unless interrupted), and keep everything in `out`.

        With `resume`, go on with the run that `out` holds, if it holds one. Relative paths are in the folder
        that the process works in now; config.json has them whole.
        """
        parts = ("model", "task", "space")
        here = self.model_copy(update={name: getattr(self, name).anchored() for name in parts})
        if self.warm_start is not None:
            here.warm_start = str(absolute(self.warm_start))
        settings = {"callbacks": callbacks, "progress": progress}
        return here._run(absolute(out), resume, settings, test=test)

    def _run(self, out: Path, resume: bool, settings: dict[str, Any], *, test: bool) -> Result:
        """The same, with paths that mean the same everywhere."""
        from gfo.run.checkpoint import check_terms
        from gfo.run.files import write_json
        from gfo.run.folder import RunFolder

        if resume and os.path.exists(out / CONFIG):
            then = load_config(out / CONFIG).record()
            check_terms(out, {"config": then}, {"config": self.record()})
        self._check_method()
        settings |= self._settings()
        settings["callbacks"] = [*self.stop.callbacks(), *settings["callbacks"]]
        task = self.task.build(stream_seed(self.seed, "task"))
        with (folder := RunFolder(out, resume=resume)):
            model, space = self._model_and_space()
            write_json(out / CONFIG, self.model_dump(mode="json", exclude_none=True, exclude=self._unused))
            result = self._search(model, task, space, resume, {**settings, "out": folder})
            scored = not test or "test" in result.scores.get("after", {})
            if not scored and self.task.has_test and result.stopped != "interrupted":
                result.score("test")
        return result

    def _check_method(self) -> None:
        """Fail early for an optimizer or a baseline that would fail once the model is loaded."""
        from gfo import baselines, optimizers

        if self.baseline is not None:
            self._check_baseline()
            baselines.check(self.baseline.name, self.baseline.options)
            return
        if self.racing is not None:
            self.racing.made()
        name, options = self._optimizer()
        optimizers.check(name, options)
        if (domain := self.space.domain()) is not None:
            optimizers.make_with(name, domain, 0, options)

    def _check_baseline(self) -> None:
        """Raise GfoError for what a search has, and no baseline."""
        if self.racing is not None:
            raise GfoError("racing: baselines have no candidates to race; leave [racing] out")
        for key in ("warm_start", "objectives", "limits"):
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
        from gfo.run.budget import Budget
        from gfo.run.selection import Selection

        return {
            "budget": Budget(**self.budget.model_dump()),
            "seed": self.seed,
            "dev_every": self.dev_every,
            "selection": Selection(**self.selection.model_dump()),
            "memory": self.model.memory,
            "record": {"config": self.record()},
        }

    def _search(
        self,
        model: FrozenModel,
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
        name, options = self.optimizer.name, self.optimizer.options
        return tune(model, task, space, optimizer=name, options=options, **settings)

    def record(self) -> dict[str, Any]:
        """The config as results have it: without what is a machine's own, such as where a folder is."""
        values = self.model_dump(exclude_none=True, exclude={"task": DATA_DIRS, **self._unused})
        found = {key: _without_folders(value) for key, value in values.items()}
        if self.warm_start is not None:  # its folder may be gone when the run goes on
            found["warm_start"] = os.path.basename(self.warm_start.rstrip("/")) or self.warm_start
        return found

    def evaluator(self, folder: Path | None = None) -> Evaluator:
        """The evaluator of the run, for scoring what it found; of weights trained, those in the run's folder.

        Raises:
            GfoError: for weights that are not in the folder.
        """
        from gfo import baselines
        from gfo.evaluation.local import LocalEvaluator

        task = self.task.build(stream_seed(self.seed, "task"))
        model, space = self._model_and_space()
        if self.baseline is not None:
            memory, options = self.model.memory, self.baseline.options
            method = baselines.make(
                self.baseline.name, model, task, space, seed=self.seed, memory=memory, **options
            )
            if folder is not None:
                baselines.put_back(method, folder)
            return method.judge
        assert space is not None
        return LocalEvaluator(model, task, space, memory=self.model.memory)

    @property
    def method(self) -> str:
        """What searches or is trained, in words."""
        return self.baseline.name if self.baseline else f"{self.space.kind}, {self.optimizer.name}"

    @property
    def _unused(self) -> dict[str, Any]:
        """Keys whose defaults a run does not use, and so does not write down."""
        return {} if self.baseline is None else {"optimizer": True}

    def _model_and_space(self) -> tuple[FrozenModel, SearchSpace | None]:
        from gfo import baselines

        model = self.model.load()
        if self.baseline is not None and not baselines.needs_space(self.baseline.name):
            return model, None
        return model, self.space.build(model, stream_seed(self.seed, "space"))


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The config in a TOML or JSON file, with "key.key=value" overrides (values as in TOML).

    Raises:
        GfoError: for a file that cannot be read or parsed, or a key or value that is not known.
    """
    path = absolute(path, "config")
    where, text = f"config: {path}", read_text(path, "config")
    if path.suffix == ".json":
        values = parse_json(text, where, "write TOML, or JSON in a .json file")
    else:
        values = parse_toml(text, where, "write TOML, or JSON in a .json file")
    if not isinstance(values, dict):
        raise GfoError(f"config: {path} holds a {type(values).__name__}; write keys and values")
    if CHECKSUM in values:
        check_unchanged(
            values, path, f"change it with --set, or delete its key '{CHECKSUM}' to make it yours"
        )
        values = _known(values, path)
    for override in overrides:
        _set(values, override)
    return make_config(values, path)


def _known(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """What a run's config says without keys that a newer gfo wrote: as the format is known, they mean nothing
    that changes the run."""
    while True:
        try:
            Config.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            if first["type"] == UNKNOWN_KEY:
                section, key = _section(first["loc"], values), first["ctx"]["key"]
                del section[key]
                said = f"config: {path}: the key '{key}' is of another gfo, and left out"
                warnings.warn(said, GfoWarning, stacklevel=3)
                continue
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
        raise _one_line(error, name, values) from None


def _set(values: dict[str, Any], override: str) -> None:
    """Put "a.b=value" into nested values."""
    key, equals, text = override.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts):
        raise GfoError(f"--set {override}: write key=value, as in --set budget.evaluations=500")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # plain text needs no quotes
    for part in parts[:-1]:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise GfoError(f"--set {override}: '{part}' is a value, not a section")
    values[parts[-1]] = value


def _one_line(error: ValidationError, path: str | Path, values: Any) -> GfoError:
    """pydantic's first error in one line, with the nearest name for a wrong one."""
    first = error.errors()[0]
    keys = _keys(first["loc"], values)
    where, problem, context = ".".join(keys), first["type"], first.get("ctx", {})
    if problem == UNKNOWN_KEY:
        reason = str(unknown_name(f"key in [{where}]" if where else "key", context["key"], context["known"]))
    elif problem == SAID:
        reason = context["sentence"]
    elif problem == "no_section":
        reason = f"{where} = {first['input']!r}; write a section [{where}] with keys"
    elif problem == "missing":
        reason = f"'{where}' is missing; give it a value"
    else:
        reason = f"{where} = {first['input']!r}: {first['msg'].lower().removeprefix('value error, ')}"
    return GfoError(f"config: {path}: {reason}")


def _section(loc: Sequence[str | int], values: Any) -> Any:
    """The section at a location, as `_keys` has it."""
    for key in _keys(loc, values):
        values = values[int(key)] if isinstance(values, list) else values[key]
    return values


def _without_folders(value: Any) -> Any:
    """Nested values with folders of this machine as their names alone: runs travel."""
    if isinstance(value, dict):
        return {key: _without_folders(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_folders(inner) for inner in value]
    if isinstance(value, str) and os.path.isabs(value) and os.path.isdir(value):
        return os.path.basename(value) or value
    return value


def _keys(loc: Sequence[str | int], values: Any) -> list[str]:
    """The keys of a location, without pydantic's names for the choices of a union."""
    keys: list[str] = []
    for part in loc:
        if isinstance(values, Mapping) and (part in values or part == loc[-1]):
            values = values.get(part)
        elif isinstance(values, list) and isinstance(part, int):
            values = values[part]
        else:
            break
        keys.append(str(part))
    return keys
