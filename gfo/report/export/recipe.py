"""A recipe for mergekit, which makes the same weights of the same checkpoints."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from gfo.core.files import write_whole
from gfo.report.export.candidate import Candidate
from gfo.spaces.merge import Merge, Place

RECIPE = "mergekit.yaml"
SUMS = ("linear", "pick")  # which mergekit's "linear" makes, with the model as one more source


def write_recipe(candidate: Candidate, space: Merge, folder: Path) -> list[str]:
    """Write mergekit.yaml; what to mind of it, or why there is none."""
    if not candidate.base:
        return ["there is no recipe for mergekit: the model was made in memory; save it and load it first"]
    if (rest := _rest_of_slerp(candidate, space)) is None:
        return [
            "there is no recipe for mergekit: its SLERP takes all else from one of the two, not the model"
        ]
    write_whole(folder / RECIPE, "\n".join(_lines(candidate, space, rest)) + "\n")
    if space.method.startswith("dare"):
        return [f"mergekit draws other numbers than these of DARE; with {RECIPE} it makes another sample"]
    return []


def _rest_of_slerp(candidate: Candidate, space: Merge) -> float | None:
    """t of what is not merged: at that of the two that is the model; None where that is neither."""
    if space.method != "slerp" or space.adapters:
        return 0.0
    own = os.path.realpath(candidate.base)
    return next((float(i) for i, path in enumerate(space.checkpoints) if os.path.realpath(path) == own), None)


def _lines(candidate: Candidate, space: Merge, rest: float) -> Iterator[str]:
    """The recipe, line by line."""
    base = _path(candidate.base)
    names = [f"{base}+{_path(path)}" if space.adapters else _path(path) for path in space.checkpoints]
    yield from _head(candidate, space, base, names)
    shares = space.shares(torch.from_numpy(candidate.z[None]))[0]
    yield "slices:"
    for layers in dict.fromkeys(place.layers for place in space.places):
        found = {place: shares[i] for i, place in enumerate(space.places) if place.layers == layers}
        yield from _slice(space, layers, [base, *names], found, rest)


def _head(candidate: Candidate, space: Merge, base: str, names: list[str]) -> Iterator[str]:
    """The method, and what holds for all modules."""
    yield f"merge_method: {'linear' if space.method in SUMS else space.method}"
    if space.method not in SUMS:
        yield f"base_model: {json.dumps(names[0] if space.method == 'slerp' else base)}"
    yield f"dtype: {str(candidate.model.dtype).removeprefix('torch.')}"
    if space.method != "slerp":
        yield f"parameters: {{normalize: {str(space.method == 'ties').lower()}}}"


def _slice(
    space: Merge, layers: tuple[int, int], names: list[str], found: Mapping[Place, Tensor], rest: float
) -> Iterator[str]:
    """Some layers, and the coefficients of the modules in them; all else stays the model's."""
    base, *own = names
    where = f"layer_range: [{layers[0]}, {layers[1]}]"
    yield "  - sources:"
    if space.method != "slerp":
        yield f"      - model: {json.dumps(base)}"
        yield f"        {where}"
        if space.method in SUMS:
            yield from _values("weight", dict.fromkeys(found, 0.0), 1.0, 8)
    for i, name in enumerate(own):
        yield f"      - model: {json.dumps(name)}"
        yield f"        {where}"
        if space.method != "slerp":
            yield from _values("weight", {place: float(each[i]) for place, each in found.items()}, 0.0, 8)
            if space.density < 1:
                yield f"          density: {space.density}"
    if space.method == "slerp":
        yield from _values("t", {place: float(each[0]) for place, each in found.items()}, rest, 4)


def _values(key: str, found: Mapping[Place, float], rest: float, indent: int) -> Iterator[str]:
    """A parameter of modules by their names, and of all else."""
    yield f"{' ' * indent}parameters:"
    yield f"{' ' * indent}  {key}:"
    for place, value in found.items():
        for part in dict.fromkeys(map(_in_layer, place.names)):
            yield f"{' ' * indent}    - {{filter: {json.dumps(part)}, value: {value:.9f}}}"
    yield f"{' ' * indent}    - {{value: {rest:g}}}"


def _in_layer(name: str) -> str:
    """A module's name within its layer, as mergekit finds it in those of tensors."""
    parts = name.split(".")
    number = next(i for i, part in enumerate(parts) if part.isdigit())
    return ".".join(parts[number + 1 :]) + "."


def _path(name: str | Path) -> str:
    """A folder as a path that means the same everywhere; a hub id as it is."""
    return os.path.abspath(name) if os.path.isdir(name) else str(name)
