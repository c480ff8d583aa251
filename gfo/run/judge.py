"""Who scores the points of a run: an evaluator, of an opened run one that is made when something needs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from gfo.core.domain import Array
from gfo.core.errors import GfoError
from gfo.core.metric import LOSS, Metric
from gfo.core.names import OPENER
from gfo.core.protocols import Evaluator, metrics_of
from gfo.report.scores import metrics_named, recorded_metrics
from gfo.run.stored import CONFIG, load_point


class Judge:
    """An evaluator that is made when it is first needed, and what is known of it before.

    Args:
        make: makes it.
        metrics: what it scores; None asks it.
        prompts: a point [d] and the text of its prompt, which is known; None for no text.
    """

    def __init__(
        self,
        make: Callable[[], Evaluator],
        metrics: tuple[Metric, ...] | None = None,
        prompts: tuple[Array, str | None] | None = None,
    ) -> None:
        self._make, self._metrics, self._prompts = make, metrics, prompts

    @classmethod
    def of(cls, evaluator: Evaluator) -> Judge:
        """One that is there."""
        return cls(partial(_given, evaluator))

    @classmethod
    def stored(cls, folder: Path, summary: Mapping[str, Any], parts: Mapping[str, Any]) -> Judge:
        """That of a run folder, which says what it scores.

        Args:
            folder: of the run.
            summary: its result.json.
            parts: what is there of "model", "task" and "space", or an "evaluator" of all; others are None.
        """
        names = list(dict.fromkeys(name for split in _after(summary).values() for name in split))
        metrics = recorded_metrics(summary) or metrics_named((), names or [LOSS.name])
        prompts = load_point(folder), summary.get("prompt")
        return cls(partial(opened, folder, parts), metrics, prompts)

    @cached_property
    def evaluator(self) -> Evaluator:
        """The evaluator itself."""
        return self._make()

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What it scores, "loss" first."""
        return metrics_of(self.evaluator) if self._metrics is None else self._metrics

    def prompt(self, z: Array) -> str | None:
        """The text that a point [d] stands for, of a space that picks words; else None."""
        if self._prompts is not None and np.array_equal(z, self._prompts[0]):
            return self._prompts[1]
        text = getattr(getattr(self.evaluator, "space", None), "text", None)
        return None if text is None else str(text(z))


def opened(folder: Path, parts: Mapping[str, Any]) -> Evaluator:
    """The evaluator of the run in a folder: as its config says, but for the parts that are there.

    Raises:
        GfoError: for a run without a config and not all parts.
    """
    given = {name: part for name, part in parts.items() if part is not None}
    if "evaluator" in given:
        return given["evaluator"]  # type: ignore[no-any-return]
    if (folder / CONFIG).exists():
        module, _, name = OPENER.partition(":")
        return getattr(import_module(f"gfo.{module}"), name)(folder, **given)  # type: ignore[no-any-return]
    if missing := [name for name in ("model", "task", "space") if name not in given]:
        raise GfoError(
            f"{folder} has no {CONFIG}, which would say its {', '.join(missing)}: give them, as in "
            "gfo.Result.load(folder, model, task=task, space=space), or evaluator=..."
        )
    from gfo.evaluation.local import LocalEvaluator

    return LocalEvaluator(given["model"], given["task"], given["space"])


def _after(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = summary.get("scores", {}).get("after", {})
    return found


def _given(evaluator: Evaluator) -> Evaluator:
    return evaluator
