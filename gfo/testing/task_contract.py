"""The contract of a task, checked by running it: `check_task(task, model)`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gfo.core.domain import Array
from gfo.core.errors import GfoError
from gfo.core.metric import LOSS, Metric, main_metric
from gfo.core.protocols import Answers, Batch, Batches, BoundTask, RowTask, Task
from gfo.testing.answers import copied, detached, picked, same_answers, spoil, with_gradients
from gfo.testing.global_generators import states

if TYPE_CHECKING:
    from torch import Tensor

    from gfo.models.frozen import FrozenModel

K = 4
STEPS = 4
MOVED = 2.0  # standard deviation of the biases that make K candidates of a model
UNKNOWN = "no such split"
DESCENT = {"steps": 200, "lr": 0.3}  # of Adam on the answers themselves

Right = Callable[[Any], Answers]
"""A batch -> answers of one candidate that are right for each of its rows."""
_Named = list[tuple[str, Batch | Batches]]
"""Batches with their splits."""


def check_task(task: Task, model: FrozenModel, *, right: Right | None = None) -> None:
    """Run the whole contract on a task; raises AssertionError with what is broken.

    Args:
        task: with two training rows or more.
        model: a frozen model, small if it is to be quick. Its answers, and those of the model with random
            biases, are what the task scores.
        right: a batch -> answers of one candidate that are right for each of its rows, as one row of what
            `gfo.core.protocols.Batch` says; they must score no worse than the model's. A loss with a
            gradient is looked at without them, by descent on the answers.
    """
    asked = Asked.of(task, model, right)
    for check in TASK_CHECKS.values():
        check(asked)


@dataclass(frozen=True)
class Asked:
    """A task bound twice to a model, and what K candidates answer.

    Attributes:
        bound: the task, bound.
        again: bound once more.
        answer: a batch -> the answers of K candidates.
        right: a batch -> right answers, if they were given.
    """

    bound: BoundTask
    again: BoundTask
    answer: Callable[[Any], Answers]
    right: Right | None = None

    @classmethod
    def of(cls, task: Task, model: FrozenModel, right: Right | None) -> Asked:
        """The task bound to the model, and candidates that are the model with random biases."""
        from gfo.evaluation.local import LocalEvaluator
        from gfo.spaces.scaling import BiasSpace

        evaluator = LocalEvaluator(model, task, BiasSpace(model, dim=2 * K))
        z = MOVED * np.random.default_rng(0).standard_normal((K, 2 * K))
        return cls(evaluator.task, task.bind(model), lambda batch: evaluator.answers(z, batch), right)

    @property
    def batches(self) -> list[Batch | Batches]:
        """A step's batch, and each split."""
        bound = self.bound
        return [bound.batch("train", 0), *(bound.all_rows(split) for split in bound.splits)]


def check_splits(asked: Asked) -> None:
    """Splits are named, "train" first, have rows, and others are refused in a line."""
    bound = asked.bound
    splits = tuple(bound.splits)
    _require(splits[:1] == ("train",), f"splits must begin with 'train', they are {splits}")
    _require(len(set(splits)) == len(splits), f"splits must differ, they are {splits}")
    for split in splits:
        for part in _parts(bound.all_rows(split)):
            _require(len(part) > 0, f"all_rows('{split}') has no rows")
    calls: dict[str, Callable[[], Any]] = {
        "all_rows": lambda: bound.all_rows(UNKNOWN),
        "batch": lambda: bound.batch(UNKNOWN, 0),
    }
    for name, call in calls.items():
        _check_refused(name, call)


def _check_refused(name: str, call: Callable[[], Any]) -> None:
    """An unknown split is refused in a line that names it."""
    try:
        call()
    except GfoError as error:
        kept = UNKNOWN in str(error) and "\n" not in str(error)
        _require(kept, f"{name} of an unknown split must name it, in one line, says {error}")
    except Exception as error:
        _require(False, f"{name} of an unknown split must raise GfoError, raises {type(error).__name__}")
    else:
        _require(False, f"{name} of an unknown split must raise GfoError, gives a batch")


