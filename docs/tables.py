"""Tables of what has a name, in the README and in docs, from the registry.

    python docs/tables.py --write

writes what stands between `<!-- table: KIND -->` and `<!-- end of table -->` in every page; without `--write`
it names the pages whose tables differ, and the exit code is 1. The sources are those that docstrings cite.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from gfo.core.docstrings import summary
from gfo.core.files import write_whole
from gfo.core.registry import Entry, entries

ROOT = Path(__file__).resolve().parents[1]
PLACE = re.compile(r"(<!-- table: ([\w-]+) -->\n)(.*?)(<!-- end of table -->)", re.S)
LEADERBOARD = ROOT / "docs" / "leaderboard.md"
FAMILIES = ROOT / "docs" / "families.json"
SHORT = ("full", "lora", "cma-biases", "prompt-tuning", "openai-es", "cma", "manual", "random")

_NAME = r"(?:Ben |De )?[A-Z\u00c0-\u00de][\w'-]+"
_AUTHORS = rf"{_NAME}(?:(?:, and|,| and) {_NAME})*(?: et al\.)?"
_YEAR = r"\(?((?:19|20)\d\d)\)?"
# "Spall (1992), doi:...", "Hu et al. 2021, LoRA, arXiv:...", "Sun and Qian: Title, ICML 2022 (arXiv:...)"
_CITATION = re.compile(
    rf"({_AUTHORS})(?:,? {_YEAR}|: [^();]*?, \w+ {_YEAR})(?:[^;()]{{0,160}}?\(?(doi:10\.\S+|arXiv:[\d.]+))?"
)


def pages() -> list[Path]:
    """The README and all pages of docs."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def sources(thing: Any) -> list[str]:
    """The papers that are cited above the arguments of a docstring, or else by its module, or among the
    arguments, as Markdown."""
    module, whole = (inspect.getdoc(each) or "" for each in (import_module(thing.__module__), thing))
    for text in (summary(thing), module, whole):
        found: dict[str, str] = {}
        for authors, year, year_behind_title, address in _CITATION.findall(" ".join(text.split())):
            found.setdefault(f"{_short(authors)} {year or year_behind_title}", _link(address))
        if found:
            return [f"[{name}]({link})" if link else name for name, link in found.items()]
    return []


def _short(authors: str) -> str:
    names = re.split(r", and |, | and ", authors)
    return f"{names[0]} et al." if len(names) > 2 else " and ".join(names)


def _link(address: str) -> str:
    kind, _, number = address.rstrip(".,;:").partition(":")
    if number.endswith(")") and number.count("(") < number.count(")"):
        number = number.rstrip(").,;")
    return {"doi": f"https://doi.org/{number}", "arXiv": f"https://arxiv.org/abs/{number}"}.get(kind, "")


def _table(head: str, rows: Iterator[str]) -> str:
    return "\n".join([f"| {head} |", "|" + "---|" * (head.count("|") + 1), *rows])


def optimizers() -> str:
    """Name, line and sources of all optimizers."""
    found = entries("optimizer").values()
    return _table(
        "name | what it is | source",
        (f"| `{e.name}` | {e.describe()} | {'; '.join(sources(e.load()))} |" for e in found),
    )


def spaces() -> str:
    """Name in configs, class, line and sources of all spaces."""
    found = entries("space").values()
    return _table(
        "name | class | what it is | source",
        (f"| `{e.name}` | `{_class(e)}` | {e.describe()} | {'; '.join(sources(e.load()))} |" for e in found),
    )


def spaces_short() -> str:
    """Class and line of all spaces."""
    found = entries("space").values()
    return _table("space | what it changes", (f"| `{_class(e)}` | {e.describe()} |" for e in found))


def tasks() -> str:
    """Name in configs, class and line of all tasks."""
    found = entries("task").values()
    return _table(
        "name | class | what it is", (f"| `{e.name}` | `{_class(e)}` | {e.describe()} |" for e in found)
    )


def metrics() -> str:
    """Name, line, direction and form of all metrics."""
    found = [(e, e.load()) for e in entries("metric").values()]
    return _table(
        "name | what it is | best | shown as",
        (f"| `{e.name}` | {e.describe()} | {metric.best_word} | {metric.form} |" for e, metric in found),
    )


def plain(kind: str) -> Callable[[], str]:
    """Name and line of all things of a kind."""

    def table() -> str:
        found = entries(kind).values()
        return _table("name | what it is", (f"| `{e.name}` | {e.describe()} |" for e in found))

    return table


def leaderboard() -> str:
    """The rows of the methods SHORT, of the leaderboard's page."""
    text = LEADERBOARD.read_text(encoding="utf-8")
    rows = {row.split("`")[1]: row for row in re.findall(r"^\| `.*$", text, re.M)}
    head = re.findall(r"^\| method \|.*\n\|[-|]+$", text, re.M)[0]
    return "\n".join([head, *(rows[name] for name in SHORT)])


def families() -> str:
    """Families of transformers by their kind and how they are evaluated."""
    found: dict[tuple[str, str], list[str]] = {}
    for family, kind, way, _ in json.loads(FAMILIES.read_text(encoding="utf-8")):
        found.setdefault((kind, way), []).append(f"`{family}`")
    rows = (
        f"| {kind} | {way} | {len(some)} | {', '.join(some)} |" for (kind, way), some in sorted(found.items())
    )
    return _table("kind | how | number | families", rows)


def reasons() -> str:
    """Families that are not evaluated in the fastest way, or not at all, with the reason."""
    rows = json.loads(FAMILIES.read_text(encoding="utf-8"))
    return _table(
        "family | kind | how | why no faster way is right",
        (f"| `{r[0]}` | {r[1]} | {r[2]} | {r[3].replace('|', '/')} |" for r in rows if r[3]),
    )


def _class(entry: Entry) -> str:
    return f"gfo.{entry.load().__name__}"


TABLES: dict[str, Callable[[], str]] = {
    "optimizers": optimizers,
    "spaces": spaces,
    "spaces-short": spaces_short,
    "tasks": tasks,
    "metrics": metrics,
    "baselines": plain("baseline"),
    "models": plain("model"),
    "leaderboard": leaderboard,
    "families": families,
    "families-reasons": reasons,
}


def with_tables(text: str) -> str:
    """A page with its tables as they are to be."""
    return PLACE.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n{found[4]}", text)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="write the tables")
    write = parser.parse_args(arguments).write
    changed = 0
    for page in pages():
        old = page.read_text(encoding="utf-8")
        new = with_tables(old)
        if new != old:
            changed += 1
            what = "written" if write else "differs; run python docs/tables.py --write"
            print(f"{page.relative_to(ROOT)}: {what}")
            if write:
                write_whole(page, new)
    return int(changed > 0 and not write)


if __name__ == "__main__":
    sys.exit(main())
