"""What `gfo list` shows: all names, or all that is known of one."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from gfo.config.spaces import space_section
from gfo.config.tasks import task_section
from gfo.core.docstrings import arguments, source, summary
from gfo.core.errors import unknown_name
from gfo.core.metric import Metric
from gfo.core.registry import KINDS, Entry, entries, find
from gfo.tasks.parts.base import Data
from gfo.tasks.parts.losses import LOSSES

# keys that are no arguments, or of another constructor
OF_SECTIONS = {
    "seed": "replaces the root seed for all that it draws.",
    "data_dir": "paths are relative to it; the working folder by default, gfo:NAME for data of gfo's.",
    "from_peft": "the folder of a PEFT adapter to search around.",
}


@dataclass(frozen=True)
class Option:
    """An option, or a key of a config.

    Attributes:
        name: of the key.
        type: as hints write it.
        default: as Python writes it; "" for one that must be given.
        line: what it is.
    """

    name: str
    type: str
    default: str
    line: str


@dataclass(frozen=True)
class Description:
    """All that is known of a name.

    Attributes:
        entry: of the registry.
        text: what it is.
        options: what it takes.
        source: the paper or library that it is from; "" if none is named.
    """

    entry: Entry
    text: str
    options: tuple[Option, ...]
    source: str


def names() -> dict[str, dict[str, Entry]]:
    """ "optimizers", "spaces" ... -> name -> entry; and the losses that tasks on labels take."""
    found = {f"{kind}s": entries(kind) for kind in KINDS}
    found["losses"] = {name: Entry("loss", name, "", thing=loss) for name, loss in LOSSES.items()}
    return found


def named(name: str) -> list[Description]:
    """What is known of a name, of each kind that has it.

    Raises:
        GfoError: if no kind has it; suggests the nearest name.
    """
    known = names()
    found = [entry for of in known.values() for each, entry in of.items() if each == name]
    if not found and ":" in name:  # of a family
        found = [find("optimizer", name)]
    if not found:
        raise unknown_name("name", name, {each for of in known.values() for each in of})
    return [describe(entry) for entry in found]


def describe(entry: Entry) -> Description:
    """All that is known of a thing with a name."""
    thing = entry.load()
    if isinstance(thing, Metric):
        best = f"the {'lower' if thing.lower_is_better else 'higher'} the better, shown as {thing.form}"
        return Description(entry, f"{entry.line or thing.name}; {best}", (), "")
    if not callable(thing):
        facts = (
            [f"{field.name}: {getattr(thing, field.name)}" for field in fields(thing)]
            if is_dataclass(thing)
            else []
        )
        return Description(entry, "\n".join([entry.line, *facts]).strip() or str(thing), (), "")
    options = () if entry.kind == "loss" else tuple(_options(entry, thing))
    return Description(entry, summary(thing) or entry.line, options, source(thing))


def _options(entry: Entry, thing: Any) -> Iterable[Option]:
    """Keys of a section of a config, or keyword arguments."""
    said, of_rows = arguments(thing), arguments(Data.load) | arguments(Data, "Attributes")
    if entry.kind in ("space", "task"):
        section = space_section(entry) if entry.kind == "space" else task_section(entry)
        for name, field in section.model_fields.items():
            default = "" if field.is_required() else repr(field.get_default(call_default_factory=True))
            if name != "kind":
                line = said.get(name) or OF_SECTIONS.get(name) or of_rows.get(name, "")
                yield Option(name, _written(field.annotation), default, line)
        return
    for p in inspect.signature(thing).parameters.values():
        if p.name == "recipe":  # of AdamW: its fields are options
            own = arguments(type(p.default), "Attributes")
            for each in fields(p.default):
                value = repr(getattr(p.default, each.name))
                yield Option(each.name, _written(each.type), value, own.get(each.name, ""))
        elif p.kind is p.KEYWORD_ONLY:
            default = "" if p.default is p.empty else repr(p.default)
            yield Option(p.name, _written(p.annotation), default, said.get(p.name, ""))


def _written(hint: Any) -> str:
    """A type as hints write it."""
    if hint is inspect.Parameter.empty:
        return ""
    if get_origin(hint) in (Union, types.UnionType):
        return " | ".join(_written(each) for each in get_args(hint))
    if get_origin(hint) is list:
        inner = _written(get_args(hint)[0])
        return "list of sections" if inner.endswith("Section") else f"list[{inner}]"
    if get_origin(hint) is Annotated:
        return _written(get_args(hint)[0])
    if hint is type(None):
        return "None"
    return (
        hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")
    )
