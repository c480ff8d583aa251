"""What a run folder holds of a result, read back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gfo.core.domain import Array
from gfo.core.errors import GfoError
from gfo.core.reading import read_bytes
from gfo.run.files import format_of, point_checksum, read_json
from gfo.run.schema import GO_ON, RESULT, RUN, read_result, read_run

RECORDED = (
    "optimizer",
    "baseline",
    "options",
    "space",
    "task",
    "evaluator",
    "limits",
    "model",
    "d",
)
"""What makes a run what it is, of one without a config."""
POINT, PLOT, CONFIG = "best.safetensors", "plot.png", "config.json"
REFIT = "refit"
"""What result.json says of a second search, and its folder in the run's."""


def metrics_record(folder: Path) -> list[dict[str, Any]]:
    """What a run folder says of its metrics, also that of an unfinished run; nothing in version 0.1.0."""
    for name in (RESULT, RUN):
        if (folder / name).exists():
            read = read_result(folder) if name == RESULT else read_run(folder)
            found: list[dict[str, Any]] = read.get("metrics", [])
            return found
    return []


def read_points(folder: Path, name: str, remedy: str) -> Array:
    """The array "z" in a file of a run folder; raises GfoError with the remedy if it cannot be read."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    content = read_bytes(folder / name, "run", remedy=remedy)
    try:
        return np.asarray(load(content)["z"])
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise GfoError(f"{folder} has no readable {name} ({error}); {remedy}") from None


def load_point(folder: Path) -> Array:
    """The best point [d] in a run folder, which is that of its result.json.

    Raises:
        GfoError: if there is none that can be read, it is another one, or its numbers are not finite.
    """
    z = read_points(folder, POINT, "give the folder of a finished run")
    if z.ndim != 1 or z.dtype != np.float64 or not np.isfinite(z).all():
        raise GfoError(f"{folder / POINT} holds no point of finite numbers; {GO_ON}")
    result = read_result(folder)
    if format_of(result) > 1 and result["point"] != point_checksum(z):
        raise GfoError(f"{folder / POINT} is not the point of {RESULT}, or was changed; {GO_ON}")
    return z


def load_spread(folder: Path) -> dict[str, Array]:
    """What the optimizer drew at the end of the run in a folder, where it adapts that, beside the point."""
    from safetensors.numpy import load

    return {name: array for name, array in load(read_bytes(folder / POINT, "run")).items() if name != "z"}


def stored_summary(folder: Path) -> dict[str, Any]:
    """A run's result.json; of a run that has none its config, seed and metrics, as far as they are there."""
    if (folder / RESULT).exists():
        return read_result(folder)
    config = read_json(folder / CONFIG) if (folder / CONFIG).exists() else {}
    return {"config": config, "seed": config.get("seed"), "metrics": metrics_record(folder)}


def recorded_setup(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a run what it is: its config, or what there is of it."""
    record = summary.get("config") or {k: summary[k] for k in RECORDED if k in summary}
    if REFIT in summary:
        record = {**record, REFIT: True}
    return {k: v for k, v in record.items() if k != "dev_every"}
