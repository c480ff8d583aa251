"""What the benchmarks of whole runs share: a folder a run, those that are missing run, a table of all."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import shared
from gfo.core.errors import GfoError
from gfo.core.files import write_whole

Results = dict[str, dict[str, Any]]
"""Name of the run -> its result.json."""


def finished(folder: Path) -> Results:
    """The finished runs in a folder: those that were scored on test.

    Raises:
        GfoError: if there is none.
    """
    read = {
        path.parent.name: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("*/result.json"))
    }
    found = {name: result for name, result in read.items() if "test" in result["scores"].get("after", {})}
    if not found:
        raise GfoError(f"--out {folder}: it holds no finished run; run some first")
    return found


def main(
    arguments: Sequence[str] | None,
    *,
    doc: str,
    option: str,
    names: Sequence[str],
    run: Callable[[str, int, Path, Path], None],
    table: Callable[[Path], str],
    results: Path,
) -> int:
    """The command line; the exit code.

    Args:
        arguments: those of the command line, or None for the process's own.
        doc: of the script; its first line is the description.
        option: what its runs differ in, "method" say; `--method` chooses some of `names`.
        names: of the runs.
        run: called with a name, a seed, the folder of the data sets and that of the run.
        table: Markdown of the runs in a folder.
        results: the folder of the runs and the table.
    """

    def parse(arguments: Sequence[str]) -> argparse.Namespace:
        parser = shared.Parser(doc)
        parser.add_argument("--data", type=Path, help="folder of the data sets; without it, the table alone")
        more = f"{', '.join(names)}; may be repeated; default: all"
        parser.add_argument(f"--{option}", dest="chosen", action="append", help=more)
        parser.add_argument("--seed", type=int, default=0, help="root seed (default %(default)s)")
        parser.add_argument("--out", type=Path, default=results, help="folder of the runs and the table")
        options = parser.parse_args(arguments)
        options.chosen = shared.chosen(f"--{option}", options.chosen, names)
        return options

    def do(options: argparse.Namespace) -> None:
        for name in options.chosen if options.data else ():
            out = options.out / f"{name}--seed{options.seed}"
            if not (out / "result.json").is_file():
                run(name, options.seed, options.data, out)
        text = table(options.out)
        write_whole(options.out / "table.md", text)
        print(text)

    return shared.command(arguments, parse, do)
