"""How a run goes on after a stop, of any kind, as if there had been none.

The history is the checkpoint: the recorded losses are told again to a new optimizer, without evaluating.
That brings back every method bit by bit, also those of libraries that hide their state. What it costs is the
optimizer's own time, which for most is nothing beside a model's; where it is much and the state is arrays
(`saves_state`), the state is saved now and then, and the steps before it are not told again.

Training by gradients learns from more than losses (`gfo.run.state.Training`). Its state, weights and
all, is saved now and then and at the end; a resumed run leaves out the steps behind it and does them again.

    run.json            what was run: what must be the same when it goes on, and what the evaluator settled on
    history.jsonl       a line a step, with a checksum of the points asked
    state.safetensors   the optimizer's state, of methods that save it

Before a run goes on, the last recorded step is evaluated once more. Its losses must be those of then: this
finds whatever else has changed, and lets the evaluator compute again what it keeps from step to step, so
that tokens are counted as if there had been no stop.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from gfo.core.domain import Array
from gfo.core.errors import GfoError, GfoWarning
from gfo.core.files import remove
from gfo.core.protocols import Cost, Evaluator, Resumable
from gfo.run.callbacks import Run
from gfo.run.environment import PRODUCTS, reduced_products, threads, versions
from gfo.run.files import FORMAT, format_of, write_json
from gfo.run.history import HISTORY, History, Step, checksum, recorded_losses
from gfo.run.memo import Memo
from gfo.run.schema import RESULT, RUN, read_result, read_run, read_state
from gfo.run.selection import DevSelection, Snapshot
from gfo.run.state import Training, save_state
from gfo.run.terms import as_json, check_terms, differences, upgraded

STATE = "state.safetensors"
SAVE_EVERY = 10.0  # seconds that a resumed run may lose: of the optimizer's own, of a training's all
SAVING = 0.05  # the most of a run's time that saving takes: large states are saved less often
TOLERANCE = 0.05  # of losses, relative and absolute: more is no rounding


class Checkpoint:
    """What a run writes beside its history, and reads when it goes on.

    Args:
        folder: of the run; None writes nothing.
        run: before its first step; `run.history.recorded` are the steps it did before it was stopped.
        terms: what was run, as plain values.

    Raises:
        GfoError: if the run in the folder was another one, naming the first difference.
    """

    def __init__(self, folder: Path | None, run: Run, terms: Mapping[str, Any]) -> None:
        self._folder = folder
        device = getattr(getattr(run.evaluator, "model", None), "device", None)
        self._environment = {"versions": versions(), "threads": threads(), **reduced_products(device)}
        self._then: dict[str, Any] = {}
        self._points: Array | None = None
        self._saved_at, self._saved_steps, self._saving = 0.0, 0, 0.0
        self._loss_then: Array | None = None
        self._evaluated: tuple[int, Array, Array] | None = None  # a step, points, which of its
        if folder is None:
            return
        if run.history.recorded:
            self._take_up(folder, run, terms)
        else:
            remove(folder / STATE)
        metrics = [metric.record() for metric in run.metrics]  # so that the folder says what its scores are
        self._facts = {
            "terms": as_json(terms),
            "evaluator": _settings(run.evaluator),
            "metrics": metrics,
            "memo": run.memo is not None,
            **self._environment,
        }
        if "plan" in self._then:
            self._facts["plan"] = self._then["plan"]
        self._write(run)

    def _take_up(self, folder: Path, run: Run, terms: Mapping[str, Any]) -> None:
        """Read what was run, and let the run decide as it did then.

        Raises:
            GfoError: if it was another one.
        """
        self._then = read_run(folder)
        run.history.check_sealed(folder, format_of(self._then))
        then, now = upgraded(folder, self._then, as_json(terms))
        check_terms(folder, then, now, same_gfo=self._same_gfo)
        run.memo = Memo() if self._then.get("memo") else None
        if isinstance(run.evaluator, Resumable) and self._then.get("evaluator"):
            _use(run.evaluator, self._then["evaluator"], folder)
        if not run.history.checked:
            run.history.seal()

    def plan(self, run: Run, now: dict[str, Any]) -> dict[str, Any] | None:
        """What the optimizer is told of the run ahead: that of now, or of the start of a run that goes on.

        None for a run that goes on and was told nothing.
        """
        if self._then:
            return self._then.get("plan")
        if self._folder is not None:
            self._facts["plan"] = now
            self._write(run)
        return now

    def load(self, run: Run) -> int:
        """Put a saved state back; the number of steps that need not be told again."""
        if self._folder is None or not run.history.recorded:
            return 0
        state = _usable_state(self._folder, run)
        if isinstance(run.optimizer, Training):
            self._leave_out(self._folder, run, state["steps"] if state else 0)
        if state is None or not saves_state(run):
            return 0
        try:
            return self._put_back(run, state)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise GfoError(
                f"{self._folder}/{STATE} is no state of this run ({error}); delete it: the run goes on from "
                "its history alone"
            ) from None

    def _put_back(self, run: Run, state: Mapping[str, Any]) -> int:
        run.optimizer.load_state_dict(state["optimizer"])
        run.incumbent, self._points = state["incumbent"], state["points"]
        self._saved_steps, self._loss_then = state["steps"], state.get("loss_now")
        self.evaluated(state["steps"] - 1, self._points, np.ones(len(self._points), dtype=bool))
        if run.selection is not None:
            _put_back_selection(run.selection, state, run.history.recorded[: state["steps"]])
        return int(state["steps"])

    def losses(self, z: Array, then: Step) -> Array:
        """The losses [K] that the points z [K, d] of a recorded step had.

        Raises:
            GfoError: if the optimizer asked for other points then.
        """
        self._points = z
        if len(z) != len(then.loss) or (then.points and checksum(z) != then.points):
            raise GfoError(
                f"out = {self._folder}: at step {then.step} the optimizer asks for other points than "
                f"it did, so the run cannot go on; {self._difference()}"
            )
        return recorded_losses(then.loss)

    def evaluated(self, step: int, z: Array, new: Array) -> None:
        """In a recorded step those of z [K, d] were evaluated that were `new` [K]."""
        if new.any():
            self._evaluated = step, z[new], new

    def goes_on(self, run: Run, evaluate: Evaluator) -> None:
        """Check the last recorded step of a run that goes on.

        Raises:
            GfoError: if its losses are others now.
        """
        if isinstance(run.optimizer, Training):
            last = run.history[-1]
            if self._loss_then is not None:
                self._compare(run.optimizer.loss_now(last.step), self._loss_then, last.step)
        elif isinstance(run.evaluator, Resumable) and self._evaluated is not None:
            step, points, which = self._evaluated
            now = evaluate(points, step).loss
            self._compare(now, recorded_losses(run.history[step].loss)[which], step)

    def after(self, run: Run, z: Array) -> None:
        """After a new step: keep what the evaluator settled on."""
        if self._folder is None:
            return
        settings = _settings(run.evaluator)
        if settings != self._facts["evaluator"]:
            self._facts["evaluator"] = settings
            self._write(run)
        self._points = z

    def save_if_due(self, run: Run) -> None:
        """Between two steps, when callbacks have seen the first: save the state, if it is worth it."""
        if self._folder is None or self._saved_steps == len(run.history):
            return
        waited = max(0.0, _at_stake(run) - self._saved_at)  # others may count more seconds than pass here
        once = getattr(run.optimizer, "writes", False)  # what a model has written may not come again
        if saves_state(run) and (once or waited >= max(SAVE_EVERY, self._saving / SAVING)):
            self._save(run)

    def keep(self, run: Run) -> None:
        """Save a training's state as it is after the last step, if it is not there yet."""
        if isinstance(run.optimizer, Training) and self._saved_steps < len(run.history):
            self._save(run)

    def _save(self, run: Run) -> None:
        if self._folder is None:
            return
        start, last = time.perf_counter(), run.history[-1]
        best = None if run.selection is None else run.selection.best
        training = run.optimizer if isinstance(run.optimizer, Training) else None
        state = {
            "steps": len(run.history),
            "optimizer": run.optimizer.state_dict(),
            "points": self._points,
            "incumbent": run.incumbent,
            "loss_now": training and training.loss_now(last.step),
            "best": None if best is None else {"z": best.z, "step": best.step, "scores": best.scores},
        }
        save_state(self._folder / STATE, state)
        self._saved_at, self._saved_steps = _at_stake(run), len(run.history)
        self._saving = time.perf_counter() - start

    def _leave_out(self, folder: Path, run: Run, steps: int) -> None:
        """Leave out what a training did behind its saved state.

        Raises:
            GfoError: if there is a state that cannot be used.
        """
        if not steps and (folder / STATE).exists():
            raise GfoError(
                f"out = {folder}: {STATE} is damaged or of another run, so the training cannot go on; put a "
                "copy of it back, or delete it to train from the start"
            )
        if not steps:
            what = f"no state was saved, so that its {len(run.history.recorded)} steps are done again"
            warnings.warn(f"out = {folder}: {what}", GfoWarning, stacklevel=2)
        run.history.cut(steps)

    @property
    def _same_gfo(self) -> bool:
        """Whether the run was begun by this version."""
        return bool(self._then.get("versions", {}).get("gfo") == versions()["gfo"])

    def _write(self, run: Run) -> None:
        assert self._folder is not None
        facts = {"format": FORMAT, **self._facts, "budget": asdict(run.budget)}
        write_json(self._folder / RUN, facts)

    def _compare(self, now: Array, then: Array, step: int) -> None:
        """Losses [K] of one step, now and then."""
        if np.array_equal(now, then, equal_nan=True):
            return
        what = f"out = {self._folder}: evaluated again, step {step} has other losses than it had"
        if not np.allclose(now, then, TOLERANCE, TOLERANCE, equal_nan=True):
            why = "the data, the model or the space must be another"
            if format_of(self._then) == 1:
                why = "gfo 0.1.0 began it, which drew words for prompts that no token has: begin a new run"
            raise GfoError(f"{what} ({now[0]:.6g}, was {then[0]:.6g}); {why}")
        most = np.nanmax(np.abs(now - then))
        warnings.warn(
            f"{what}, by {most:.2g} at most; the run goes on, but not to the last bit as without a stop: "
            f"{self._difference()}",
            GfoWarning,
            stacklevel=2,
        )

    def _difference(self) -> str:
        """What is installed otherwise than it was."""
        then = {k: self._then[k] for k in self._then.keys() & {*self._environment, PRODUCTS}}
        changes = differences(then, self._environment)
        if changes:
            return "; ".join(f"{key} was {then}, is {now}" for key, then, now in changes)
        if self._then and format_of(self._then) == 1:
            return "gfo 0.1.0 began it, whose method may have asked for others: begin a new run"
        return "versions and threads are as they were: its seed, its options or the machine must be others"


