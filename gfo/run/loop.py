"""The only loop: ask, evaluate, tell."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gfo.core.checking import checked
from gfo.core.domain import Array
from gfo.core.errors import GfoError
from gfo.core.protocols import Evaluator, Optimizer, Planning, metrics_of
from gfo.run.aims import Aims
from gfo.run.asynchronous import Stream
from gfo.run.budget import Budget
from gfo.run.callbacks import Callback, Run
from gfo.run.checkpoint import Checkpoint
from gfo.run.evaluate import FunctionEvaluator, Guarded
from gfo.run.folder import RunFolder
from gfo.run.history import HISTORY, History
from gfo.run.memo import Memo, repeats_itself
from gfo.run.result import Result
from gfo.run.selection import DevSelection, Selection
from gfo.run.signals import as_interrupts
from gfo.run.sources import Live, Recorded, Source, repeat


@checked
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
    memo: bool | None = None,
    limits: Mapping[str, float] | None = None,
    asynchronous: bool = False,
    then: Callable[[Run, Result], Result] | None = None,
) -> Result:
    """Minimise by ask and tell until the budget is spent, the method stops or a callback says so.

    Args:
        optimizer: any `Optimizer`.
        evaluator: an `Evaluator`, or a function z [K, d] -> loss [K], of several objectives [K, M].
        budget: what the run may spend.
        callbacks: called at the start, after each step and at the end.
        out: a folder for the history, written as it happens, and the result; made if missing.
        resume: go on with the run that `out` holds, if it holds one, as if it had not been stopped; what is
            given must be as it was, but for a larger budget and callbacks (an optimizer that plans by the
            budget keeps its first plan). A run that had ended ends again. The evaluator must give the same
            losses again: a function with noise needs noise from z alone.
        dev_every: score a point on dev after every so many steps (and before the first and after the last)
            and return the best; None returns the last recommendation, as for a function, which has no dev.
        selection: which points are scored on dev, and what is best; by default recommendations, by the loss.
        record: what was run, as plain values; it becomes part of result.json.
        memo: whether a point asked before is told the loss it had, at no cost; see `gfo.run.memo`. True for a
            function that is not noisy. A resumed run does as it did.
        limits: numbers of evaluations, by name, that the result must have or be better than; see `gfo.tune`.
        asynchronous: whether parts are told as they come, so that no worker of `gfo.Workers` waits for
            another; for methods that can. Which comes first is chance; a resumed run repeats what was.
        then: what is made of the result before it is kept, such as that of a second search; see `gfo.tune`.

    Returns:
        The result. Ctrl-C, SIGTERM and SIGHUP end the run and return what was found until then.

    Raises:
        GfoError: if the budget is smaller than one population, `dev_every` is given for a function, `memo` is
            True for an evaluator whose batches differ, `out` holds a run already (with `resume`: another
            one), has another process running in it or cannot be written, or every candidate of the first
            step ends in an exception. Later ones are failed candidates.
    """
    judge = _judge(evaluator, dev_every, tuple(getattr(optimizer, "objectives", ())))
    stream = Stream.of(optimizer, judge, budget) if asynchronous else None
    evaluate = Guarded(stream or judge)
    chosen = None if dev_every is None else _selection(evaluate, selection, judge)
    with as_interrupts(), _held(out, resume) as folder:
        history, aims = _history(folder, resume), Aims.of(optimizer, judge, limits or {})
        run = Run(stream or optimizer, judge, budget, history, chosen, aims=aims, stream=stream)
        run.memo = Memo() if _remembers(run, memo) else None
        checkpoint = Checkpoint(folder, run, _terms(run, dev_every, record or {}))
        stopped = _watched(run, evaluate, callbacks, dev_every or 0, checkpoint)
        return _kept(Result.of(run, stopped, record or {}), folder, then and partial(then, run))


def _history(folder: Path | None, resume: bool) -> History:
    """The run's history, with the steps recorded in its folder where it goes on."""
    path = folder and folder / HISTORY
    return History.resumed(path) if path and resume else History(path)


def _kept(result: Result, folder: Path | None, then: Callable[[Result], Result] | None) -> Result:
    """What is made of the result, saved in its folder if there is one, with its front chosen on dev."""
    if then is not None:
        result = then(result)
    if folder is not None:
        result.history.sync()
        result.recall(folder)
        result.save(folder)
    if result.found and result.stopped != "interrupted":
        result.front()
    return result


def _held(out: str | Path | RunFolder | None, resume: bool) -> contextlib.AbstractContextManager[Path | None]:
    """The run's folder, to be entered; None without one."""
    if out is not None:
        return RunFolder.of(out, resume=resume)
    if resume:
        raise GfoError("resume = True: give out, the folder of the run to go on with")
    return contextlib.nullcontext()


