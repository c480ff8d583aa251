"""What baselines share: one that is as it is, and training as ask, evaluate and tell."""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError
from gfo.core.metric import Metric
from gfo.core.protocols import Cost, Evaluation, Evaluator, Scores, SearchSpace, Task, metrics_of
from gfo.run.callbacks import Callback, Run
from gfo.run.folder import RunFolder
from gfo.run.history import HISTORY, History
from gfo.run.judge import Judge
from gfo.run.result import Result

if TYPE_CHECKING:
    from gfo.evaluation.local import LocalEvaluator
    from gfo.models.frozen import FrozenModel

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Setting:
    """What every baseline is given.

    Attributes:
        model: a frozen model; its weights are never written.
        task: what to learn.
        space: where the baseline trains, or starts from, if it does.
        seed: root seed.
        memory: bytes that a forward pass may take; None for a quarter of what is free.
    """

    model: FrozenModel
    task: Task
    space: SearchSpace | None = None
    seed: int = 0
    memory: int | None = None

    @property
    def start_space(self) -> SearchSpace:
        """The space.

        Raises:
            GfoError: if there is none.
        """
        if self.space is None:
            raise GfoError("baseline: it needs a space; give the one to compare with, such as gfo.SoftPrompt")
        return self.space


def in_space(factory: F) -> F:
    """Decorator of a factory: the baseline trains in a space, or starts from it."""
    factory.needs_space = True  # type: ignore[attr-defined]
    return factory


def positive(name: str, value: float) -> float:
    """The value, if it is a finite number above 0."""
    if not (math.isfinite(value) and value > 0):
        raise GfoError(f"baseline: {name} = {value} must be a positive number")
    return value


def joined_losses(found: Sequence[Evaluation]) -> Evaluation:
    """The losses of several points as one."""
    return Evaluation(np.concatenate([one.loss for one in found]), sum((one.cost for one in found), Cost()))


def joined(scores: Sequence[Scores]) -> Scores:
    """The scores of several points as one."""
    metrics = {name: np.concatenate([one.metrics[name] for one in scores]) for name in scores[0].metrics}
    rows = {name: np.concatenate([one.rows[name] for one in scores]) for name in scores[0].rows}
    return Scores(metrics, sum((one.cost for one in scores), Cost()), rows)


class Fixed:
    """A baseline without a search.

    Args:
        point: stands for what it does, [d]; 0 for doing without.
        judge: scores points.
        facts: plain values for result.json.
    """

    def __init__(self, point: Array, judge: Evaluator, facts: Mapping[str, Any]) -> None:
        self.point, self.judge, self.facts = point, judge, dict(facts)

    def result(
        self, out: str | Path | RunFolder | None, record: Mapping[str, Any], *, resume: bool = False
    ) -> Result:
        """The result of a run without steps, in the folder `out` if it is given."""
        with contextlib.nullcontext() if out is None else RunFolder.of(out, resume=resume) as folder:
            result = Result(
                z=self.point,
                history=History(folder and folder / HISTORY),
                stopped="nothing to search",
                selection="as it is",
                cost=Cost(),
                scoring=Cost(),
                judge=Judge.of(self.judge),
                record=dict(record),
            )
            if folder is not None:
                result.save(folder)
        return result


class Searching(Callback, ABC):
    """A baseline that gfo's loop runs: optimizer, evaluator and callback in one.

    Attributes:
        domain: of its points.
        splits: of the task.
        facts: plain values for result.json.
        dev_every: after how many steps dev is read, if that is not the run's to say.
        folder: of the run; None keeps what is trained in memory.
        judge: scores points; the baseline itself, or the evaluator of the space that they are points of.
    """

    domain: Domain
    splits: tuple[str, ...]
    facts: dict[str, Any]
    dev_every: int | None = None
    folder: Path | None = None

    @property
    def judge(self) -> Evaluator:
        """Scores points."""
        return self

    @property
    @abstractmethod
    def metrics(self) -> tuple[Metric, ...]:
        """What `score` gives, "loss" first."""

    @abstractmethod
    def ask(self) -> Array:
        """The points of a step, [K, d]."""

    @abstractmethod
    def __call__(self, z: Array, step: int) -> Evaluation:
        """The losses [K] of a step."""

    @abstractmethod
    def tell(self, z: Array, loss: Array) -> None:
        """Learn from the losses of a step."""

    @abstractmethod
    def recommend(self) -> Array:
        """The point as it is now, [d]."""

    @abstractmethod
    def score(self, z: Array, split: str) -> Scores:
        """Metrics of z [K, d] on a split."""

    def should_stop(self) -> str | None:
        """Why it wants to stop, in words, or None."""
        return None

    @abstractmethod
    def settings(self) -> dict[str, int]:
        """What the memory decided; see `gfo.core.protocols.Resumable`."""

    @abstractmethod
    def use(self, settings: Mapping[str, int]) -> None:
        """Decide as another one did."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """All that it has learnt, as plain values and arrays, which may be those that go on changing."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was called."""


