"""What a shell completes: the names of optimizers, spaces, tasks, metrics and others, and keys of configs."""

from __future__ import annotations

from collections.abc import Iterable

SPLITS = ("train", "dev", "test")
AXES = ("evaluations", "forward_tokens", "seconds")
BANDS, SIZES = ("quartiles", "mean", "seeds"), ("screen", "single", "double")
NAMED = {  # the key of a config that takes a name -> its kind
    "optimizer.name": "optimizer",
    "baseline.name": "baseline",
    "space.kind": "space",
    "task.kind": "task",
    "model.name": "model",
    "selection.metric": "metric",
    "stop.metric": "metric",
}
OPTIONS = {"optimizer.options": "optimizer", "baseline.options": "baseline", "space": "space", "task": "task"}
"""The section of a config that takes the options of what it names -> the kind of that."""


def of(kind: str, incomplete: str) -> list[str]:
    """The names of a kind that begin so."""
    from gfo.core.registry import entries

    return _begun(entries(kind), incomplete)


def optimizers(incomplete: str) -> list[str]:
    """Optimizers."""
    return of("optimizer", incomplete)


def demos(incomplete: str) -> list[str]:
    """What `gfo demo` can search."""
    from gfo.config import DEMOS

    return _begun(DEMOS, incomplete)


def models(incomplete: str) -> list[str]:
    """Built-in models."""
    return of("model", incomplete)


def tasks(incomplete: str) -> list[str]:
    """Tasks."""
    return of("task", incomplete)


def metrics(incomplete: str) -> list[str]:
    """Metrics."""
    return of("metric", incomplete)


def data_sets(incomplete: str) -> list[str]:
    """Public data sets."""
    from gfo.tasks.parts.public import SETS

    return _begun(SETS, incomplete)


def everything(incomplete: str) -> list[str]:
    """All names that `gfo list` explains."""
    from gfo.config import listing

    return _begun({name for found in listing.names().values() for name in found}, incomplete)


def keys(incomplete: str) -> list[str]:
    """Keys of a config, and behind "=" the names that some of them take."""
    from gfo.config import Config

    key, equals, begun = incomplete.partition("=")
    if equals:
        kind = NAMED.get(key)
        return [] if kind is None else [f"{key}={name}" for name in of(kind, begun)]
    known = [f"{section}." for section in OPTIONS]
    for name, field in Config.model_fields.items():
        inner = getattr(field.annotation, "model_fields", None)
        known += [f"{name}="] if inner is None else [f"{name}.{each}=" for each in inner]
    return _begun({*known, *(f"{each}=" for each in NAMED), *_options(incomplete), *_logs()}, incomplete)


def _options(incomplete: str) -> Iterable[str]:
    """Options of all that a kind has, once its section is written out: classes are loaded for them."""
    from gfo.config import listing
    from gfo.core.registry import entries

    for section, kind in OPTIONS.items():
        if incomplete.startswith(f"{section}."):
            for entry in entries(kind).values():
                yield from (f"{section}.{option.name}=" for option in listing.describe(entry).options)


def _logs() -> Iterable[str]:
    """Arguments of callbacks that log."""
    from gfo.config.logs import LOGS, arguments

    return [f"log.{name}.{argument}=" for name in LOGS for argument in arguments(name)]


def facts(incomplete: str) -> list[str]:
    """Filters of `gfo runs`: KEY=VALUE."""
    from gfo.run.runs import FACTS

    key, equals, begun = incomplete.partition("=")
    if equals:
        kind = "optimizer" if key == "method" else key
        return [f"{key}={name}" for name in of(kind, begun)] if kind in (*NAMED.values(),) else []
    return _begun([f"{name}=" for name in ("optimizer", *FACTS)], incomplete)


def numbers(incomplete: str) -> list[str]:
    """What `gfo runs` sorts by: costs, and metrics on test and dev."""
    from gfo.core.registry import entries
    from gfo.run.runs import NUMBERS

    scores = [f"{split}.{metric}" for split in SPLITS[::-1] for metric in entries("metric")]
    return _begun([*NUMBERS, *scores], incomplete)


def splits(incomplete: str) -> list[str]:
    """Splits of a task."""
    return _begun(SPLITS, incomplete)


def axes(incomplete: str) -> list[str]:
    """What figures have along x."""
    return _begun(AXES, incomplete)


def bands(incomplete: str) -> list[str]:
    """What stands for several seeds in figures."""
    return _begun(BANDS, incomplete)


def sizes(incomplete: str) -> list[str]:
    """Sizes of figures."""
    return _begun(SIZES, incomplete)


def forms(incomplete: str) -> list[str]:
    """Forms of an export."""
    return _begun(("peft", "merged", "gguf", "prompt-text"), incomplete)


def _begun(names: Iterable[str], incomplete: str) -> list[str]:
    return sorted(name for name in names if name.startswith(incomplete))
