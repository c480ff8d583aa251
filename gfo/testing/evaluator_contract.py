"""The contract of an evaluator, checked by running it: `check_evaluator(factory, ...)`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gfo.core.domain import Array
from gfo.core.errors import GfoError
from gfo.core.protocols import Evaluation, Evaluator, Resumable, metrics_of

SPLIT = "no such split"


@dataclass(frozen=True)
class Setting:
    """An evaluator, and how it is asked.

    Attributes:
        factory: gives a new evaluator, always the same.
        z: points [K, d], at least three, whose losses differ.
        splits: that it scores.
        step: of the batch that losses are compared on.
        tolerance: of losses of the same point in passes of other sizes, relative and absolute: rounding.
    """

    factory: Callable[[], Evaluator]
    z: Array
    splits: Sequence[str] = ("train",)
    step: int = 3
    tolerance: float = 1e-4

    def same(self, a: Array, b: Array) -> bool:
        """Whether numbers are equal but for rounding; nan is equal to nan."""
        return bool(np.allclose(a, b, rtol=self.tolerance, atol=self.tolerance, equal_nan=True))


def check_evaluator(
    factory: Callable[[], Evaluator],
    z: Array,
    *,
    splits: Sequence[str] = ("train",),
    step: int = 3,
    tolerance: float = 1e-4,
) -> None:
    """Run the whole contract on an evaluator; raises AssertionError with what is broken.

    Args:
        factory: `factory()` gives a new evaluator, always the same.
        z: points [K, d] to evaluate, at least three, whose losses differ.
        splits: that it scores.
        step: whose batch losses are compared on.
        tolerance: of losses of the same point in passes of other sizes, relative and absolute.
    """
    setting = Setting(factory, np.array(z, dtype=np.float64), tuple(splits), step, tolerance)
    if len(setting.z) < 3:
        raise GfoError(f"check_evaluator: z has {len(setting.z)} points; give at least three")
    for check in EVALUATOR_CHECKS.values():
        check(setting)


def _require(kept: object, sentence: str) -> None:
    """An assertion that stays on under `python -O`."""
    if not kept:
        raise AssertionError(sentence)


def _evaluated(setting: Setting, evaluator: Evaluator, z: Array) -> Evaluation:
    """What z [k, d] gets, as a copy, so that a check's points stay what they are."""
    return evaluator(z.copy(), setting.step)


def check_shapes(setting: Setting) -> None:
    """loss is float64 [K]; values are [K], rows [K, B]; the points given are not changed."""
    K = len(setting.z)
    given = setting.z.copy()
    found = setting.factory()(given, setting.step)
    _require(np.array_equal(given, setting.z), "the call must not change the points that it is given")
    loss = found.loss
    _require(
        isinstance(loss, np.ndarray) and loss.dtype == np.float64 and loss.shape == (K,),
        f"loss must be a float64 array [{K}], is {getattr(loss, 'dtype', type(loss))} {np.shape(loss)}",
    )
    for name, value in found.values.items():
        _require(np.shape(value) == (K,), f"values: '{name}' must be [{K}], is {np.shape(value)}")
    if found.rows is not None:
        rows = np.shape(found.rows)
        _require(len(rows) == 2 and rows[0] == K, f"rows must be [{K}, B], are {rows}")


def check_determinism(setting: Setting) -> None:
    """The same points at the same step have the same loss to the bit: again, and in a new evaluator."""
    first = setting.factory()
    loss = _evaluated(setting, first, setting.z).loss
    again = _evaluated(setting, first, setting.z).loss
    _require(np.array_equal(loss, again, equal_nan=True), "the same points have another loss the second time")
    _evaluated(setting, first, setting.z[::-1])
    later = _evaluated(setting, first, setting.z).loss
    _require(np.array_equal(loss, later, equal_nan=True), "a loss depends on what was evaluated before")
    other = _evaluated(setting, setting.factory(), setting.z).loss
    _require(
        np.array_equal(loss, other, equal_nan=True), "a new evaluator gives the same points another loss"
    )


def check_candidates(setting: Setting) -> None:
    """K at once are K one by one, in any order; points that differ have losses that differ."""
    evaluator = setting.factory()
    z = setting.z
    loss = _evaluated(setting, evaluator, z).loss
    alone = np.concatenate([_evaluated(setting, evaluator, point[None]).loss for point in z])
    _require(setting.same(loss, alone), "K candidates at once have other losses than one by one")
    order = np.roll(np.arange(len(z)), 1)
    _require(
        setting.same(_evaluated(setting, evaluator, z[order]).loss, loss[order]),
        "losses must come in the order of the points",
    )
    good = loss[np.isfinite(loss)]
    _require(
        len(good) and np.ptp(good) > setting.tolerance, "all points have one loss; give points that differ"
    )


