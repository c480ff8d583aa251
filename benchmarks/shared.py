"""What all benchmarks share: the command line, progress, tables, and where results are from."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

from gfo.core.errors import GfoError, unknown_name
from gfo.core.files import write_whole
from gfo.run.environment import hardware, versions

EXPERIMENTS = Path(__file__).parent / "experiments"
RESULTS = Path(__file__).parent / "results"
FEWEST_ROUNDS = 3  # of a measurement that is written down
STOPPED = 130  # the exit code after Ctrl-C, as a shell has it


class UnusableError(Exception):
    """What was measured means nothing; the exit code is 1."""


class Parser(argparse.ArgumentParser):
    """Errors are one line, as everywhere in gfo.

    Args:
        doc: of the program; its first line is the description.
    """

    def __init__(self, doc: str | None) -> None:
        super().__init__(description=(doc or "").partition("\n")[0])

    def error(self, message: str) -> NoReturn:
        """Raise GfoError instead of printing the usage."""
        raise GfoError(message)


def command(
    arguments: Sequence[str] | None,
    parse: Callable[[Sequence[str]], argparse.Namespace],
    run: Callable[[argparse.Namespace], int | None],
    *,
    goes_on: bool = False,
) -> int:
    """The command line of a benchmark; the exit code, `run`'s or 0, 2 after a GfoError.

    Args:
        arguments: those of the command line, or None for the process's own.
        parse: gives the checked options.
        run: does what they ask for.
        goes_on: whether the same command goes on after Ctrl-C with what is not done yet.
    """
    try:
        return run(parse(sys.argv[1:] if arguments is None else arguments)) or 0
    except (GfoError, UnusableError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, GfoError) else 1
    except KeyboardInterrupt:
        more = "; the same command goes on where this one ended" if goes_on else ""
        print(f"stopped{more}", file=sys.stderr)
        return STOPPED


def start(main: Callable[[], int], *, threads: int | None = None) -> NoReturn:
    """End the process with the exit code of `main`; torch must not be loaded yet.

    A waiting thread sleeps: otherwise it burns CPU seconds, the more the busier the machine.

    Args:
        main: the program.
        threads: of each computation, where its last bits depend on them; None leaves the choice to torch.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if threads is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    sys.exit(main())


def itself(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of the benchmarks in another process, from the same folder."""
    return [sys.executable, "-m", module, *arguments]


def say(line: str) -> None:
    """Progress, apart from the results."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def check_at_least_one(options: argparse.Namespace, names: Iterable[str]) -> None:
    """Raise GfoError for an option, or a value of its list, below 1."""
    for name in names:
        given = getattr(options, name)
        for value in given if isinstance(given, list) else [given]:
            if value is not None and value < 1:
                raise GfoError(f"--{name.replace('_', '-')} {value}: must be at least 1")


def check_rounds(options: argparse.Namespace, name: str = "repeats") -> None:
    """Raise GfoError for results that would be written down after too few rounds."""
    rounds = getattr(options, name)
    if options.json and rounds < FEWEST_ROUNDS:
        raise GfoError(f"--{name} {rounds}: --json needs medians of at least {FEWEST_ROUNDS}")


def check_output(option: str, path: Path | None) -> None:
    """Raise GfoError for a file that cannot be written."""
    if path and not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        raise GfoError(f"{option} {path}: its folder does not exist or is not writable")


def chosen(option: str, given: Iterable[str] | None, known: Collection[str]) -> list[str]:
    """The names given, each once, or all that are known.

    Raises:
        GfoError: for a name that is not known.
    """
    names = list(dict.fromkeys(given or known))
    for name in names:
        if name not in known:
            raise unknown_name(option, name, known)
    return names


def source(*packages: str) -> dict[str, Any]:
    """Versions, hardware and the date, for every JSON.

    Args:
        packages: whose versions are told besides those that every result of gfo has.
    """
    return {
        "versions": versions() | {name: _version(name) for name in packages},
        "hardware": hardware(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def write_json(path: Path | None, found: Any) -> None:
    """Write what was found, whole or not at all, if there is a file for it."""
    if path is not None:
        write_whole(path, json.dumps(found, indent=1) + "\n")
        say(f"written to {path}")


def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> None:
    """Print a table; the first `words` columns hold words, the others numbers."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place < words else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 180).print(table)
