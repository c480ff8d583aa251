"""Commands on run folders: runs, show, check, rm."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gfo.cli import names
from gfo.cli.app import Run, app, show
from gfo.core.errors import printable


@app.command()
def check(run_dir: Run) -> None:
    """Say what of a run folder is whole, what is damaged and what can be done; exit code 1 if anything is."""
    from gfo.run.integrity import check_folder

    found = check_folder(run_dir)
    for each in found:
        show(str(each))
    if any(each.damaged for each in found):
        raise typer.Exit(1)


@app.command("runs")
def list_runs(
    folder: Annotated[Path, typer.Argument(help="Looked through with all folders in it.")] = Path("runs"),
    sort: Annotated[
        str | None,
        typer.Option(
            help="A number, as test.accuracy, loss or forward_tokens, the best first; by default by name.",
            show_default=False,
            autocompletion=names.numbers,
        ),
    ] = None,
    chosen: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            help="KEY=VALUE, as optimizer=cma; any number, by default none.",
            show_default=False,
            autocompletion=names.facts,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="A file that gets the table as .csv, .md or .tex; by default none.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """The runs below a folder as a table, finished or not."""
    from gfo.report.tables import write_table
    from gfo.run.runs import runs

    found = runs(folder, sort=sort, filter=chosen or ())
    if out is not None:
        write_table(found.table(), out)
    show(str(found))


@app.command("show")
def show_run(run_dir: Run) -> None:
    """What a run was, what it found and cost, its files and what is wrong with any; it may go on."""
    from gfo.run.page import page

    show(page(run_dir))


@app.command("rm")
def remove(
    run_dirs: Annotated[list[Path], typer.Argument(help="Folders of runs.", show_default=False)],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; by default it asks.")] = False,
) -> None:
    """Delete runs, each with all that its folder holds."""
    from gfo.run.removal import contents, remove_run

    held = [contents(folder) for folder in run_dirs]  # which refuses what is no run, before any is deleted
    for folder, what in zip(run_dirs, held, strict=True):
        if yes or typer.confirm(printable(f"delete {folder}, {what}?")):
            remove_run(folder)
            show(f"deleted {folder}")
