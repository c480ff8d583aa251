"""The only loop: ask, evaluate, tell."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from gfo.core.domain import Array
from gfo.core.errors import GfoError
from gfo.core.protocols import Evaluator, Optimizer, metrics_of
from gfo.run.budget import Budget
from gfo.run.callbacks import Callback, Run
from gfo.run.checkpoint import Checkpoint, scoring_cost
from gfo.run.evaluate import FunctionEvaluator, Guarded
from gfo.run.folder import RunFolder
from gfo.run.history import HISTORY, History, Step, checksum, plain_losses, plain_scores, spread_of
from gfo.run.result import Result
from gfo.run.selection import DevSelection, Selection


def minimize(
    optimizer: Optimizer,
    evaluator: Evaluator | Callable[[Array], Array],
    *,
    budget: Budget,
    callbacks: Sequence[Callback] = (),
    out: str | Path | RunFolder | None = None,
    resume: bool = False,
    dev_every: int | None = None,
    selection: Selection | None = None,
    record: Mapping[str, Any] | None = None,
) -> Result:
    """Minimise by ask and tell until the budget is spent, the method stops or a callback says so.

    Args:
        optimizer: any `Optimizer`.
        evaluator: an `Evaluator`, or a function z [K, d] -> loss [K].
        budget: what the run may spend.
        callbacks: called at the start, after each step and at the end.
        out: a folder for the history, written as it happens, and the result; made if missing.
        resume: go on with the run that `out` holds, if it holds one, as if it had not been stopped; what is
            given must be as it was, but for a larger budget and callbacks. A run that had ended ends again.
            The evaluator must give the same losses again: a function with noise needs noise from z alone.
        dev_every: score a point on dev after every so many steps (and before the first and after the last)
            and return the best; None returns the last recommendation.
        selection: which points are scored on dev, and what is best; by default the recommendations, and the
            lowest loss.
        record: what was run, as plain values; it becomes part of result.json.

    Returns:
        The result. Ctrl-C ends the run and returns what was found until then.

    Raises:
        GfoError: if the budget is smaller than one population, `out` holds a run already (with `resume`:
            another one), has another process running in it or cannot be written, or the evaluation of every
            candidate of the first step ends in an exception. Later ones are failed candidates.
    """
    if dev_every is not None and dev_every < 1:
        raise GfoError(f"dev_every = {dev_every} must be at least 1")
    if resume and out is None:
        raise GfoError("resume = True: give out, the folder of the run to go on with")
    judge = evaluator if isinstance(evaluator, Evaluator) else FunctionEvaluator(evaluator)
    evaluate = Guarded(judge)
    chosen = (
        None
        if dev_every is None
        else DevSelection(lambda z: evaluate.score(z, "dev"), selection, metrics_of(judge))
    )
    with contextlib.nullcontext() if out is None else RunFolder.of(out, resume=resume) as folder:
        path = folder and folder / HISTORY
        history = History.resumed(path) if path and resume else History(path)
        run = Run(optimizer, judge, budget, history, chosen)
        checkpoint = Checkpoint(folder, run, _terms(run, dev_every, record or {}))
        stopped = _watched(run, evaluate, callbacks, dev_every or 0, checkpoint)
        result = Result.of(run, stopped, record or {})
        if folder is not None:
            result.recall(folder)
            result.save(folder)
    return result


def _watched(
    run: Run, evaluate: Guarded, callbacks: Sequence[Callback], dev_every: int, checkpoint: Checkpoint
) -> str:
    """Run the steps between the callbacks' start and end; why they ended."""
    try:
        for callback in callbacks:
            callback.start(run)
        return _steps(run, evaluate, callbacks, dev_every, checkpoint)
    except KeyboardInterrupt:
        if run.history.again is not None:
            raise  # the run is not yet where it was, and its folder is as it was
        return "interrupted"
    finally:
        for callback in callbacks:
            callback.end(run)


