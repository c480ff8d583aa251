"""The evaluator of a model behind a server: K texts -> K losses, by requests."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gfo.core.domain import Array
from gfo.core.errors import GfoError
from gfo.core.metric import Metric
from gfo.core.protocols import Answers, Batch, Batches, Cost, Evaluation, Scores, Task
from gfo.core.recording import recorded
from gfo.core.text_domain import TextSpace
from gfo.evaluation.asking import Asker
from gfo.evaluation.feedback import NO_FEEDBACK, RowFeedback, feedback_on
from gfo.evaluation.incomplete import losses, scores
from gfo.evaluation.parts import batches_differ, parts_of, training_rows
from gfo.evaluation.racing import of_rows
from gfo.evaluation.values import measured, measuring_of, points_of, scored_values
from gfo.models.endpoint import Endpoint


@recorded
class EndpointEvaluator:
    """Scores texts by asking a server's model; `gfo.tune` takes it for a `gfo.Endpoint`.

    A request that fails for good loses its row alone: the candidate's others count.

    Args:
        model: the server's.
        task: what to minimise; classification, multiple choice, generation, or a weighted sum of them.
        space: whose points are texts, such as `gfo.Words` or `gfo.Texts`.
        values: metrics of the task that a step is to give beside the loss.

    Raises:
        GfoError: for a server that is not there, refuses the key, lacks the model or gives no
            log-probabilities where the task reads them; for a task that counts tokens, or a template without
            `{soft}`.
    """

    def __init__(self, model: Endpoint, task: Task, space: TextSpace, *, values: Sequence[str] = ()) -> None:
        check_countless(task)
        self.model, self.space = model, space
        self.task = task.bind(model)
        check_soft(self.task)
        self._measuring = measuring_of(space)
        if self._measuring is not None:
            self.measure = self._measuring.measure
        self._scored = scored_values(values, self.task, self._measuring, space.domain)
        self._asker = Asker(model)
        self._paid = model.spent
        self._last: dict[str, Answers] = {}  # of the newest step
        model.check()
        start = space.text(np.zeros(space.domain.d))
        for part in parts_of(self.task.batch("train", 0)):
            self._read([start], of_rows(part, np.array([0])))

    def __call__(self, z: Array, step: int) -> Evaluation:
        """Loss of each candidate on the step's batch; z [K, d]; nan where all of its rows failed."""
        start, batch = time.perf_counter(), self.task.batch("train", step)
        answers = self._answers(z, batch)
        if isinstance(batch, Batch):
            self._last = {self.space.text(point): answers[k : k + 1] for k, point in enumerate(z)}
        self._asker.tell_unlisted()
        loss, rows = losses(self.task, answers, batch, len(z))
        loss[~np.isfinite(loss)] = np.nan
        values = measured(self._measuring, z)
        if self._scored:
            found = scores(self.task, answers, batch, len(z)).metrics
            values |= {name: found[name] for name in self._scored}
        return Evaluation(loss, self._cost(len(z), start), values, rows)

    def score(self, z: Array, split: str) -> Scores:
        """Every metric of each candidate on a whole split; z [K, d].

        Raises:
            GfoError: if the task has no such split.
        """
        start, batch = time.perf_counter(), self.task.all_rows(split)
        found = scores(self.task, self._answers(z, batch), batch, len(z))
        return replace(found, cost=self._cost(len(z), start))

    def answers(self, z: Array, batch: Batch | Batches) -> Answers:
        """What the model answers a batch with the texts of z [K, d]: see `gfo.core.protocols.Batch`."""
        return self._answers(z, batch)

    def feedback(self, z: Array) -> list[RowFeedback]:
        """What became of the training rows with the text of z [d]; those of the newest step are known."""
        batch, text = self.task.batch("train", 0), self.space.text(z)
        if isinstance(batch, Batches):
            raise GfoError(NO_FEEDBACK)
        then = self._last.get(text)
        answers = self._read([text], batch) if then is None else then
        return feedback_on(self.task, answers, batch, text, self.model.decode)

    @property
    def row_count(self) -> int:
        """How many training rows `feedback` is on."""
        return training_rows(self.task)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What `score` gives: the task's."""
        return self.task.metrics

    @property
    def batches_differ(self) -> bool:
        """Whether each step has rows of its own."""
        return batches_differ(self.task)

    def _cost(self, K: int, start: float) -> Cost:
        """Of what was asked since the last call, by whomever: a method may ask the same server."""
        then, self._paid = self._paid, self.model.spent
        now = self._paid
        tokens = now.prompt_tokens + now.completion_tokens - then.prompt_tokens - then.completion_tokens
        asked = now.requests - then.requests
        return Cost(K, tokens, tokens, time.perf_counter() - start, asked, now.dollars - then.dollars)

    def _answers(self, z: Array, batch: Batch | Batches) -> Answers:
        """What the model answers with the texts of z [K, d]; nothing for a point that is not finite."""
        points = points_of(z, self.space.domain.d)
        texts = [self.space.text(point) if np.isfinite(point).all() else None for point in points]
        return self._read(texts, batch)

    def _read(self, texts: Sequence[str | None], batch: Batch | Batches) -> Answers:
        if isinstance(batch, Batches):
            return tuple(self._read(texts, part) for part in batch.parts)
        prompts = self._prompts([text for text in texts if text is not None], batch)
        if batch.decoding is not None:
            written = iter(self._asker.written(prompts, batch.decoding))
            return [[None if text is None else next(written) for _ in batch.before] for text in texts]
        options = len(set((batch.whole or batch).endings)) > 1
        return self._likelihoods(texts, prompts, _endings(batch), options)

    def _prompts(self, texts: Sequence[str], batch: Batch) -> list[str]:
        """Each text in all of a batch's rows, one text's after the other's."""
        fronts, backs = self.model.decode(batch.before), self.model.decode(batch.after)
        return [front + text + back for text in texts for front, back in zip(fronts, backs, strict=True)]

    def _likelihoods(
        self, texts: Sequence[str | None], prompts: Sequence[str], endings: list[list[str]], options: bool
    ) -> Any:
        """Log-probabilities of the rows' endings, a tensor [K, N, m]; nan for what failed."""
        import torch

        asked = [k for k, text in enumerate(texts) if text is not None]
        found = np.full((len(texts), len(endings), max(map(len, endings))), np.nan)
        if asked:
            read = self._asker.likelihoods(prompts, endings * len(asked), options=options)
            found[asked] = read.reshape(len(asked), *found.shape[1:])
        return torch.from_numpy(found)


