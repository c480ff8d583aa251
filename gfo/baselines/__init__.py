"""What gradient-free tuning is compared with, by name: each runs in gfo's loop and gives gfo's `Result`.

Cost is counted by one rule: tokens that went through the model. A backward pass counts as two forward
passes, so a training step on n tokens costs 3 n, for a soft prompt and for all weights alike; a token that
goes through half of the layers counts half; what does not depend on what is trained is computed once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from gfo.core.checking import checked
from gfo.core.errors import GfoError, shown
from gfo.core.protocols import Reader, SearchSpace, Task
from gfo.core.recording import description, plain
from gfo.core.registry import entries, find
from gfo.run.budget import Budget, Part
from gfo.run.callbacks import Callback
from gfo.run.folder import RunFolder
from gfo.run.selection import Selection

if TYPE_CHECKING:
    from gfo.baselines.base import Fixed, Searching
    from gfo.models.frozen import FrozenModel
    from gfo.run.callbacks import Run
    from gfo.run.refit import Refit
    from gfo.run.result import Result


def names() -> list[str]:
    """The names that `run` knows."""
    return list(entries("baseline"))


def describe() -> dict[str, str]:
    """name -> one line on the baseline."""
    return {name: entry.describe() for name, entry in entries("baseline").items()}


@checked
def needs_space(name: str) -> bool:
    """Whether the baseline trains in a space, or starts from it.

    Raises:
        GfoError: for an unknown name.
    """
    return bool(getattr(_factory(name), "needs_space", False))


@checked
def check(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the baseline's factory that the options stand for.

    Raises:
        GfoError: for an unknown name, an unknown option, or an option of AdamW's that cannot be used.
    """
    parameters = inspect.signature(_factory(name)).parameters
    own = {p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY}
    recipe = parameters["recipe"].default if "recipe" in parameters else None
    if recipe is None:
        _check_options(name, options, own)
        return dict(options)
    steps = {field.name for field in fields(recipe)}
    _check_options(name, options, own | steps)
    return {**_among(options, own), "recipe": replace(recipe, **_among(options, steps))}


def _check_options(name: str, options: Mapping[str, Any], known: set[str]) -> None:
    """Raise GfoError for an option of a baseline that it does not know."""
    for option, value in options.items():
        if option not in known:
            raise GfoError(
                f"baseline '{name}' has no option '{option}' (given {value!r}); its options are "
                f"{', '.join(sorted(known)) or 'none'}"
            )


