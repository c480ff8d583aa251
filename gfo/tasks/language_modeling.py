"""Language modelling: the likelihood of documents, in windows that fit into the model's context."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self, Unpack

import numpy as np

from gfo.core.domain import Array
from gfo.core.errors import GfoError
from gfo.core.metric import LOSS, Metric
from gfo.core.protocols import Batch, BoundTask, Tokenizer, Tokens
from gfo.core.recording import recorded
from gfo.core.seeding import stream
from gfo.core.texts import Pieces, Plain
from gfo.tasks.parts.base import BoundExamples, Data, RowOptions
from gfo.tasks.parts.datasets import Source
from gfo.tasks.parts.losses import as_array, only_finite
from gfo.tasks.parts.metrics import PERPLEXITY
from gfo.tasks.parts.running import tokens_behind
from gfo.tasks.parts.templates import Template, rows_of

if TYPE_CHECKING:
    from torch import Tensor


@recorded
class LanguageModeling:
    """Documents whose likelihood is the objective: the loss is in nats per token, perplexity exp of it.

    A document is cut into windows. Each is a row of its own: the model's start token, if it has one, the
    template with the soft prompt, and the window's text.

    - A decoder scores each token given those in front of it. With a stride below the window, a window begins
      with tokens that an earlier one has scored and that are context here, as in transformers' perplexity of
      fixed-length models (there the start token stands in the first window alone). With a stride of one
      window none overlap, and each window's first token is scored given the one in front of it. A document's
      first token is scored only where the start token or the template's text stands in front of it: the soft
      prompt does not count, so that perplexities with and without one are of the same tokens.
    - A masked language model scores masked tokens given all others (Devlin et al. 2019, arXiv:1810.04805;
      each of them is masked, none kept or replaced). The masks are drawn anew for each step, the same for
      all its candidates; those of `score` are always the same.

    Args:
        train: documents the loss is computed on; see `gfo.datasets.load`.
        dev: documents the result is selected on, or None to take the last recommendation.
        test: documents kept for the end, or None.
        template: text, perhaps with `{soft}`, and the document's `{field}` at its end; "{text}" for spaces
            without a soft prompt.
        window: tokens of a window.
        stride: tokens between the starts of windows; by default the window.
        mask_share: the share of a window's tokens that are masked, one at least.
        rows: `limits`, `skip`, `shuffle`, `seed`: which documents are used; `batch_size`: windows of a step,
            drawn anew each step and shared by all its candidates. See `gfo.tasks.parts.base.Data.load`.

    Raises:
        GfoError: for unusable rows, a template without one field at its end, or a number out of range.
    """

    def __init__(
        self,
        train: Source,
        dev: Source | None = None,
        test: Source | None = None,
        *,
        template: str = "{soft}{text}",
        window: int = 128,
        stride: int | None = None,
        mask_share: float = 0.15,
        **rows: Unpack[RowOptions],
    ) -> None:
        stride = window if stride is None else stride
        _check_numbers(window, stride, mask_share)
        for option in ("max_length", "truncate"):
            if rows.get(option) is not None:
                raise GfoError(f"{option}: documents of any length are cut into windows; leave it out")
        self.template = _of_document(template)
        self.field = self.template.fields[0]
        self.window, self.stride, self.mask_share = window, stride, mask_share
        self.batch_size = rows.pop("batch_size", None)  # counts windows
        self.data = Data.load(train, dev, test, **rows)
        self.template.check_rows(self.data.rows)

    def joined(self) -> Self:
        """The same task with the documents of dev behind those of train; see `Data.joined`."""
        found = copy.copy(self)
        found.data = self.data.joined()
        return found

    def bind(self, tokenizer: Tokenizer) -> BoundTask:
        """Cut all documents into windows of one model's tokens.

        Raises:
            GfoError: for a window beyond the model's context, a split without a token to score, a model
                that gives texts no likelihood, or overlapping windows for a masked language model.
        """
        if tokenizer.reads == "sentence":
            raise GfoError(
                "task: LanguageModeling needs a model that says words, but this one is a sentence encoder; "
                "take a decoder or a masked language model"
            )
        return (BoundMaskedLanguage if tokenizer.reads == "mask" else BoundLanguage)(self, tokenizer)


def _check_numbers(window: int, stride: int, mask_share: float) -> None:
    """Raise GfoError for numbers that are out of range."""
    if window < 1:
        raise GfoError(f"window = {window} must be at least 1")
    if not 1 <= stride <= window:
        raise GfoError(f"stride = {stride} must be 1 to {window}, the window: no token is left out")
    if not 0 < mask_share < 1:
        raise GfoError(f"mask_share = {mask_share} must be between 0 and 1")


def _of_document(template: str) -> Template:
    """The template parsed, which ends with its one field, the document."""
    if not isinstance(template, str):
        raise GfoError("template: documents stand in no chat; give a text, as in {soft}{text}")
    parsed = Template.parse(template)
    pieces = (*parsed.before, *parsed.after)
    if len(parsed.fields) != 1 or pieces[-1].field is None or parsed.masks:
        raise GfoError(
            f"template = {template!r}: end it with the document's one field, as in {{soft}}{{text}}; "
            "{mask} is not written, tokens of the document are masked"
        )
    return parsed


@dataclass(frozen=True)
class Window:
    """Tokens of a document: what is scored, and what stands in front of that."""

    context: Tokens
    scored: Tokens


def windows(tokens: Tokens, window: int, stride: int, *, first: bool) -> list[Window]:
    """Cut a document into windows; every token is scored once, the first one only where `first`."""
    found: list[Window] = []
    done = 0 if first else 1  # tokens that are scored, or never will be
    for begin in range(0, len(tokens), stride):
        end = min(begin + window, len(tokens))
        if end > done:
            context = tokens[begin:done] or tokens[max(0, begin - 1) : begin]
            found.append(Window(context, tokens[done:end]))
            done = end
    return found


class _BoundWindows(BoundExamples):
    """Documents cut into windows of one model's tokens."""

    _end: Tokens = ()
    """What the model wants behind a text."""

    def __init__(self, task: LanguageModeling, tokenizer: Tokenizer) -> None:
        self._task = task
        front, between = task.template.render({task.field: ""})
        self._before = tokenizer.encode(front, start=True)
        (self._between,) = tokenizer.encode_rows([(between,)], behind=[(front,)])
        data = task.data
        self._windows = {split: self._windows_of(split, (front, between), tokenizer) for split in data.rows}
        self._check_length(tokenizer)
        encoded = {split: self._encoded_windows(some) for split, some in self._windows.items()}
        place = task.template.place
        numbered: Mapping[str, list[dict[str, Any]]] = {
            split: [{"window": i} for i in rows] for split, rows in encoded.items()
        }
        super().__init__(Data(numbered, task.batch_size, data.seed, same=data.same), encoded, place)

    def _windows_of(self, split: str, context: Pieces, tokenizer: Tokenizer) -> list[Window]:
        """The windows of a split's documents, each behind the same text; one at least."""
        texts: list[Pieces] = [(Plain(row[self._task.field]),) for row in self._task.data.rows[split]]
        documents = tokens_behind([context] * len(texts), texts, tokenizer, rows_of(split))
        found = [window for tokens in documents for window in self._cut(tokens)]
        if not found:
            raise GfoError(f"{split}: no document has a token to score; give longer ones")
        return found

    def _encoded_windows(self, some: Sequence[Window]) -> dict[int, tuple[Tokens, Tokens]]:
        """The number of each window -> its row's tokens in front of the template's place and behind it."""
        texts = enumerate(map(self._text, some))
        if self._task.template.place is not None:
            return {i: (self._before, self._between + text) for i, text in texts}
        return {i: (self._before + text, ()) for i, text in texts}

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Loss and perplexity."""
        return (LOSS, PERPLEXITY)

    def loss(self, answers: Tensor, batch: Batch) -> Tensor:
        """Log-likelihoods of the tokens scored, [K, B, 1] -> nats per token, [K]; differentiable."""
        return -answers[..., 0].sum(dim=1) / int(batch.target.sum())

    def score(self, answers: Tensor, batch: Batch) -> dict[str, Array]:
        """Log-likelihoods -> loss and perplexity, each [K]; nan where a candidate failed."""
        loss = self.row_losses(answers, batch).mean(axis=1)
        with np.errstate(over="ignore"):  # inf
            return {"loss": loss, "perplexity": np.exp(loss)}

    def row_scores(self, answers: Tensor, batch: Batch) -> dict[str, Array]:
        """Log-likelihoods -> loss of each window, [K, B]."""
        return {"loss": self.row_losses(answers, batch)}

    def row_losses(self, answers: Tensor, batch: Batch) -> Array:
        """Log-likelihoods -> loss of each window, [K, B]: its nats over the mean number of tokens of the
        batch's windows, so that the mean over windows is nats per token whatever their lengths.

        Differences between candidates are exact; a standard error is that of the mean of these, which
        counts the windows' unequal lengths as spread.
        """
        nats = -as_array(answers[..., 0])
        failed = np.logical_not(np.isfinite(nats).all(axis=1))
        whole = batch if batch.whole is None else batch.whole
        return only_finite(nats * len(whole) / int(whole.target.sum()), failed)

    def _contents(self, split: str) -> list[Window]:
        return self._windows[split]

    @abstractmethod
    def _cut(self, tokens: Tokens) -> list[Window]:
        """A document's windows."""

    @abstractmethod
    def _text(self, window: Window) -> Tokens:
        """What of a window stands in the row."""

    def _check_length(self, tokenizer: Tokenizer) -> None:
        """Raise GfoError if a window is longer than the model's context."""
        around = len(self._before) + len(self._between) + len(self._end)
        longest = around + max(
            len(window.context) + len(window.scored) for some in self._windows.values() for window in some
        )
        if longest > tokenizer.context_length:
            raise GfoError(
                f"window = {self._task.window}: with the tokens around it {longest} are more than the "
                f"model's context of {tokenizer.context_length}; give a shorter window"
            )


