"""Tables and figures of the leaderboard, and the table of docs/leaderboard.md.

    python -m benchmarks.leaderboard.report

Reads results/leaderboard, as `python -m benchmarks.leaderboard` has written it, and writes table.md and the
figures beside it, and what stands between the leaderboard's marks in docs/leaderboard.md.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import shared
from benchmarks.leaderboard import runs as definition
from benchmarks.leaderboard.figures import plot_curves, plot_memory, plot_scores
from benchmarks.leaderboard.runs import EXPERIMENTS, RESULTS
from benchmarks.leaderboard.statistics import ACCURACY, KINDS, LOSS, Entries, Entry, Spread, beaten, ranks
from gfo.core.errors import GfoError
from gfo.core.files import write_whole

PAGE = Path(__file__).parents[2] / "docs" / "leaderboard.md"
MARKS = ("<!-- leaderboard -->", "<!-- end of leaderboard -->")
TITLES = {"sst2": "SST-2", "agnews": "AG News", "rte": "RTE", "boolq": "BoolQ"}
RIVAL, RANDOM = "prompt-tuning", "random"


@dataclass(frozen=True)
class Progress:
    """How much of the board there is.

    Attributes:
        shown: runs in the tables and figures.
        done, asked: runs that were done, and that there should be.
        cpu_hours: what those done took, loading and scoring included.
    """

    shown: int
    done: int
    asked: int
    cpu_hours: float

    def __str__(self) -> str:
        if self.shown == self.done == self.asked:
            return f"all {self.asked} runs are done"
        left_out = "" if self.shown == self.done else "; shown are the splits on which all methods were run"
        return f"{self.done} of {self.asked} runs are done{left_out}"


def read(experiments: Path, results: Path) -> tuple[Entries, Progress]:
    """The runs that were scored on test, in the order of the experiments: those of the splits on which all
    methods were run, or all as long as there is no such split.

    Raises:
        GfoError: if there is none.
    """
    runs = [run for run in definition.read_runs(experiments) if "test" in run.config["task"]]
    found = [(run, run.read(results)) for run in runs]
    done = [Entry(run.task, run.method, run.split, outcome) for run, outcome in found if outcome is not None]
    if not done:
        raise GfoError(
            f"--results {results}: no run of the leaderboard is there; run benchmarks.leaderboard first"
        )
    lacking = {(run.task, run.split) for run, outcome in found if outcome is None}
    shown = [e for e in done if (e.task, e.split) not in lacking] or done
    cpu_seconds = sum(e.result["process"]["cpu_seconds"] for e in done)
    return Entries(shown), Progress(len(shown), len(done), len(runs), cpu_seconds / 3600)


def title(task: str) -> str:
    """A task's name, and its budget if it has several."""
    name, _, tokens = task.partition("-")
    return TITLES.get(name, name) + (f", {int(tokens):,} tokens" if tokens.isdigit() else "")


def table(entries: Entries, progress: Progress) -> str:
    """Everything, as Markdown."""
    first = entries.all[0].result
    lines = [
        "# Leaderboard",
        "",
        f"{first['model']}, {first['hardware']['processor']}, one thread a run; {progress}. "
        f"What is done took {progress.cpu_hours:.1f} CPU hours. "
        "Written by `python -m benchmarks.leaderboard.report`; the protocol is in "
        "[benchmarks/README.md](../../README.md). Mean ± standard deviation over splits; in brackets the "
        "number of splits where it is not that of all.",
        "",
    ]
    for task in entries.tasks:
        lines += [f"## {title(task)}", "", *_task_table(entries, task), ""]
    lines += ["## All tasks", "", *_rank_table(entries), "", "## What the runs say", "", *findings(entries)]
    return "\n".join(lines) + "\n"