def check_batches(asked: Asked) -> None:
    """A step has the same batch whenever it is asked for; equal keys mean equal contents, and the other way
    round where a batch recurs."""
    before = states()
    first, second = (_all_batches(asked.bound) for _ in range(2))
    third = _all_batches(asked.again)
    moved = [name for name, state in states().items() if state != before[name]]
    _require(not moved, f"batches must not draw from the global generator of {', '.join(moved)}")
    _check_recalled(first, second, third)
    parts = [part for _, batch in [*first, *second, *third] for part in _parts(batch)]
    for a, b in itertools.combinations(parts, 2):
        _require(a.key != b.key or _contents(a) == _contents(b), "equal keys must mean equal contents")
    for (split, one), (other_split, other) in itertools.combinations(first, 2):
        if split == other_split:
            _check_recurring(one, other)


def _check_recalled(first: _Named, second: _Named, third: _Named) -> None:
    """Batches that were asked for three times have equal contents and keys."""
    for (split, batch), (_, again), (_, other) in zip(first, second, third, strict=True):
        kept = _contents(batch) == _contents(again) == _contents(other)
        _require(kept, f"a batch of {split} must be the same each time it is asked for")
        _require(_keys(batch) == _keys(again), f"a batch of {split} must have the same key each time")


def _check_recurring(one: Batch | Batches, other: Batch | Batches) -> None:
    """Two batches of a split have equal keys where they recur with equal contents."""
    for a, b in zip(_parts(one), _parts(other), strict=True):
        lost = a.recurs and b.recurs and _contents(a) == _contents(b) and a.key != b.key
        _require(not lost, "batches of equal contents that recur must have equal keys")


def _all_batches(bound: BoundTask) -> _Named:
    """Batches of some steps, and of whole splits, with their splits."""
    steps = [("train", bound.batch("train", step)) for step in range(STEPS)]
    return [*steps, *((split, bound.all_rows(split)) for split in bound.splits)]


def check_metrics(asked: Asked) -> None:
    """`metrics` is what `score` gives: "loss" first, each [K] in float64."""
    names, seen = _names(asked.bound.metrics), set()
    for batch in asked.batches:
        scores = asked.bound.score(asked.answer(batch), batch)
        _check_scores(scores, names)
        seen |= set(scores)
    missing = [name for name in names if name not in seen]
    _require(not missing, f"metrics have {', '.join(missing)}, which score gives for no split")


def _names(metrics: Sequence[Metric]) -> list[str]:
    """The metrics' names, which are as they must be."""
    _require(all(isinstance(metric, Metric) for metric in metrics), "metrics must be gfo.Metric")
    names = [metric.name for metric in metrics]
    _require(names[:1] == [LOSS.name], f"metrics must begin with 'loss', they are {names}")
    _require(metrics[0].lower_is_better, "of the loss, lower must be better")
    _require(len(set(names)) == len(names), f"metrics must have different names, they are {names}")
    return names


def _check_scores(scores: Mapping[str, Array], names: Sequence[str]) -> None:
    """The loss first, and others of those names alone, each [K] in float64."""
    _require(next(iter(scores), None) == LOSS.name, f"score must give 'loss' first, gives {[*scores]}")
    more = [name for name in scores if name not in names]
    _require(not more, f"score gives {', '.join(more)}, which metrics do not have")
    for name, values in scores.items():
        kept = isinstance(values, np.ndarray) and values.shape == (K,) and values.dtype == np.float64
        _require(kept, f"score must give float64 arrays of K = {K} numbers; '{name}' is {values!r}")


def check_losses(asked: Asked) -> None:
    """Losses are [K], finite for finite answers, those of `score` on the same rows; answers stay."""
    for batch in asked.batches:
        answers = asked.answer(batch)
        kept = copied(answers)
        loss = _array(asked.bound.loss(answers, batch))
        _require(loss.shape == (K,), f"loss must have the shape ({K},), has {loss.shape}")
        _require(np.isfinite(loss).all(), f"loss must be finite for finite answers, is {loss}")
        scored = asked.bound.score(answers, batch)[LOSS.name]
        _require(same_answers(answers, kept), "loss and score must not change the answers")
        _require(_near(loss, scored, 1e-5), f"loss is {loss}, score['loss'] of the same rows {scored}")


