"""The sections of a config that name a task: one class a kind, with the task's arguments as keys."""

from __future__ import annotations

from abc import ABC
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from gfo.config.sections import Section
from gfo.core.protocols import Task

DATA = Path(__file__).parents[1] / "data"
PACKAGED = "gfo:"  # a data_dir "gfo:sentiment" is a folder of the package's data

# kind -> what it is, for `gfo list`
TASKS = {"classification": "the next word after the template says the label"}


class TaskSection(Section, ABC):
    """A task on rows. The keys are its arguments; paths are relative to `data_dir`, and that to the working
    folder."""

    public: ClassVar[str]  # its name in gfo
    data_dir: str = "."
    train: str
    dev: str | None = None
    test: str | None = None
    batch_size: int | None = None
    limits: dict[str, int] = Field(default_factory=dict)

    def build(self, seed: int) -> Task:
        """The task; its batches are drawn from the seed."""
        import gfo

        options = self.model_dump(exclude={"kind", "data_dir", "train", "dev", "test"}, exclude_none=True)
        splits = {split: self._path(getattr(self, split)) for split in ("train", "dev", "test")}
        task: Task = getattr(gfo, self.public)(**splits, **options, seed=seed)
        return task

    def _path(self, name: str | None) -> Path | None:
        if name is None:
            return None
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


TaskConfig = ClassificationConfig
