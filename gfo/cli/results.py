"""Commands on what runs found: eval, predict, plot, compare, export."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gfo.cli import names
from gfo.cli.app import Pick, Run, Split, XAxis, app, say, show

if TYPE_CHECKING:
    from gfo.run.result import Result

FigureFile = Annotated[
    Path | None,
    typer.Option(
        "--out", help="A file for the figure, .png, .pdf or .svg; by default none.", show_default=False
    ),
]
Band = Annotated[
    str,
    typer.Option(
        help="For several seeds the figure has: quartiles, mean (with its 95 % interval) or seeds.",
        autocompletion=names.bands,
    ),
]
Size = Annotated[
    str,
    typer.Option(
        help="Of the figure: screen, single or double (a paper's columns, 3.4 and 7 inches).",
        autocompletion=names.sizes,
    ),
]
Drawn = Annotated[
    str | None,
    typer.Option(
        help="A test metric in the figure, methods without a search among them; by default none.",
        show_default=False,
        autocompletion=names.metrics,
    ),
]
TableFile = Annotated[
    Path | None,
    typer.Option(
        "--table", help="A file for the table, .tex, .csv or .md; by default none.", show_default=False
    ),
]
Tested = Annotated[
    str | None,
    typer.Option(
        "--test",
        help="A metric on test, or train_loss, by which methods are tested in pairs; by default none.",
        show_default=False,
        autocompletion=names.metrics,
    ),
]


@app.command("eval")
def evaluate(run_dir: Run, split: Split = "test", pick: Pick = None) -> None:
    """Score what a run found on a split, and add the scores to its result.json, unless it is a --pick."""
    from gfo.report.tables import scores_table

    result = _opened(run_dir, pick)
    known = result.scores.get("after", {}).get(split)
    try:
        result.score(split)
    finally:  # they have been computed, whatever comes of writing
        if result.scores.get("after", {}).get(split) is not known:
            show(str(scores_table(result.scores, [split])))


@app.command()
def predict(
    run_dir: Run,
    rows: Annotated[
        str, typer.Argument(help="A file of rows, .jsonl, .csv, .tsv or .parquet.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="A file for rows and predictions, .jsonl or .csv; by default none.",
            show_default=False,
        ),
    ] = None,
    pick: Pick = None,
) -> None:
    """Say a label, an option or a text for each row of a file, by what a run found."""
    from gfo.run.predictions import check_form

    check_form(out)
    found = _opened(run_dir, pick).predict(rows)
    if out is None:
        show(str(found))
        return
    found.write(out)
    show(f"{len(found):,} predictions: {out}")


@app.command()
def plot(
    run_dir: Annotated[Path, typer.Argument(help="The folder of a run, also of an unfinished one.")],
    x: XAxis = "evaluations",
    front: Annotated[
        bool, typer.Option("--front", help="The front of several objectives, in place of the steps.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="The figure's file, .png, .pdf or .svg; by default plot.png or front.png of the run.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Draw a run: its losses, scores on dev and spread, or its front; gfo compare draws several."""
    from gfo.run.stored import PLOT

    out = out or run_dir / ("front.png" if front else PLOT)
    if front:
        result = _opened(run_dir)
        result.plot_front(out)
        show(str(result.front()))
    else:
        _plot_steps(run_dir, out, x)
    show(f"figure: {out}")


def _plot_steps(run_dir: Path, out: Path, x: str) -> None:
    """Draw the steps, which a run has before it has a result."""
    from gfo.report.plots import plot_history
    from gfo.report.scores import recorded_metrics
    from gfo.run.history import HISTORY, History
    from gfo.run.stored import metrics_record

    steps = [asdict(step) for step in History.read(run_dir / HISTORY)]
    plot_history(steps, out, x=x, metrics=recorded_metrics({"metrics": metrics_record(run_dir)}))


@app.command()
def compare(
    run_dirs: Annotated[
        list[Path],
        typer.Argument(help="Folders of runs, or folders that runs are in.", show_default=False),
    ],
    x: XAxis = "evaluations",
    out: FigureFile = None,
    band: Band = "quartiles",
    size: Size = "screen",
    metric: Drawn = None,
    table: TableFile = None,
    test: Tested = None,
) -> None:
    """Compare runs: those that differ only by their seed are one row, and one line with a band."""
    from gfo.report.tables import write_table
    from gfo.run.compare import compare as compared

    comparison = compared(run_dirs, x=x)
    show(str(comparison))
    if test is not None:
        show(f"\n{comparison.differences(test)}")
    if table is not None:
        write_table(comparison.table(), table)
        show(f"table: {table}")
    if out is not None:
        comparison.plot(out, band=band, size=size, metric=metric)
        show(f"figure: {out}")


@app.command()
def export(
    run_dir: Run,
    form: Annotated[
        str,
        typer.Option("--format", help="peft, merged, gguf or prompt-text.", autocompletion=names.forms),
    ] = "peft",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Where to; by default the format's name in the run's.", show_default=False
        ),
    ] = None,
    pick: Pick = None,
) -> None:
    """Write what a run found: a PEFT adapter, a folder of the whole model, a GGUF file, the prompt's text."""
    from gfo.core.errors import unknown_name
    from gfo.report.export import FORMATS, PROMPT_TEXT
    from gfo.report.export import export as write

    if form not in FORMATS:
        raise unknown_name("format", form, FORMATS)
    result = _opened(run_dir, pick)
    written = write(result.evaluator, result.z, form, out or run_dir / form)
    for note in written.notes:
        say(f"note: {note}")
    show(f"{form}: {written.folder}")
    if form == "prompt-text":
        show((written.folder / PROMPT_TEXT).read_text(encoding="utf-8").removesuffix("\n"))
    for line in written.load:
        show(f"  {line}")


def _opened(run_dir: Path, pick: str | None = None) -> Result:
    """The result of a run, or that at a point of its front."""
    from gfo.run.result import Result
    from gfo.run.scored_front import parsed_choice

    result = Result.load(run_dir)
    if pick is None:
        return result
    how, limits = parsed_choice(pick)
    return result.pick(how, **limits)
