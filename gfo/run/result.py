"""What a run found."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gfo.core.domain import Array
from gfo.core.errors import GfoError
from gfo.core.protocols import Cost, Evaluator
from gfo.run.environment import hardware, versions
from gfo.run.history import History

if TYPE_CHECKING:
    from gfo.report.export import Exported
    from gfo.run.callbacks import Run

RESULT, POINT, PLOT = "result.json", "best.safetensors", "plot.png"


@dataclass
class Result:
    """The best point of a run, how it was found and what it cost.

    Attributes:
        z: the result, float64 [d].
        history: every step.
        stopped: why the run ended, in words.
        selection: how z was chosen, in words.
        cost: of the search; `scoring` is that of reading dev and test.
        scores: "before" (z = 0, the starting point) and "after" -> split -> metric -> value.
        record: what was run (seed, model, optimizer, config ...), as plain values for result.json.
        folder: the run folder, if there is one.
    """

    z: Array
    history: History
    stopped: str
    selection: str
    cost: Cost
    scoring: Cost
    evaluator: Evaluator
    scores: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    @classmethod
    def of(cls, run: Run, stopped: str, record: Mapping[str, Any]) -> Result:
        """The result of a run that ended."""
        chosen = None if run.selection is None else run.selection.best
        z = run.optimizer.recommend() if chosen is None else chosen.z
        how = "the last recommendation"
        if run.selection is not None and chosen is not None:
            how = run.selection.describe()
        scoring = Cost() if run.selection is None else run.selection.cost
        return cls(z, run.history, stopped, how, run.cost, scoring, run.evaluator, record=dict(record))

    @property
    def loss(self) -> float | None:
        """The lowest training loss of any candidate, None if all failed."""
        return self.history[-1].best if len(self.history) else None

    def score(self, split: str = "test") -> dict[str, float]:
        """Metrics of the result on a split; the starting point is scored with it.

        Both are kept in `scores`, and in the run folder if there is one.
        """
        points = np.stack([np.zeros_like(self.z), self.z])
        scored = self.evaluator.score(points, split)
        self.scoring += scored.cost
        for i, when in enumerate(("before", "after")):
            values = {name: float(value[i]) for name, value in scored.metrics.items()}
            self.scores.setdefault(when, {})[split] = values
        if self.folder is not None:
            self._write_json(self.folder)
        return self.scores["after"][split]

    def plot(self, path: str | Path | None = None) -> Any:
        """Loss and dev score over evaluations, as a matplotlib figure, saved if a path is given."""
        from gfo.report.plots import plot_history

        return plot_history([asdict(step) for step in self.history], path)

    def export_peft(self, folder: str | Path) -> Exported:
        """Write the result as an adapter that `peft.PeftModel.from_pretrained` loads.

        A soft prompt in the middle of the template becomes new tokens, with their tokenizer and the template
        that uses them. What has to be minded is warned of.

        Args:
            folder: a new or empty one.

        Raises:
            GfoError: for a change that PEFT has no adapter for; says what can be exported.
        """
        return self._export("peft", folder)

    def export_merged(self, folder: str | Path) -> Exported:
        """Write the whole model with the result in its weights, and its tokenizer; else as `export_peft`."""
        return self._export("merged", folder)

    def prompt_text(self) -> str:
        """The prompt found: the text of a discrete one, or a soft one's nearest words, to look at.

        Raises:
            GfoError: if the space has no prompt.
        """
        from gfo.report.export import prompt_text

        return prompt_text(self.evaluator, self.z)

    def _export(self, form: str, folder: str | Path) -> Exported:
        from gfo.report.export import export

        written = export(self.evaluator, self.z, form, folder)
        for note in written.notes:
            warnings.warn(f"{folder}: {note}", stacklevel=3)
        return written

    def summary(self) -> dict[str, Any]:
        """Everything about the run but its steps, as JSON has it."""
        return {
            "scores": self.scores,
            "loss": self.loss,
            "stopped": self.stopped,
            "selection": self.selection,
            "steps": len(self.history),
            "cost": asdict(self.cost),
            "scoring_cost": asdict(self.scoring),
            **self.record,
            "versions": versions(),
            "hardware": hardware(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def save(self, folder: str | Path) -> Path:
        """Write result.json, the best point and the plot into a folder, which becomes the run's.

        Raises:
            GfoError: if the folder cannot be written.
        """
        from safetensors.numpy import save_file

        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            save_file({"z": np.asarray(self.z, dtype=np.float64)}, folder / POINT)
            self._write_json(folder)
            if len(self.history):
                self.plot(folder / PLOT)
        except OSError as error:
            raise GfoError(
                f"out = {folder}: cannot write there ({error.strerror}); name another folder"
            ) from None
        self.folder = folder
        return folder

    def _write_json(self, folder: Path) -> None:
        partial = folder / (RESULT + ".partial")
        partial.write_text(json.dumps(self.summary(), indent=1) + "\n", encoding="utf-8")
        partial.replace(folder / RESULT)


def load_point(folder: Path) -> Array:
    """The best point [d] in a run folder.

    Raises:
        GfoError: if there is none that can be read.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return np.asarray(load_file(folder / POINT)["z"])
    except (OSError, SafetensorError, KeyError) as error:
        raise GfoError(
            f"{folder} has no readable {POINT} ({error}); give the folder of a finished run"
        ) from None
