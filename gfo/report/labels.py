"""What to call runs that are compared: by what differs between them."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from gfo.core.recording import walk

NAMES = (  # in this order; they need no key
    "optimizer.name",
    "optimizer",
    "baseline.name",
    "baseline",
    "space.kind",
    "model.name",
    "model",
    "task.kind",
)
MOST_FACTS = 3  # in a label; beyond that the folder's name says more
LONGEST = 28  # characters of a value


def flatten(values: Mapping[str, Any]) -> dict[str, str]:
    """Nested values as "a.b" -> text, without seeds and where the data lie."""
    return {
        path: value if isinstance(value, str) else json.dumps(value)
        for path, key, value in walk(values)
        if key not in ("seed", "data_dir")
    }


def seeds(values: Mapping[str, Any]) -> dict[str, Any]:
    """The seeds among nested values, as "a.b" -> seed."""
    return {path: value for path, key, value in walk(values) if key == "seed"}


def labels(facts: Sequence[Mapping[str, str]], names: Sequence[str]) -> list[str]:
    """A label for each of several runs, all different.

    Optimizer, space, model and task where they differ; if that is not enough, whatever differs; if that is
    much, the names.

    Args:
        facts: of `flatten`, for each run.
        names: of their folders; "" without.
    """
    by_facts = [[_label(each, keys) for each in facts] for keys in _telling_apart(facts)]
    bare = [re.sub(r"[-_.]*seed[-_]?\d+$", "", name) for name in names]
    for found in (*by_facts, bare, list(names)):
        if all(found) and len(set(found)) == len(found):
            return found
    return numbered(by_facts[0])


def _telling_apart(facts: Sequence[Mapping[str, str]]) -> list[list[str]]:
    """Keys that may tell runs apart: those of NAMES that differ, and all that do, if these are few."""
    keys = list(dict.fromkeys(itertools.chain(*facts)))
    differing = [key for key in keys if _differs(key, facts)]
    few = _named(NAMES, differing) or _named(NAMES[:5], keys)
    every = list(dict.fromkeys([*few, *differing]))
    return [few, every] if len(differing) <= MOST_FACTS else [few]


def _differs(key: str, facts: Sequence[Mapping[str, str]]) -> bool:
    return len({each.get(key) for each in facts}) > 1


def _named(names: Sequence[str], keys: Sequence[str]) -> list[str]:
    """Those of the names that are keys."""
    return [name for name in names if name in keys]


def numbered(found: Sequence[str]) -> list[str]:
    """Labels, those that occur more than once with numbers."""
    counts, seen = Counter(found), Counter[str]()
    out = []
    for label in found:
        seen[label] += 1
        more = f"#{seen[label]}" if counts[label] > 1 or not label else ""
        out.append(f"{label or 'run'} {more}".strip())
    return out


def _label(facts: Mapping[str, str], keys: Sequence[str]) -> str:
    parts = []
    for key in keys:
        if key in facts:
            value = facts[key]
            value = value if len(value) <= LONGEST else value[: LONGEST - 1] + "…"
            parts.append(value if key in NAMES else f"{key.split('.')[-1]} {value}")
    return ", ".join(parts)
