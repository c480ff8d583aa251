"""How long the parts of a model take on this machine: a table, measured once and kept in a file."""

from __future__ import annotations

import copy
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gfo.core.errors import GfoError
from gfo.core.files import write_whole
from gfo.core.reading import parse_json, read_text
from gfo.core.sub_blocks import SUB_BLOCKS, SubBlock
from gfo.models.families import sub_block_of
from gfo.models.probing import evaluating
from gfo.models.shrinking import shrink, tell_heads
from gfo.models.structure import hooked, names_of
from gfo.models.units import heads_of

TOKENS, ROUNDS, WARM = 128, 15, 2


class Latency(NamedTuple):
    """Milliseconds of a forward pass of one row of 128 tokens.

    Attributes:
        rest: beside the sub-blocks.
        parts: sub-block -> number of its units (groups of heads, or neurons) -> its milliseconds.
    """

    rest: float
    parts: Mapping[SubBlock, Mapping[int, float]]


def latency_of(model: Any, path: str | Path, units: Mapping[SubBlock, Sequence[int]]) -> Latency:
    """The table of a file, which is measured and written if there is none.

    Args:
        model: a frozen model.
        path: of a JSON file.
        units: sub-block -> numbers of groups of heads, or of neurons, that it may keep, the largest all.

    Raises:
        GfoError: for a file of another model, another machine or without some of the numbers; or a model
            whose sub-blocks are not one module each.
    """
    path = Path(path)
    twins = {place: _twin_of(model, place, units) for place in units}
    wanted = {place: sorted({*units[place]}) for place in dict.fromkeys(twins.values())}
    if not path.exists():
        found = {
            "model": model.name,
            "machine": machine(model),
            "tokens": TOKENS,
            **_measured(model, wanted, units),
        }
        write_whole(path, json.dumps(found, indent=1) + "\n")
    found = parse_json(read_text(path, "latency"), f"latency: {path}", "name another file")
    _check(found, model, path, wanted)
    times = found["milliseconds"]
    parts = {place: {int(n): float(t) for n, t in times[str(twins[place])].items()} for place in units}
    return Latency(float(found["rest"]), parts)


def machine(model: Any) -> str:
    """What milliseconds are of."""
    where = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else platform.machine()
    return f"{platform.node()}, {where}, {torch.get_num_threads()} threads, {model.dtype}"


def _twin_of(model: Any, place: SubBlock, units: Mapping[SubBlock, Sequence[int]]) -> SubBlock:
    """The first sub-block of the same kind and sizes, which is measured for all of them."""

    def sizes(other: SubBlock) -> Any:
        return other.kind, model.sub_blocks[other], tuple(units[other])

    return next(other for other in units if sizes(other) == sizes(place))


def _check(found: Any, model: Any, path: Path, wanted: Mapping[SubBlock, Sequence[int]]) -> None:
    """Raise GfoError for what is no table of this model's on this machine."""
    ours = {"model": model.name, "machine": machine(model), "tokens": TOKENS}
    for name, value in ours.items():
        has = found.get(name) if isinstance(found, dict) else None
        if has != value:
            raise GfoError(f"latency: {path} is of the {name} {has!r}, not {value!r}; name another file")
    times = found.get("milliseconds", {})
    for place, numbers in wanted.items():
        if not {str(n) for n in numbers} <= set(times.get(str(place), {})):
            raise GfoError(f"latency: {path} lacks some of {list(numbers)} of {place}; name another file")


@torch.no_grad()
def _measured(
    model: Any, wanted: Mapping[SubBlock, Sequence[int]], units: Mapping[SubBlock, Sequence[int]]
) -> dict[str, Any]:
    """Medians over rounds in which all that is measured is run once, in turn."""
    ids = torch.arange(TOKENS, device=model.device)[None] % model.vocabulary_size
    with model.lock, evaluating(model.module):
        runs: dict[Any, Callable[[], Any]] = {"whole": lambda: model.module(input_ids=ids)}
        for place, numbers in wanted.items():
            entered = _entering(model, place, ids)
            for n in numbers:
                runs[place, n] = _run(_shrunk(model, place, n, max(numbers)), *entered)
        spent = _medians(runs, model.device)
    whole = sum(spent[_twin_of(model, place, units), max(numbers)] for place, numbers in units.items())
    found = {str(place): {str(n): spent[place, n] for n in numbers} for place, numbers in wanted.items()}
    return {"rest": max(0.0, spent["whole"] - whole), "milliseconds": found}


def _medians(runs: Mapping[Any, Callable[[], Any]], device: torch.device) -> dict[Any, float]:
    """Milliseconds of each call, in rounds of all; the first rounds do not count."""
    times: dict[Any, list[float]] = {key: [] for key in runs}
    for _ in range(WARM + ROUNDS):
        for key, run in runs.items():
            times[key].append(_milliseconds(run, device))
    return {key: median(some[WARM:]) for key, some in times.items()}


def _milliseconds(run: Callable[[], Any], device: torch.device) -> float:
    """How long a call takes."""
    begin = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1000 * (time.perf_counter() - begin)


def _run(part: nn.Module, args: Any, kwargs: Any) -> Callable[[], Any]:
    """A call of a module."""
    return lambda: part(*args, **kwargs)


def _entering(model: Any, place: SubBlock, ids: Tensor) -> tuple[Any, Any]:
    """What a sub-block is called with, without a cache."""
    seen: list[tuple[Any, Any]] = []
    part = _module_of(model, place)
    keep = part.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((args, kwargs)), with_kwargs=True
    )
    with hooked(keep):
        model.hidden_states(ids)
    args, kwargs = seen[0]
    return args, {
        name: None if name.startswith("past_key_value") else value for name, value in kwargs.items()
    }


def _module_of(model: Any, place: SubBlock) -> nn.Module:
    """The module of a sub-block; GfoError where it is two."""
    first, last = sub_block_of(model.all_layers[place.layer], place.kind) or (None, None)
    if first is None or first is not last:
        raise GfoError(f"latency: {place} of '{model.name}' is not one module; leave latency out")
    return first


def _shrunk(model: Any, place: SubBlock, number: int, most: int) -> nn.Module:
    """The sub-block, or a copy with so many of its units."""
    part = _module_of(model, place)
    if number == most:
        return part
    names = names_of(model.module)
    holder = _Holder(names[id(part)], copy.deepcopy(part))
    kept = torch.arange(most, device=model.device) < number
    if place.kind == SUB_BLOCKS[0]:
        heads = heads_of(model, place)
        kept = kept.repeat_interleave(heads.queries // most)
        tell_heads(holder.part, number, heads.queries // heads.groups)
    shrink(holder, model, place, kept)
    return holder.part


class _Holder:
    """A part of a model under its name in the whole."""

    def __init__(self, name: str, part: nn.Module) -> None:
        self.name, self.part = name, part

    def get_submodule(self, name: str) -> nn.Module:
        """A module by its name in the whole model."""
        return self.part.get_submodule(name.removeprefix(self.name).removeprefix("."))
