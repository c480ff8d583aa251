"""`tune`: joins model, task, space and optimizer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gfo import optimizers
from gfo.core.checking import checked
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
from gfo.run.auto import AUTO, Taken, taken
from gfo.run.budget import Budget
from gfo.run.callbacks import Callback
from gfo.run.environment import PeakMemory
from gfo.run.folder import RunFolder
from gfo.run.loop import minimize
from gfo.run.progress import ProgressBar
from gfo.run.refit import Refit, check_refit
from gfo.run.result import Result
from gfo.run.selection import Selection
from gfo.run.warm_start import WarmStart
from gfo.tasks.parts.joining import joined

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
    refit: bool = False,
    record: Mapping[str, Any] | None = None,
) -> Result:
    """Search the space for the change of the model that minimises the task's loss.

    Args:
        model, task: a frozen model of `gfo.load_model`, or a `gfo.Endpoint`; such as `gfo.Classification`.
        space: such as `gfo.SoftPrompt`; "auto" takes the recipe of `gfo.run.auto`.
        optimizer, options: a name of `gfo.optimizers.names()` and its options, or an `Optimizer`; by default
            the recipe's, in a space that is given "cma", of several objectives "nsga2"; "auto" by the space.
        objectives: by default the loss; or of "loss", metrics and measures of the space two, for a front.
        limits: name -> a value that the result must have, or a better one: bytes at most, accuracy at least.
        budget, seed: what the search may spend; the root seed.
        dev_every, selection: steps between scores on dev rows, if any, and what is best; by default the loss.
        callbacks, progress, record: called at each step; whether it is shown on stderr; more for result.json.
        out, resume: a folder for the run; whether to go on with the one that it holds, if it does.
        memory, racing, evaluator, asynchronous: see `gfo.LocalEvaluator`, `gfo.Workers` and `gfo.minimize`.
        warm_start, refit: result or folder of a run of this space, to start there; whether to search again on
            train and dev together, for as many evaluations as dev chose, see `gfo.run.refit`.

    Raises:
        GfoError: for bad input.
    """
    out = None if out is None else RunFolder.of(out, resume=resume)
    of: dict[str, Any] = {"model": model, "task": task, "budget": budget, "seed": seed, "out": out}
    method = taken(space, optimizer, options, objectives=objectives, tell=progress, **of)
    wanted = (*(objectives or getattr(method.optimizer, "objectives", ())), *(limits or {}))
    reading: dict[str, Any] = {"memory": memory, "racing": racing}
    kept: dict[str, Any] = {"out": out, "resume": resume, "selection": selection, "limits": limits}
    more = {"seed": seed, "limits": limits, "progress": progress, "record": record, "warm_start": warm_start}
    kept["then"] = _refit(model, task, method, out, evaluator, more | reading) if refit else None
    local = evaluator_for(model, task, method.space, values=wanted, **reading)
    facts = {"seed": seed, **_facts(local, task, method), **(record or {})}
    made = attending(_made(method, seed, _start(warm_start, facts, out, method.optimizer)), local)
    kept |= {"dev_every": dev_every if "dev" in local.task.splits else None, "asynchronous": asynchronous}
    kept |= {"callbacks": _watching(callbacks, facts, model, progress=progress), "record": facts}
    return minimize(made, Elsewhere.of(evaluator, local), budget=budget, **kept)


def _watching(
    callbacks: Sequence[Callback], facts: dict[str, Any], model: Any, *, progress: bool
) -> list[Callback]:
    """The callbacks of a run, those that note its memory and show its progress among them."""
    peak = PeakMemory(facts, getattr(model, "device", None))
    return [*callbacks, peak, *([ProgressBar()] if progress else [])]


def _refit(
    model: FrozenModel | Endpoint,
    task: Task,
    method: Taken,
    out: RunFolder | None,
    evaluator: Evaluator | None,
    more: Mapping[str, Any],
) -> Refit:
    """What makes of the result that of a second search; `more` are the other arguments of both.

    Raises:
        GfoError: for a search that is not refit, or a task without dev rows to join.
    """
    check_refit(method.optimizer, (method.options or {}).get("objectives"), evaluator)
    how = {"optimizer": method.optimizer, "options": method.options, **more}
    how["record"] = {**method.facts, **(how["record"] or {})}
    return Refit(partial(tune, model, joined(task), method.space, **how), out)


def _facts(evaluator: ModelEvaluator, task: Task, method: Taken) -> dict[str, Any]:
    """What is run, as plain values."""
    optimizer = method.optimizer
    name, given = type(optimizer).__name__, options_of(optimizer)
    if isinstance(optimizer, str):
        name, given = optimizer, plain(method.options or {})
    facts = {"model": plain(evaluator.model), "optimizer": name, "d": evaluator.space.domain.d}
    facts |= {"options": given, "space": description(evaluator.space), "task": description(task)}
    racing = getattr(evaluator, "racing", None)
    raced = {} if racing is None else {"racing": asdict(racing)}
    return facts | {"data": fingerprints(evaluator.task), **raced, **method.facts}


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


def _made(method: Taken, seed: int, start: WarmStart | None) -> Optimizer:
    """The optimizer of that name, at its start; an object as it is."""
    optimizer, options, domain = method.optimizer, method.options or {}, method.space.domain
    seed = stream_seed(seed, "optimizer")
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
