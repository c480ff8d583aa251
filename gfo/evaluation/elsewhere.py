"""An evaluator elsewhere, as on workers, for a model, a task and a space that are here, too."""

from __future__ import annotations

from typing import Any

from gfo.core.domain import Array
from gfo.core.errors import GfoError
from gfo.core.protocols import Evaluation, Evaluator, Scores, metrics_of
from gfo.evaluation.local import LocalEvaluator
from gfo.evaluation.worker import made_of

HERE = ("model", "task", "space", "answers", "repair", "measure", "batches_differ")
THERE = ("settings", "use", "submit", "finished", "forget", "at_once", "part")


class Elsewhere:
    """Numbers come from there; what reads the model, the task or the space (exports, words) finds them here.

    Args:
        evaluator: there.
        local: here, of the same model, task and space.

    Raises:
        GfoError: if the two are of another model or space.
    """

    def __init__(self, evaluator: Evaluator, local: LocalEvaluator) -> None:
        self.evaluator, self.local = evaluator, local
        self.metrics = metrics_of(evaluator)
        for where, names in ((local, HERE), (evaluator, THERE)):
            for name in names:
                if hasattr(where, name):
                    setattr(self, name, getattr(where, name))
        there: dict[str, Any] = getattr(evaluator, "of", None) or {}
        for key, value in made_of(local).items():
            if there.get(key, value) != value:
                raise GfoError(f"evaluator: its {key} is {there[key]}, not {value}; give both the same")

    @classmethod
    def of(cls, evaluator: Evaluator | None, local: Evaluator) -> Evaluator:
        """Of an evaluator there; without one what is here.

        Raises:
            GfoError: as the class; for texts, or with racing.
        """
        if evaluator is None:
            return local
        if not isinstance(local, LocalEvaluator):
            raise GfoError("evaluator: it is of changes of a model that is here; leave it out for texts")
        if local.racing is not None:
            raise GfoError("racing: it compares candidates here; leave it out, or leave out evaluator")
        return cls(evaluator, local)

    def __call__(self, z: Array, step: int) -> Evaluation:
        """Losses of z [K, d] on the step's training batch."""
        return self.evaluator(z, step)

    def score(self, z: Array, split: str) -> Scores:
        """Metrics of z [K, d] on a whole split."""
        return self.evaluator.score(z, split)
