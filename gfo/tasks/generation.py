"""Generation: the model writes behind the template, and a metric scores what it wrote."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Self, Unpack

import numpy as np

from gfo.core.domain import Array
from gfo.core.errors import GfoError, GfoWarning
from gfo.core.metric import LOSS, Metric
from gfo.core.protocols import Batch, Decoding, Tokenizer, Tokens
from gfo.core.recording import recorded
from gfo.tasks.parts.base import BoundRows, Data, RowOptions
from gfo.tasks.parts.datasets import Row, Source
from gfo.tasks.parts.measures import Options, Score, measure_of, references_of
from gfo.tasks.parts.metrics import ANSWER_TOKENS
from gfo.tasks.parts.templates import GivenTemplate, Template
from gfo.tasks.parts.text_metrics import ByRow, NumberMatch, TextMetric

REACHED = 1 - 1e-6  # what a reference scores by itself, but for rounding
MOST_LOOKED_AT = 1000  # rows of a split whose references are scored when a task is bound
UNREACHED = {  # why a metric may not know a reference again
    **dict.fromkeys(
        ("rouge1", "rouge2", "rougeL"), " (its words are of the letters a to z and digits alone)"
    ),
    "bleu": " (it counts runs of four words, with blanks between them)",
}


@recorded
class Generation:
    """Data, template and metric of a task whose answers are texts. The loss is 1 - metric, unless it says
    otherwise.

    Args:
        train: rows the loss is computed on; see `gfo.datasets.load`.
        dev: rows the result is selected on, or None to take the last recommendation.
        test: rows kept for the end, or None.
        template: text with `{field}` places and, for a soft prompt, one `{soft}`. The answer follows its end.
        target: the rows' field that holds the text that is right, or a list of such texts; of several fields
            the first that a row has.
        metric: "exact_match", "token_f1", "bleu", "chrf", "rouge1", "rouge2", "rougeL" (each 0 to 1, see
            `gfo.tasks.parts.text_metrics`), "regex", a verifier ("gsm8k", "math", "countdown", "json_schema",
            "pass@k": see `gfo.tasks.parts.verifiers`), or a function `score(outputs, rows)` that gives a
            number a row, the higher the better; its mean counts. `gfo.Metric(name, lower_is_better=...,
            form=..., function=score)` names it and says which way is better: the loss is its value where
            lower is better, else 1 - a share, or the negative of another number. A function that fails for a
            candidate makes the candidate's loss nan, and a warning tells of the first failure.
        pattern: for "regex": the answer is the first group of its last match in the output, compared with
            the target as a number where both are. None with the others.
        k: for "pass@k": draws of which one is to pass; 1 by default.
        timeout: for "pass@k": seconds of a processor that a program has, 3 by default; and five times as
            many of the clock.
        json_schema: for "json_schema": what answers must satisfy; by default each row's field `schema`.
        max_tokens: the most tokens of an answer.
        stop: texts that end an answer, and the writing of it; the first of them and what follows is cut off.
        temperature: 0 writes the likeliest token; above 0 tokens are drawn, the same for all candidates.
        samples: answers that are drawn to each row, whose mean counts; the same draws for all candidates.
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
        template: GivenTemplate,
        target: str | Sequence[str] = "target",
        metric: str | Score | Metric = "exact_match",
        pattern: str | None = None,
        k: int | None = None,
        timeout: int | None = None,
        json_schema: Mapping[str, Any] | None = None,
        max_tokens: int = 32,
        stop: str | Sequence[str] = ("\n",),
        temperature: float = 0.0,
        samples: int = 1,
        **rows: Unpack[RowOptions],
    ) -> None:
        _check_drawing(max_tokens, temperature, samples)
        self.stop = _texts(stop)
        if "" in self.stop:
            raise GfoError(f"stop = {list(self.stop)}: '' stands everywhere; give texts, or none")
        self.template = Template.parse(template)
        self.target = _texts(target)
        self.measure = measure_of(metric, self.target, Options(pattern, k, json_schema, timeout, samples))
        self.samples = samples
        self.seed = rows.get("seed", 0)
        self.max_tokens, self.temperature = max_tokens, temperature
        self.data = Data.load(train, dev, test, **rows)
        for split, found in self.data.rows.items():
            for i, row in enumerate(found, 1):
                self.template.check(row, f"{split} row {i}")
                if self.measure.reads_targets:
                    references_of(row, self.target, f"{split} row {i}")
            if not self.measure.scores_targets and not self.measure.own:
                self.metric_for(found)  # which looks at what it needs of the rows

    def bind(self, tokenizer: Tokenizer) -> BoundGeneration:
        """Tokenize all rows for one model.

        Raises:
            GfoError: if the model does not continue texts, or the template does not fit it.
        """
        return BoundGeneration(self, tokenizer)

    def joined(self) -> Self:
        """The same task with the rows of dev behind those of train; see `Data.joined`."""
        found = copy.copy(self)
        found.data = self.data.joined()
        return found

    def metric_for(self, rows: Sequence[Row]) -> TextMetric:
        """What scores the outputs of these rows."""
        return self.measure.make(rows)


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
            task.max_tokens,
            _stop_tokens(tokenizer, task.stop),
            task.temperature,
            task.seed,
            task.stop,
            _closing_tokens(tokenizer, task.stop),
            task.samples,
        )
        self._warned = False
        for split in task.data.rows:
            self._tell_unreachable(split)
        self._last: tuple[Any, Batch, Array, Array | None] | None = None  # answers scored, and their values

    def _wanted(self, split: str, index: Array) -> dict[str, Any]:
        target = np.empty(len(index), dtype=object)
        target[:] = [self._task.data.rows[split][i] for i in index]  # the rows, for references and functions
        return {"vocabulary": None, "target": target, "decoding": self.decoding}

    def _asked(self, rows: Sequence[Row]) -> dict[str, Any]:
        target = np.empty(len(rows), dtype=object)
        target[:] = rows
        return {"vocabulary": None, "target": target, "decoding": self.decoding}

    def predictions(self, answers: Sequence[Any], batch: Batch) -> list[dict[str, Any]]:
        """What the model writes for each of the new rows, as "prediction"; raises GfoError if it fails."""
        if _failed(answers[0]):
            raise GfoError("predict: the point fails; its logits are not finite")
        return [{"prediction": text} for text in self.answer_texts(answers[0])]

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Loss, the metric ("score" for a function) and the answers' length."""
        return LOSS, self._task.measure.metric, ANSWER_TOKENS

    def loss(self, answers: Sequence[Any], batch: Batch) -> Array:
        """K lists of B answers, or B times `samples`, -> the loss [K]; nan for a failed candidate."""
        return self._task.measure.loss_of(self._values(answers, batch)[0])

    def score(self, answers: Sequence[Any], batch: Batch) -> dict[str, Array]:
        """K lists of B token tuples -> loss, the metric ("score" for a function) and the answers' mean
        number of tokens, of what is kept of them, each [K]; nan for a failed candidate."""
        values, _ = self._values(answers, batch)
        return {
            LOSS.name: self._task.measure.loss_of(values),
            self._task.measure.metric.name: values,
            ANSWER_TOKENS.name: self._lengths(answers, values, len(batch)).mean(axis=1),
        }

    def row_scores(self, answers: Sequence[Any], batch: Batch) -> dict[str, Array]:
        """K lists of B token tuples -> the same of each row, [K, B]; of BLEU and chrF, which are of all rows
        together, the answers' numbers of tokens alone."""
        values, rows = self._values(answers, batch)
        tokens = {ANSWER_TOKENS.name: self._lengths(answers, values, len(batch))}
        if rows is None:
            return tokens
        return {LOSS.name: self._task.measure.loss_of(rows), self._task.measure.metric.name: rows, **tokens}

    def row_losses(self, answers: Sequence[Any], batch: Batch) -> Array | None:
        """K lists of B token tuples -> the loss of each row, [K, B]; None of BLEU and chrF."""
        rows = self._values(answers, batch)[1]
        return None if rows is None else self._task.measure.loss_of(rows)

    def references(self, batch: Batch) -> list[str]:
        """The first text that is right for each row."""
        return [references_of(row, self._task.target)[0] for row in batch.target]

    def answer_texts(self, rows: Sequence[Tokens]) -> list[str]:
        """The answers as texts: cut at the first stop text, stripped unless they are programs."""
        return [self._cut(text) for text in self._tokenizer.decode(rows)]

    def _cut(self, text: str) -> str:
        found = _before(self._task.stop, text)
        return found if self._task.measure.verbatim else found.strip()

    def _lengths(self, answers: Sequence[Any], values: Array, rows: int) -> Array:
        """The numbers of tokens that are kept of the answers, [K, B]; nan where the candidate failed."""
        found = np.full((len(answers), rows * self._task.samples), np.nan)
        for k in np.flatnonzero(~np.isnan(values)).tolist():
            texts = self._tokenizer.decode(answers[k])
            found[k] = [self._kept(ids, text) for ids, text in zip(answers[k], texts, strict=True)]
        mean: Array = found.reshape(len(answers), rows, -1).mean(axis=2)
        return mean

    def _kept(self, ids: Tokens, text: str) -> int:
        """How many tokens of an answer write what stands in front of its first stop text."""
        kept, n = _before(self._task.stop, text), len(ids)
        if kept == text:
            return n
        while n and self._tokenizer.decode([ids[: n - 1]])[0].startswith(kept):
            n -= 1
        return n

    def _values(self, answers: Sequence[Any], batch: Batch) -> tuple[Array, Array | None]:
        """The metric of each candidate, [K], and of each row, [K, B], unless it is of all rows together;
        computed once for the same answers."""
        if self._last is None or self._last[0] is not answers or self._last[1] is not batch:
            self._last = answers, batch, *self._measured(answers, batch)
        return self._last[2:]

    def _measured(self, answers: Sequence[Any], batch: Batch) -> tuple[Array, Array | None]:
        n = self._task.samples
        measure = self._task.metric_for([row for row in batch.target for _ in range(n)])
        by_row = isinstance(measure, ByRow)
        values = np.full((len(answers), n * len(batch)) if by_row else len(answers), np.nan)
        for k, tokens in enumerate(answers):
            if not _failed(tokens):
                which = f"candidate {k + 1} of {len(answers)}"
                values[k] = self._measured_one(measure, self.answer_texts(tokens), which)
        self._tell_unmatched(measure)
        if not isinstance(measure, ByRow):
            return values, None
        rows = measure.of_samples(values.reshape(len(answers), len(batch), n))
        rows[np.isnan(values).any(axis=1)] = np.nan
        return rows.mean(axis=1), rows

    def _measured_one(self, measure: TextMetric, texts: list[str], which: str) -> float | list[float]:
        """The metric of a candidate, or of each of its rows; nan where the user's function failed."""
        try:
            return measure.rows(texts) if isinstance(measure, ByRow) else measure(texts)
        except Exception as error:
            if not self._task.measure.own:
                raise
            self._warn(
                f"metric: the function failed for {which}, whose loss is nan "
                f"({type(error).__name__}: {error}); further failures are not reported"
            )
            return math.nan

    def _tell_unmatched(self, measure: TextMetric) -> None:
        """Warn of a pattern that no answer has matched."""
        if isinstance(measure, NumberMatch) and measure.seen and not measure.matched:
            self._warn(
                f"pattern = {measure.pattern.pattern!r} matches 0 of {measure.seen} answers (0.0 %); all "
                "count as wrong: widen it, or raise max_tokens"
            )

    def _tell_unreachable(self, split: str) -> None:
        """Warn if the references of a split, as outputs, are not scored as right: then no output can be."""
        task = self._task
        if not task.measure.scores_targets:
            return
        rows = [self._data.rows[split][i] for i in self._numbers_of[split][:MOST_LOOKED_AT].tolist()]
        texts = [self._cut(references_of(row, task.target, split)[0]) for row in rows]
        low, what = _unreached(task.metric_for(rows), texts)
        if low:
            name = task.measure.metric.name
            why = UNREACHED.get(name, "")
            warnings.warn(
                f"{split}: {what} by '{name}', such as {low[0][:40]!r}{why}; no output can: take another "
                "metric, or mend the targets",
                GfoWarning,
                stacklevel=2,
            )

    def _warn(self, text: str) -> None:
        """Warn once in the life of a bound task, which is a run."""
        if not self._warned:
            self._warned = True
            warnings.warn(text, GfoWarning, stacklevel=2)


