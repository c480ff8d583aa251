"""The documentation as a site: `sphinx-build -W --keep-going -c docs . build/site` in the project's root.

Sphinx with furo and MyST: plain Markdown that is read as it is, too, and tools that have been kept for many
years. The root is the source folder, so that links to notebooks and benchmarks hold.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import gfo  # noqa: E402

project, author, release = "gfo", "The gfo developers", gfo.__version__
copyright = f"2026, {author}"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
root_doc = "docs/index"
include_patterns = [
    "docs/*.md", "docs/reference.rst", "notebooks/*.ipynb", "benchmarks/README.md",
    "benchmarks/results/**/*.md", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md",
]  # fmt: skip
html_theme, html_title = "furo", f"gfo {release}"
html_show_sourcelink = False
html_static_path, html_css_files = ["static"], ["site.css"]
nb_execution_mode = "off"  # the notebooks hold their outputs
myst_heading_anchors = 4  # as GitHub names them
default_role = "literal"
suppress_warnings = ["toc.not_included"]  # of tables that pages link to
autodoc_typehints = "none"  # signatures have them
autodoc_member_order = "bysource"
REFERENCE = ROOT / "docs" / "reference.rst"

# title of a part of the menu -> its pages, without the folder docs
MENU = {
    "Using gfo": "your-data tasks metrics models images spaces structure compression merging optimizers "
    "fronts hyperparameters runs scale servers baselines export command-line",
    "Understanding it": "computed-once results leaderboard others faq gpu security architecture",
    "Extending it": "extending reference",
}
LETTER = re.compile(r"^(\s*\w+: )(\w\.$)")
UNIT = re.compile(r"(?<=\d) (?=[%±])|(?<=±) (?=\d)")
LINK = re.compile(r"\[([^\]\[]+)\]\(([^)#\s:]+)\)")


def write_reference(app: Any) -> None:
    """A page with every public name, from its docstring."""
    lines = [*_title("Reference", "="), f"Every public name of ``gfo`` {release}.", ""]
    for name in sorted(gfo.__all__, key=str.lower):
        lines += _entry(f"gfo.{name}", getattr(gfo, name))
    REFERENCE.write_text("\n".join(lines), encoding="utf-8")


def _entry(name: str, thing: Any) -> list[str]:
    """What documents a name: a class with its methods, a function, a module with what is public in it."""
    if isinstance(thing, ModuleType):
        public = getattr(thing, "__all__", [each for each in vars(thing) if not each.startswith("_")])
        inner = [each for each in public if _is_own(thing, getattr(thing, each, None))]
        parts = [line for each in inner for line in _directive(f"{name}.{each}", getattr(thing, each))]
        return [*_title(name, "-"), f".. automodule:: {name}", "", *parts]
    return [*_title(name, "-"), *_directive(name, thing)] if callable(thing) else []


def _is_own(module: ModuleType, thing: Any) -> bool:
    return callable(thing) and str(getattr(thing, "__module__", "")).startswith(module.__name__)


def _directive(name: str, thing: Any) -> list[str]:
    if inspect.isclass(thing):
        return [f".. autoclass:: {name}", "   :members:", ""]
    return [f".. autofunction:: {name}", ""]


def _title(words: str, line: str) -> list[str]:
    return [words, line * len(words), ""]


def read_source(app: Any, name: str, source: list[str]) -> None:
    """The menu, folders, which a site does not have, by their names, and numbers of tables in a line."""
    folder = (ROOT / name).parent
    source[0] = "".join(map(unbroken, source[0].splitlines(keepends=True)))
    source[0] = LINK.sub(lambda found: _named(folder, found), source[0])
    if name == root_doc:
        source[0] += "".join(_menu(title, pages.split()) for title, pages in MENU.items())
        notebooks = sorted(f"../notebooks/{path.stem}" for path in (ROOT / "notebooks").glob("*.ipynb"))
        more = ["../README", "../benchmarks/README", "../CHANGELOG", "../CONTRIBUTING", "../SECURITY"]
        source[0] += _menu("Notebooks", notebooks) + _menu("More", more)


def unbroken(line: str) -> str:
    """A row of a table whose numbers stay with their units and errors."""
    return UNIT.sub("\N{NO-BREAK SPACE}", line) if line.startswith("|") else line


def _named(folder: Path, link: re.Match[str]) -> str:
    words, target = link.groups()
    path = (folder / target).resolve()
    return f"{words} (`{path.relative_to(ROOT)}`)" if path.is_dir() and ROOT in path.parents else link.group()


def keep_letters(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """ "dim: d." is a letter in a docstring; reStructuredText would begin a list with it."""
    lines[:] = [LETTER.sub(r"\1\\\2", line) for line in lines]


def _menu(title: str, pages: Any) -> str:
    return "\n\n```{toctree}\n:hidden:\n:caption: " + title + "\n\n" + "\n".join(pages) + "\n```\n"


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("builder-inited", write_reference)
    app.connect("source-read", read_source)
    app.connect("autodoc-process-docstring", keep_letters, priority=100)  # before napoleon
