"""The one table of what has a name: optimizers, spaces, tasks, metrics, baselines and models.

A line here, or an entry point of another package, is all that a new one needs: configs, `gfo list`, the
public names and the tables of the docs come from it. Nothing is imported before it is asked for.

Another package's lines stand in its pyproject.toml:

    [project.entry-points."gfo.plugins"]
    "optimizer.one-plus-lambda" = "mypackage.one_plus_lambda:OnePlusLambda"
"""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata
from typing import Any

from gfo.core.errors import GfoError, GfoWarning, check_name, unknown_name

KINDS = ("optimizer", "space", "task", "metric", "baseline", "model")
GROUP = "gfo.plugins"

# (kind, name, "module:attribute", a line on it)
_BUILT_IN: tuple[tuple[str, str, str, str], ...] = ()


@dataclass(frozen=True)
class Entry:
    """A thing with a name.

    Attributes:
        kind: one of KINDS.
        name: as configs have it.
        place: "module:attribute", where it is found; "" for one that was registered as an object.
        line: what it is, in a line; "" takes the first line of its docstring.
        thing: the object itself, of one that was registered as such.
    """

    kind: str
    name: str
    place: str
    line: str = ""
    thing: Any = None

    def load(self) -> Any:
        """The class or object itself.

        Raises:
            GfoError: if it cannot be imported.
        """
        if self.thing is not None:
            return self.thing
        module, _, attribute = self.place.partition(":")
        try:
            return getattr(import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            if module.split(".")[0] == "gfo":
                raise
            raise GfoError(
                f"{self.kind} '{self.name}': {self.place} cannot be loaded ({error}); mend the package, or "
                "remove it"
            ) from None

    def describe(self) -> str:
        """A line on it."""
        doc = "" if self.line else inspect.getdoc(self.load()) or ""
        return self.line or next(iter(doc.splitlines()), "")


_REGISTERED: dict[tuple[str, str], Entry] = {}


def register(kind: str, name: str, thing: Any, line: str = "") -> None:
    """Give a name to a class (or factory) of yours, for configs, the command line and `gfo list`.

    Args:
        kind: "optimizer", "space", "task", "metric", "baseline" or "model".
        name: a new one of that kind.
        thing: the class, factory or object, or "module:attribute" to import it when it is asked for.
        line: what it is; by default the first line of its docstring.

    Raises:
        GfoError: for an unknown kind, or a name that there is already.
    """
    check_name("kind", kind, KINDS)
    if not name or (kind, name) in _entries() | _REGISTERED:
        raise GfoError(f"{kind} '{name}' is registered already; choose another name")
    place, thing = (thing, None) if isinstance(thing, str) else ("", thing)
    _REGISTERED[kind, name] = Entry(kind, name, place, line, thing)


def entries(kind: str) -> dict[str, Entry]:
    """name -> entry of all things of a kind, by name."""
    check_name("kind", kind, KINDS)
    found = {**_entries(), **_REGISTERED}
    return {name: entry for (of, name), entry in sorted(found.items()) if of == kind}


def find(kind: str, name: str) -> Entry:
    """The entry of that name.

    Raises:
        GfoError: if there is none; suggests the nearest name.
    """
    known = entries(kind)
    if name not in known:
        raise unknown_name(kind, name, known)
    return known[name]


@cache
def _entries() -> dict[tuple[str, str], Entry]:
    """What gfo has, and what other packages' entry points name."""
    found = {(kind, name): Entry(kind, name, place, line) for kind, name, place, line in _BUILT_IN}
    for point in metadata.entry_points(group=GROUP):
        kind, _, name = point.name.partition(".")
        if kind not in KINDS or not name or (kind, name) in found:
            what = (
                "is there already" if (kind, name) in found else f"should be KIND.NAME, of {', '.join(KINDS)}"
            )
            warnings.warn(
                f"entry point '{point.name}' of {GROUP} is left out: it {what}", GfoWarning, stacklevel=2
            )
            continue
        found[kind, name] = Entry(kind, name, point.value)
    return found