def _task_table(entries: Entries, task: str) -> Iterator[str]:
    yield (
        "| method | | d | test accuracy | test loss | dev loss | dev reads | steps | forward tokens | "
        "CPU seconds | peak memory |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    most = max(len(entries.of(m, task)) for m in entries.methods)
    done = [method for method in entries.methods if entries.of(method, task)]
    for method in sorted(done, key=lambda m: -Spread.of(e.test(ACCURACY) for e in entries.of(m, task)).mean):
        runs = entries.of(method, task)
        first = runs[0].result
        few = f" ({len(runs)})" if len(runs) < most else ""
        dev = [min(e.dev_losses) for e in runs if e.dev_losses]
        memory = [e.result["memory"]["peak_bytes"] / 2**20 for e in runs if "memory" in e.result]
        cells = [
            f"`{method}`{few}",
            KINDS[runs[0].kind],
            f"{first['d']:,}" if runs[0].kind != "untrained" and "d" in first else "",
            share(Spread.of(e.test(ACCURACY) for e in runs)),
            number(Spread.of(e.test(LOSS) for e in runs)),
            number(Spread.of(dev)) if dev else "",
            _mean(len(e.dev_losses) for e in runs),
            _mean(e.result["steps"] for e in runs),
            _mean(e.result["cost"]["forward_tokens"] for e in runs),
            _mean(e.result["process"]["cpu_seconds"] for e in runs),
            f"{_mean(memory)} MiB" if memory else "",
        ]
        yield f"| {' | '.join(cells)} |"


def _rank_table(entries: Entries) -> Iterator[str]:
    found = ranks(entries)
    if not found:
        yield "No method has been run on all splits."
        return
    n = len({(e.task, e.split) for e in entries.all})
    least = f"; with {n} splits p is at least {2 * 0.5**n:.3g}" if n > 1 else ""
    yield (
        "Rank in test accuracy, mean over the splits of all tasks. Behind the best: paired differences of "
        "accuracy with 95 % bootstrap intervals, and p of Wilcoxon's signed-rank test, not corrected for "
        f"their number{least}."
    )
    yield ""
    yield "| method | | mean rank | behind the best | p |"
    yield "|---|---|---|---|---|"
    for rank in found:
        behind = p = ""
        if not math.isnan(rank.p):
            behind = f"{100 * rank.behind:.1f} ({100 * rank.low:.1f} to {100 * rank.high:.1f}) points"
            p = f"{rank.p:.2g}"
        kind = KINDS[entries.of(rank.method)[0].kind]
        yield f"| `{rank.method}` | {kind} | {rank.rank:.1f} | {behind} | {p} |"


def findings(entries: Entries) -> Iterator[str]:
    """Sentences on who beats prompt tuning and who does not beat random search."""
    for metric in (ACCURACY, LOSS):
        for task in entries.tasks:
            bar = entries.spread(RIVAL, task, metric)
            if bar is None:
                continue
            own = [m for m in entries.methods if (e := entries.of(m, task)) and e[0].kind == "gfo"]
            sign = -1 if metric == LOSS else 1
            means = {m: Spread.of(e.test(metric) for e in entries.of(m, task)).mean for m in own}
            above = sorted(
                (m for m in own if sign * means[m] > sign * bar.mean), key=lambda m: -sign * means[m]
            )
            shown = [f"`{m}` ({_plain(metric, means[m])})" for m in above]
            yield (
                f"- {title(task)}, test {metric}: better than `{RIVAL}` ({_plain(metric, bar.mean)}): "
                f"{', '.join(shown) or 'no method without gradients'}."
            )
    for metric in (ACCURACY, LOSS):
        for task, methods in beaten(entries, RANDOM, metric).items():
            shown = [f"`{m}`" for m in methods]
            yield f"- {title(task)}, test {metric}: not better than `{RANDOM}`: {', '.join(shown) or 'none'}."


def page_table(entries: Entries, progress: Progress) -> str:
    """The short table: accuracy on each task, best mean rank first."""
    found = ranks(entries)
    lines = [
        f"| method | | {' | '.join(title(task) for task in entries.tasks)} | mean rank |",
        "|---|---|" + "---|" * (len(entries.tasks) + 1),
    ]
    for rank in found:
        runs = entries.of(rank.method)
        cells = [
            share(Spread.of(e.test(ACCURACY) for e in entries.of(rank.method, t))) for t in entries.tasks
        ]
        lines.append(f"| `{rank.method}` | {KINDS[runs[0].kind]} | {' | '.join(cells)} | {rank.rank:.1f} |")
    if progress.done < progress.asked:
        lines += ["", f"So far {progress}."]
    return "\n".join(lines)


def with_table(page: str, text: str) -> str:
    """A page with the text between the marks.

    Raises:
        GfoError: if it has no marks.
    """
    before, mark, rest = page.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not mark or not end:
        raise GfoError(f"--page: there is no place for the table; write {MARKS[0]} and {MARKS[1]} around it")
    return f"{before}{mark}\n{text}\n{end}{after}"


def share(spread: Spread) -> str:
    """A share in percent."""
    if math.isnan(spread.deviation):
        return f"{100 * spread.mean:.1f} %"
    return f"{100 * spread.mean:.1f} ± {100 * spread.deviation:.1f} %"


def number(spread: Spread) -> str:
    """A loss."""
    return f"{spread.mean:.3f}" + ("" if math.isnan(spread.deviation) else f" ± {spread.deviation:.3f}")


def _plain(metric: str, value: float) -> str:
    return f"{value:.3f}" if metric == LOSS else f"{100 * value:.1f} %"


def _mean(values: Iterable[float]) -> str:
    return f"{Spread.of(values).mean:,.0f}"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the command line."""
    parser = shared.Parser(__doc__)
    parser.add_argument("--experiments", type=Path, default=EXPERIMENTS, help="folder of what was to be run")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="folder of the outcomes, tables and figures"
    )
    parser.add_argument("--page", type=Path, default=PAGE, help="where the short table is written")
    return parser.parse_args(arguments)


def write(options: argparse.Namespace) -> None:
    """Write tables and figures, and print the long table."""
    entries, progress = read(options.experiments, options.results)
    try:
        before = options.page.read_text(encoding="utf-8")
    except OSError as error:
        raise GfoError(f"--page {options.page}: {error.strerror}; check the path") from None
    page = with_table(before, page_table(entries, progress))
    text = table(entries, progress)
    plot_scores(entries, title).write(options.results / "scores.png")
    for task in entries.tasks:
        plot_curves(entries, task, title(task)).write(options.results / f"curves-{task}.png")
    memory = options.results / "memory.json"
    if memory.exists():
        plot_memory(json.loads(memory.read_text(encoding="utf-8"))).write(options.results / "memory.png")
    write_whole(options.results / "table.md", text)
    write_whole(options.page, page)
    print(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    return shared.command(arguments, parse, write)


if __name__ == "__main__":
    shared.start(main)
