"""The sections of a config that name a task: one class a kind, with the task's arguments as keys."""

from __future__ import annotations

from abc import ABC
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from gfo.config.sections import Section, kind_of
from gfo.core.protocols import Task
from gfo.tasks.datasets import HUB

DATA = Path(__file__).parents[1] / "data"
PACKAGED = "gfo:"  # a data_dir "gfo:sentiment" is a folder of the package's data

# kind -> what it is, for `gfo list`
TASKS = {
    "classification": "the next word after the template says the label",
    "generation": "the text that the model writes behind the template, scored by a metric",
}


class TaskSection(Section, ABC):
    """A task on rows. The keys are its arguments; paths are relative to `data_dir`, and that to the working
    folder. Rows of a hub are named "hub:ID:SPLIT"."""

    public: ClassVar[str]  # its name in gfo
    data_dir: str = "."
    train: str
    dev: str | None = None
    test: str | None = None
    batch_size: int | None = None
    limits: dict[str, int] = Field(default_factory=dict)
    skip: dict[str, int] | None = None
    shuffle: int | None = None
    max_length: int | None = None
    truncate: str | None = None

    def build(self, seed: int) -> Task:
        """The task; its batches are drawn from the seed."""
        import gfo

        options = self.model_dump(exclude={"kind", "data_dir", "train", "dev", "test"}, exclude_none=True)
        splits = {split: self._path(getattr(self, split)) for split in ("train", "dev", "test")}
        task: Task = getattr(gfo, self.public)(**splits, **options, seed=seed)
        return task

    def _path(self, name: str | None) -> str | Path | None:
        if name is None or name.startswith(HUB):
            return name
        if self.data_dir.startswith(PACKAGED):
            return DATA / self.data_dir.removeprefix(PACKAGED) / name
        return Path(self.data_dir) / name


class ClassificationConfig(TaskSection):
    """`gfo.Classification`."""

    public = "Classification"
    kind: Literal["classification"] = "classification"
    template: str
    labels: dict[str, str]
    label_field: str = "label"
    loss: str = "ce"


class GenerationConfig(TaskSection):
    """`gfo.Generation`; functions of the user are for Python."""

    public = "Generation"
    kind: Literal["generation"]
    template: str
    target: str | list[str] = "target"
    metric: str = "exact_match"
    pattern: str | None = None
    max_tokens: int = 32
    stop: list[str] = Field(default_factory=lambda: ["\n"])
    temperature: float = 0.0


SECTIONS: dict[str, type[TaskSection]] = {
    "classification": ClassificationConfig,
    "generation": GenerationConfig,
}

TaskConfig = Annotated[
    Annotated[ClassificationConfig, Tag("classification")] | Annotated[GenerationConfig, Tag("generation")],
    Discriminator(kind_of("classification")),
]
