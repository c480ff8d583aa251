"""The sections of a config that name a task: its constructor's arguments are the keys."""

from __future__ import annotations

import inspect
import os
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import BeforeValidator, Field, SerializeAsAny, create_model

from gfo.config.sections import Section, anchored_name, of_kind
from gfo.config.signatures import field_of, keys_of
from gfo.core.errors import GfoError, check_name
from gfo.core.files import absolute
from gfo.core.protocols import Task
from gfo.core.recording import remember
from gfo.core.registry import Entry
from gfo.core.seeding import stream_seed
from gfo.tasks.parts.sources import HUB, PACKAGED

DEFAULT = "classification"
SPLITS = ("train", "dev", "test")


class TaskSection(Section):
    """A task. The keys are its arguments; its batches are drawn from the root seed."""

    made: ClassVar[Any]  # the class of the task
    models: ClassVar[frozenset[str]] = frozenset()  # keys that name a model
    kind: str

    def build(self, seed: int) -> Task:
        """The task; its batches are drawn from the seed."""
        options = self._options()
        if _takes_seed(self.made):
            options["seed"] = seed
        task = cast(Task, self.made(**options))
        remember(task, options)
        return task

    @property
    def has_test(self) -> bool:
        """Whether there are test rows."""
        return getattr(self, "test", None) is not None

    def anchored(self) -> TaskSection:
        """The same with paths that mean the same wherever the process goes."""
        names = {key: getattr(self, key) for key in self.models}
        folder = getattr(self, "data_dir", None)
        found = {key: anchored_name(name) for key, name in names.items() if isinstance(name, str)}
        if folder is not None and not folder.startswith(PACKAGED):
            found["data_dir"] = str(absolute(folder, "task.data_dir"))
        return self.model_copy(update=found)

    def _options(self) -> dict[str, Any]:
        """The task's arguments."""
        options = self.model_dump(exclude={"kind"}, exclude_none=True)
        for name in self.models & set(options):
            from gfo.models.loading import load_model

            options[name] = load_model(options[name])
        return options


class RowsSection(TaskSection):
    """A task on rows. Paths are relative to `data_dir`, and that to the working folder, or to the data that
    come with gfo, as "gfo:sentiment". Rows of a hub are named "hub:ID:SPLIT"."""

    data_dir: str = "."

    def _options(self) -> dict[str, Any]:
        options = super()._options()
        folder = options.pop("data_dir")
        rows = {split: options[split] for split in SPLITS if split in options}
        return {**options, **{split: _rows_at(folder, name) for split, name in rows.items()}}


def _rows_at(folder: str, name: str) -> str | Path:
    """Where rows are, by the name in a section with that `data_dir`."""
    if name.startswith((HUB, PACKAGED)):
        return name
    return Path(os.path.expanduser(folder)) / os.path.expanduser(name)


class ConstraintConfig(Section):
    """`gfo.Constraint` on the task of that name."""

    task: str
    metric: str = "loss"
    most: float | None = None
    least: float | None = None
    penalty: float = 1.0


class WeightedConfig(TaskSection):
    """`gfo.Weighted`: a section [[task.tasks]] for each task. A `data_dir` stands in front of theirs."""

    kind: Literal["weighted"]
    data_dir: str = "."
    tasks: list[TaskConfig]
    weights: list[float] | None = None
    names: list[str] | None = None
    constraints: list[ConstraintConfig] = Field(default_factory=list)

    def build(self, seed: int) -> Task:
        """The tasks, each with batches drawn from a seed of its own."""
        from gfo.tasks.weighted import Constraint, Weighted

        weights = [1.0] * len(self.tasks) if self.weights is None else self.weights
        if len(weights) != len(self.tasks):
            raise GfoError(f"task.weights = {weights}: give {len(self.tasks)}, one a task")
        parts = [
            self._within(section).build(stream_seed(seed, f"task {i}"))
            for i, section in enumerate(self.tasks)
        ]
        weighted = Weighted(list(zip(parts, weights, strict=True)), names=self.names)
        by_name = dict(zip(weighted.names, parts, strict=True))
        constraints = []
        for section in self.constraints:
            check_name("task of a constraint", section.task, by_name)
            bound = section.model_dump(exclude={"task"})
            constraints.append(Constraint(by_name[section.task], **bound))
        return Weighted(list(zip(parts, weights, strict=True)), names=self.names, constraints=constraints)

    @property
    def has_test(self) -> bool:
        """Whether all tasks have test rows."""
        return all(section.has_test for section in self.tasks)

    def _within(self, section: TaskSection) -> TaskSection:
        folder = getattr(section, "data_dir", PACKAGED)
        if folder.startswith(PACKAGED):
            return section
        return section.model_copy(update={"data_dir": str(Path(self.data_dir) / os.path.expanduser(folder))})


def task_section(entry: Entry) -> type[TaskSection]:
    """The section of a task of the registry.

    Raises:
        GfoError: for a constructor whose arguments a config cannot give.
    """
    return WeightedConfig if entry.name == "weighted" else _section(entry.name, entry.load())


@cache
def _section(name: str, cls: Any) -> type[TaskSection]:
    keys = keys_of(cls, leave_out=("seed", *SPLITS))
    given = inspect.signature(cls).parameters
    rows = {split: _rows_key(given[split]) for split in SPLITS if split in given}
    named: Any = Literal[name]
    section = create_model(
        f"{cls.__name__}Config",
        __base__=RowsSection if "train" in given else TaskSection,
        __module__=__name__,
        kind=(named, name if name == DEFAULT else ...),
        **rows,
        **{key: field_of(value) for key, value in keys.items()},
    )
    section.made = cls
    section.models = frozenset(key for key, value in keys.items() if value["model"])
    return section


def _rows_key(parameter: inspect.Parameter) -> Any:
    """A split's rows as pydantic's `create_model` takes them."""
    return (str, ...) if parameter.default is parameter.empty else (str | None, None)


def _takes_seed(cls: Any) -> bool:
    parameters = inspect.signature(cls).parameters.values()
    return any(p.name == "seed" or p.kind is p.VAR_KEYWORD for p in parameters)


TaskConfig = Annotated[SerializeAsAny[TaskSection], BeforeValidator(of_kind("task", DEFAULT, task_section))]
WeightedConfig.model_rebuild()
