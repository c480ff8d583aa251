"""The interfaces between the layers. K candidates, d search dimensions, B examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from gfo.core.domain import Array, Domain
from gfo.core.metric import LOSS, Metric
from gfo.core.texts import Pieces, Where, text_number
from gfo.core.texts import Tokens as Tokens

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
class Planning(Protocol):
    """An optimizer that uses what the loop knows of the run ahead, as for cooling."""

    def plan(self, evaluations: int | None = None, *, batches_differ: bool = False) -> None:
        """Told once, before the first `ask`; a resumed run tells it again.

        Args:
            evaluations: how many the budget allows in all; None where it does not say.
            batches_differ: whether losses of different steps are of different rows, and cannot be compared.
        """
        ...


@runtime_checkable
class SearchSpace(Protocol):
    """Decodes unit-scale search points into changes of a model."""

    domain: Domain

    def decode(self, z: Tensor) -> Delta:
        """z [K, d] -> K candidates; differentiable; decode(0) is the starting point."""
        ...


@runtime_checkable
class Measuring(Protocol):
    """A space that can say what its points measure, without running the model."""

    def measure(self, z: Array) -> Mapping[str, Array]:
        """z [K, d] -> name -> [K], such as "bytes" or "tokens"; the less the better."""
        ...


@runtime_checkable
class Repairing(Protocol):
    """A space with points that are not allowed, and the nearest that are."""

    def repair(self, z: Array) -> Array:
        """z [K, d] -> allowed points [K, d]; what is allowed stays as it is, to the bit."""
        ...


@dataclass(frozen=True)
class Decoding:
    """How answers are generated.

    Attributes:
        max_tokens: the most tokens of an answer, at least 1.
        stop: ids that end an answer and are no part of it, the model's own end among them.
        temperature: 0 takes the likeliest token; above 0 tokens are drawn from softmax(logits / temperature).
        seed: of the draws, which are the same for all candidates (common random numbers).
        stop_texts: texts that end an answer, too, once they stand in it.
        closing: ids of tokens with which one of them may come to stand there.
        samples: answers to each row, which lie one behind the other.
    """

    max_tokens: int
    stop: frozenset[int]
    temperature: float = 0.0
    seed: int = 0
    stop_texts: tuple[str, ...] = ()
    closing: frozenset[int] = frozenset()
    samples: int = 1


@dataclass(frozen=True)
class Batch:
    """B tokenized examples with a place for the soft prompt, and what the task wants to know of them.

    | wanted                              | given by     | answers                                        |
    |-------------------------------------|--------------|------------------------------------------------|
    | logits of chosen tokens             | `vocabulary` | float32 [K, B, V']                             |
    | log-likelihoods of given endings    | `endings`    | float32 [K, B, m] in nats; -inf beyond a row's |
    | generated text                      | `decoding`   | K lists of B token tuples; None for a failed   |

    Attributes:
        key: names the batch's contents; equal keys mean equal contents, so that work on it can be kept.
        before: token ids in front of the soft prompt, one tuple an example.
        after: token ids behind the soft prompt, one tuple an example. The task reads the logits where
            the model does (`Tokenizer.reads`): at the example's last token, or its mask token.
        vocabulary: the token ids whose logits the task reads, V' of them, or None for all; for a model that
            reads the sentence, the token ids of each label's text.
        target: what the task compares with, [B], such as an index into the labels.
        prompt, here: whether between the two is a place for a soft prompt, one where modules begin to change.
        recurs: whether the batch will come again in a later step, so that work on it is worth keeping;
            False for one drawn at random.
        endings: per example up to m continuations of its row, none of them empty, whose tokens' summed
            log-likelihood is wanted. For a model that reads masks, the words in the example's mask places,
            in order: as many as there are masks.
        decoding: how to continue each row; a candidate with a logit that is not finite has failed.
        split, numbers: where the task has the rows, and their numbers there.
        whole: where the rows are some of a batch's, that batch; its means are over all of them.
    """

    key: tuple[Any, ...]
    before: tuple[Tokens, ...]
    after: tuple[Tokens, ...]
    vocabulary: tuple[int, ...] | tuple[Tokens, ...] | None
    target: Array
    prompt: bool = True
    here: bool = False
    recurs: bool = True
    endings: tuple[tuple[Tokens, ...], ...] = ()
    decoding: Decoding | None = None
    split: str = "train"
    numbers: tuple[int, ...] = ()
    whole: Batch | None = None

    def __len__(self) -> int:
        return len(self.after)


@dataclass(frozen=True)
class Batches:
    """Several batches of one step, for a task made of tasks; the answers come as a tuple."""

    parts: tuple[Batch | Batches, ...]


Answers = Any
"""What the table of `Batch` says; a tuple of it for `Batches`."""


@runtime_checkable
class Tokenizer(Protocol):
    """What a task needs of a model to turn its rows into tokens.

    Attributes:
        reads: where the model reads the answer: the "next" word behind the last token, the word in
            the "mask" place, or the whole "sentence", compared with label texts.
        mask: the text of the mask token, where it reads that.
        continues: whether the answer goes on with the text; else it begins one of its own.
        context_length: the most tokens of a sequence.
        end_tokens: ids that end what the model writes.
        token_texts: the text of every token, by id.
    """

    reads: str
    mask: str | None
    continues: bool
    context_length: int

    @property
    def end_tokens(self) -> frozenset[int]: ...

    @property
    def token_texts(self) -> Sequence[str]: ...

    def encode(self, text: str, *, start: bool = False, end: bool = False) -> Tokens:
        """Token ids of the text; `start` and `end` add the model's special tokens, unless it has them."""
        ...

    def encode_rows(
        self,
        rows: Sequence[Pieces],
        *,
        start: bool = False,
        end: bool = False,
        behind: Sequence[Pieces] | None = None,
        where: Where = text_number,
    ) -> list[Tokens]:
        """Token ids of many texts, as they stand behind others; raises GfoError with `where(i)`."""
        ...

    def chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Messages in the model's chat format, with the answer's opening; raises GfoError without one."""
        ...

    def decode(self, rows: Sequence[Tokens]) -> list[str]:
        """The text of each row of token ids, special tokens left out."""
        ...


@runtime_checkable
class Reader(Tokenizer, Protocol):
    """A model that answers unchanged, such as a teacher."""

    vocabulary_size: int

    def read(self, rows: Sequence[Tokens], vocabulary: Sequence[Any] | None) -> Tensor:
        """float32 logits [N, V'], where the model reads the answer, of whole rows of tokens."""
        ...


@runtime_checkable
class BoundTask(Protocol):
    """A task whose rows have been tokenized for one model.

    Attributes:
        splits: of its rows, "train" first.
        metrics: what `score` gives, "loss" first.
    """

    splits: tuple[str, ...]

    @property
    def metrics(self) -> tuple[Metric, ...]: ...

    def batch(self, split: str, step: int) -> Batch | Batches:
        """One batch for all K candidates of a step (common random numbers)."""
        ...

    def all_rows(self, split: str) -> Batch | Batches:
        """The whole split as one batch."""
        ...

    def loss(self, answers: Answers, batch: Any) -> Tensor | Array:
        """The model's answers to a batch -> loss of each candidate, [K]; nan for a failed one.

        A tensor, differentiable with respect to the answers, where the objective is; else an array.
        """
        ...

    def score(self, answers: Answers, batch: Any) -> dict[str, Array]:
        """The model's answers to a batch -> "loss" and every metric of the task, each [K]."""
        ...


@runtime_checkable
class RowTask(BoundTask, Protocol):
    """A bound task whose numbers are means over rows, so that rows can be compared one by one."""

    def row_scores(self, answers: Answers, batch: Any) -> dict[str, Array]:
        """The model's answers to a batch -> metrics of each row, [K, B].

        "loss", where the loss is the mean of its rows, and every other metric that is; what is no mean
        (BLEU of a corpus, macro F1) is left out. nan for a row of a failed candidate.
        """
        ...

    def row_losses(self, answers: Answers, batch: Any) -> Array | None:
        """Their "loss" alone, [K, B], which is what a step asks for; None where they have none."""
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
        requests, dollars: asked of a server, those that failed among them, and what it takes for them.
    """

    candidates: int = 0
    forward_tokens: int = 0
    tokens_needed: int = 0
    seconds: float = 0.0
    requests: int = 0
    dollars: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.candidates + other.candidates,
            self.forward_tokens + other.forward_tokens,
            self.tokens_needed + other.tokens_needed,
            self.seconds + other.seconds,
            self.requests + other.requests,
            self.dollars + other.dollars,
        )


@dataclass(frozen=True)
class Evaluation:
    """What K candidates got on a step's batch.

    Attributes:
        loss: what is minimised, float64 [K]; nan where a candidate failed.
        cost: what it took.
        values: other objectives and measures of the space by name, each [K].
        rows: losses of the batch's rows [K, B], whose means are `loss`, where the task has them; nan where
            a row was not evaluated.
    """

    loss: Array
    cost: Cost = field(default_factory=Cost)
    values: Mapping[str, Array] = field(default_factory=dict)
    rows: Array | None = None


@dataclass(frozen=True)
class Scores:
    """What K candidates got on a whole split.

    Attributes:
        metrics: by name, "loss" first, each [K].
        cost: what it took.
        rows: of those metrics that are means over rows, the rows' values [K, B], for standard errors.
    """

    metrics: dict[str, Array]
    cost: Cost = field(default_factory=Cost)
    rows: Mapping[str, Array] = field(default_factory=dict)


@runtime_checkable
class Evaluator(Protocol):
    """z -> loss; owns the model and decides what is computed once.

    It may have `metrics`, what `score` gives, "loss" first; see `metrics_of`. It may be `Repairing`: the loop
    then evaluates and tells the points that are allowed. It may have `batches_differ`, whether losses of
    different steps are of different rows, which optimizers are told.
    """

    def __call__(self, z: Array, step: int) -> Evaluation:
        """Losses of z [K, d] on the step's training batch."""
        ...

    def score(self, z: Array, split: str) -> Scores:
        """Metrics of z [K, d] on a whole split."""
        ...


def metrics_of(evaluator: Evaluator) -> tuple[Metric, ...]:
    """What an evaluator's `score` gives; the loss alone, if it does not say."""
    return tuple(getattr(evaluator, "metrics", (LOSS,)))


@runtime_checkable
class Resumable(Protocol):
    """An evaluator that settled on something, as on what fits into memory, that a resumed run takes over."""

    def settings(self) -> dict[str, Any]:
        """What it settled on, as plain values."""
        ...

    def use(self, settings: Mapping[str, Any]) -> None:
        """Take over what another one settled on."""
        ...
