"""`tune`: joins model, task, space and optimizer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gfo import optimizers
from gfo.core.checking import checked
from gfo.core.domain import Domain
from gfo.core.errors import GfoError
from gfo.core.protocols import BoundTask, Evaluator, Optimizer, SearchSpace, Task
from gfo.core.recording import description, options_of, plain
from gfo.core.seeding import stream_seed
from gfo.core.text_domain import TextSpace, attending
from gfo.evaluation.choice import ModelEvaluator, evaluator_for
from gfo.evaluation.elsewhere import Elsewhere
from gfo.evaluation.racing import Racing
from gfo.models.endpoint import Endpoint
from gfo.models.frozen import FrozenModel
from gfo.run.auto import AUTO, taken
from gfo.run.budget import Budget
from gfo.run.callbacks import Callback
from gfo.run.environment import PeakMemory
from gfo.run.folder import RunFolder
from gfo.run.loop import minimize
from gfo.run.progress import ProgressBar
from gfo.run.result import Result
from gfo.run.selection import Selection
from gfo.run.warm_start import WarmStart

DEV_EVERY = 5
# of a batch: where its rows come from, and not what they are; of decoding: what the task's arguments say
WHERE = ("key", "here", "split", "numbers", "whole", "stop_texts", "closing")


@checked
def tune(
    model: FrozenModel | Endpoint,
    task: Task,
    space: SearchSpace | TextSpace | str = AUTO,
    *,
    optimizer: str | Optimizer | None = None,
    options: Mapping[str, Any] | None = None,
    objectives: Sequence[str] = (),
    limits: Mapping[str, float] | None = None,
    budget: Budget,
    seed: int = 0,
    dev_every: int = DEV_EVERY,
    selection: Selection | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    out: str | Path | RunFolder | None = None,
    resume: bool = False,
    memory: int | None = None,
    racing: Racing | None = None,
    evaluator: Evaluator | None = None,
    asynchronous: bool = False,
    warm_start: Result | str | Path | None = None,
    record: Mapping[str, Any] | None = None,
) -> Result:
    """Search the space for the change of the model that minimises the task's loss.

    Args:
        model, task, space: a frozen model of `gfo.load_model`, or a `gfo.Endpoint`; such as
            `gfo.Classification`; such as `gfo.SoftPrompt`, or "auto": the recipe of `gfo.run.auto`.
        optimizer, options: a name of `gfo.optimizers.names()` and its options, or an `Optimizer`; by default
            the recipe's, in a space that is given "cma", of several objectives "nsga2"; "auto" by the space.
        objectives: by default the loss alone; or two or more of "loss", metrics of the task and measures of
            the space, for a front (`Result.front`).
        limits: name -> a value that the result must have, or a better one: bytes at most, accuracy at least.
        budget: what the search may spend.
        seed: root seed; the optimizer draws from the stream "optimizer" under it.
        dev_every, selection: steps between scores on dev rows, if any, and what is best; by default the loss.
        callbacks, progress: called at each step; whether progress is shown on standard error.
        out: a folder for history, result, best point and plot.
        resume: go on with the run that `out` holds, if it does; all but the budget must be as it was.
        memory, racing: of the evaluator, see `gfo.LocalEvaluator`.
        evaluator, asynchronous: what evaluates in its place, such as `gfo.Workers`; see `gfo.minimize`.
        warm_start: result or folder of a run of the same space and model, where the search starts.
        record: more for result.json.

    Raises:
        GfoError: for bad input.
    """
    budget.check_server(model)
    out = None if out is None else RunFolder.of(out, resume=resume)
    given: dict[str, Any] = {"model": model, "task": task, "budget": budget, "seed": seed, "out": out}
    method = taken(space, optimizer, options, objectives=objectives, tell=progress, **given)
    space, optimizer, options = method.space, method.optimizer, method.options
    wanted = (*(objectives or getattr(optimizer, "objectives", ())), *(limits or {}))
    local = evaluator_for(model, task, space, memory=memory, racing=racing, values=wanted)
    facts = {"seed": seed, **_facts(local, task, optimizer, options), **method.facts, **(record or {})}
    start = _start(warm_start, facts, out, optimizer)
    made = _made(optimizer, space.domain, stream_seed(seed, "optimizer"), options or {}, start)
    peak = PeakMemory(facts, getattr(model, "device", None))
    watching = [*callbacks, peak, *([ProgressBar()] if progress else [])]
    kept: dict[str, Any] = {"out": out, "resume": resume, "record": facts, "limits": limits}
    kept |= {"dev_every": dev_every if "dev" in local.task.splits else None, "selection": selection}
    judge = Elsewhere.of(evaluator, local)
    kept |= {"callbacks": watching, "asynchronous": asynchronous}
    return minimize(attending(made, local), judge, budget=budget, **kept)


def _facts(
    evaluator: ModelEvaluator, task: Task, optimizer: str | Optimizer, options: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What is run, as plain values."""
    name, given = type(optimizer).__name__, options_of(optimizer)
    if isinstance(optimizer, str):
        name, given = optimizer, plain(options or {})
    facts = {"model": plain(evaluator.model), "optimizer": name, "d": evaluator.space.domain.d}
    facts |= {"options": given, "space": description(evaluator.space), "task": description(task)}
    racing = getattr(evaluator, "racing", None)
    raced = {} if racing is None else {"racing": asdict(racing)}
    return facts | {"data": fingerprints(evaluator.task), **raced}


def _start(
    run: Result | str | Path | None, facts: dict[str, Any], out: RunFolder | None, optimizer: str | Optimizer
) -> WarmStart | None:
    """Where a search starts that has a warm start, which is put among the facts."""
    if run is None:
        return None
    if not isinstance(optimizer, str):
        raise GfoError("warm_start: give optimizer as a name; an object has its start by x0 and scale")
    start = WarmStart.kept(run, facts, out)
    facts["warm_start"] = start.record()
    return start


def _made(
    optimizer: str | Optimizer, domain: Domain, seed: int, options: Mapping[str, Any], start: WarmStart | None
) -> Optimizer:
    """The optimizer of that name, at its start; an object as it is."""
    if not isinstance(optimizer, str):
        return optimizer
    if start is None:
        return optimizers.make_with(optimizer, domain, seed, options)
    made = optimizers.make_with(optimizer, domain, seed, start.options(optimizer, domain, options))
    start.correlate(made)
    return made


def fingerprints(task: BoundTask) -> dict[str, str]:
    """The first digits of SHA-256 of each split's rows as the model reads them: template and tokens."""
    return {
        split: hashlib.sha256(repr(_bare(task.all_rows(split))).encode()).hexdigest()[:16]
        for split in task.splits
    }


def _bare(value: Any) -> Any:
    """Nested tuples of texts and whole numbers; others, which a model may have computed, are left out."""
    if is_dataclass(value):
        return tuple(_bare(getattr(value, f.name)) for f in fields(value) if f.name not in WHERE)
    if isinstance(value, set | frozenset):
        return tuple(sorted(map(repr, value)))
    if isinstance(value, list | tuple):
        return tuple(map(_bare, value))
    if isinstance(value, np.ndarray):
        return (value.shape, _bare(value.tolist()) if value.dtype.kind in "iubOU" else "")
    return value if isinstance(value, str | int | None) else ""
