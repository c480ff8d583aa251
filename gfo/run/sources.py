"""Where the losses of a step come from: the evaluator, or the recorded steps of a run that goes on.

The loop is the same for both: it asks, has the source give the losses, tells, and has it note the step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Protocol

import numpy as np

from gfo.core.domain import Array
from gfo.core.errors import GfoError
from gfo.core.protocols import Evaluation
from gfo.run.callbacks import Run
from gfo.run.checkpoint import Checkpoint, scoring_cost
from gfo.run.evaluate import Guarded
from gfo.run.history import Step, checksum, plain_losses, plain_scores, recorded_losses, spread_of
from gfo.run.memo import IDLE


class Source(Protocol):
    """What the loop wants of a step but the optimizer's part."""

    def no_room(self, z: Array) -> str | None:
        """Why another step, of the points z [K, d], is not allowed, or None."""
        ...

    def evaluate(self, z: Array) -> Evaluation:
        """What the points z [K, d] got."""
        ...

    def score(self, z: Array) -> dict[str, float] | None:
        """Score z [d] on dev after the step, if it is a new one."""
        ...

    def note(self, z: Array, found: Evaluation, dev: dict[str, float] | None) -> None:
        """Append the step to the history, with its cost and time."""
        ...


class Live:
    """New steps: evaluated, scored and written down.

    Args:
        run: what to note them in.
        evaluate: the run's evaluator.
        checkpoint: written after each step.
    """

    def __init__(self, run: Run, evaluate: Guarded, checkpoint: Checkpoint) -> None:
        self._run, self._evaluate, self._checkpoint = run, evaluate, checkpoint
        self._start = time.perf_counter()

    def no_room(self, z: Array) -> str | None:
        """Why the budget allows no other step, or there is no sense in one, or None.

        Raises:
            GfoError: if it does not allow the first one.
        """
        run, population = self._run, len(z)
        if run.memo is not None:
            population = int(run.memo.new(z).sum())
            if run.memo.idle >= IDLE:
                return f"nothing new: all points of the last {run.memo.idle} steps had been asked before"
        reason = run.budget.no_room(run.cost, run.seconds, population)
        if reason is not None and run.history.last is None:
            raise GfoError(
                f"budget: {run.budget.evaluations} evaluations are fewer than one population of {population}"
            )
        return reason

    def evaluate(self, z: Array) -> Evaluation:
        """What z [K, d] got; of a run that goes on, the step before is compared first."""
        run, last = self._run, self._run.history.last
        if last is not None and len(run.history) == len(run.history.recorded):  # the first new step
            self._checkpoint.goes_on(run, self._evaluate)
            self._start = time.perf_counter() - run.seconds
        step = 0 if last is None else last.step + 1
        if run.memo is None:
            found = self._evaluate(z, step)
        else:
            found = run.memo.evaluate(z, lambda new: self._evaluate(new, step))
        run.cost = run.cost + found.cost
        return found

    def score(self, z: Array) -> dict[str, float] | None:
        """Scores of z [d] on dev."""
        assert self._run.selection is not None
        return self._run.selection.consider(z, len(self._run.history))

    def note(self, z: Array, found: Evaluation, dev: dict[str, float] | None) -> None:
        """Write the step down, z [K, d], and what a resumed run needs."""
        run, last = self._run, self._run.history.last
        run.seconds = time.perf_counter() - self._start
        judged = run.judged
        step = Step(
            step=0 if last is None else last.step + 1,
            evaluations=run.cost.candidates,
            known=0 if run.memo is None else run.memo.known,
            forward_tokens=run.cost.forward_tokens,
            tokens_needed=run.cost.tokens_needed,
            loss=plain_losses(found.loss),
            best=_lowest(last, found.loss if judged is None else judged.loss),
            dev=None if dev is None else plain_scores(dev),
            seconds=round(run.seconds, 3),
            spread=spread_of(z, run.optimizer.domain.integer),
            points=checksum(z),
            search_seconds=round(run.cost.seconds, 3),
            scoring=None if dev is None or run.selection is None else asdict(run.selection.cost),
            values=_plain_values(found.values) if found.values else None,
            violation=None if judged is None or judged.violation is None else plain_losses(judged.violation),
            hypervolume=None if judged is None else judged.hypervolume,
            requests=run.cost.requests,
            dollars=run.cost.dollars,
            part=None if run.stream is None else run.stream.part,
            asked=None if run.stream is None else run.stream.asked,
        )
        run.history.append(step)
        self._checkpoint.after(run, z)


class Recorded:
    """A step that the run did before it was stopped: as it was, without evaluating.

    Args:
        run: that goes on.
        then: the step.
        checkpoint: which sees that the same points are asked for.
    """

    def __init__(self, run: Run, then: Step, checkpoint: Checkpoint) -> None:
        self._run, self._then, self._checkpoint = run, then, checkpoint

    def no_room(self, z: Array) -> str | None:
        """None: there was."""
        return None

    def evaluate(self, z: Array) -> Evaluation:
        """What z [K, d] got then."""
        loss = self._checkpoint.losses(z, self._then)
        values = {name: recorded_losses(some) for name, some in (self._then.values or {}).items()}
        memo, new = self._run.memo, np.ones(len(z), dtype=bool)
        if memo is not None:
            new = memo.new(z)
            part = {name: some[new] for name, some in values.items()}
            memo.learn(z, new, Evaluation(loss[new], values=part))
        self._checkpoint.evaluated(self._then.step, z, new)
        return Evaluation(loss, values=values)

    def score(self, z: Array) -> dict[str, float] | None:
        """Take over the scores that z [d] got then."""
        then, selection = self._then, self._run.selection
        assert selection is not None
        scores = {name: math.nan if value is None else value for name, value in (then.dev or {}).items()}
        selection.repeat(z, len(self._run.history), scores, scoring_cost(then))
        return None

    def note(self, z: Array, found: Evaluation, dev: dict[str, float] | None) -> None:
        """Take over its cost and time."""
        repeat(self._run, self._then)


def repeat(run: Run, then: Step) -> None:
    """Take a recorded step over."""
    run.cost, run.seconds = then.cost, then.seconds
    run.history.append(then)


def _lowest(last: Step | None, loss: Array) -> float | None:
    """The lowest loss until a step and of its candidates [K]; None while all failed."""
    bests = [] if last is None or last.best is None else [last.best]
    if not np.isnan(loss).all():
        bests.append(float(np.nanmin(loss)))
    return min(bests, default=None)


def _plain_values(values: Mapping[str, Array]) -> dict[str, list[float | None]]:
    return {name: plain_losses(np.asarray(some, dtype=np.float64)) for name, some in values.items()}
