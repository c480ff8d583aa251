"""The command line: gfo demo | tune | sweep | resume | eval | plot | export and more, see `gfo --help`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gfo.core.errors import GfoError, printable
from gfo.core.files import absolute

if TYPE_CHECKING:
    from rich.table import Table

    from gfo.config import Config
    from gfo.config.listing import Option

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    pretty_exceptions_enable=False,
)

Out = Annotated[
    str | None,  # a path of nothing would be the working folder
    typer.Option(
        "--out", help="Run folder; by default a new one under runs/.", show_default=False, metavar="PATH"
    ),
]
Pick = Annotated[
    str | None,
    typer.Option(
        "--pick",
        help="In place of the best point one of the front: knee, its number, or bytes=80e6.",
        show_default=False,
    ),
]
INTERRUPTED = 130  # as shells have it for Ctrl-C


def _show_version(wanted: bool) -> None:
    if wanted:
        from gfo import __version__

        _print(f"gfo {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Say the version and exit."),
    ] = False,
) -> None:
    """Tune frozen language models without gradients."""


@app.command()
def demo(
    seed: Annotated[int, typer.Option(help="Root seed.")] = 0,
    budget: Annotated[int | None, typer.Option(help="Evaluations of the search.", show_default=False)] = None,
    optimizer: Annotated[str, typer.Option(help="Its name, see `gfo list`.")] = "cma",
    out: Out = None,
) -> None:
    """Tune a soft prompt of SmolLM2-135M for sentiment, on sentences that gfo brings along."""
    from gfo.config import DEMO, load_config

    overrides = [f"seed={seed}", f'optimizer.name="{optimizer}"']
    if budget is not None:
        overrides.append(f"budget.evaluations={budget}")
    if optimizer != "cma":
        overrides.append("optimizer.options={}")
    _run(load_config(DEMO, overrides), out, "demo")


@app.command()
def tune(
    config: Annotated[Path, typer.Argument(help="A .toml config, or the config.json of a run.")],
    override: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, as in budget.evaluations=500; any number.")
    ] = None,
    out: Out = None,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Evaluate in so many processes.", show_default=False)
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            "--ray-address", help="With --workers: on Ray's cluster there, as auto.", show_default=False
        ),
    ] = None,
) -> None:
    """Run a config."""
    from gfo.config import load_config

    more = [] if workers is None else [f"evaluator.workers={workers}"]
    if ray_address is not None:
        more += ["evaluator.engine=ray", f'evaluator.address="{ray_address}"']
    _run(load_config(config, [*(override or ()), *more]), out, config.stem)


@app.command("sweep")
def run_sweep(
    config: Annotated[Path, typer.Argument(help="A .toml config: what all runs have in common.")],
    grid: Annotated[
        list[str], typer.Option(help="key=value,value, as in optimizer.name=cma,ga; any number.")
    ],
    out: Annotated[Path, typer.Option(help="The folder of the runs; the same sweep goes on there.")],
    override: Annotated[list[str] | None, typer.Option("--set", help="key=value for all runs.")] = None,
    jobs: Annotated[int, typer.Option(help="Processes at once; each has its own copy of the model.")] = 1,
) -> None:
    """Run a config at each point of a grid; exit code 1 if a run failed."""
    from gfo.config import read_values
    from gfo.config.grid import parse_grid
    from gfo.config.sweep import sweep

    found = sweep(read_values(config, override or ()), parse_grid(grid), out=out, jobs=jobs)
    _print(str(found))
    raise typer.Exit(found.exit_code)


@app.command()
def resume(
    run_dir: Annotated[Path, typer.Argument(help="The folder of a run that was stopped.")],
    override: Annotated[
        list[str] | None,
        typer.Option("--set", help="What may change: budget.*, stop.*, task.data_dir; as in gfo tune."),
    ] = None,
) -> None:
    """Go on with a run, however it was stopped, as if it had not been; or with a larger budget."""
    from gfo.config import CONFIG, load_config
    from gfo.run.checkpoint import ended

    config = load_config(run_dir / CONFIG, override or ())
    reason = ended(run_dir, config.record(), scored=config.task.has_test)
    if reason is not None:
        _print(f"{run_dir} has ended ({reason}); a larger budget lets it go on: --set budget.evaluations=N")
        raise typer.Exit
    _run(config, str(run_dir), "", go_on=True)


@app.command("eval")
def evaluate(
    run_dir: Annotated[Path, typer.Argument(help="The folder of a run.")],
    split: Annotated[str, typer.Option(help="train, dev or test.")] = "test",
    pick: Pick = None,
) -> None:
    """Score what a run found on a split, and add the scores to its result.json, unless it is a --pick."""
    import numpy as np

    from gfo.config import CONFIG, load_config
    from gfo.core.protocols import metrics_of
    from gfo.report.scores import SplitScores, recorded_scores, scores_record
    from gfo.report.tables import scores_table
    from gfo.run.files import write_json
    from gfo.run.schema import RESULT, read_result
    from gfo.run.scored_front import load_choice

    result = read_result(run_dir)
    z = load_choice(run_dir, pick)
    evaluator = load_config(run_dir / CONFIG).local_evaluator(run_dir)
    scored = evaluator.score(np.stack([np.zeros_like(z), z]), split)
    scores, metrics = recorded_scores(result) if pick is None else {}, metrics_of(evaluator)
    for i, when in enumerate(("before", "after")):
        scores.setdefault(when, {})[split] = SplitScores.of(scored, i, metrics)
    result |= scores_record(scores) | {"metrics": [metric.record() for metric in metrics]}
    _print(str(scores_table(scores, [split])))  # first: they have been computed, whatever comes of writing
    if pick is None:
        write_json(run_dir / RESULT, result)


@app.command()
def plot(
    run_dirs: Annotated[list[Path], typer.Argument(help="Folders of runs, also of unfinished ones.")],
    x: Annotated[str, typer.Option("--x", help="evaluations, forward_tokens or seconds.")] = "evaluations",
    front: Annotated[
        bool, typer.Option("--front", help="The front of several objectives, in place of the steps.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="The figure's file; by default plot.png in the run's folder, or comparison.png here.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Draw a run, or compare several: runs that differ only by their seed are one line with a band."""
    from gfo.run.compare import compare
    from gfo.run.history import HISTORY, History
    from gfo.run.stored import PLOT, metrics_record

    if front:
        out = _plot_front(run_dirs, out)
    elif len(run_dirs) == 1:
        from gfo.report.plots import plot_history
        from gfo.report.scores import recorded_metrics

        out = out or run_dirs[0] / PLOT
        steps = [asdict(step) for step in History.read(run_dirs[0] / HISTORY)]
        metrics = recorded_metrics({"metrics": metrics_record(run_dirs[0])})
        plot_history(steps, out, x=x, metrics=metrics)
    else:
        out = out or Path("comparison.png")
        comparison = compare(run_dirs, x=x)
        comparison.plot(out)
        _print(str(comparison))
    _print(f"figure: {out}")


