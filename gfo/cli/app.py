"""The application that commands are added to, what several of them take, and how they speak."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gfo.cli import names
from gfo.core.errors import printable

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
INTERRUPTED = 130  # as shells have it for Ctrl-C

Run = Annotated[Path, typer.Argument(help="The folder of a run.", show_default=False)]
Pick = Annotated[
    str | None,
    typer.Option(
        "--pick",
        help="In place of the best point, the default, one of the front: knee, its number, or bytes=80e6.",
        show_default=False,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="key=value, as in budget.evaluations=500; any number, by default none.",
        show_default=False,
        autocompletion=names.keys,
    ),
]
Split = Annotated[str, typer.Option(help="train, dev or test.", autocompletion=names.splits)]
XAxis = Annotated[
    str, typer.Option("--x", help="evaluations, forward_tokens or seconds.", autocompletion=names.axes)
]


def show(text: str) -> None:
    """To standard output; control characters, which names of files may have, as text."""
    typer.echo(printable(text, keep="\n\t"))


def say(text: str) -> None:
    """To standard error, in one line."""
    typer.echo(printable(text), err=True)


def show_version(wanted: bool) -> None:
    """Print the version and end, if it is wanted."""
    if wanted:
        from gfo import __version__

        show(f"gfo {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=show_version, is_eager=True, help="Say the version and exit."),
    ] = False,
) -> None:
    """Tune frozen language models without gradients."""
