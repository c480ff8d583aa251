"""An optimizer's state as a file: arrays as safetensors, all else as JSON in its header, checksummed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from gfo.core.domain import Array
from gfo.core.files import write_whole

ARRAY = "__array__"  # stands for an array, with its name


@runtime_checkable
class Training(Protocol):
    """An optimizer that learns from more than the losses told, as from gradients.

    Telling them again does not bring it back: its state is saved as the run goes on, and a resumed run does
    the steps behind it once more.
    """

    def loss_now(self, step: int) -> Array:
        """The loss [1] of what is trained, as it is now, on a step's batch: a resumed run compares it."""
        ...


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write nested plain values and arrays of numbers, whole or not at all.

    Raises:
        GfoError: if the file cannot be written.
    """
    from safetensors.numpy import save

    arrays: dict[str, Array] = {}
    text = json.dumps(_plain(state, arrays))
    write_whole(path, save(arrays, metadata={"state": text, "sha256": _digest(text, arrays)}))


def load_state(path: Path) -> dict[str, Any] | None:
    """What was saved; None for a file that is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
        text = metadata.get("state", "")
        if metadata.get("sha256") != _digest(text, arrays):
            return None
        state: dict[str, Any] = _filled(json.loads(text), arrays)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return state


def _plain(value: Any, arrays: dict[str, Array]) -> Any:
    """A nested value as JSON has it; its arrays are put among `arrays`, under new names."""
    if isinstance(value, np.ndarray):
        name = str(len(arrays))
        arrays[name] = np.asarray(value, order="C")
        return {ARRAY: name}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(key): _plain(inner, arrays) for key, inner in value.items()}
    return [_plain(inner, arrays) for inner in value] if isinstance(value, list | tuple) else value


def _filled(value: Any, arrays: Mapping[str, Array]) -> Any:
    """The nested value that `_plain` was given."""
    if isinstance(value, dict):
        inner = {key: _filled(each, arrays) for key, each in value.items()}
        return arrays[value[ARRAY]] if ARRAY in value else inner
    return [_filled(inner, arrays) for inner in value] if isinstance(value, list) else value


def _digest(text: str, arrays: Mapping[str, Array]) -> str:
    digest = hashlib.sha256(text.encode("utf-8"))
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
