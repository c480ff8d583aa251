"""A point of a search and who scores it: all that can be looked at, written and asked of it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gfo.core.checking import checked
from gfo.core.domain import Array
from gfo.core.errors import GfoWarning
from gfo.core.metric import Metric
from gfo.core.protocols import Evaluator
from gfo.report.tables import Table
from gfo.run.judge import Judge

if TYPE_CHECKING:
    from gfo.report.export import Exported
    from gfo.run.predictions import Changes, Predictions


@dataclass(repr=False)
class Point:
    """A point, what the model does there, and the forms in which it leaves gfo.

    Attributes:
        z: the point, float64 [d].
        judge: scores it.
    """

    z: Array
    judge: Judge

    @property
    def evaluator(self) -> Evaluator:
        """Scores points; of an opened run made when it is first asked for, with model and data."""
        return self.judge.evaluator

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What the scores are, "loss" first."""
        return self.judge.metrics

    @property
    def prompt(self) -> str | None:
        """The prompt found, as text, if the space picks words (`DiscretePrompt`)."""
        return self.judge.prompt(self.z)

    @checked
    def answers(self, split: str = "test") -> dict[str, list[str]]:
        """What the model writes for each row of a split, as the metric reads it, "before" and "after".

        "before" is the starting point. The tokens are not counted in `scoring`.

        Raises:
            GfoError: for a task that does not have the model write, an unknown split, or a point that fails.
        """
        from gfo.run.views import answers_of

        return answers_of(self.evaluator, self.z, split)

    @checked
    def predict(self, rows: Any) -> Predictions:
        """What the model says of each row: a label, an option or a text, by the task.

        Labels and options come with their probability among the row's; where the metric is the loss of a
        search, they were never made to be calibrated. Rows need not say what is right.

        Args:
            rows: mappings with the template's fields, or what else `gfo.datasets.load` takes, as a file.

        Raises:
            GfoError: for rows without a field, a task that predicts nothing of a row, or a point that fails.
        """
        from gfo.run.predictions import Predictions
        from gfo.run.views import predictions_of
        from gfo.tasks.parts.datasets import load

        found = load(rows, "rows")
        return Predictions(tuple(found), tuple(predictions_of(self.evaluator, self.z, found)))

    @checked
    def changes(self, split: str = "test") -> Changes:
        """Which rows of a split went from wrong to right and back, against the starting point.

        With an exact McNemar test of whether as many went the one way as the other. Of spaces without a
        prompt the starting point is the unchanged model. The tokens are not counted in `scoring`.

        Raises:
            GfoError: for an unknown split, or a task that calls no row right or wrong.
        """
        from gfo.run.predictions import changes_of

        return changes_of(self.evaluator, self.z, split)

    @checked
    def nearest_words(self, k: int = 5) -> Table:
        """The k words of the vocabulary nearest to each token of the soft prompt found, with their cosines.

        To look at, not to believe: for any text there are soft prompts that do a task and have that text as
        their nearest words (Khashabi et al. 2022, Prompt Waywardness, arXiv:2112.08348).

        Raises:
            GfoError: if the space has no soft prompt, or for a k out of range.
        """
        from gfo.report.words import words_near
        from gfo.run.views import soft_prompt_of

        prompt, model = soft_prompt_of(self.evaluator, self.z)
        return words_near(model, prompt, k)

    @checked
    def export_peft(self, folder: str | Path) -> Exported:
        """Write the result as an adapter that `peft.PeftModel.from_pretrained` loads.

        A soft prompt in the middle of the template becomes new tokens, with their tokenizer and the template
        that uses them. What has to be minded is warned of.

        Args:
            folder: a new or empty one.

        Raises:
            GfoError: for a change that PEFT has no adapter for; says what can be exported.
        """
        return self._warned("peft", folder)

    @checked
    def export_merged(self, folder: str | Path) -> Exported:
        """Write the whole model with the result in its weights, and its tokenizer; else as `export_peft`."""
        return self._warned("merged", folder)

    @checked
    def export_gguf(self, folder: str | Path) -> Exported:
        """Write a GGUF file for llama.cpp, each weight at the level found; else as `export_peft`."""
        return self._warned("gguf", folder)

    def prompt_text(self) -> str:
        """The prompt found: the text of a discrete one, or a soft one's nearest words, to look at.

        Raises:
            GfoError: if the space has no prompt.
        """
        from gfo.report.export import prompt_text

        return prompt_text(self.evaluator, self.z)

    def _warned(self, form: str, folder: str | Path) -> Exported:
        from gfo.report.export import export

        written = export(self.evaluator, self.z, form, folder)
        for note in written.notes:
            warnings.warn(f"{folder}: {note}", GfoWarning, stacklevel=4)
        return written