def _usable_state(folder: Path, run: Run) -> dict[str, Any] | None:
    """The state that was saved, if the history has all of its steps."""
    state = read_state(folder / STATE, run.optimizer.domain.d)
    return state if state and state["steps"] <= len(run.history.recorded) else None


def _put_back_selection(selection: DevSelection, state: Mapping[str, Any], steps: Sequence[Step]) -> None:
    """What was read on dev in recorded steps, and the best of it."""
    scored = [step for step in steps if step.dev]
    selection.reads += len(scored)
    selection.cost = scoring_cost(scored[-1]) if scored else selection.cost
    if state["best"] is not None:
        selection.best = Snapshot(**state["best"])


def _at_stake(run: Run) -> float:
    """Seconds that would be spent again without a saved state: all of a training's, else the optimizer's."""
    if isinstance(run.optimizer, Training):
        return run.seconds
    scoring = Cost() if run.selection is None else run.selection.cost
    return run.seconds - run.cost.seconds - scoring.seconds


def saves_state(run: Run) -> bool:
    """Whether the run's optimizer is better loaded than told everything again.

    Aims and a memo are made of what is told.
    """
    saves = isinstance(run.optimizer, Training) or bool(getattr(run.optimizer, "saves_state", False))
    return run.aims is None and run.memo is None and saves


