"""The runs of a sweep as jobs of Slurm, by the package submitit."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gfo.config import make_config
from gfo.config.grid import Planned
from gfo.config.study import FAILED
from gfo.config.worker import Say, Worker, one_line
from gfo.config.workers import Here
from gfo.core.errors import GfoError, shown

CLUSTER = "slurm"
LOOK_EVERY = 1.0  # seconds
JOBS = "jobs"  # the folder that has what submitit writes, and what jobs print


class Slurm(Here):
    """Each run is a job, which loads a model of its own and finds the sweep's folder where it is here.

    Args:
        jobs: the most that run at a time.
        folder: of the sweep.
        options: of jobs, as submitit names them: timeout_min, gpus_per_node, slurm_partition, ...

    Raises:
        GfoError: without submitit or Slurm, or for an option that submitit does not take.
    """

    def __init__(self, jobs: int, folder: Path, options: Mapping[str, Any]) -> None:
        super().__init__()
        try:
            import submitit
        except ImportError:
            raise GfoError(
                "slurm needs submitit, which is not installed; pip install 'gfo-llm[slurm]'"
            ) from None
        try:
            self._executor: Any = submitit.AutoExecutor(folder / JOBS, cluster=CLUSTER)
            self._executor.update_parameters(**{"slurm_array_parallelism": jobs, **options})
        except RuntimeError as error:
            raise GfoError(
                f"slurm: {one_line(error)}; start the sweep where srun is, or leave slurm out"
            ) from None
        except (NameError, AssertionError) as error:
            raise GfoError(f"slurm = {shown(dict(options))}: {one_line(error)}") from None

    def run(self, runs: Sequence[Planned], folder: Path, say: Say) -> None:
        """Submit all, and wait. After Ctrl-C all are cancelled, and save what they have."""
        with self._executor.batch():
            jobs = {
                run.name: self._executor.submit(Job(), run.name, run.config.values(), str(folder / run.name))
                for run in runs
            }
        try:
            while jobs:
                for name in [name for name, job in jobs.items() if job.done()]:
                    say(_ended(name, jobs.pop(name)))
                time.sleep(LOOK_EVERY * bool(jobs))
        finally:
            for job in jobs.values():
                job.cancel()
            while not all(job.done(force_check=True) for job in jobs.values()):
                time.sleep(LOOK_EVERY)


class Job:
    """What a job does: one run. One that is preempted, or out of time, goes on in the next job."""

    def __call__(self, name: str, values: Mapping[str, Any], folder: str) -> dict[str, Any]:
        """Run a config in a folder, or go on with the run there; how it ended."""
        try:
            config = make_config(dict(values), name)
        except GfoError as error:  # such as a name that only the parent has registered
            return {"name": name, "state": FAILED, "reason": str(error)}
        return Worker().run(name, config, Path(folder), lambda event: None)

    def checkpoint(self, *given: Any) -> Any:
        """What submitit puts into the queue in its place."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, *given)


def _ended(name: str, job: Any) -> dict[str, Any]:
    """How a run ended, as its job says; or that the job ended without a word."""
    try:
        found: dict[str, Any] = job.result()
    except Exception as error:
        return {
            "name": name,
            "state": FAILED,
            "reason": f"{one_line(error)}; see {job.paths.stderr.name} in {JOBS}",
        }
    return found
