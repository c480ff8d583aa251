"""The only loop: ask, evaluate, tell."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gfo.core.domain import Array
from gfo.core.errors import GfoError
from gfo.core.protocols import Cost, Evaluation, Evaluator, Optimizer, Scores
from gfo.run.budget import Budget
from gfo.run.callbacks import Callback, Run
from gfo.run.history import HISTORY, History, Step, plain_losses, plain_scores, spread_of
from gfo.run.result import Result
from gfo.run.selection import DevSelection, Selection


@dataclass(frozen=True)
class FunctionEvaluator:
    """A plain function z [K, d] -> loss [K] as an evaluator."""

    function: Callable[[Array], Array]

    def __call__(self, z: Array, step: int) -> Evaluation:
        """Losses [K]; nan where the function gives something that is not finite."""
        start = time.perf_counter()
        loss = np.array(self.function(z.copy()), dtype=np.float64)
        if loss.shape != (len(z),):
            raise GfoError(
                f"the function gave losses of the shape {loss.shape} for {len(z)} points; give ({len(z)},)"
            )
        loss[~np.isfinite(loss)] = np.nan
        return Evaluation(loss, Cost(candidates=len(z), seconds=time.perf_counter() - start))

    def score(self, z: Array, split: str) -> Scores:
        """The loss, whatever the split: a function has no data."""
        evaluation = self(z, 0)
        return Scores({"loss": evaluation.loss}, evaluation.cost)


def minimize(
    optimizer: Optimizer,
    evaluator: Evaluator | Callable[[Array], Array],
    *,
    budget: Budget,
    callbacks: Sequence[Callback] = (),
    out: str | Path | None = None,
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
        dev_every: score a point on dev after every so many steps (and before the first and after the last)
            and return the best; None returns the last recommendation.
        selection: which points are scored on dev, and what is best; by default the recommendations, and the
            lowest loss.
        record: what was run, as plain values; it becomes part of result.json.

    Returns:
        The result. Ctrl-C ends the run and returns what was found until then.

    Raises:
        GfoError: if the budget is smaller than one population, or `out` holds a run already or
            cannot be written.
    """
    if dev_every is not None and dev_every < 1:
        raise GfoError(f"dev_every = {dev_every} must be at least 1")
    judge = evaluator if isinstance(evaluator, Evaluator) else FunctionEvaluator(evaluator)
    folder = None if out is None else new_run_folder(Path(out))
    chosen = None if dev_every is None else DevSelection(lambda z: judge.score(z, "dev"), selection)
    run = Run(optimizer, judge, budget, History(folder and folder / HISTORY), chosen)
    try:
        for callback in callbacks:
            callback.start(run)
        stopped = _steps(run, callbacks, dev_every or 0)
    except KeyboardInterrupt:
        stopped = "interrupted"
    finally:
        for callback in callbacks:
            callback.end(run)
    result = Result.of(run, stopped, record or {})
    if folder is not None:
        result.save(folder)
    return result


def new_run_folder(folder: Path) -> Path:
    """Make the folder of a new run.

    Raises:
        GfoError: if it holds a run already or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / HISTORY).exists():
            raise GfoError(f"out = {folder} holds a run already; name another folder or delete that one")
        probe = folder / ".gfo-write-test"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise GfoError(
            f"out = {folder}: cannot write there ({error.strerror}); name another folder"
        ) from None
    return folder


def _steps(run: Run, callbacks: Sequence[Callback], dev_every: int) -> str:
    """Run the steps; why they ended."""
    start = time.perf_counter()
    if run.selection is not None:
        run.selection.consider(_point(run), -1)
    step = 0
    while True:
        z = run.optimizer.ask()
        reason = run.budget.no_room(run.cost, run.seconds, len(z))
        if reason is not None and step == 0:
            raise GfoError(
                f"budget: {run.budget.evaluations} evaluations are fewer than one population of {len(z)}"
            )
        if reason is not None:
            _score_last(run)
            return reason
        evaluation = run.evaluator(z, step)
        _see(run, z, evaluation.loss)
        run.optimizer.tell(z, evaluation.loss)
        run.cost += evaluation.cost
        dev = None
        if run.selection is not None and (step + 1) % dev_every == 0:
            dev = run.selection.consider(_point(run), step)
        run.seconds = time.perf_counter() - start
        run.history.append(_entry(run, step, z, evaluation.loss, dev))
        reasons = [callback.step(run) for callback in callbacks] + [run.optimizer.should_stop()]
        reason = next((text for text in reasons if text), None)
        if reason is not None:
            _score_last(run)
            return reason
        step += 1


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


def _entry(run: Run, step: int, z: Array, loss: Array, dev: dict[str, float] | None) -> Step:
    losses = plain_losses(loss)
    before = run.history[-1].best if len(run.history) else None
    best = min((value for value in [*losses, before] if value is not None), default=None)
    return Step(
        step=step,
        evaluations=run.cost.candidates,
        forward_tokens=run.cost.forward_tokens,
        tokens_needed=run.cost.tokens_needed,
        loss=losses,
        best=best,
        dev=None if dev is None else plain_scores(dev),
        seconds=round(run.seconds, 3),
        spread=spread_of(z, run.optimizer.domain.integer),
    )
