"""Commands on what has a name: list, init, data, download."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from gfo.cli import names
from gfo.cli.app import app, say, show

if TYPE_CHECKING:
    from rich.table import Table

    from gfo.config.listing import Option


@app.command("list")
def list_names(
    name: Annotated[
        str | None,
        typer.Argument(
            help="One of the names, to see its options; by default all names.",
            show_default=False,
            autocompletion=names.everything,
        ),
    ] = None,
) -> None:
    """Names that configs take, gfo's and those of other packages; or all that is known of one."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from gfo.config import listing

    console = Console()
    if name is not None:
        for found in listing.named(name):
            console.print(f"[bold]{found.entry.kind} {escape(found.entry.name)}[/bold]", highlight=False)
            console.print(escape(found.text), highlight=False)
            console.print(_options_table(found.options))
            if found.source:
                console.print(f"source: {escape(found.source)}", highlight=False)
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for title, entries in listing.names().items():
        table.add_row(f"[bold]{title}[/bold]", "")
        for each, entry in entries.items():
            table.add_row(f"  {escape(each)}", escape(entry.describe()))
    console.print(table)


@app.command()
def init(
    task: Annotated[
        str, typer.Argument(help="The kind of its task, see `gfo list`.", autocompletion=names.tasks)
    ] = "classification",
) -> None:
    """Print a config to begin with, whole and with comments: gfo init classification > mine.toml."""
    from gfo.config.examples import example

    show(example(task).rstrip())


@app.command()
def data(
    name: Annotated[
        str | None,
        typer.Argument(
            help="One of the data sets; by default they are listed.",
            show_default=False,
            autocompletion=names.data_sets,
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(help="A new folder; by default data/NAME.", show_default=False, metavar="PATH"),
    ] = None,
    shots: Annotated[
        int, typer.Option(help="Rows of each label in train, and others in dev, a whole number.")
    ] = 16,
    seed: Annotated[int, typer.Option(help="Of the rows that are drawn, a whole number.")] = 0,
) -> None:
    """Fetch a public data set from the Hugging Face hub, a few rows of each label and the test rows."""
    from gfo.tasks.parts.public import SETS, fetch

    if name is None:
        for each, of in SETS.items():
            show(f"{each:<17}{of.task}, {len(of.labels)} labels; licence: {of.licence}")
        return
    found = fetch(name, out or f"data/{name}", shots=shots, seed=seed)
    show(str(found))


@app.command()
def download(
    name: Annotated[
        str, typer.Argument(help="A built-in model, see `gfo list`.", autocompletion=names.models)
    ] = "smollm2-135m",
    force: Annotated[bool, typer.Option("--force", help="Download again, also if it is there.")] = False,
) -> None:
    """Download a built-in model and keep it, so that later runs need no network."""
    from gfo.models.download import ensure_downloaded, verify

    folder = ensure_downloaded(name, force=force, say=say)
    verify(folder)
    show(f"{name}: {folder}")


def _options_table(options: Sequence[Option]) -> Table | str:
    """Options with types, defaults and what they are."""
    from rich.markup import escape
    from rich.table import Table

    if not options:
        return ""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("option", "type", "default", ""):
        table.add_column(title, no_wrap=title == "option", overflow="fold")
    for option in options:
        default = option.default or "(required)"
        table.add_row(*map(escape, (f"  {option.name}", option.type, default, option.line)))
    return table
