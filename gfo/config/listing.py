"""What `gfo list` shows: all names, or all that is known of one."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from gfo.config.sections import Section
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
    "seed": "of all that it draws, a whole number; the root seed's by default.",
    "data_dir": "paths are relative to it; the working folder by default, gfo:NAME for data of gfo's.",
    "from_peft": "the folder of a PEFT adapter to search around; none by default.",
    "weights": "of the tasks, in their order, positive; 1 each by default.",
}

SECTIONS: dict[str, Callable[[Entry], type[Section]]] = {"space": space_section, "task": task_section}


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
    return [describe(entry) for entry in _entries_of(name)]


def _entries_of(name: str) -> list[Entry]:
    """Those of each kind that has the name."""
    known = names()
    found = [of[name] for of in known.values() if name in of]
    if not found and ":" in name:  # of a family
        found = [find("optimizer", name)]
    if not found:
        raise unknown_name("name", name, {each for of in known.values() for each in of})
    return found


def describe(entry: Entry) -> Description:
    """All that is known of a thing with a name."""
    thing = entry.load()
    if isinstance(thing, Metric):
        return Description(entry, _of_metric(entry, thing), (), "")
    if not callable(thing):
        return Description(entry, _of_value(entry, thing), (), "")
    options = () if entry.kind == "loss" else tuple(_options(entry, thing))
    return Description(entry, summary(thing) or entry.line, options, source(thing))


def _of_metric(entry: Entry, metric: Metric) -> str:
    best = f"the {'lower' if metric.lower_is_better else 'higher'} the better, shown as {metric.form}"
    return f"{entry.line or metric.name}; {best}"


def _of_value(entry: Entry, value: Any) -> str:
    """Its line, and the fields of a dataclass."""
    named = fields(value) if is_dataclass(value) else ()
    facts = [f"{field.name}: {getattr(value, field.name)}" for field in named]
    return "\n".join([entry.line, *facts]).strip() or str(value)


def _options(entry: Entry, thing: Any) -> Iterable[Option]:
    """Keys of a section of a config, or keyword arguments."""
    if entry.kind in SECTIONS:
        return _keys(SECTIONS[entry.kind](entry), arguments(thing))
    return _keyword_arguments(thing)


def _keys(section: type[Section], said: Mapping[str, str]) -> Iterable[Option]:
    """The keys of a section but its kind, with what is said of arguments."""
    of_rows = arguments(Data.load) | arguments(Data, "Attributes")
    for name, field in section.model_fields.items():
        if name != "kind":
            default = "" if field.is_required() else repr(field.get_default(call_default_factory=True))
            line = OF_SECTIONS.get(name) or said.get(name) or of_rows.get(name, "")
            yield Option(name, _written(field.annotation), default, line)


def _keyword_arguments(thing: Any) -> Iterable[Option]:
    """Those that have to be named; of a recipe of AdamW the fields."""
    said = arguments(thing)
    for p in inspect.signature(thing).parameters.values():
        if p.name == "recipe":
            yield from _fields(p.default)
        elif p.kind is p.KEYWORD_ONLY:
            default = "" if p.default is p.empty else repr(p.default)
            yield Option(p.name, _written(p.annotation), default, said.get(p.name, ""))


def _fields(recipe: Any) -> Iterable[Option]:
    said = arguments(type(recipe), "Attributes")
    for field in fields(recipe):
        value = repr(getattr(recipe, field.name))
        yield Option(field.name, _written(field.type), value, said.get(field.name, ""))


def _written(hint: Any) -> str:
    """A type as hints write it."""
    if get_origin(hint) in WRITTEN:
        return WRITTEN[get_origin(hint)](*get_args(hint))
    if hint in PLAIN:
        return PLAIN[hint]
    return (
        hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")
    )


def _union(*hints: Any) -> str:
    return " | ".join(map(_written, hints))


def _list(hint: Any) -> str:
    inner = _written(hint)
    return "list of sections" if inner.endswith("Section") else f"list[{inner}]"


def _annotated(hint: Any, *notes: Any) -> str:
    return _written(hint)


WRITTEN: dict[Any, Callable[..., str]] = {
    Union: _union,
    types.UnionType: _union,
    list: _list,
    Annotated: _annotated,
}
"""Origin of a hint -> how it is written, by its arguments."""
PLAIN = {inspect.Parameter.empty: "", type(None): "None"}
