"""Commands that run something: demo, tune, sweep, search, resume."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gfo.cli import names
from gfo.cli.app import INTERRUPTED, Overrides, app, say, show
from gfo.core.files import absolute

if TYPE_CHECKING:
    from gfo.config import Config

Out = Annotated[
    str | None,  # a path of nothing would be the working folder
    typer.Option(
        "--out", help="Run folder; by default a new one under runs/.", show_default=False, metavar="PATH"
    ),
]


@app.command()
def demo(
    seed: Annotated[int, typer.Option(help="Root seed, a whole number.")] = 0,
    space: Annotated[
        str, typer.Option(help="What is searched: auto or soft-prompt.", autocompletion=names.demos)
    ] = "auto",
    budget: Annotated[
        int | None,
        typer.Option(
            help="Evaluations (candidates) of the search; by default the demo's.", show_default=False
        ),
    ] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(
            help="Its name, see `gfo list`; by default the demo's.",
            show_default=False,
            autocompletion=names.optimizers,
        ),
    ] = None,
    out: Out = None,
) -> None:
    """Tune SmolLM2-135M for sentiment, on sentences that gfo brings along."""
    from gfo.config import DEMOS, load_config
    from gfo.core.errors import check_name

    check_name("space of the demo", space, DEMOS)
    overrides = [f"seed={seed}"]
    if budget is not None:
        overrides.append(f"budget={{evaluations={budget}}}")
    if optimizer is not None:
        overrides.append(f'optimizer={{name="{optimizer}"}}')
    _run(load_config(DEMOS[space], overrides), out, "demo")


@app.command()
def tune(
    config: Annotated[Path, typer.Argument(help="A .toml config, or the config.json of a run.")],
    override: Overrides = None,
    out: Out = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes that evaluate, a whole number; by default this one.", show_default=False
        ),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(help="With --workers: of a Ray cluster, as auto; by default none.", show_default=False),
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
        list[str],
        typer.Option(
            help="key=value,value, as in optimizer.name=cma,ga; any number.",
            show_default=False,
            autocompletion=names.keys,
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="The folder of the runs; the same sweep goes on there.", show_default=False)
    ],
    override: Overrides = None,
    jobs: Annotated[int, typer.Option(help="Processes at once, a whole number; each has its own model.")] = 1,
    slurm: Annotated[
        list[str] | None,
        typer.Option(
            help="key=value of submitit, as in timeout_min=60: runs are jobs of Slurm; by default not.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run a config at each point of a grid; exit code 1 if a run failed."""
    from gfo.config import read_values
    from gfo.config.dotted import pairs
    from gfo.config.grid import parse_grid
    from gfo.config.sweep import sweep

    options = None if slurm is None else pairs("--slurm", slurm)
    found = sweep(read_values(config, override or ()), parse_grid(grid), out=out, jobs=jobs, slurm=options)
    show(str(found))
    raise typer.Exit(found.exit_code)


@app.command("search")
def run_search(
    config: Annotated[Path, typer.Argument(help="A .toml config with [search] and [study].")],
    out: Annotated[
        Path,
        typer.Option(help="The folder of the trials; the same search goes on there.", show_default=False),
    ],
    override: Overrides = None,
    jobs: Annotated[int, typer.Option(help="Processes at once, a whole number; each has its own model.")] = 1,
) -> None:
    """Search hyperparameters of a config: trials that do badly are stopped, others go on."""
    from gfo.config.search import BEST, load_search

    found = load_search(config, override or ()).run(out, jobs=jobs)
    show(str(found.table()))
    if found.trials and found.trials[0].loss is not None:
        values = ", ".join(f"{name} = {value}" for name, value in found.best.items())
        show(f"best: {values}; {out}/{BEST}")
    if found.result.stopped == "interrupted":
        show("interrupted; the same command goes on")
        raise typer.Exit(INTERRUPTED)


@app.command()
def resume(
    run_dir: Annotated[Path, typer.Argument(help="The folder of a run that was stopped.")],
    override: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="What may change: budget.*, stop.*, log.*, task.data_dir; as in gfo tune, by default none.",
            show_default=False,
            autocompletion=names.keys,
        ),
    ] = None,
) -> None:
    """Go on with a run, however it was stopped, as if it had not been; or with a larger budget."""
    from gfo.config import CONFIG, load_config
    from gfo.run.checkpoint import ended

    config = load_config(run_dir / CONFIG, override or ())
    reason = ended(run_dir, config.record(), scored=config.task.has_test)
    if reason is not None:
        show(f"{run_dir} has ended ({reason}); a larger budget lets it go on: --set budget.evaluations=N")
        raise typer.Exit
    _run(config, str(run_dir), "", go_on=True)


def _run(config: Config, out: str | None, name: str, *, go_on: bool = False) -> None:
    """Run a config and print what came of it."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    given = f"runs/{name}-seed{config.seed}-{stamp}" if out is None else out
    absolute(given)  # which refuses what is no path
    folder = Path(given)
    say(f"{config.model.name}, {config.method}, seed {config.seed} -> {folder}")
    try:
        result = config.run(folder, resume=go_on)
    except KeyboardInterrupt as error:
        say(str(error) or "interrupted")
        raise typer.Exit(INTERRUPTED) from None
    if result.stopped == "interrupted":
        show(f"interrupted after {result.cost.candidates} evaluations; what was found is in {folder}")
        show(f"go on with: gfo resume {folder}; or score it on the test rows with: gfo eval {folder}")
        raise typer.Exit(INTERRUPTED)
    show(str(result))
    if result.chosen is not None:
        show(f"\n{result.chosen}")
    show(f"folder:     {folder}")
