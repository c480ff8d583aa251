"""Configs to begin with, one for each kind of task."""

from __future__ import annotations

from gfo.core.errors import check_name
from gfo.core.reading import read_text
from gfo.tasks.parts.sources import DATA

EXAMPLES = DATA / "examples"


def example(kind: str) -> str:
    """The TOML of a config for a kind of task, whole and with comments.

    Raises:
        GfoError: for an unknown kind.
    """
    check_name("task", kind, sorted(path.stem for path in EXAMPLES.glob("*.toml")))
    return read_text(EXAMPLES / f"{kind}.toml", "example")
