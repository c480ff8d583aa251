"""`[log]`: where a run is logged, by name; the keys are the arguments of the callback."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gfo.core.errors import GfoError, check_name

if TYPE_CHECKING:
    from gfo.run.callbacks import Callback

LOGS = {  # name -> module and class
    "csv": ("gfo.run.callbacks", "CSVLog"),
    "mlflow": ("gfo.run.trackers", "MLflow"),
    "tensorboard": ("gfo.run.trackers", "TensorBoard"),
    "trackio": ("gfo.run.trackers", "Trackio"),
    "wandb": ("gfo.run.trackers", "WandB"),
}
PLACES = {"csv": ("path", "log.csv"), "tensorboard": ("folder", "tensorboard"), "wandb": ("folder", ".")}
"""The argument that is a place in the run's folder, and which it is by default."""


def check_logs(log: Mapping[str, Any]) -> None:
    """Raise GfoError for a log that is none."""
    for name in log:
        check_name("log", name, LOGS)


def callbacks(log: Mapping[str, Mapping[str, Any]], out: Path) -> list[Callback]:
    """What logs a run in the folder `out`; files and folders are relative to it.

    Raises:
        GfoError: for an option that the callback does not have or that is missing, or a missing package.
    """
    return [_callback(name, dict(options), out) for name, options in log.items()]


def arguments(name: str) -> list[str]:
    """What the callback of a log takes."""
    return list(inspect.signature(_class(name)).parameters)


def _class(name: str) -> Callable[..., Callback]:
    module, attribute = LOGS[name]
    return getattr(import_module(module), attribute)  # type: ignore[no-any-return]


def _callback(name: str, options: dict[str, Any], out: Path) -> Callback:
    if name in PLACES:
        key, default = PLACES[name]
        options[key] = str(out / Path(options.get(key, default)).expanduser())
    try:
        return _class(name)(**options)
    except GfoError as error:
        raise GfoError(f"config: [log.{name}]: {error}") from None
