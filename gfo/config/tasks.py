"""The sections of a config that name a task: one class a kind, with the task's arguments as keys."""

from __future__ import annotations

from abc import ABC
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from gfo.config.sections import Section, kind_of
from gfo.core.errors import GfoError, check_name
from gfo.core.protocols import Task
from gfo.core.seeding import stream_seed
from gfo.tasks.parts.datasets import HUB, PACKAGED

# kind -> what it is, for `gfo list`
TASKS = {
    "classification": "the next words after the template say the label",
    "distillation": "the next word's distribution is to be a teacher's, such as that of a long instruction",
    "generation": "the text that the model writes behind the template, scored by a metric",
    "language-modeling": "the likelihood of documents, in windows",
    "multiple-choice": "each row has options, scored by their likelihood",
    "weighted": "a weighted sum of tasks, and constraints",
}


class TaskSection(Section, ABC):
    """A task on rows. The keys are its arguments; paths are relative to `data_dir`, and that to the working
    folder, or to the data that come with gfo, as "gfo:sentiment". Rows of a hub are named "hub:ID:SPLIT"."""

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

        splits = {split: self._path(getattr(self, split)) for split in ("train", "dev", "test")}
        task: Task = getattr(gfo, self.public)(**splits, **self._options(), seed=seed)
        return task

    @property
    def has_test(self) -> bool:
        """Whether there are test rows."""
        return self.test is not None

    def _options(self) -> dict[str, Any]:
        """The task's other arguments."""
        return self.model_dump(exclude={"kind", "data_dir", "train", "dev", "test"}, exclude_none=True)

    def _path(self, name: str | None) -> str | Path | None:
        if name is None or name.startswith(HUB):
            return name
        return Path(self.data_dir) / name


class ClassificationConfig(TaskSection):
    """`gfo.Classification`."""

    public = "Classification"
    kind: Literal["classification"] = "classification"
    template: str
    labels: dict[str, str | list[str]]
    label_field: str = "label"
    loss: str = "ce"
    normalize: str = "sum"
    calibration: str = "none"


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


class MultipleChoiceConfig(TaskSection):
    """`gfo.MultipleChoice`."""

    public = "MultipleChoice"
    kind: Literal["multiple-choice"]
    template: str
    options: str | list[str] = "options"
    label_field: str = "label"
    delimiter: str = " "
    loss: str = "ce"
    normalize: str = "sum"


class LanguageModelingConfig(TaskSection):
    """`gfo.LanguageModeling`."""

    public = "LanguageModeling"
    kind: Literal["language-modeling"]
    template: str = "{soft}{text}"
    window: int = 128
    stride: int | None = None
    mask_share: float = 0.15


class DistillationConfig(TaskSection):
    """`gfo.Distillation`; the teacher is a model's name, or a folder."""

    public = "Distillation"
    kind: Literal["distillation"]
    template: str
    teacher_template: str | None = None
    teacher: str | None = None
    labels: dict[str, str | list[str]] | None = None
    label_field: str = "label"
    over: str = "vocabulary"
    loss: str = "kl"
    temperature: float = 1.0

    def _options(self) -> dict[str, Any]:
        options = super()._options()
        if self.teacher is not None:
            from gfo.models.loading import load_model

            options["teacher"] = load_model(self.teacher)
        return options


class ConstraintConfig(Section):
    """`gfo.Constraint` on the task of that name."""

    task: str
    metric: str = "loss"
    most: float | None = None
    least: float | None = None
    penalty: float = 1.0


class WeightedConfig(Section):
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
            section.model_copy(update={"data_dir": self._within(section.data_dir)}).build(
                stream_seed(seed, f"task {i}")
            )
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

    def _within(self, folder: str) -> str:
        return folder if folder.startswith(PACKAGED) else str(Path(self.data_dir) / folder)


SECTIONS: dict[str, type[Section]] = {
    "classification": ClassificationConfig,
    "distillation": DistillationConfig,
    "generation": GenerationConfig,
    "language-modeling": LanguageModelingConfig,
    "multiple-choice": MultipleChoiceConfig,
    "weighted": WeightedConfig,
}

TaskConfig = Annotated[
    Annotated[ClassificationConfig, Tag("classification")]
    | Annotated[DistillationConfig, Tag("distillation")]
    | Annotated[GenerationConfig, Tag("generation")]
    | Annotated[LanguageModelingConfig, Tag("language-modeling")]
    | Annotated[MultipleChoiceConfig, Tag("multiple-choice")]
    | Annotated[WeightedConfig, Tag("weighted")],
    Discriminator(kind_of("classification")),
]
WeightedConfig.model_rebuild()