class Trained(Protocol):
    """What is trained, as it is now.

    Attributes:
        parameters: to be moved in place.
        evaluator: computes its losses.
        domain: of its points.
        splits: of the task.
        facts: plain values for result.json.
        judge: scores its points.
    """

    parameters: list[nn.Parameter]
    evaluator: LocalEvaluator
    domain: Domain
    splits: tuple[str, ...]
    facts: dict[str, Any]

    @property
    def judge(self) -> Evaluator: ...

    def point(self) -> Array:
        """What stands for it as it is now, [d]; 0 for the start."""
        ...

    def loss(self, step: int) -> tuple[Tensor, Cost]:
        """The loss [1] on the step's batch, with dropout, and what it and its backward pass cost."""
        ...

    def moved(self) -> None:
        """The parameters have been moved."""

    def keep(self) -> None:
        """What `point` stands for will be asked for later."""

    def state_dict(self) -> dict[str, Any]:
        """What it is beside the parameters, as plain values and arrays."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Be what `state_dict` said."""

    def save(self, folder: Path, point: Array) -> None:
        """Write what the point stands for into a run folder, where it is no point of a space."""


class Trainer(Searching):
    """Moves the parameters of something trained.

    Args:
        trained: what changes.
        losses: how many a step takes: evaluations, as the history counts them.
        patience: end the run when dev has not become better in so many reads of it; None never.

    """

    def __init__(self, trained: Trained, *, losses: int = 1, patience: int | None = None) -> None:
        self.trained = trained
        self.domain, self.splits, self.facts = trained.domain, trained.splits, trained.facts
        self._losses, self._patience = losses, patience
        self._run: Run | None = None

    @property
    def judge(self) -> Evaluator:
        """Scores points."""
        return self.trained.judge

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What `score` gives: the judge's."""
        return metrics_of(self.judge)

    def ask(self) -> Array:
        """The point trained, once for each loss of a step."""
        return np.tile(self.trained.point(), (self._losses, 1))

    def recommend(self) -> Array:
        """The point trained, [d]."""
        return self.trained.point()

    def score(self, z: Array, split: str) -> Scores:
        """Metrics of z [K, d] on a split."""
        return self.judge.score(z, split)

    def settings(self) -> dict[str, int]:
        """What the memory decided."""
        return self.trained.evaluator.settings()

    def use(self, settings: Mapping[str, int]) -> None:
        """Decide as another one did."""
        self.trained.evaluator.use(settings)

    def state_dict(self) -> dict[str, Any]:
        """The parameters and what else is trained."""
        parameters = [as_array(parameter) for parameter in self.trained.parameters]
        return {"parameters": parameters, "trained": self.trained.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Train on where `state_dict` was called."""
        fill(self.trained.parameters, map(torch.from_numpy, state["parameters"]))
        self.trained.load_state_dict(state["trained"])

    def loss_now(self, step: int) -> Array:
        """The loss [1] of the point as it is now on a step's batch, without dropout."""
        return self.judge(self.recommend()[None], step).loss

    def start(self, run: Run) -> None:
        """Before the first step."""
        self._run = run

    def step(self, run: Run) -> str | None:
        """Keep what dev likes best; the reason to stop early, if there is one."""
        self._keep_best(run)
        if run.selection is None or run.selection.best is None or self._patience is None:
            return None
        best = run.selection.best.step
        reads = sum(step.dev is not None and step.step > best for step in run.history)
        if reads < self._patience:
            return None
        return f"early stopping: dev has not become better in {reads} reads"

    def end(self, run: Run) -> None:
        """After the last step, which dev may have liked best: keep it, also in the run folder."""
        self._keep_best(run)
        if self.folder is not None and len(run.history):
            self.trained.save(self.folder, run.found)

    def _keep_best(self, run: Run) -> None:
        best = run.selection and run.selection.best
        if best and np.array_equal(best.z, self.trained.point()):
            self.trained.keep()

    def _share(self, cost: Cost) -> float:
        """How much of what is planned is gone in the middle of a step of this cost, 0 to 1."""
        if self._run is None:
            return 0.0
        run, budget = self._run, self._run.budget
        after = budget.share_planned(run.cost + cost, run.seconds + cost.seconds)
        return min(1.0, (budget.share_planned(run.cost, run.seconds) + after) / 2)


def as_array(tensor: Tensor) -> Array:
    """A tensor's numbers as numpy has them, half precision in float32; on a CPU the very same memory."""
    wide = tensor.detach().cpu()
    array: Array = (wide.float() if wide.dtype in (torch.bfloat16, torch.float16) else wide).numpy()
    return array


@torch.no_grad()
def fill(tensors: Iterable[Tensor], values: Iterable[Tensor]) -> None:
    """Copy values into tensors."""
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)