def _texts(given: str | Sequence[str]) -> tuple[str, ...]:
    """A text, or several, as several."""
    return (given,) if isinstance(given, str) else tuple(given)


def _unreached(measure: TextMetric, texts: list[str]) -> tuple[list[str], str]:
    """The references that are not scored as right, and what is wrong with them in words."""
    if not isinstance(measure, ByRow):
        score = measure(texts)
        return texts[: score < REACHED], f"the targets themselves reach {score:.3f} instead of 1"
    low = [text for text, value in zip(texts, measure.rows(texts), strict=True) if value < REACHED]
    share = f"{len(low)} of {len(texts)} targets ({len(low) / len(texts):.0%})"
    return low, f"{share} are not scored as right"


def _stop_tokens(tokenizer: Tokenizer, stop: Sequence[str]) -> frozenset[int]:
    """The ends of the model, and the tokens that hold a stop text with nothing in front of it but blanks."""
    stops = (
        token
        for token, text in enumerate(tokenizer.token_texts)
        for end in stop
        if end in text and not text.partition(end)[0].strip()
    )
    return frozenset(stops) | tokenizer.end_tokens


def _closing_tokens(tokenizer: Tokenizer, stop: Sequence[str]) -> frozenset[int]:
    """The tokens with which a stop text may end: they hold its last character, or a part of it."""
    last = {end[-1] for end in stop}
    whole = all(map(str.isascii, last))
    return frozenset(
        token
        for token, text in enumerate(tokenizer.token_texts)
        if not last.isdisjoint(text) or ("\ufffd" in text and not whole)
    )


def _before(stop: Sequence[str], text: str) -> str:
    """What stands in front of the first stop text."""
    for end in stop:
        text = text.partition(end)[0]
    return text


def _failed(rows: Any) -> bool:
    """Whether a candidate's answers are missing, whole or in part."""
    return rows is None or any(row is None for row in rows)


def _check_drawing(max_tokens: int, temperature: float, samples: int) -> None:
    """Raise GfoError for lengths, temperatures and numbers of samples out of range."""
    if max_tokens < 1:
        raise GfoError(f"max_tokens = {max_tokens} must be at least 1")
    if not 0 <= temperature < math.inf:
        raise GfoError(f"temperature = {temperature} must be 0 or more")
    if samples < 1 or (samples > 1 and temperature == 0):
        raise GfoError(
            f"samples = {samples} must be 1, or more at a temperature above 0: at 0 all are the same"
        )