def scoring_cost(step: Step) -> Cost:
    """What scoring on dev had cost after a recorded step."""
    return Cost(**step.scoring) if step.scoring else Cost()


def ended(folder: Path, config: Mapping[str, Any], *, scored: bool) -> str | None:
    """Why a run ended; None if it can go on.

    Args:
        folder: of the run.
        config: with which it would go on, as results have it.
        scored: whether it has to be scored on test, too.
    """
    if not (folder / RESULT).exists():
        return None
    result = read_result(folder)
    same = not differences(result.get("config", {}), as_json(config))
    whole = same and result.get("steps") == len(History.read(folder / HISTORY))
    tested = not scored or "test" in result.get("scores", {}).get("after", {})
    stopped: str | None = result.get("stopped")
    return stopped if whole and tested and stopped != "interrupted" else None


def _use(evaluator: Resumable, settings: dict[str, Any], folder: Path) -> None:
    """Let the evaluator decide as it did in the run.

    Raises:
        GfoError: for settings that it does not have.
    """
    try:
        evaluator.use(settings)
    except (KeyError, TypeError, ValueError) as error:
        raise GfoError(
            f"{folder / RUN}: evaluator = {settings} is of another evaluator ({error!r}); begin a new run"
        ) from None


def _settings(evaluator: Evaluator) -> dict[str, Any]:
    return evaluator.settings() if isinstance(evaluator, Resumable) else {}
