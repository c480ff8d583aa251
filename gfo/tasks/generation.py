"""Generation: the model writes behind the template, and a metric scores what it wrote."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Unpack

import numpy as np

from gfo.core.domain import Array
from gfo.core.errors import GfoError, unknown_name
from gfo.core.metric import LOSS
from gfo.core.metric import Metric as NamedMetric
from gfo.core.protocols import Batch, Decoding, Tokenizer, Tokens
from gfo.core.recording import recorded
from gfo.tasks.parts.base import BoundRows, Data, RowOptions
from gfo.tasks.parts.datasets import Row, Source
from gfo.tasks.parts.metrics import ANSWER_TOKENS
from gfo.tasks.parts.templates import Template
from gfo.tasks.parts.text_metrics import METRICS, REGEX, Metric, NumberMatch, References

Score = Callable[[list[str], list[Row]], Sequence[float]]
"""The user's: outputs and their rows -> a number a row, the higher the better."""


@recorded
class Generation:
    """Data, template and metric of a task whose answers are texts. The loss is 1 - metric.

    Args:
        train: rows the loss is computed on; see `gfo.datasets.load`.
        dev: rows the result is selected on, or None to take the last recommendation.
        test: rows kept for the end, or None.
        template: text with `{field}` places and, for a soft prompt, one `{soft}`. The answer follows its end.
        target: the rows' field that holds the text that is right, or a list of such texts; of several fields
            the first that a row has.
        metric: "exact_match", "token_f1", "bleu", "chrf", "rouge1", "rouge2", "rougeL" (each 0 to 1, see
            `gfo.tasks.parts.text_metrics`), "regex", or a function `score(outputs, rows)` that gives a
            number a row, the higher the better; its mean counts. A function that fails for a candidate makes
            the candidate's loss nan, and a warning tells of the first failure.
        pattern: for "regex": the answer is the first group of its last match in the output, compared with
            the target as a number where both are.
        max_tokens: the most tokens of an answer.
        stop: texts that end an answer; the first of them and what follows it is cut off. A token ends the
            writing if it holds nothing in front of a stop text but blanks.
        temperature: 0 writes the likeliest token; above 0 tokens are drawn, the same for all candidates.
        rows: `limits`, `skip`, `shuffle`, `batch_size`, `max_length`, `truncate`: which rows are used, and
            which a step; `seed`: of the batches and of the draws. See `gfo.tasks.parts.base.Data.load`.

    Raises:
        GfoError: for unusable rows, an unknown field or metric, a row without target, a pattern that is no
            regular expression, a number out of range.
    """

    def __init__(
        self,
        train: Source,
        dev: Source | None = None,
        test: Source | None = None,
        *,
        template: str,
        target: str | Sequence[str] = "target",
        metric: str | Score = "exact_match",
        pattern: str | None = None,
        max_tokens: int = 32,
        stop: Sequence[str] = ("\n",),
        temperature: float = 0.0,
        **rows: Unpack[RowOptions],
    ) -> None:
        if isinstance(metric, str) and metric not in (*METRICS, REGEX):
            raise unknown_name("metric", metric, (*METRICS, REGEX))
        if max_tokens < 1:
            raise GfoError(f"max_tokens = {max_tokens} must be at least 1")
        if not 0 <= temperature < math.inf:
            raise GfoError(f"temperature = {temperature} must be 0 or more")
        self.stop = (stop,) if isinstance(stop, str) else tuple(stop)
        if "" in self.stop:
            raise GfoError(f"stop = {list(self.stop)}: '' stands everywhere; give texts, or none")
        self.pattern = _compiled(pattern, metric)
        self.template = Template.parse(template)
        self.target = (target,) if isinstance(target, str) else tuple(target)
        self.metric, self.seed = metric, rows.get("seed", 0)
        self.max_tokens, self.temperature = max_tokens, temperature
        self.data = Data.load(train, dev, test, **rows)
        for split, found in self.data.rows.items():
            for i, row in enumerate(found, 1):
                self.template.check(row, f"{split} row {i}")
                _references(row, self.target, f"{split} row {i}")

    def bind(self, tokenizer: Tokenizer) -> BoundGeneration:
        """Tokenize all rows for one model.

        Raises:
            GfoError: if the model does not continue texts, or the template does not fit it.
        """
        return BoundGeneration(self, tokenizer)

    def metric_for(self, references: References) -> Metric:
        """The metric of a batch with these references; of the user's function there is none."""
        if self.pattern is not None:
            return NumberMatch(references, self.pattern)
        return METRICS[str(self.metric)](references)