class BoundLanguage(_BoundWindows):
    """Windows that a decoder continues: what is scored is the ending of what stands in front of it."""

    def _cut(self, tokens: Tokens) -> list[Window]:
        task = self._task
        return windows(tokens, task.window, task.stride, first=bool(self._before or self._between))

    def _text(self, window: Window) -> Tokens:
        return window.context

    def _wanted(self, split: str, index: Array) -> dict[str, Any]:
        scored = [self._windows[split][i].scored for i in index.tolist()]
        return {
            "vocabulary": None,
            "endings": tuple((ending,) for ending in scored),
            "target": np.array([len(ending) for ending in scored]),
        }


class BoundMaskedLanguage(_BoundWindows):
    """Windows in which tokens are masked: the words in the masks' places are scored."""

    def __init__(self, task: LanguageModeling, tokenizer: Tokenizer) -> None:
        if task.stride < task.window:
            raise GfoError(
                f"stride = {task.stride}: windows of a masked language model do not overlap; leave it out"
            )
        (self._mask,), self._end = tokenizer.encode(str(tokenizer.mask)), tokenizer.encode("", end=True)
        super().__init__(task, tokenizer)

    def batch(self, split: str, step: int) -> Batch:
        """The windows of a step, with the step's masks."""
        self._check(split)
        return self._masked(split, self._of_step(split, step), step)

    def _rows(self, split: str, index: Array, *, recurs: bool = True) -> Batch:
        return self._masked(split, index, None)

    def _masked(self, split: str, index: Array, step: int | None) -> Batch:
        """Windows with masks drawn for the step, or for always."""
        rng = stream(self._data.seed, f"masks of {split}, {'always' if step is None else step}")
        batch = super()._rows(split, index, recurs=step is None)
        rows: list[tuple[Tokens, Tokens]] = []
        words: list[Tokens] = []
        for before, after in zip(batch.before, batch.after, strict=True):
            front, text = (before, after) if self._place else ((), before)
            row, said = self._with_masks(text, rng)
            rows.append((front, row) if self._place else (row, after))
            words.append(said)
        return replace(
            batch,
            key=(*batch.key, step),
            before=tuple(before for before, _ in rows),
            after=tuple(after for _, after in rows),
            endings=tuple((said,) for said in words),
            target=np.array([len(said) for said in words]),
        )

    def _with_masks(self, row: Tokens, rng: np.random.Generator) -> tuple[Tokens, Tokens]:
        """The row with some of the document's tokens masked, and what they were."""
        first = len(self._between if self._place else self._before)
        n = len(row) - len(self._end) - first
        share = max(1, round(self._task.mask_share * n))
        places = np.sort(rng.choice(n, size=share, replace=False)) + first
        masked = list(row)
        for place in places:
            masked[place] = self._mask
        return tuple(masked), tuple(row[place] for place in places)

    def _cut(self, tokens: Tokens) -> list[Window]:
        return [
            replace(window, context=())
            for window in windows(tokens, self._task.window, self._task.window, first=True)
        ]

    def _text(self, window: Window) -> Tokens:
        return window.scored + self._end

    def _wanted(self, split: str, index: Array) -> dict[str, Any]:
        return {"vocabulary": None, "target": np.ones(len(index))}
