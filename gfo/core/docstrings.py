"""What a docstring says: of the thing, of its arguments, and where it comes from."""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from typing import Any

SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Yields):$", re.M)
ARGUMENT = re.compile(r"^    (\w[\w, ]*): ", re.M)
# an identifier, or a year behind names
SOURCE = re.compile(r"arXiv:|doi:|https?://|inria-\d|\b[A-Z]\w+\b.{0,120}?\b(?:19|20)\d\d\b")


def summary(thing: Any) -> str:
    """The docstring without its sections, in lines as they are."""
    return str(SECTION.split(_doc(thing))[0]).strip()


def arguments(thing: Any, section: str = "Args") -> dict[str, str]:
    """argument -> what that section of the docstring, and those of base classes, say of it, in a line."""
    found: dict[str, str] = {}
    for each in reversed(inspect.getmro(thing)) if inspect.isclass(thing) else [thing]:
        parts = SECTION.split(inspect.cleandoc(each.__doc__ or ""))
        if section not in parts:
            continue
        pieces = ARGUMENT.split(parts[parts.index(section) + 1])
        for names, said in zip(pieces[1::2], pieces[2::2], strict=True):
            found |= {name.strip(): " ".join(said.split()) for name in names.split(",")}
    return found


def source(thing: Any) -> str:
    """What names a paper or another origin, of the thing's docstring, or else of its module's."""
    module = sys.modules.get(getattr(thing, "__module__", None) or "")
    for text in (summary(thing), _doc(module) if module else ""):
        paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]
        found = [part for part in paragraphs if SOURCE.search(part)]
        if found:
            return textwrap.shorten(" ".join(found), 600, placeholder=" ...")
    return ""


def _doc(thing: Any) -> str:
    return inspect.getdoc(thing) or ""