class BoundGeneration(BoundRows):
    """A generation task whose rows are tokens of one model."""

    def __init__(self, task: Generation, tokenizer: Tokenizer) -> None:
        if tokenizer.reads != "next":
            raise GfoError(
                "task: Generation needs a model that continues texts, but this one reads the "
                f"{tokenizer.reads}; take a decoder or an encoder-decoder"
            )
        super().__init__(task.data, task.template, tokenizer)
        self._task, self._tokenizer = task, tokenizer
        self.decoding = Decoding(
            task.max_tokens, _stop_tokens(tokenizer, task.stop), task.temperature, task.seed
        )
        self._warned = False

    def _wanted(self, split: str, index: Array) -> dict[str, Any]:
        target = np.empty(len(index), dtype=object)
        target[:] = [self._task.data.rows[split][i] for i in index]  # the rows, for references and functions
        return {"vocabulary": None, "target": target, "decoding": self.decoding}

    @property
    def metrics(self) -> tuple[NamedMetric, ...]:
        """Loss, the metric ("score" for a function) and the answers' length."""
        metric = self._task.metric
        shown = NamedMetric(metric, form="share") if isinstance(metric, str) else NamedMetric("score")
        return LOSS, shown, ANSWER_TOKENS

    def loss(self, answers: Sequence[Any], batch: Batch) -> Array:
        """K lists of B token tuples -> 1 - metric, [K]; nan for a failed candidate."""
        return 1 - self._values(answers, batch)

    def score(self, answers: Sequence[Any], batch: Batch) -> dict[str, Array]:
        """K lists of B token tuples -> loss, the metric ("score" for a function) and the answers' mean
        number of tokens, each [K]; nan for a failed candidate."""
        values = self._values(answers, batch)
        name = self._task.metric if isinstance(self._task.metric, str) else "score"
        tokens = [math.nan if _failed(rows) else sum(map(len, rows)) / len(rows) for rows in answers]
        return {"loss": 1 - values, name: values, "answer_tokens": np.where(np.isnan(values), np.nan, tokens)}

    def answer_texts(self, rows: Sequence[Tokens]) -> list[str]:
        """The answers as texts: cut at the first stop text, stripped."""
        texts = self._tokenizer.decode(rows)
        for stop in self._task.stop:
            texts = [text.partition(stop)[0] for text in texts]
        return [text.strip() for text in texts]

    def _values(self, answers: Sequence[Any], batch: Batch) -> Array:
        """The metric of each candidate, [K]."""
        rows, task = list(batch.target), self._task
        if callable(task.metric):
            evaluate: Metric = partial(_mean_score, task.metric, rows)
        else:
            evaluate = task.metric_for([_references(row, task.target, "row") for row in rows])
        values = np.full(len(answers), np.nan)
        for k, tokens in enumerate(answers):
            if _failed(tokens):
                continue
            texts = self.answer_texts(tokens)
            try:
                values[k] = evaluate(texts)
            except Exception as error:
                if not callable(task.metric):
                    raise
                self._warn(
                    f"metric: the function failed for candidate {k + 1} of {len(answers)}, whose loss is nan "
                    f"({type(error).__name__}: {error}); further failures are not reported"
                )
        if isinstance(evaluate, NumberMatch) and evaluate.seen and not evaluate.matched:
            self._warn(
                f"pattern = {evaluate.pattern.pattern!r} matches 0 of {evaluate.seen} answers (0.0 %); all "
                "count as wrong: widen it, or raise max_tokens"
            )
        return values

    def _warn(self, text: str) -> None:
        """Warn once in the life of a bound task, which is a run."""
        if not self._warned:
            self._warned = True
            warnings.warn(text, RuntimeWarning, stacklevel=2)


def _compiled(pattern: str | None, metric: Any) -> re.Pattern[str] | None:
    """The regular expression that the metric "regex", and no other, takes."""
    if (pattern is not None) != (metric == REGEX):
        raise GfoError(f"pattern = {pattern!r}: give one with metric = '{REGEX}', and only there")
    if pattern is None:
        return None
    try:
        return re.compile(pattern)
    except re.error as error:
        raise GfoError(f"pattern = {pattern!r} is no regular expression: {error}") from None


def _references(row: Row, fields: Sequence[str], where: str) -> list[str]:
    """The texts that are right for a row: in the first of the fields that it has."""
    field = next((field for field in fields if field in row), None)
    if field is None:
        raise GfoError(f"{where}: {unknown_name('target', ' or '.join(fields), map(str, row))}")
    found = row[field] if isinstance(row[field], list | tuple) else [row[field]]
    if not found or any(not isinstance(text, str | int | float) or isinstance(text, bool) for text in found):
        raise GfoError(f"{where}: target '{field}' is {row[field]!r}; give a text or a list of texts")
    return [str(text) for text in found]


def _stop_tokens(tokenizer: Tokenizer, stop: Sequence[str]) -> frozenset[int]:
    """The ends of the model, and the tokens that hold a stop text with nothing in front of it but blanks."""
    stops = (
        token
        for token, text in enumerate(tokenizer.token_texts)
        for end in stop
        if end in text and not text.partition(end)[0].strip()
    )
    return frozenset(stops) | tokenizer.end_tokens


def _mean_score(score: Score, rows: list[Row], outputs: Sequence[str]) -> float:
    """The mean of what the user's function gives.

    Raises:
        Exception: what the function raises; ValueError for other than a finite number a row.
    """
    values = np.asarray(score(list(outputs), rows), dtype=np.float64)
    if values.shape != (len(rows),):
        raise ValueError(f"it gave the shape {values.shape} for {len(rows)} outputs; give one number a row")
    if not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(f"it gave {values[bad]} for row {bad + 1}")
    return float(values.mean())


def _failed(rows: Any) -> bool:
    """Whether a candidate's answers are missing, whole or in part."""
    return rows is None or any(row is None for row in rows)