def check_candidates(asked: Asked) -> None:
    """Each candidate has its own numbers: in another order, or alone, they are the same."""
    order = np.random.default_rng(1).permutation(K).tolist()
    for batch in asked.batches:
        answers = asked.answer(batch)
        whole = _numbers(asked.bound, answers, batch)
        turned = _numbers(asked.bound, picked(answers, order), batch)
        alone = [_numbers(asked.bound, picked(answers, [k]), batch) for k in range(K)]
        for name, values in whole.items():
            kept = _near(turned[name], values[order], 1e-5)
            _require(kept, f"{name} of candidates in another order must be the same, in that order")
            single = np.concatenate([each[name] for each in alone])
            _require(_near(single, values, 1e-5), f"{name} of K candidates must be that of each alone")


def check_failed_candidates(asked: Asked) -> None:
    """A candidate with an answer that is missing or nan is nan everywhere; the others are as they were."""
    for batch in asked.batches:
        answers = asked.answer(batch)
        whole = _numbers(asked.bound, answers, batch)
        spoilt = _numbers(asked.bound, spoil(answers, 1), batch)
        rest = [k for k in range(K) if k != 1]
        for name, values in spoilt.items():
            _require(np.isnan(values[1]).all(), f"{name} of a failed candidate must be nan, is {values[1]}")
            kept = np.array_equal(values[rest], whole[name][rest], equal_nan=True)
            _require(kept, f"{name} of the others must not change where one candidate fails")


def check_rows(asked: Asked) -> None:
    """Where the task has values of rows, [K, B], their means are what `score` gives."""
    bound = asked.bound
    if not isinstance(bound, RowTask):
        return
    for batch in asked.batches:
        answers = asked.answer(batch)
        scores, sizes = bound.score(answers, batch), {len(part.target) for part in _parts(batch)}
        values, losses = bound.row_scores(answers, batch), bound.row_losses(answers, batch)
        for name, rows in values.items():
            _require(name in scores, f"row_scores gives '{name}', which score does not")
            _check_mean(name, rows, scores[name], sizes)
        kept = (losses is None) == ("loss" not in values)
        if kept and losses is not None:
            kept = np.array_equal(losses, values["loss"], equal_nan=True)
        _require(kept, "row_losses must be the 'loss' of row_scores, to the bit, or None without")


def _check_mean(name: str, rows: Array, scores: Array, sizes: set[int]) -> None:
    """Values of rows, [K, B] with a B of those sizes, have the scores [K] as their means."""
    kept = rows.ndim == 2 and rows.shape[0] == K and rows.shape[1] in sizes
    _require(kept, f"row_scores['{name}'] must have the shape [K, B], has {rows.shape}")
    mean = rows.mean(axis=1)
    _require(_near(mean, scores, 1e-9), f"the rows' mean of '{name}' is {mean}, score gives {scores}")


def check_gradient(asked: Asked) -> None:
    """A loss that is a tensor is differentiable, each candidate's by its own answers."""
    import torch

    for batch in asked.batches:
        answers, leaves = with_gradients(asked.answer(batch))
        loss = asked.bound.loss(answers, batch)
        if not isinstance(loss, torch.Tensor):
            return
        _require(loss.requires_grad, "a loss that is a tensor must have a gradient; give an array if not")
        gradients = torch.autograd.grad(loss[0], leaves, allow_unused=True)
        _check_gradients([gradient for gradient in gradients if gradient is not None])


def _check_gradients(found: Sequence[Tensor]) -> None:
    """Gradients of the first candidate's loss by answers of all, [K, ...] each."""
    _require(any(bool(each[0].any()) for each in found), "the loss has no gradient")
    _require(all(bool(each.isfinite().all()) for each in found), "the loss' gradient must be finite")
    others = any(bool(each[1:].any()) for each in found)
    _require(not others, "the loss of a candidate must not depend on another's answers")


