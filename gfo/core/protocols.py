"""The interfaces between the layers. K candidates, d search dimensions, B examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from gfo.core.domain import Array, Domain

if TYPE_CHECKING:
    from torch import Tensor

    from gfo.core.delta import Delta


@runtime_checkable
class Optimizer(Protocol):
    """Minimises a batch function by ask and tell; knows neither models nor torch."""

    domain: Domain

    def ask(self) -> Array:
        """The next points to evaluate, float64 [K, d]; K may vary from call to call."""
        ...

    def tell(self, z: Array, loss: Array) -> None:
        """The losses [K] of the points [K, d] asked last; nan is a failed candidate.

        Neither array is changed or kept.
        """
        ...

    def recommend(self) -> Array:
        """The point to use now, [d]: the distribution's mean or the incumbent, by method."""
        ...

    def should_stop(self) -> str | None:
        """Why the method wants to stop, in words, or None."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All of the state, the random generator included, as plain Python and numpy values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `state_dict` was called; options must be the same."""
        ...


@runtime_checkable
class SearchSpace(Protocol):
    """Decodes unit-scale search points into changes of a model."""

    domain: Domain

    def decode(self, z: Tensor) -> Delta:
        """z [K, d] -> K candidates; differentiable; decode(0) is the starting point."""
        ...


@dataclass(frozen=True)
class Batch:
    """B tokenized examples with a place for the soft prompt.

    Attributes:
        key: names the batch; equal keys mean equal contents, so that work on it can be kept.
        before: token ids in front of the soft prompt, one tuple an example.
        after: token ids behind the soft prompt, one tuple an example. The task reads the logits where
            the model does (`Tokenizer.reads`): at the example's last token, or its mask token.
        vocabulary: the token ids whose logits the task reads, V' of them; for a model that reads the
            sentence, the token ids of each label's text.
        target: index into the labels, int [B].
        prompt: whether there is a place for a soft prompt between before and after.
        recurs: whether the batch will come again in a later step, so that work on it is worth keeping;
            False for one drawn at random.
    """

    key: tuple[Any, ...]
    before: tuple[tuple[int, ...], ...]
    after: tuple[tuple[int, ...], ...]
    vocabulary: tuple[int, ...] | tuple[tuple[int, ...], ...]
    target: Array
    prompt: bool = True
    recurs: bool = True

    def __len__(self) -> int:
        return len(self.after)


@runtime_checkable
class Tokenizer(Protocol):
    """What a task needs of a model to turn its rows into tokens.

    Attributes:
        reads: where the model reads the answer: the "next" word behind the last token, the word in
            the "mask" place, or the whole "sentence", compared with label texts.
        mask: the text of the mask token, where it reads that.
    """

    reads: str
    mask: str | None

    def encode(self, text: str, *, start: bool = False, end: bool = False) -> tuple[int, ...]:
        """Token ids of the text; `start` and `end` add the special tokens that the model wants there."""
        ...


@runtime_checkable
class BoundTask(Protocol):
    """A task whose rows have been tokenized for one model."""

    splits: tuple[str, ...]

    def batch(self, split: str, step: int) -> Batch:
        """One batch for all K candidates of a step (common random numbers)."""
        ...

    def all_rows(self, split: str) -> Batch:
        """The whole split as one batch."""
        ...

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """float32 logits [K, B, V'] -> loss of each candidate and example [K, B]."""
        ...

    def score(self, logits: Tensor, batch: Batch) -> dict[str, Array]:
        """float32 logits [K, B, V'] -> every metric of the task, each [K]."""
        ...


@runtime_checkable
class Task(Protocol):
    """Data, template, loss and metrics; knows neither optimizers nor spaces."""

    def bind(self, tokenizer: Tokenizer) -> BoundTask:
        """Tokenize for one model; raises GfoError for rows that cannot be used."""
        ...


@dataclass(frozen=True)
class Cost:
    """What an evaluation took.

    Attributes:
        candidates: number of candidates evaluated.
        forward_tokens: tokens that really went through the model, padding included.
        tokens_needed: tokens that had to, by what depends on the candidate.
        seconds: wall-clock time.
    """

    candidates: int = 0
    forward_tokens: int = 0
    tokens_needed: int = 0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.candidates + other.candidates,
            self.forward_tokens + other.forward_tokens,
            self.tokens_needed + other.tokens_needed,
            self.seconds + other.seconds,
        )


@dataclass(frozen=True)
class Evaluation:
    """Losses [K] of K candidates, nan where one failed, and what they cost."""

    loss: Array
    cost: Cost = field(default_factory=Cost)


@dataclass(frozen=True)
class Scores:
    """Metrics of K candidates by name, each [K], and what they cost."""

    metrics: dict[str, Array]
    cost: Cost = field(default_factory=Cost)


@runtime_checkable
class Evaluator(Protocol):
    """z -> loss; owns the model and decides what is computed once."""

    def __call__(self, z: Array, step: int) -> Evaluation:
        """Losses of z [K, d] on the step's training batch."""
        ...

    def score(self, z: Array, split: str) -> Scores:
        """Metrics of z [K, d] on a whole split."""
        ...
