"""What has a name: optimizers, spaces, tasks, metrics, baselines and models.

A line of `gfo.core.names`, a call of `register`, or an entry point of another package is all that a new one
needs: configs, `gfo list`, the public names and the tables of the docs come from them. Nothing is imported
before it is asked for.

Another package's lines stand in its pyproject.toml:

    [project.entry-points."gfo.plugins"]
    "optimizer.one-plus-lambda" = "mypackage.one_plus_lambda:OnePlusLambda"
"""

from __future__ import annotations

import inspect
import re
import warnings
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module, metadata
from typing import Any

from gfo.core.checking import checked
from gfo.core.errors import GfoError, GfoWarning, check_name, unknown_name
from gfo.core.names import BUILT_IN

KINDS = tuple(BUILT_IN)
GROUP = "gfo.plugins"
FAMILY = ":<name>"  # how the name of a family ends
PLACE = re.compile(r"[\w.]+:\w+")


@dataclass(frozen=True)
class Entry:
    """A thing with a name.

    Attributes:
        kind: one of KINDS.
        name: as configs have it.
        place: "module:attribute", where it is found; "" for one that was registered as an object.
        line: what it is, in a line; "" takes the first line of its docstring.
        thing: the object itself, of one that was registered as such.
        member: of a family, which one of it.
    """

    kind: str
    name: str
    place: str
    line: str = ""
    thing: Any = None
    member: str = ""

    @property
    def is_family(self) -> bool:
        """Whether it stands for all names that begin like its own."""
        return self.name.endswith(FAMILY)

    def load(self) -> Any:
        """The class or object itself.

        Raises:
            GfoError: if it cannot be imported.
        """
        found = self.thing if self.thing is not None else self._imported()
        return found(self.member) if self.member else found

    def describe(self) -> str:
        """A line on it; on one that cannot be loaded, why."""
        try:
            return self.line or next(iter((inspect.getdoc(self.load()) or "").splitlines()), "")
        except GfoError as error:
            return str(error)

    def _imported(self) -> Any:
        module, _, attribute = self.place.partition(":")
        try:
            return getattr(import_module(module), attribute)
        except Exception as error:  # what a package of others raises when it is imported
            if module.split(".")[0] == "gfo":
                raise
            raise GfoError(
                f"{self.kind} '{self.name}': {self.place} cannot be loaded ({error}); mend the package, or "
                "remove it"
            ) from None


_REGISTERED: dict[tuple[str, str], Entry] = {}


@checked
def register(kind: str, name: str, thing: Any, line: str = "") -> None:
    """Give a name to a class (or factory) of yours, for configs, the command line and `gfo list`.

    The name is known in this process. To have it in each, and on the command line, name it in your package's
    entry points: see docs/extending.md.

    Args:
        kind: "optimizer", "space", "task", "metric", "baseline" or "model".
        name: a new one of that kind. A class that is defined again, as in a notebook, takes its name over.
        thing: the class, factory or object, or "module:attribute" to import it when it is asked for. Of a
            model a folder or a hub id.
        line: what it is; by default the first line of its docstring.

    Raises:
        GfoError: for an unknown kind, a name that there is already, or a thing that cannot be one.
    """
    check_name("kind", kind, KINDS)
    if not name.strip():
        raise GfoError(f"register: name = {name!r}; give a text, such as 'my-{kind}'")
    known = _entries() | _REGISTERED
    if (kind, name) in known and _origin(known[kind, name].thing) != _origin(thing):
        raise GfoError(f"{kind} '{name}' is registered already; choose another name")
    if isinstance(thing, str) and PLACE.fullmatch(thing):
        _REGISTERED[kind, name] = Entry(kind, name, thing, line)
        return
    if kind not in ("metric", "model") and not callable(thing):
        raise GfoError(
            f"{kind} '{name}': {thing!r} cannot be called; give a class, a function, or 'module:attribute'"
        )
    _REGISTERED[kind, name] = Entry(kind, name, "", line, thing)


def entries(kind: str) -> dict[str, Entry]:
    """name -> entry of all things of a kind, by name."""
    check_name("kind", kind, KINDS)
    found = {**_entries(), **_REGISTERED}
    return {name: entry for (of, name), entry in sorted(found.items()) if of == kind}


def find(kind: str, name: str) -> Entry:
    """The entry of that name, or the one of that name in a family.

    Raises:
        GfoError: if there is none; suggests the nearest name.
    """
    known = entries(kind)
    if name in known and not known[name].is_family:
        return known[name]
    family, _, member = name.partition(":")
    if member and family + FAMILY in known and member != FAMILY[1:]:
        return replace(known[family + FAMILY], name=name, member=member)
    raise unknown_name(kind, name, known)


def _origin(thing: Any) -> tuple[str, str] | None:
    """Where something was defined; two classes of one origin are one, written twice."""
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    return None if thing is None or name is None or name == "<lambda>" else (str(module), str(name))


@cache
def _entries() -> dict[tuple[str, str], Entry]:
    """What gfo has, and what other packages' entry points name."""
    found = {
        (kind, name): Entry(kind, name, f"gfo.{place}", line)
        for kind, lines in BUILT_IN.items()
        for name, (place, line) in lines.items()
    }
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
