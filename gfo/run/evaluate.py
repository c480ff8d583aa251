"""What stands between the loop and an evaluator: functions as evaluators, exceptions as failed candidates."""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from gfo.core.domain import Array
from gfo.core.errors import GfoError, GfoWarning
from gfo.core.protocols import Cost, Evaluation, Evaluator, Scores

T = TypeVar("T")


@dataclass(frozen=True)
class FunctionEvaluator:
    """A plain function z [K, d] -> loss [K] as an evaluator; with several objectives it gives [K, M].

    Attributes:
        function: what is minimised.
        objectives: the names of the M numbers, the first of which is called the loss, too.
    """

    function: Callable[[Array], Array]
    objectives: tuple[str, ...] = ()

    def __call__(self, z: Array, step: int) -> Evaluation:
        """Losses [K], and the objectives by name."""
        start, M = time.perf_counter(), len(self.objectives)
        found = np.array(self.function(z.copy()), dtype=np.float64)
        if found.shape != (wanted := (len(z), M) if M > 1 else (len(z),)):
            raise GfoError(
                f"the function gave losses of the shape {found.shape} for {len(z)} points; give {wanted}"
            )
        values = dict(zip(self.objectives, found.T, strict=True)) if M > 1 else {}
        cost = Cost(candidates=len(z), seconds=time.perf_counter() - start)
        return Evaluation(found[:, 0].copy() if M > 1 else found, cost, values)

    def score(self, z: Array, split: str) -> Scores:
        """The loss, on "train" alone: a function has no rows to hold out.

        Raises:
            GfoError: for another split.
        """
        if split != "train":
            raise GfoError(
                f'split "{split}": a function has no rows; take score("train"), or an evaluator with a '
                f"`score` that knows {split}"
            )
        evaluation = self(z, 0)
        return Scores({"loss": evaluation.loss}, evaluation.cost)


class Guarded:
    """An evaluator whose failures are nan: losses that are not finite, and exceptions.

    Where an exception ends the evaluation of K candidates, they are evaluated one by one: those for which it
    comes again have failed. The first one is warned of. One that comes for every candidate of the first step,
    or at the first scoring, is no candidate's fault and ends the run; a `GfoError` always does, and a
    `GfoWarning` where warnings are errors.

    Args:
        evaluator: of the run.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self._warned = False
        self._metrics: tuple[str, ...] = ()

    def __call__(self, z: Array, step: int) -> Evaluation:
        """Losses of z [K, d], float64 [K], finite or nan.

        Raises:
            GfoError: if all candidates of step 0 end in an exception.
        """
        try:
            found = self._evaluator(z, step)
        except (GfoError, GfoWarning):
            raise
        except Exception as error:
            found = self._one_by_one(z, step, error)
        loss = np.array(found.loss, dtype=np.float64)
        loss[~np.isfinite(loss)] = np.nan
        return replace(found, loss=loss)

    def score(self, z: Array, split: str) -> Scores:
        """Metrics of z [K, d]; all nan if there is an exception.

        Raises:
            GfoError: if there is one the first time.
        """
        found = _tried(lambda: self._evaluator.score(z, split))
        if isinstance(found, Exception):
            if not self._metrics:
                raise GfoError(f"scoring on {split} failed ({_text(found)}); mend the metric") from found
            self._warn(f"scoring on {split} failed ({_text(found)})")
            failed = {name: np.full(len(z), np.nan) for name in self._metrics}
            return Scores(failed, Cost(candidates=len(z)))
        self._metrics = tuple(found.metrics)
        return found

    def _one_by_one(self, z: Array, step: int, error: Exception) -> Evaluation:
        loss, cost, failed = np.full(len(z), np.nan), Cost(), []
        values: dict[str, Array] = {}
        for i in range(len(z)):
            again = functools.partial(self._evaluator, z[i : i + 1], step)
            found = error if len(z) == 1 else _tried(again)
            if isinstance(found, Exception):
                failed.append(i)
                cost += Cost(candidates=1)
                error = found
            else:
                loss[i] = found.loss[0]
                cost += found.cost
                for name, value in found.values.items():
                    values.setdefault(name, np.full(len(z), np.nan))[i] = value[0]
        if len(failed) == len(z) and step == 0:
            raise GfoError(
                f"the evaluation of each of the first {len(z)} candidates failed ({_text(error)}); "
                "mend the function or the metric"
            ) from error
        if failed:
            which = ", ".join(map(str, failed))
            self._warn(f"step {step}: the evaluation of candidate {which} failed ({_text(error)})")
        return Evaluation(loss, cost, values)

    def _warn(self, text: str) -> None:
        if not self._warned:
            what = "it counts as nan, as does whatever fails later, without another word"
            warnings.warn(f"{text}; {what}", GfoWarning, stacklevel=5)
        self._warned = True


def _tried(call: Callable[[], T]) -> T | Exception:
    """What a call gives, or the exception that it ends in, unless it is gfo's own."""
    try:
        return call()
    except (GfoError, GfoWarning):
        raise
    except Exception as error:
        return error


def _text(error: Exception) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}".removesuffix(": ")