@app.command()
def export(
    run_dir: Annotated[Path, typer.Argument(help="The folder of a run.")],
    form: Annotated[str, typer.Option("--format", help="peft, merged, gguf or prompt-text.")] = "peft",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Where to; by default the format's name in the run's.", show_default=False
        ),
    ] = None,
    pick: Pick = None,
) -> None:
    """Write what a run found: a PEFT adapter, a folder of the whole model, a GGUF file, the prompt's text."""
    from gfo.config import CONFIG, load_config
    from gfo.core.errors import unknown_name
    from gfo.report.export import FORMATS, PROMPT_TEXT
    from gfo.report.export import export as write
    from gfo.run.scored_front import load_choice

    if form not in FORMATS:
        raise unknown_name("format", form, FORMATS)
    z = load_choice(run_dir, pick)
    written = write(load_config(run_dir / CONFIG).local_evaluator(), z, form, out or run_dir / form)
    for note in written.notes:
        _say(f"note: {note}")
    _print(f"{form}: {written.folder}")
    if form == "prompt-text":
        _print((written.folder / PROMPT_TEXT).read_text(encoding="utf-8").removesuffix("\n"))
    for line in written.load:
        _print(f"  {line}")


@app.command()
def check(run_dir: Annotated[Path, typer.Argument(help="The folder of a run.")]) -> None:
    """Say what of a run folder is whole, what is damaged and what can be done; exit code 1 if anything is."""
    from gfo.run.integrity import check_folder

    found = check_folder(run_dir)
    for each in found:
        _print(str(each))
    if any(each.damaged for each in found):
        raise typer.Exit(1)


