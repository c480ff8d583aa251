"""The grid of a sweep: keys of a config with several values each, and the runs that these make."""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gfo import baselines
from gfo.config import Config, make_config
from gfo.config.dotted import parsed_list, put
from gfo.config.spaces import DEFAULT
from gfo.core.errors import GfoError, shown
from gfo.optimizers import ONE

Grid = Mapping[str, Sequence[Any]]
Changes = dict[str, Any]

SHORT = {"optimizer": "name", "baseline": "name", "model": "name", "space": "kind"}  # optimizer=cma
BEGINS_ANEW = {"space.kind": DEFAULT, "optimizer.name": ONE, "baseline.name": None}
"""Keys that say what a section is, and what it is where it does not say. With another value the section's
other keys in the base config are of something else, and left out."""
OF_SEARCH = ("optimizer", "racing", "warm_start", "objectives", "limits")  # what no baseline has
MOST_LETTERS = 40  # of a value, in the name of a run


@dataclass(frozen=True)
class Planned:
    """A run of a sweep.

    Attributes:
        name: of its folder.
        changes: key -> value, of the grid.
        config: of the run.
    """

    name: str
    changes: Changes
    config: Config


def parse_grid(texts: Sequence[str]) -> dict[str, list[Any]]:
    """The grid of texts such as "seed=0,1,2".

    Raises:
        GfoError: for one without "=", or a key that is given twice.
    """
    grid: dict[str, list[Any]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals or not key.strip() or not values.strip():
            raise GfoError(f"--grid {text}: write key=value,value, as in --grid seed=0,1,2")
        if key.strip() in grid:
            raise GfoError(f"--grid {key.strip()} is given twice; give all its values at once")
        grid[key.strip()] = parsed_list(values)
    return grid


def plan(base: Mapping[str, Any], grid: Grid, name: str) -> list[Planned]:
    """The runs of a grid, by its keys in their order.

    `baseline.name` does not multiply: its values stand beside the searches, each with the grid's other keys
    that a baseline has: not those of an optimizer, and of a space where it needs one.

    Args:
        base: a config as nested values.
        grid: key -> values.
        name: what errors call the base config.

    Raises:
        GfoError: for a key or value that no config takes, or a grid of nothing.
    """
    full = {_full(key, values): _values(key, values) for key, values in grid.items()}
    if not full:
        raise GfoError("grid: it is empty; give keys with values, such as seed=0,1,2")
    found: list[Planned] = []
    taken: set[str] = set()
    for changes in _points(base, full):
        at = ", ".join(f"{key}={_text(value)}" for key, value in changes.items())
        config = make_config(_changed(base, changes, at), f"{name} with {at}")
        found.append(Planned(_free(_name(changes), taken), changes, config))
    return found


def _values(key: str, values: Any) -> list[Any]:
    """Those of a key, each once."""
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        raise GfoError(f"grid: {key} = {shown(values)}; give a list of values, such as [0, 1, 2]")
    _check_once(key, values)
    return list(values)


def _check_once(key: str, values: Sequence[Any]) -> None:
    """Raise GfoError for a value that a key has twice."""
    texts = [json.dumps(value, sort_keys=True, default=repr) for value in values]
    twice = next((text for text in texts if texts.count(text) > 1), None)
    if twice is not None:
        raise GfoError(f"grid: {key} has {twice} twice; give each value once")


def _full(key: str, values: Any) -> str:
    """The key that names are values of: optimizer.name for optimizer."""
    names = not isinstance(values, str) and all(isinstance(value, str) for value in values)
    return f"{key}.{SHORT[key]}" if names and key in SHORT else key


def _points(base: Mapping[str, Any], grid: Grid) -> Iterator[Changes]:
    """What each run changes: the searches, and then each baseline."""
    of_baselines = {key: values for key, values in grid.items() if _section(key) == "baseline"}
    others = {key: values for key, values in grid.items() if key not in of_baselines}
    if not of_baselines or "baseline" not in base or _searches(others):
        yield from _product(others)
    if of_baselines:
        yield from _baselines(base, of_baselines, others)


def _baselines(base: Mapping[str, Any], of_baselines: Grid, others: Grid) -> Iterator[Changes]:
    """What each baseline changes, beside it what it has of the other keys."""
    for changes in _product(of_baselines):
        beside = {key: values for key, values in others.items() if _has(changes, base, _section(key))}
        for more in _product(beside):
            yield {**changes, **more}


def _product(grid: Grid) -> Iterator[Changes]:
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def _has(changes: Changes, base: Mapping[str, Any], section: str) -> bool:
    """Whether a section says something of the baseline that changes name."""
    if section != "space":
        return section not in OF_SEARCH
    found = changes.get("baseline.name") or {**base, **changes}.get("baseline", {}).get("name", "")
    return baselines.needs_space(str(found))


def _section(key: str) -> str:
    return key.split(".")[0].strip()


def _changed(base: Mapping[str, Any], changes: Changes, at: str) -> dict[str, Any]:
    """The base config's values with changes, sections before what is in them."""
    values = copy.deepcopy(dict(base))
    for section in _left_out(changes):
        values.pop(section, None)
    for key in sorted(changes, key=lambda key: (key.count("."), key not in BEGINS_ANEW)):
        section, _, last = key.partition(".")
        if key in BEGINS_ANEW and dict(values.get(section, {})).get(last, BEGINS_ANEW[key]) != changes[key]:
            values[section] = {}
        put(values, key, copy.deepcopy(changes[key]), f"grid: {at}")
    return values


def _left_out(changes: Changes) -> tuple[str, ...]:
    """The sections of the base config that are not of a run with these changes."""
    of_baseline = any(_section(key) == "baseline" for key in changes)
    return OF_SEARCH if of_baseline else ("baseline",) * _searches(changes)


def _searches(changes: Mapping[str, Any]) -> bool:
    """Whether changes are of an optimizer, so that a baseline of the base config is not run."""
    return any(_section(key) in OF_SEARCH for key in changes)


def _name(changes: Changes) -> str:
    """A folder's name of what a run changes: cma_seed=0."""
    parts = []
    for key, value in changes.items():
        last = key.rsplit(".", 1)[-1]
        text = re.sub(r"[^\w.+-]+", "-", _text(value)).strip("-.")[:MOST_LETTERS]
        parts.append(text if key in BEGINS_ANEW or last in SHORT.values() else f"{last}={text}")
    return "_".join(parts) or "base"


def _text(value: Any) -> str:
    """A value in a line."""
    if isinstance(value, Mapping):
        return str(value.get("kind") or value.get("name") or json.dumps(value, default=repr))
    return value if isinstance(value, str) else json.dumps(value, default=repr)


def _free(name: str, taken: set[str]) -> str:
    """The name, with a number where it is taken."""
    found = next(each for each in _numbered(name) if each not in taken)
    taken.add(found)
    return found


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}-{number}" for number in itertools.count(2))
