"""`sweep`: a study. A config, a grid over its keys, and a run in a folder of its own for each point."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gfo.config import CONFIG, Config, load_config, read_values
from gfo.config.grid import Planned, plan
from gfo.config.recipes import settled
from gfo.config.study import DONE, LEFT_OUT, RUNNING, Sweep, SweepRun
from gfo.config.sweep_view import SweepView, view_of
from gfo.config.workers import Here, Processes
from gfo.core.checking import checked
from gfo.core.errors import GfoError, check_at_least_one, printable
from gfo.core.files import absolute
from gfo.core.metric import LOSS, main_metric
from gfo.report.scores import metrics_named, recorded_metrics
from gfo.run.checkpoint import ended
from gfo.run.files import read_json, write_json
from gfo.run.folder import RunFolder
from gfo.run.history import HISTORY
from gfo.run.schema import RESULT, read_result
from gfo.run.signals import as_interrupts
from gfo.run.terms import check_terms

STUDY = "sweep.json"


@checked
def sweep(
    base: str | Path | Mapping[str, Any],
    grid: Mapping[str, Sequence[Any]],
    *,
    out: str | Path,
    jobs: int = 1,
    slurm: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Sweep:
    """Run a config at each point of a grid, each in a folder of its own; give the same sweep again to go on.

    Runs that are done are left as they are, those that were begun go on. One that fails is a row with its
    reason. Ctrl-C saves what runs. More values may be added to the grid, and the budget may grow.

    Args:
        base: a .toml config, or its sections as nested mappings.
        grid: key -> values, such as {"seed": [0, 1, 2], "optimizer.name": ["cma", "ga"]}; keys as in the
            config. Where the kind of a space or the name of an optimizer is not that of the base, the base's
            other keys of that section are left out. "baseline.name" stands beside the searches, with those
            of the other keys that a baseline has.
        out: the folder; a run is in OUT/NAME, with its config.
        jobs: processes at once, each with its own model and its share of the threads; 1 runs in this one,
            where names given by `gfo.register` are known.
        slurm: of submitit, such as {"timeout_min": 60}, has runs be jobs of Slurm (extra `slurm`).
        progress: whether a table of the runs is shown on standard error as they go.

    Raises:
        GfoError: for a key or value that a config does not take, a folder that holds another sweep or in
            which one runs, or if no run of the grid can begin.
    """
    check_at_least_one(jobs=jobs)
    values = dict(base) if isinstance(base, Mapping) else read_values(base)
    name = "sweep" if isinstance(base, Mapping) else str(base)
    planned, folder = plan(values, grid, name), absolute(out)
    if (folder / HISTORY).exists():
        raise GfoError(f"out = {out} holds a run; name another folder for the sweep")
    _check_alone(planned)
    with as_interrupts(), RunFolder(folder, resume=True):
        _check_base(folder, values)
        return _Study(Path(out), planned, view_of(progress)).run(folder, jobs, slurm)


def _check_alone(planned: Sequence[Planned]) -> None:
    """Raise GfoError if no run has an optimizer or baseline that could begin, as far as that is known."""
    refused = [reason for run in planned if (reason := _early(run.config))]
    if len(refused) == len(planned):
        raise GfoError(f"sweep: no run can begin: {refused[0]}")


def _early(config: Config) -> str:
    """Why a run cannot begin, as far as that is known without a model; "" if it can."""
    try:
        config.check()
    except GfoError as error:
        return str(error)
    return ""


def _check_base(folder: Path, values: Mapping[str, Any]) -> None:
    """Write down the base config, or raise GfoError if the folder's sweep had another one."""
    plain = json.loads(json.dumps(values, default=str))
    if isinstance(plain.get("task"), dict):
        plain["task"].pop("data_dir", None)  # a machine's own
    path = folder / STUDY
    if path.exists():
        then = read_json(path, remedy="name another folder")["base"]
        check_terms(folder, {"config": then}, {"config": plain})
    write_json(path, {"base": plain})


class _Study:
    """The runs of a sweep on their way.

    Args:
        out: the folder, as it was given.
        planned: the runs.
        view: where they are shown.
    """

    def __init__(self, out: Path, planned: Sequence[Planned], view: SweepView) -> None:
        self._planned, self._view = planned, view
        self._sweep = Sweep(out, tuple(SweepRun(run.name, run.changes) for run in planned))

    def run(self, folder: Path, jobs: int, slurm: Mapping[str, Any] | None) -> Sweep:
        """All that are not done yet."""
        self._folder = folder
        todo = [run for run in self._planned if not self._is_done(run)]
        if not todo:
            return self._sweep
        workers = _workers(min(jobs, len(todo)), folder, slurm)
        self._view.start(self._sweep)
        try:
            able = self._able(todo, workers)
            workers.run(able, folder, self._say)
        except KeyboardInterrupt:
            pass  # what ran is saved, and the table says what is left
        finally:
            workers.close()
            self._view.close(self._sweep)
        return self._sweep

    def _is_done(self, run: Planned) -> bool:
        folder = self._folder / run.name
        if not (folder / RESULT).exists():
            return False
        config = settled(run.config, load_config(folder / CONFIG))
        if ended(folder, config.record(), scored=config.task.has_test) is None:
            return False
        self._put(run.name, **_ended_run(folder))
        return True

    def _able(self, todo: Sequence[Planned], workers: Here | Processes) -> list[Planned]:
        """The runs that can begin; the others are told."""
        refused = {run.name: reason for run in todo if (reason := _early(run.config))}
        unknown = [run for run in todo if run.name not in refused and run.config.needs_model]
        if unknown:
            refused |= workers.refused(unknown)
        for name, reason in refused.items():
            self._put(name, state=LEFT_OUT, reason=reason)
            self._view.left_out(name, reason)
        able = [run for run in todo if run.name not in refused]
        if not able and not self._sweep.of_state(DONE):
            raise GfoError(f"sweep: no run can begin: {next(iter(refused.values()))}")
        return able

    def _say(self, event: dict[str, Any]) -> None:
        """What is said of a run."""
        name, state = event["name"], event.get("state", RUNNING)
        told = {"state": state, "reason": event.get("reason", ""), "share": event.get("share", 0.0)}
        if state == DONE:
            told |= _ended_run(self._folder / name)
        self._put(name, **told)
        self._view.show(self._sweep, name)

    def _put(self, name: str, **values: Any) -> None:
        found = tuple(replace(run, **values) if run.name == name else run for run in self._sweep.found)
        self._sweep = replace(self._sweep, found=found)


def _workers(jobs: int, folder: Path, slurm: Mapping[str, Any] | None) -> Here | Processes:
    """What runs the runs, so many at once."""
    if slurm is not None:
        from gfo.config.slurm import Slurm

        return Slurm(jobs, folder, slurm)
    return Here() if jobs == 1 else Processes(jobs, folder)


def _ended_run(folder: Path) -> dict[str, Any]:
    """What is shown of a run that is done."""
    result = read_result(folder)
    scores = result.get("scores", {}).get("after", {}).get("test", {})
    metric = main_metric(metrics_named(recorded_metrics(result), scores)) or LOSS
    score = f"{metric.name} {metric.show(scores[metric.name])}" if metric.name in scores else ""
    cost = result["cost"]
    found = {"evaluations": cost["candidates"], "seconds": cost["seconds"], "loss": result.get("loss")}
    return {"state": DONE, "score": printable(score), **found}