def check_failures(setting: Setting) -> None:
    """A point that is not finite is nan or refused; its neighbours are what they are without it."""
    evaluator = setting.factory()
    z = setting.z.copy()
    loss = _evaluated(setting, evaluator, z).loss
    _require(not np.isinf(loss).any(), "a failed candidate is nan, not infinite")
    z[1] = np.nan
    try:
        broken = _evaluated(setting, evaluator, z).loss
    except GfoError:
        return
    _require(np.isnan(broken[1]), "a point that is nan must have the loss nan")
    others = np.arange(len(z)) != 1
    _require(setting.same(broken[others], loss[others]), "a failed candidate changes the losses of others")


def check_cost(setting: Setting) -> None:
    """cost counts the candidates, and never less than nothing; all that was paid is told."""
    evaluator = setting.factory()
    K = len(setting.z)
    first, second = (_evaluated(setting, evaluator, setting.z).cost for _ in range(2))
    for cost in (first, second):
        _require(cost.candidates == K, f"cost must count {K} candidates, counts {cost.candidates}")
        _require(min(cost.forward_tokens, cost.tokens_needed, cost.seconds) >= 0, f"cost is negative: {cost}")
    both, one = first + second, _evaluated(setting, evaluator, setting.z[:1]).cost
    _require(
        one.candidates == 1 and both.candidates == 2 * K, "cost must be that of the call, not of all calls"
    )
    _require(
        second.forward_tokens <= first.forward_tokens and one.forward_tokens <= second.forward_tokens,
        "forward_tokens must be those of the call, not of all calls so far",
    )


def check_score(setting: Setting) -> None:
    """score gives the metrics that the evaluator has, "loss" first, each [K]; another split is a GfoError."""
    evaluator = setting.factory()
    names = [metric.name for metric in metrics_of(evaluator)]
    K = len(setting.z)
    _require(names[0] == "loss", f"metrics must begin with loss, are {', '.join(names)}")
    for split in setting.splits:
        given = setting.z.copy()
        scored = evaluator.score(given, split)
        _require(np.array_equal(given, setting.z), "score must not change the points that it is given")
        _require(
            list(scored.metrics) == names,
            f"score of {split} must give {', '.join(names)}, gives {', '.join(scored.metrics)}",
        )
        for name, value in scored.metrics.items():
            _require(np.shape(value) == (K,), f"score: '{name}' must be [{K}], is {np.shape(value)}")
        alone = [evaluator.score(point[None].copy(), split).metrics["loss"][0] for point in setting.z]
        _require(
            setting.same(scored.metrics["loss"], np.array(alone)), "score: K at once are not K one by one"
        )
        _require(scored.cost.candidates == K, f"cost of score must count {K} candidates")
    try:
        evaluator.score(setting.z.copy(), SPLIT)
    except GfoError as error:
        _require(len(str(error).splitlines()) == 1, "the GfoError of an unknown split must be one line")
    else:
        raise AssertionError("score of an unknown split must raise a GfoError")


def check_rows(setting: Setting) -> None:
    """The mean of a candidate's rows is its loss, and in score its metric."""
    evaluator = setting.factory()
    found = _evaluated(setting, evaluator, setting.z)
    if found.rows is not None:
        _require(setting.same(np.mean(found.rows, axis=1), found.loss), "the mean of rows must be the loss")
    for split in setting.splits:
        scored = evaluator.score(setting.z.copy(), split)
        for name, rows in scored.rows.items():
            _require(name in scored.metrics, f"rows of score: '{name}' is none of its metrics")
            _require(
                np.ndim(rows) == 2 and setting.same(np.mean(rows, axis=1), scored.metrics[name]),
                f"rows of score: the mean of '{name}' must be the metric",
            )


def check_settings(setting: Setting) -> None:
    """What a Resumable evaluator settled on, another takes over: the losses are then equal to the bit."""
    first, second = setting.factory(), setting.factory()
    if not (isinstance(first, Resumable) and isinstance(second, Resumable)):
        return
    loss = _evaluated(setting, first, setting.z).loss
    settled = first.settings()
    second.use(settled)
    _require(second.settings() == settled, "use must take over what settings gave")
    now = _evaluated(setting, second, setting.z).loss
    _require(np.array_equal(loss, now, equal_nan=True), "with the settings of another the losses must be its")


EVALUATOR_CHECKS: dict[str, Callable[[Setting], None]] = {
    "shapes": check_shapes,
    "determinism": check_determinism,
    "candidates": check_candidates,
    "failures": check_failures,
    "cost": check_cost,
    "score": check_score,
    "rows": check_rows,
    "settings": check_settings,
}
