"""Configs: TOML or JSON <-> objects, the only place that turns names into objects."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, Field, ValidationError

from gfo.config.sections import Section
from gfo.config.spaces import SECTIONS, SoftPromptConfig, SpaceConfig
from gfo.config.spaces import SPACES as SPACES
from gfo.config.tasks import DATA, TaskConfig
from gfo.config.tasks import TASKS as TASKS
from gfo.core.errors import GfoError, unknown_name
from gfo.core.seeding import stream_seed
from gfo.run.result import CONFIG as CONFIG

if TYPE_CHECKING:
    from gfo.core.protocols import SearchSpace
    from gfo.evaluation.local import LocalEvaluator
    from gfo.models.frozen import FrozenModel
    from gfo.run.callbacks import Callback
    from gfo.run.result import Result

DEMO = DATA / "demo.toml"


class ModelConfig(Section):
    """`gfo.load_model`; `memory_gib` is what a forward pass may take (default: a quarter of what is free)."""

    name: str = "smollm2-135m"
    dtype: str = "float32"
    device: str = "auto"
    memory_gib: float | None = Field(default=None, gt=0)

    @property
    def memory(self) -> int | None:
        """`memory_gib` in bytes."""
        return None if self.memory_gib is None else max(1, int(self.memory_gib * 2**30))


class OptimizerConfig(Section):
    """`gfo.optimizers.make`."""

    name: str = "cma"
    options: dict[str, Any] = Field(default_factory=dict)


class BudgetConfig(Section):
    """`gfo.Budget`."""

    evaluations: int | None = None
    forward_tokens: int | None = None
    seconds: float | None = None


class SelectionConfig(Section):
    """`gfo.Selection`."""

    metric: str = "loss"
    point: str = "recommendation"


class Config(Section):
    """A run, whole."""

    seed: int = 0
    dev_every: int = 5
    model: ModelConfig = Field(default_factory=ModelConfig)
    task: TaskConfig
    space: SpaceConfig = Field(default_factory=SoftPromptConfig)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    budget: BudgetConfig
    selection: SelectionConfig = Field(default_factory=SelectionConfig)

    def run(
        self, out: Path, *, callbacks: Sequence[Callback] = (), progress: bool = True, test: bool = True
    ) -> Result:
        """Tune, score on the test rows (unless interrupted), and keep everything in `out`."""
        from gfo import optimizers
        from gfo.run.budget import Budget
        from gfo.run.loop import new_run_folder
        from gfo.run.selection import Selection
        from gfo.run.tune import tune

        domain = self.space.domain()
        optimizers.make(self.optimizer.name, domain=domain, seed=0, **self.optimizer.options)  # fails early
        budget, selection = Budget(**self.budget.model_dump()), Selection(**self.selection.model_dump())
        task = self.task.build(stream_seed(self.seed, "task"))
        new_run_folder(out)
        model, space = self._model_and_space()
        (out / CONFIG).write_text(self.model_dump_json(indent=1, exclude_none=True) + "\n", encoding="utf-8")
        result = tune(
            model,
            task,
            space,
            optimizer=self.optimizer.name,
            options=self.optimizer.options,
            budget=budget,
            seed=self.seed,
            dev_every=self.dev_every,
            selection=selection,
            callbacks=callbacks,
            progress=progress,
            out=out,
            memory=self.model.memory,
            record={"config": self.model_dump(exclude_none=True, exclude={"task": {"data_dir"}})},
        )
        if test and self.task.test is not None and result.stopped != "interrupted":
            result.score("test")
        return result

    def evaluator(self) -> LocalEvaluator:
        """The evaluator of the run, for scoring what it found."""
        from gfo.evaluation.local import LocalEvaluator

        task = self.task.build(stream_seed(self.seed, "task"))
        model, space = self._model_and_space()
        return LocalEvaluator(model, task, space, memory=self.model.memory)

    def _model_and_space(self) -> tuple[FrozenModel, SearchSpace]:
        from gfo.models.loading import load_model

        model = load_model(self.model.name, dtype=self.model.dtype, device=self.model.device)
        return model, self.space.build(model, stream_seed(self.seed, "space"))


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The config in a TOML or JSON file, with "key.key=value" overrides (values as in TOML).

    Raises:
        GfoError: for a file that cannot be read or parsed, or a key or value that is not known.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise GfoError(f"config: cannot read {path}: {reason}; check the path") from None
    try:
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise GfoError(f"config: {path}: {error}; write TOML, or JSON in a .json file") from None
    if not isinstance(values, dict):
        raise GfoError(f"config: {path} holds a {type(values).__name__}; write keys and values")
    for override in overrides:
        _set(values, override)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise _one_line(error, path) from None


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


def _one_line(error: ValidationError, path: Path) -> GfoError:
    """pydantic's first error in one line, with the nearest name for a wrong one."""
    first = error.errors()[0]
    section, keys = _section([str(part) for part in first["loc"]])
    where, kind, value = ".".join(keys), first["type"], first["input"]
    if kind == "extra_forbidden":
        place = ".".join(keys[:-1])
        reason = str(unknown_name(f"key in [{place}]" if place else "key", keys[-1], section.model_fields))
    elif kind == "literal_error":
        known = get_args(section.model_fields[keys[-1]].annotation)
        reason = str(unknown_name(keys[0], str(value), known))
    elif kind == "union_tag_invalid":
        reason = str(unknown_name("space", str(first["ctx"]["tag"]), SPACES))
    elif kind == "union_tag_not_found":
        reason = f"{where} = {value!r}; write a section [{where}] with keys"
    elif kind == "missing":
        reason = f"'{where}' is missing; give it a value"
    else:
        reason = f"{where} = {value!r}: {first['msg'].lower().removeprefix('value error, ')}"
    return GfoError(f"config: {path}: {reason}")


def _section(loc: Sequence[str]) -> tuple[type[BaseModel], list[str]]:
    """The section that a location is in, and its keys without pydantic's names for the choices of a union."""
    section: type[BaseModel] = Config
    keys: list[str] = []
    for part in loc:
        choice = bool(keys) and (keys[-1] == "space" or keys[-1].isdigit())
        if choice and part in SECTIONS:
            section = SECTIONS[part]
            keys.append("")  # so that a key of the same name is not taken for a choice
            continue
        if part in ("str", "int") or "[" in part:
            break
        keys.append(part)
        annotation = section.model_fields[part].annotation if part in section.model_fields else None
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            section = annotation
    return section, [key for key in keys if key]