def check_countless(task: Any) -> None:
    """Raise GfoError for a task that counts a model's tokens, which a server does not tell."""
    for part in getattr(task, "parts", [task]):
        if getattr(part, "normalize", None) == "mean":
            raise GfoError(
                'normalize = "mean" counts tokens, which a server does not tell; take "sum" or "characters"'
            )
        if getattr(getattr(part, "data", None), "longest", None) is not None:
            raise GfoError(
                "max_length counts tokens, which a server does not tell; shorten the rows yourself"
            )


def check_soft(task: Any) -> None:
    """Raise GfoError for a template without a place for the text."""
    if not all(part.prompt for part in parts_of(task.batch("train", 0))):
        raise GfoError("template: it has no {soft}; write {soft} where the text that is searched goes")


def _endings(batch: Batch) -> list[list[str]]:
    """What is wanted behind each row: the words of `vocabulary`, or the row's own endings."""
    if batch.endings:
        return [["".join(map(str, ending)) for ending in some] for some in batch.endings]
    if not batch.vocabulary:
        raise GfoError(
            "task: it reads the probabilities of all words, which a server does not give; take "
            "gfo.Classification, gfo.MultipleChoice or gfo.Generation"
        )
    return [[str(word) for word in batch.vocabulary]] * len(batch)
