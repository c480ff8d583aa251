"""The command line: gfo tune, show, compare and more; a module a group of commands."""

from __future__ import annotations

import os
import sys
from typing import Any

import typer

from gfo.cli import folders, listing, results, running  # noqa: F401, they add their commands
from gfo.cli.app import INTERRUPTED, app, say
from gfo.core.errors import GfoError


def main() -> None:
    """Run the command line; bad input is one line on standard error and exit code 2."""
    from gfo.run.signals import as_interrupts

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads leave a busy machine to the others
    try:
        with as_interrupts():
            code = app(prog_name="gfo", standalone_mode=False)
    except GfoError as error:
        say(f"error: {error}")
        code = 2
    except KeyboardInterrupt:
        say("interrupted")
        code = INTERRUPTED
    except typer.Abort:
        say("aborted")
        code = 1
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        code = _usage(error)
    sys.exit(code or 0)


def _usage(error: Any) -> int:
    """Say in a line what is wrong with the words behind `gfo`; the exit code.

    The errors are those of click, which typer may bring along under another name.
    """
    context: Any = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(context.get_help(), err=True)
        return 2
    near = getattr(error, "possibilities", None)
    text = error.format_message().partition(" (Possible options:")[0].rstrip(".")
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near and "Did you mean" not in text else ""
    path = "gfo" if context is None else context.command_path
    say(f"error: {' '.join(text.split())}.{hint} See {path} --help")
    return 2