def _among(options: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    return {option: value for option, value in options.items() if option in names}


@checked
def make(
    name: str,
    model: FrozenModel,
    task: Task,
    space: SearchSpace | None = None,
    *,
    seed: int = 0,
    memory: int | None = None,
    **options: Any,
) -> Fixed | Searching:
    """The baseline `name`: a fixed point and what scores it, or how it is trained.

    Raises:
        GfoError: for an unknown name or option, a value that cannot be used, a missing or unfit space.
    """
    from gfo.baselines.base import Setting

    arguments = check(name, options)
    if not isinstance(model, Reader):
        raise GfoError(f"baseline '{name}': model = {shown(model)}; give a model of gfo.load_model")
    return _factory(name)(Setting(model, task, space, seed, memory), **arguments)


@checked
def run(
    name: str,
    model: FrozenModel,
    task: Task,
    space: SearchSpace | None = None,
    *,
    budget: Budget,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    dev_every: int = 5,
    selection: Selection | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    out: str | Path | RunFolder | None = None,
    resume: bool = False,
    memory: int | None = None,
    refit: bool = False,
    record: Mapping[str, Any] | None = None,
) -> Result:
    """Run a baseline as `gfo.tune` runs an optimizer; the arguments are the same but for these.

    Args:
        name: of `names()`.
        space: what "gradient" trains in, and "prompt-tuning" and "prefix-tuning" start from; others need none
            and leave a `{soft}` in the template empty.
        options: of the baseline.

    Returns:
        The result. Its `z` is a point of the space where there is one. Of trained weights `z` counts the
        updates; they stay in memory and in the run folder's state, LoRA's also there as PEFT's `adapter`.

    Raises:
        GfoError: for bad input, in one line.
    """
    from gfo.baselines.base import Fixed
    from gfo.run.loop import minimize

    method = make(name, model, task, space, seed=seed, memory=memory, **(options or {}))
    facts = {"seed": seed, "model": plain(model), "baseline": name, "options": plain(options or {})}
    facts |= {**method.facts, **_learnt(model, task, space), **(record or {})}
    if isinstance(method, Fixed):
        _check_no_refit(name, refit=refit)
        return method.result(out, facts, resume=resume)
    out = None if out is None else RunFolder.of(out, resume=resume)
    method.folder = _place(out, budget)
    more: dict[str, Any] = {
        "options": options,
        "seed": seed,
        "memory": memory,
        "progress": progress,
        "record": record,
    }
    again = _refit(partial(run, name, model, space=space, **more), task, out) if refit else None
    return minimize(
        method,
        method,
        budget=budget,
        callbacks=[method, *callbacks, *_watching(facts, model, progress=progress)],
        out=out,
        resume=resume,
        dev_every=(method.dev_every or dev_every) if "dev" in method.splits else None,
        selection=selection,
        record=facts,
        then=partial(_judged, method, again),
    )


def _check_no_refit(name: str, *, refit: bool) -> None:
    if refit:
        raise GfoError(f"refit: baseline '{name}' has no search that dev could end; leave refit out")


def _place(out: RunFolder | None, budget: Budget) -> Path | None:
    """The folder of what is trained: of a refit that of the first search, whose result it becomes."""
    if out is None:
        return None
    return out.path.parent if isinstance(budget, Part) else out.path


def _refit(again: Callable[..., Result], task: Task, out: RunFolder | None) -> Refit:
    """What makes the second search; `again` lacks its task."""
    from gfo.run.refit import Refit
    from gfo.tasks.parts.joining import joined

    return Refit(partial(again, task=joined(task)), out)


def _judged(method: Searching, refit: Refit | None, run: Run, result: Result) -> Result:
    """The result with what scores its points, or that of a refit."""
    from gfo.run.judge import Judge

    result.judge = Judge.of(method.judge)
    return result if refit is None else refit(run, result)


def put_back(method: Fixed | Searching, folder: Path) -> None:
    """Have a baseline that trains weights hold those of a run folder, which its points only number.

    Raises:
        GfoError: if they are not there.
    """
    from gfo.baselines.base import Trainer
    from gfo.baselines.weights import Weights
    from gfo.run.checkpoint import STATE
    from gfo.run.refit import learnt_in
    from gfo.run.schema import read_state

    if not isinstance(method, Trainer) or not isinstance(method.trained, Weights):
        return
    folder = learnt_in(folder)
    state = read_state(folder / STATE, method.domain.d)
    try:
        method.load_state_dict((state or {})["optimizer"])
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        why = "missing or damaged" if state is None else f"of another training ({error})"
        raise GfoError(
            f"{folder / STATE}, which holds the weights trained, is {why}; put back a copy of it, or train "
            "again"
        ) from None


def _watching(facts: dict[str, Any], model: FrozenModel, *, progress: bool) -> list[Callback]:
    """What notes the memory that the run takes, and shows its progress."""
    from gfo.run.environment import PeakMemory
    from gfo.run.progress import ProgressBar

    return [PeakMemory(facts, model.device), *([ProgressBar()] if progress else [])]


def _learnt(model: FrozenModel, task: Task, space: SearchSpace | None) -> dict[str, Any]:
    """What is learnt of, and where, for result.json."""
    from gfo.run.tune import fingerprints

    spaces = {} if space is None else {"space": description(space)}
    return {"task": description(task), **spaces, "data": fingerprints(task.bind(model))}


def _factory(name: str) -> Callable[..., Fixed | Searching]:
    return cast("Callable[..., Fixed | Searching]", find("baseline", name).load())