@app.command("runs")
def list_runs(
    folder: Annotated[Path, typer.Argument(help="Looked through with all folders in it.")] = Path("runs"),
    sort: Annotated[
        str | None,
        typer.Option(
            help="A number, as test.accuracy, loss or forward_tokens; the best first.", show_default=False
        ),
    ] = None,
    chosen: Annotated[
        list[str] | None,
        typer.Option("--filter", help="KEY=VALUE, as optimizer=cma; any number.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="A file that gets the table as .csv, .md or .tex.", show_default=False),
    ] = None,
) -> None:
    """The runs below a folder as a table, finished or not."""
    from gfo.report.tables import write_table
    from gfo.run.runs import runs

    found = runs(folder, sort=sort, filter=chosen or ())
    if out is not None:
        write_table(found.table(), out)
    _print(str(found))


@app.command("list")
def list_names(
    name: Annotated[
        str | None, typer.Argument(help="One of the names, to see its options.", show_default=False)
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
def download(
    name: Annotated[str, typer.Argument(help="A built-in model, see `gfo list`.")] = "smollm2-135m",
    force: Annotated[bool, typer.Option("--force", help="Download again, also if it is there.")] = False,
) -> None:
    """Download a built-in model and keep it, so that later runs need no network."""
    from gfo.models.download import ensure_downloaded, verify

    folder = ensure_downloaded(name, force=force, say=_say)
    verify(folder)
    _print(f"{name}: {folder}")


def _plot_front(run_dirs: Sequence[Path], out: Path | None) -> Path:
    """Draw the front of a run and print its table; the figure's file."""
    from gfo.run.scored_front import load_front

    if len(run_dirs) > 1:
        raise GfoError(f"--front: {len(run_dirs)} runs; give one")
    out = out or run_dirs[0] / "front.png"
    front = load_front(run_dirs[0])
    front.plot(out)
    _print(str(front))
    return out


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


def _run(config: Config, out: str | None, name: str, *, go_on: bool = False) -> None:
    """Run a config and print what came of it."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    given = f"runs/{name}-seed{config.seed}-{stamp}" if out is None else out
    absolute(given)  # which refuses what is no path
    folder = Path(given)
    _say(f"{config.model.name}, {config.method}, seed {config.seed} -> {folder}")
    try:
        result = config.run(folder, resume=go_on)
    except KeyboardInterrupt as error:
        _say(str(error) or "interrupted")
        raise typer.Exit(INTERRUPTED) from None
    if result.stopped == "interrupted":
        _print(f"interrupted after {result.cost.candidates} evaluations; what was found is in {folder}")
        _print(f"go on with: gfo resume {folder}; or score it on the test rows with: gfo eval {folder}")
        raise typer.Exit(INTERRUPTED)
    _print(str(result))
    if result.chosen is not None:
        _print(f"\n{result.chosen}")
    _print(f"folder:     {folder}")


def _print(text: str) -> None:
    """To standard output; control characters, which names of files may have, as text."""
    typer.echo(printable(text, keep="\n\t"))


def _say(text: str) -> None:
    typer.echo(printable(text), err=True)


def main() -> None:
    """Run the command line; bad input is one line on standard error and exit code 2."""
    from gfo.run.signals import as_interrupts

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads leave a busy machine to the others
    try:
        with as_interrupts():
            app()
    except GfoError as error:
        _say(f"error: {error}")
        sys.exit(2)
    except KeyboardInterrupt:
        _say("interrupted")
        sys.exit(INTERRUPTED)