def check_better_answers(asked: Asked) -> None:
    """Answers that the loss likes better, or that are right, score no worse by the main metric, too."""
    import torch

    bound, batch = asked.bound, asked.bound.all_rows("train")
    answers = asked.answer(batch)
    before = bound.score(answers, batch)
    if asked.right is not None:
        after = bound.score(asked.right(batch), batch)
        best = {metric.name: _best(metric, before[metric.name]) for metric in _judges(bound, before)}
        _never_worse(bound, {name: np.array([value]) for name, value in best.items()}, after, "right answers")
    answers, leaves = with_gradients(answers)
    if not isinstance(bound.loss(answers, batch), torch.Tensor):
        return
    descent = torch.optim.Adam(leaves, lr=DESCENT["lr"])
    for _ in range(int(DESCENT["steps"])):
        loss = bound.loss(answers, batch)
        assert isinstance(loss, torch.Tensor)
        gradients = torch.autograd.grad(loss.sum(), leaves, allow_unused=True)
        for leaf, gradient in zip(leaves, gradients, strict=True):
            leaf.grad = gradient
        descent.step()
    after = bound.score(detached(answers), batch)
    fell = bool((after[LOSS.name] < before[LOSS.name]).all())
    _require(fell, f"the loss must fall along its gradient, from {before['loss']} it came to {after['loss']}")
    _never_worse(bound, before, after, "answers of a lower loss")


TASK_CHECKS: dict[str, Callable[[Asked], None]] = {
    check.__name__.removeprefix("check_"): check
    for check in (
        check_splits,
        check_batches,
        check_metrics,
        check_losses,
        check_candidates,
        check_failed_candidates,
        check_rows,
        check_gradient,
        check_better_answers,
    )
}
"""name -> check(asked), as `check_task` runs them."""


def _judges(bound: BoundTask, scores: dict[str, Array]) -> list[Metric]:
    """The loss and the main metric."""
    main = main_metric(metric for metric in bound.metrics if metric.name in scores)
    return [bound.metrics[0], *([] if main is None else [main])]


def _never_worse(bound: BoundTask, before: dict[str, Array], after: dict[str, Array], what: str) -> None:
    for metric in _judges(bound, before):
        for old, new in zip(before[metric.name], after[metric.name], strict=True):
            worse = metric.merit(float(new)) < metric.merit(float(old)) - 1e-6
            _require(
                not worse,
                f"{what} must not score worse: {metric.name}, of which the {metric.best_word} is best, came "
                f"from {old:.6g} to {new:.6g}",
            )


def _best(metric: Metric, values: Array) -> float:
    return max(map(float, values), key=metric.merit)


def _numbers(bound: BoundTask, answers: Answers, batch: Any) -> dict[str, Array]:
    """All that a task says of candidates: loss and scores [K], values of rows [K, B]."""
    rows = bound.row_scores(answers, batch) if isinstance(bound, RowTask) else {}
    return {
        "loss": _array(bound.loss(answers, batch)),
        **{f"score['{name}']": values for name, values in bound.score(answers, batch).items()},
        **{f"row_scores['{name}']": values for name, values in rows.items()},
    }


def _parts(batch: Batch | Batches) -> list[Batch]:
    """The batches that a batch is made of."""
    return [batch] if isinstance(batch, Batch) else [b for part in batch.parts for b in _parts(part)]


def _keys(batch: Batch | Batches) -> list[Any]:
    return [part.key for part in _parts(batch)]


def _contents(batch: Batch | Batches) -> list[tuple[Any, ...]]:
    """All but key and place in the run, as values that can be compared."""
    return [
        (p.before, p.after, p.vocabulary, np.asarray(p.target).tolist(), p.prompt, p.endings, p.decoding)
        for p in _parts(batch)
    ]


def _array(values: Any) -> Array:
    """A loss, tensor or array, in float64."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, dtype=np.float64)


def _near(a: Array, b: Array, tolerance: float) -> bool:
    return np.shape(a) == np.shape(b) and bool(np.allclose(a, b, rtol=tolerance, atol=1e-9, equal_nan=True))


def _require(kept: Any, sentence: str) -> None:
    """An assertion that stays on under `python -O`."""
    if not kept:
        raise AssertionError(sentence)
