"""Callbacks that log a run where others look: TensorBoard, Weights & Biases, MLflow, Trackio.

Each is an extra, by evaluations. A resumed run goes through its steps again, so that the log of a callback
that is made anew has all of them; where the place of the log keeps runs, it is another run.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from gfo.core.checking import checked
from gfo.core.errors import GfoError, unknown_name
from gfo.core.files import absolute
from gfo.core.recording import options_of
from gfo.run.callbacks import Callback, Run
from gfo.run.history import Step


def scalars(step: Step) -> dict[str, float]:
    """What is logged of a step, without what is missing or not finite."""
    values: dict[str, float | None] = {
        "train/mean_loss": step.mean_loss,
        "train/best": step.best,
        "search/spread": step.spread,
        "cost/forward_tokens": step.forward_tokens,
        **{f"dev/{name}": value for name, value in (step.dev or {}).items()},
    }
    return {name: value for name, value in values.items() if value is not None}


def facts(run: Run) -> dict[str, Any]:
    """What a run is, for its page: the optimizer, its options and d."""
    optimizer = run.optimizer
    name = getattr(optimizer, "name", type(optimizer).__name__)
    return {"optimizer": name, "d": optimizer.domain.d, "options": options_of(optimizer)}


class Tracker(Callback):
    """A place to log to; one adds `open`, `log` and what closes it.

    Raises:
        GfoError: for what the place raises.
    """

    def start(self, run: Run) -> None:
        """Open the log."""
        with self._told():
            self.open(run)

    def step(self, run: Run) -> str | None:
        """Log the scalars of the last step."""
        last = run.history[-1]
        with self._told():
            self.log(scalars(last), last.evaluations)
        return None

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What comes from a tracker, in a line."""
        try:
            yield
        except Exception as error:  # of many kinds: the network's, the server's, those of settings
            name = type(self).__name__
            said = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise GfoError(f"{name} cannot log: {said}; mend it, or take gfo.CSVLog") from error

    @abstractmethod
    def open(self, run: Run) -> None:
        """Begin a log."""

    @abstractmethod
    def log(self, values: Mapping[str, float], evaluations: int) -> None:
        """Write numbers by their names."""


@checked
class TensorBoard(Tracker):
    """Writes scalars for TensorBoard (the extra `tensorboard`), by evaluations; of a resumed run whole again.

    Args:
        folder: of the log, a new one for each run.

    Raises:
        GfoError: if TensorBoard is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        self._make = _library("TensorBoard", "torch.utils.tensorboard", "tensorboard").SummaryWriter
        self.folder = absolute(folder, "TensorBoard: folder")
        self._writer: Any = None

    def open(self, run: Run) -> None:
        self._writer = self._make(str(self.folder), purge_step=0)  # hides what a stopped run wrote

    def log(self, values: Mapping[str, float], evaluations: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, evaluations)

    def end(self, run: Run) -> None:
        if self._writer is not None:
            self._writer.close()


@checked
class WandB(Tracker):
    """Logs to Weights & Biases (the extra `trackers`); a run there for each run here.

    Args:
        project: there.
        name: of the run; its own choice by default.
        mode: "online", "offline" (into `folder`, for `wandb sync`) or "disabled"; what wandb is set to by
            default.
        folder: where its files go; the working folder by default.

    Raises:
        GfoError: if wandb is not installed, or an unknown mode.
    """

    MODES = ("online", "offline", "disabled")

    def __init__(
        self,
        project: str,
        name: str | None = None,
        *,
        mode: str | None = None,
        folder: str | Path | None = None,
    ) -> None:
        if mode is not None and mode not in self.MODES:
            raise unknown_name("mode of WandB", mode, self.MODES)
        self._wandb = _library("WandB", "wandb", "trackers")
        self.project, self.name, self.mode = project, name, mode
        self.folder = None if folder is None else absolute(folder, "WandB: folder")
        self._run: Any = None

    def open(self, run: Run) -> None:
        self._run = self._wandb.init(
            project=self.project, name=self.name, mode=self.mode, dir=self.folder, config=facts(run),
            reinit="create_new",
        )  # fmt: skip

    def log(self, values: Mapping[str, float], evaluations: int) -> None:
        self._run.log(dict(values), step=evaluations)

    def end(self, run: Run) -> None:
        if self._run is not None:
            self._run.finish()


@checked
class MLflow(Tracker):
    """Logs to MLflow (the extra `trackers` has its small form); a run there for each run here.

    Args:
        experiment: there; made if missing.
        uri: of the tracking server, or of a database, as "sqlite:///mlflow.db"; what MLflow is set to by
            default.
        name: of the run; its own choice by default.

    Raises:
        GfoError: if MLflow is not installed.
    """

    def __init__(self, experiment: str, *, uri: str | None = None, name: str | None = None) -> None:
        self._mlflow = _library("MLflow", "mlflow", "trackers")
        self.experiment, self.uri, self.name = experiment, uri, name
        self._client: Any = None
        self._run = ""

    def open(self, run: Run) -> None:
        self._client = self._mlflow.MlflowClient(tracking_uri=self.uri)
        known = self._client.get_experiment_by_name(self.experiment)
        number = self._client.create_experiment(self.experiment) if known is None else known.experiment_id
        self._run = self._client.create_run(number, run_name=self.name).info.run_id
        for key, value in facts(run).items():
            self._client.log_param(self._run, key, value)

    def log(self, values: Mapping[str, float], evaluations: int) -> None:
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=evaluations)

    def end(self, run: Run) -> None:
        if self._run:
            self._client.set_terminated(self._run)


@checked
class Trackio(Tracker):
    """Logs to Trackio, a local tracker of Hugging Face (the extra `trackers`); a run there for each run here.

    Args:
        project: there.
        name: of the run; its own choice by default.

    Raises:
        GfoError: if Trackio is not installed.
    """

    def __init__(self, project: str, name: str | None = None) -> None:
        self._trackio = _library("Trackio", "trackio", "trackers")
        self.project, self.name = project, name
        self._run: Any = None

    def open(self, run: Run) -> None:
        self._run = self._trackio.init(
            project=self.project, name=self.name, config=facts(run), embed=False, resume="never"
        )

    def log(self, values: Mapping[str, float], evaluations: int) -> None:
        self._run.log(dict(values), step=evaluations)

    def end(self, run: Run) -> None:
        if self._run is not None:
            self._run.finish()


def _library(name: str, module: str, extra: str) -> Any:
    """A tracker's module.

    Raises:
        GfoError: if it is not installed.
    """
    try:
        return import_module(module)
    except ImportError:
        raise GfoError(
            f"{name}: it is not installed; pip install 'gfo-llm[{extra}]', or take gfo.CSVLog"
        ) from None