def _steps(
    run: Run, evaluate: Guarded, callbacks: Sequence[Callback], dev_every: int, checkpoint: Checkpoint
) -> str:
    """Run the steps, at first those recorded, with the losses they had; why they ended."""
    start = time.perf_counter()
    if run.selection is not None:
        run.selection.consider(_point(run), -1)
    reason = None
    for _ in range(checkpoint.load(run)):
        reason = _repeat(run, callbacks)
    while reason is None or run.history.again is not None:
        step, then = len(run.history), run.history.again
        z = run.optimizer.ask()
        if then is None:
            reason = _no_room(run, len(z))
            if reason is not None:
                break
            if checkpoint.goes_on(run, evaluate):
                start = time.perf_counter() - run.seconds
            evaluation = evaluate(z, step)
            loss, run.cost = evaluation.loss, run.cost + evaluation.cost
        else:
            loss = checkpoint.losses(z, then)
        _see(run, z, loss)
        run.optimizer.tell(z, loss)
        dev = None
        if run.selection is not None and (step + 1) % dev_every == 0:
            dev = _score(run, run.selection, then)
        if then is None:
            run.seconds = time.perf_counter() - start
            run.history.append(_entry(run, z, loss, dev))
            checkpoint.after(run, z)
            reason = _reason(run, callbacks)
        else:
            reason = _repeat(run, callbacks)
    _score_last(run)
    return reason


def _no_room(run: Run, population: int) -> str | None:
    """Why the budget allows no other step, or None."""
    reason = run.budget.no_room(run.cost, run.seconds, population)
    if reason is not None and not len(run.history):
        raise GfoError(
            f"budget: {run.budget.evaluations} evaluations are fewer than one population of {population}"
        )
    return reason


def _repeat(run: Run, callbacks: Sequence[Callback]) -> str | None:
    """Take the next recorded step over; why the run ended behind it, or None."""
    then = run.history.again
    assert then is not None
    run.cost, run.seconds = then.cost, then.seconds
    run.history.append(then)
    return _reason(run, callbacks)


def _reason(run: Run, callbacks: Sequence[Callback]) -> str | None:
    """Why the run ends after a step, or None."""
    reasons = [callback.step(run) for callback in callbacks] + [run.optimizer.should_stop()]
    return next((text for text in reasons if text), None)


def _score(run: Run, selection: DevSelection, then: Step | None) -> dict[str, float] | None:
    """Score a point on dev after a step, if it is a new one."""
    step = len(run.history)
    if then is None:
        return selection.consider(_point(run), step)
    scores = {name: math.nan if value is None else value for name, value in (then.dev or {}).items()}
    selection.repeat(_point(run), step, scores, scoring_cost(then))
    return None


def _score_last(run: Run) -> None:
    """Score the last recommendation on dev, unless the last step did."""
    if run.selection is not None and run.history[-1].dev is None:
        run.selection.consider(_point(run), run.history[-1].step)


def _see(run: Run, z: Array, loss: Array) -> None:
    """Keep the incumbent; called before the history has the step."""
    before = run.history[-1].best if len(run.history) else None
    if np.isfinite(loss).any():
        i = int(np.nanargmin(loss))
        if before is None or loss[i] < before:
            run.incumbent = z[i].copy()


def _point(run: Run) -> Array:
    """What is scored on dev, [d]."""
    incumbent = run.selection is not None and run.selection.options.point == "incumbent"
    return run.incumbent if incumbent and run.incumbent is not None else run.optimizer.recommend()


def _entry(run: Run, z: Array, loss: Array, dev: dict[str, float] | None) -> Step:
    """The step that was done, for the history."""
    losses = plain_losses(loss)
    before = run.history[-1].best if len(run.history) else None
    best = min((value for value in [*losses, before] if value is not None), default=None)
    return Step(
        step=len(run.history),
        evaluations=run.cost.candidates,
        forward_tokens=run.cost.forward_tokens,
        tokens_needed=run.cost.tokens_needed,
        loss=losses,
        best=best,
        dev=None if dev is None else plain_scores(dev),
        seconds=round(run.seconds, 3),
        spread=spread_of(z, run.optimizer.domain.integer),
        points=checksum(z),
        search_seconds=round(run.cost.seconds, 3),
        scoring=None if dev is None or run.selection is None else asdict(run.selection.cost),
    )


def _terms(run: Run, dev_every: int | None, record: Mapping[str, Any]) -> dict[str, Any]:
    """What a run that goes on must have as it was."""
    optimizer = run.optimizer
    name = getattr(optimizer, "name", type(optimizer).__name__)
    selection = None if run.selection is None else asdict(run.selection.options)
    return {
        "optimizer": name,
        "d": optimizer.domain.d,
        "dev_every": dev_every,
        "selection": selection,
        **record,
    }