def _judge(
    evaluator: Evaluator | Callable[[Array], Array], dev_every: int | None, objectives: tuple[str, ...]
) -> Evaluator:
    """The run's evaluator, if it can be read on dev so often."""
    if dev_every is not None and dev_every < 1:
        raise GfoError(f"dev_every = {dev_every} must be at least 1")
    if isinstance(evaluator, Evaluator):
        return evaluator
    if dev_every is not None:
        raise GfoError(
            f"dev_every = {dev_every}: a function has no dev rows; leave it out, or give an evaluator with a "
            "`score`"
        )
    return FunctionEvaluator(evaluator, objectives)


def _selection(evaluate: Guarded, options: Selection | None, judge: Evaluator) -> DevSelection:
    return DevSelection(lambda z: evaluate.score(z, "dev"), options, metrics_of(judge))


def _remembers(run: Run, memo: bool | None) -> bool:
    """Whether points asked before are not evaluated again."""
    if memo:
        _check_memo(run)
    if run.stream is not None:
        return False
    return repeats_itself(run.optimizer, run.evaluator) if memo is None else memo


def _check_memo(run: Run) -> None:
    """Raise GfoError for a run in which points asked before have no loss that is known."""
    if run.stream is not None:
        raise GfoError("memo = True: what is under way is not known yet; leave it, or asynchronous, out")
    if getattr(run.evaluator, "batches_differ", False):
        raise GfoError("memo = True: losses of different steps are of different batches; leave it out")


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
        if not run.telling:
            checkpoint.keep(run)
        return "interrupted"
    finally:
        if run.stream is not None:
            run.stream.close()
        for callback in callbacks:
            callback.end(run)


def _steps(
    run: Run, evaluate: Guarded, callbacks: Sequence[Callback], dev_every: int, checkpoint: Checkpoint
) -> str:
    """Run the steps, at first those recorded, with the losses they had; why they ended."""
    live = Live(run, evaluate, checkpoint)
    _tell_plan(run, checkpoint)
    if run.selection is not None:
        run.selection.consider(_point(run), -1)
    reason = _recorded_steps(run, callbacks, dev_every, checkpoint)
    while reason is None:
        reason = _step(run, live, callbacks, dev_every)
        checkpoint.save_if_due(run)
    checkpoint.keep(run)
    if run.selection is not None and run.history[-1].dev is None:  # the last step did not
        run.selection.consider(_point(run), run.history[-1].step)
    return reason


def _recorded_steps(
    run: Run, callbacks: Sequence[Callback], dev_every: int, checkpoint: Checkpoint
) -> str | None:
    """Repeat the steps that were recorded before a run goes on; why it had ended with them, or None."""
    reason = None
    for then in run.history.recorded[: checkpoint.load(run)]:
        repeat(run, then)
        reason = _reason(run, callbacks)
    while (again := run.history.again) is not None:
        reason = _step(run, Recorded(run, again, checkpoint), callbacks, dev_every)
    return reason


def _step(run: Run, source: Source, callbacks: Sequence[Callback], dev_every: int) -> str | None:
    """Ask, evaluate and tell, with what the source gives; why the run ends with that, or None."""
    if run.stream is not None:
        run.stream.again = run.history.again
    z = run.optimizer.ask()
    if run.repairs:
        z = run.repaired(z)
    reason = source.no_room(z)
    if reason is not None:
        return reason
    found = source.evaluate(z)
    loss = found.loss
    if run.aims is not None:
        run.judged = run.aims.judge(run.optimizer, z, found)
        loss = run.judged.loss
    if not np.isnan(loss).all():
        best, before = int(np.nanargmin(loss)), run.history.last
        if before is None or before.best is None or loss[best] < before.best:
            run.incumbent = z[best].copy()
    run.telling = True
    if run.aims is None or run.judged is None:
        run.optimizer.tell(z, loss)
    else:
        run.aims.tell(run.optimizer, z, run.judged)
    due = run.selection is not None and (len(run.history) + 1) % dev_every == 0
    source.note(z, found, source.score(_point(run)) if due else None)
    run.telling = False
    return _reason(run, callbacks)


def _tell_plan(run: Run, checkpoint: Checkpoint) -> None:
    """Tell the optimizer what lies ahead, if it wants to know; of a resumed run what lay ahead at its start.

    So a run that goes on with a larger budget asks for the same points as before.
    """
    if isinstance(run.optimizer, Planning):
        differ = bool(getattr(run.evaluator, "batches_differ", False))
        plan = checkpoint.plan(run, {"evaluations": run.budget.planned, "batches_differ": differ})
        if plan is not None:
            run.optimizer.plan(plan["evaluations"], batches_differ=plan["batches_differ"])


def _reason(run: Run, callbacks: Sequence[Callback]) -> str | None:
    """Why the run ends after a step, or None; every callback is called."""
    reason = None
    for callback in callbacks:
        said = callback.step(run)
        reason = reason or said
    return reason or run.optimizer.should_stop()


def _point(run: Run) -> Array:
    """What is scored on dev, [d]."""
    incumbent = run.selection is not None and run.selection.options.point == "incumbent"
    return run.incumbent if incumbent and run.incumbent is not None else run.recommendation()


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
        **({} if run.aims is None else run.aims.record()),
        **({} if run.stream is None else {"asynchronous": True}),
        **record,
    }
