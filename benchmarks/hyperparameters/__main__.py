"""LoRA's hyperparameters by gfo's bo and ASHA, and by Optuna's TPE and Hyperband, at the same tokens.

    python -m benchmarks.hyperparameters --data DIR --out DIR --json FILE --figure FILE

Learning rate, rows a step, dropout and rank of the baseline `lora` with SmolLM2-135M on SST-2 and AG News,
16 shots a class. A search may cost as much as three full runs; its best trial, as it stands, is tested. A
seed is a split of the data, and the same for both. Each search is a file in --out, and the same command goes
on with what is missing. `--task grid` searches the 64 curves of benchmarks.halving, and needs no data.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks import shared
from benchmarks.hyperparameters.searches import METHODS, Metered, Search
from benchmarks.hyperparameters.trainings import FULL_RUNS, SPACE, SPLITS, TASKS, Curves, Training
from benchmarks.shared import say
from gfo.core.errors import GfoError
from gfo.core.hyperparameters import Hyperparameters

GRID = "grid"
Run = dict[str, Any]
"""What a search found."""


def searched(options: argparse.Namespace, load: Callable[[], Any], task: str, method: str, seed: int) -> Run:
    """A search of LoRA's hyperparameters on a split, and its best trial's scores on test."""
    setting, data, split = TASKS[task], options.data, SPLITS[seed]
    files = {name: data / f"kshot16/{task}/{split}/{name}.jsonl" for name in ("train", "dev")}
    files["test"] = data / task / "test.jsonl"
    for path in files.values():
        if not path.exists():
            raise GfoError(f"--data: {path} is missing; name the folder of the data sets")
    rows = {"dev": options.dev, "test": options.test}
    training = Training(load(), setting, files, rows, seed)
    folder = options.out / "work" / name_of(task, method, seed)
    trial = Metered(training, FULL_RUNS * setting.rungs[-1], folder / "trials")
    METHODS[method](trial, Hyperparameters(SPACE), setting.halving, seed, folder)
    best = trial.tried[trial.best]
    _, scores = training.scored(best.values, best.budget, folder / "trials" / trial.best, "test")
    return {**found(trial), "test": scores}


def found(trial: Metered) -> Run:
    """What a search tried, in the order in which trials began."""
    best = trial.tried[trial.best]
    tried = [vars(each) for each in trial.tried.values() if each.reached]
    return {
        "best": best.values,
        "budget": best.budget,
        "dev": best.loss,
        "spent": trial.spent,
        "trials": tried,
    }


def on_curves(search: Search, seed: int) -> Run:
    """A search of the grid whose curves are known."""
    curves = Curves()
    trial = Metered(curves, FULL_RUNS * curves.halving.rungs[-1])
    search(trial, curves.space, curves.halving, seed, None)
    return {**found(trial), "rank": curves.rank(trial.tried[trial.best].values)}


def name_of(task: str, method: str, seed: int) -> str:
    """Of a search, and of its file."""
    return f"{task}--{method}--{seed}"


def runs(options: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    """(task, method, seed) of all searches: both methods of a seed before the next seed."""
    for task in options.task:
        for seed in range(options.seeds):
            yield from ((task, method, seed) for method in options.method)


def read(path: Path, make: Callable[[], Run]) -> Run:
    """What is in a file, or is made now."""
    if not path.exists():
        shared.write_json(path, {**make(), **shared.source("torch", "optuna", "botorch", "peft")})
    held: Run = json.loads(path.read_text(encoding="utf-8"))
    return held


def do(options: argparse.Namespace) -> None:
    """Search what is missing, and show all."""

    @cache
    def load() -> Any:
        import gfo

        return gfo.load_model(options.model, device="cpu")

    options.out.mkdir(parents=True, exist_ok=True)
    everything: dict[str, Run] = {}
    for task, method, seed in runs(options):
        name = name_of(task, method, seed)

        def make(task: str = task, method: str = method, seed: int = seed) -> Run:
            if task == GRID:
                return on_curves(METHODS[method], seed)
            return searched(options, load, task, method, seed)

        everything[name] = read(options.out / f"{name}.json", make)
        say(f"{name}: {words(everything[name])}")
    summary = summarise(everything, options)
    table(summary)
    shared.write_json(options.json, {"summary": summary, "runs": everything})
    if options.figure:
        plot(everything, options)


def words(run: Run) -> str:
    """What a search found, in a line."""
    test = f", test accuracy {run['test']['accuracy']:.1%}" if "test" in run else f", rank {run['rank']}"
    return f"{len(run['trials'])} trials, {run['spent']:,} tokens, dev loss {run['dev']:.4f}{test}"


def scores(run: Run) -> Mapping[str, float]:
    """The numbers by which searches are compared."""
    if "test" in run:
        return {name: run["test"][name] for name in ("accuracy", "loss")}
    return {"loss": run["dev"], "rank": run["rank"]}


def summarise(everything: Mapping[str, Run], options: argparse.Namespace) -> list[dict[str, Any]]:
    """For each task and method the mean of each score, its standard deviation, and each seed's."""
    lines = []
    for task in options.task:
        for method in options.method:
            mine = [everything[name_of(task, method, seed)] for seed in range(options.seeds)]
            line: dict[str, Any] = {"task": task, "method": method}
            for name in scores(mine[0]):
                each = [scores(run)[name] for run in mine]
                line[name] = {
                    "mean": fmean(each),
                    "spread": stdev(each) if len(each) > 1 else None,
                    "seeds": each,
                }
            line["trials"] = fmean(len(run["trials"]) for run in mine)
            line["spent"] = fmean(run["spent"] for run in mine)
            lines.append(line)
    return lines


def table(summary: Sequence[Mapping[str, Any]]) -> None:
    """Print the summary."""
    rows = []
    for line in summary:
        cells = [
            f"{name} {value['mean']:.3f}" + (f" ± {value['spread']:.3f}" if value["spread"] else "")
            for name, value in line.items()
            if isinstance(value, dict)
        ]
        rows.append([line["task"], line["method"], *cells, f"{line['trials']:.1f}", f"{line['spent']:,.0f}"])
    shared.show("of best trials, over seeds", ["task", "method", "", "", "trials", "tokens"], rows, words=2)


def plot(everything: Mapping[str, Run], options: argparse.Namespace) -> None:
    """What was spent against the lowest loss on dev so far, a panel a task, a line a seed."""
    from gfo.report.figures import COLOURS, Figure, tidy

    figure = Figure(3.2)
    panels = figure.subplots(1, len(options.task), squeeze=False)[0]
    for panel, task in zip(panels, options.task, strict=True):
        for method, colour in zip(options.method, COLOURS, strict=False):
            for seed in range(options.seeds):
                spent, lowest = lowest_so_far(everything[name_of(task, method, seed)])
                label = method if seed == 0 else None
                panel.step(spent, lowest, where="post", color=colour, label=label, alpha=0.8)
        panel.set_title(task)
        panel.set_xlabel("forward tokens of all trials" if task != GRID else "steps of all trials")
        panel.set_ylabel("lowest dev loss so far")
        tidy(panel)
    panels[0].legend(frameon=False)
    figure.write(options.figure)


def lowest_so_far(run: Run) -> tuple[list[int], list[float]]:
    """Tokens spent when a trial reached a rung, and the lowest loss until then."""
    reached = sorted((at["spent"], at["loss"]) for each in run["trials"] for at in each["reached"].values())
    lowest = [min(loss for _, loss in reached[: i + 1]) for i in range(len(reached))]
    return [spent for spent, _ in reached], lowest


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, checked."""
    parser = shared.Parser(__doc__)
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder of the searches")
    parser.add_argument("--task", action="append", help="sst2, agnews or grid (default: the first two)")
    parser.add_argument("--method", action="append", help="gfo or optuna; may be repeated (default: both)")
    parser.add_argument("--seeds", type=int, default=3, help="or splits (default %(default)s)")
    parser.add_argument("--dev", type=int, default=32, help="rows of dev at most (default %(default)s)")
    parser.add_argument("--test", type=int, default=500, help="rows of test at most (default %(default)s)")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--json", type=Path, help="write everything")
    parser.add_argument("--figure", type=Path, help="draw the searches")
    options = parser.parse_args(arguments)
    shared.check_at_least_one(options, ("seeds", "dev", "test"))
    shared.check_output("--json", options.json)
    shared.check_output("--figure", options.figure)
    options.task = shared.chosen("--task", options.task or TASKS, [*TASKS, GRID])
    options.method = shared.chosen("--method", options.method, METHODS)
    if any(task != GRID for task in options.task):
        if options.data is None:
            raise GfoError("--data is missing; name the data sets' folder, or take --task grid")
        if options.seeds > len(SPLITS):
            raise GfoError(f"--seeds {options.seeds}: a seed is a split, and there are {len(SPLITS)}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    return shared.command(arguments, parse, do, goes_on=True)


if __name__ == "__main__":
    shared.start(main, threads=1)
