"""Runs on a suite of others, what they say, and the files they leave: NAME.jsonl, .json, .md and .png."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks import shared
from benchmarks.optimizers.methods import SETTINGS, UNBOUNDED, installed, method
from benchmarks.optimizers.problems import Finished, Recorder
from benchmarks.optimizers.rivals import FOR_BITS, IN_STEPS, LEFT_OUT, SAME, SAME_UNBOUNDED
from benchmarks.optimizers.suites import SUITES, Suite
from gfo.core.domain import Array
from gfo.core.errors import GfoError
from gfo.optimizers.options import scale_option

FLOOR = 0.01  # a noisy suite's loss below this share of the start's counts as this in ratios: solved
PACKAGES = ("cma", "cmaes", "ioh", "nevergrad", "noisyopt", "pymoo", "pypop7", "scipy")


class SuiteCell(NamedTuple):
    """All instances of one function in one dimension by one method."""

    suite: str
    method: str
    function: str
    d: int
    instances: int


def rivals(suite: str, ours: str) -> tuple[str, ...]:
    """Implementations of the same method that can be run on a suite and are installed."""
    if suite == "pbo" and ours not in FOR_BITS:
        return ()
    left_out = LEFT_OUT.get(suite, ())
    same = SAME_UNBOUNDED if ours.endswith(UNBOUNDED) else SAME
    names = same.get(ours.removesuffix(UNBOUNDED), ())
    found = [name for name in names if name not in left_out and installed(name)]
    return tuple(name for name in found if suite != "noisy" or name in IN_STEPS)


def suite_cells(suite: Suite, methods: Sequence[str], dims: Sequence[int], instances: int) -> list[SuiteCell]:
    """What is to be run: each method followed by its rivals, small dimensions first, nevergrad at last.

    nevergrad takes over a millisecond a candidate, many times what all others take.
    """
    takes = [name for name in methods if suite.name != "pbo" or name in FOR_BITS]
    names = dict.fromkeys(name for ours in takes for name in (ours, *rivals(suite.name, ours)))
    return [
        SuiteCell(suite.name, name, function, d, instances)
        for last in (False, True)
        for d in dims
        for name in names
        if name.startswith("nevergrad:") == last
        for function in suite.functions
    ]


def run_suite_cell(cell: SuiteCell) -> dict[str, Any]:
    """One line of the raw results, computed by one thread."""
    with threadpool_limits(1):
        runs = [_run(cell, instance) for instance in range(1, cell.instances + 1)]
    return {**cell._asdict(), **{key: [run[key] for run in runs] for key in runs[0]}}


def _run(cell: SuiteCell, instance: int) -> dict[str, Any]:
    suite = SUITES[cell.suite]
    f = suite.make(cell.function, cell.d, instance)
    start = f.domain.clip(np.zeros((1, cell.d)))
    exact = getattr(f, "exact", f)
    at_start = float(exact(start)[0])
    step = float(scale_option(cell.method, f.domain, None).mean() / 2)  # half of the scale, as ours have it
    recorder = Recorder(f, suite.budget(cell.d), suite.precisions(at_start - f.minimum), step)
    with contextlib.suppress(Finished):
        method(cell.method).run(recorder, instance)
    ended = recorder.lowest if recorder.recommended is None else recorder.recommended
    return {
        "hits": recorder.hits,
        "lowest": float(f"{recorder.lowest:.6g}"),
        "share": float(f"{ended / at_start:.4g}") if cell.suite == "noisy" else None,
    }


def area(hits: Array, budget: int) -> float:
    """Area under the ECDF of evaluations [n] (inf: not reached) over log evaluations, in [0, 1]."""
    return float(np.mean(np.clip(1 - np.log(hits) / np.log(budget), 0.0, None)))


def _hits(line: Mapping[str, Any]) -> Array:
    return np.array([np.inf if n is None else n for hits in line["hits"] for n in hits], dtype=float)


def figure_of(suite: Suite, lines: Sequence[Mapping[str, Any]]) -> float:
    """A method's figure over lines of one function or of all: see `suites.py`."""
    if suite.name == "bbob":
        return float(np.mean([area(_hits(line), suite.budget(line["d"])) for line in lines]))
    if suite.name == "pbo":
        return float(np.mean([-low for line in lines for low in line["lowest"]]))
    return float(np.median([share for line in lines for share in line["share"]]))


def read_lines(path: Path) -> dict[SuiteCell, dict[str, Any]]:
    """The cells of a file of raw results; a last line that was cut off is left out.

    Raises:
        GfoError: for a line that is no result of this benchmark.
    """
    found = {}
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for number, text in enumerate(lines, start=1):
        try:
            line = json.loads(text)
            found[SuiteCell(**{key: line[key] for key in SuiteCell._fields})] = line
        except (ValueError, KeyError, TypeError):
            if number < len(lines):
                raise GfoError(f"{path.name}, line {number} is no result of this benchmark") from None
    return found


def run_suite(
    suite: Suite, methods: Sequence[str], dims: Sequence[int], instances: int, out: Path, processes: int
) -> None:
    """Run what the folder does not have yet, then write the table, the JSON and the figure."""
    if find_spec(suite.package) is None:
        raise GfoError(f"--suite {suite.name}: package {suite.package} is not installed; pip install it")
    if suite.name == "bbob":  # each beside those in [-5, 5], and beside those that search all of R^d
        methods = [*methods, *(name + UNBOUNDED for name in methods if name in SAME_UNBOUNDED)]
    if suite.name == "noisy":
        methods = [*methods, *(name for name, (ours, _) in SETTINGS.items() if ours in methods)]
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{suite.name}.jsonl"
    asked = suite_cells(suite, methods, dims, instances)
    done = read_lines(path)
    missing = [cell for cell in asked if cell not in done]
    shared.say(f"{len(asked)} cells, {len(missing)} of them to run, {instances} instances each")
    path.write_text("".join(json.dumps(line) + "\n" for line in done.values()), encoding="utf-8")
    with path.open("a", encoding="utf-8") as file:
        for number, (cell, line) in enumerate(_lines_of(missing, processes), start=1):
            file.write(json.dumps(line) + "\n")
            file.flush()
            done[cell] = line
            shared.say(f"{number} of {len(missing)}: {cell.method}, {cell.function}, d = {cell.d}")
    write_suite(suite, methods, [done[cell] for cell in asked], out)


def _lines_of(todo: Sequence[SuiteCell], processes: int) -> Iterator[tuple[SuiteCell, dict[str, Any]]]:
    if processes == 1:
        yield from ((cell, run_suite_cell(cell)) for cell in todo)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from zip(todo, pool.imap(run_suite_cell, todo), strict=True)


def comparisons(
    suite: Suite, methods: Sequence[str], lines: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Our methods beside their best rivals: for each dimension and function, those of bbob together."""
    groups: dict[tuple[str, int], dict[str, list[Mapping[str, Any]]]] = {}
    for line in lines:
        key = ("all" if suite.name == "bbob" else line["function"], line["d"])
        groups.setdefault(key, {}).setdefault(line["method"], []).append(line)
    found = []
    for (function, d), of in groups.items():
        figures = {name: figure_of(suite, its) for name, its in of.items()}
        least = FLOOR if suite.name == "noisy" else -np.inf
        best_of = min if suite.name == "noisy" else max
        best = best_of(figures.values())
        for ours in (name for name in methods if name in figures):
            theirs = {name: figures[name] for name in rivals(suite.name, ours) if name in figures}
            top = best_of(theirs, key=theirs.__getitem__) if theirs else None
            entry = {"function": function, "d": d, "method": ours, "figure": figures[ours], "rivals": theirs}
            entry |= {"best_rival": top, "to_best_of_all": _ratio(figures[ours], best, least)}
            entry["to_rival"] = _ratio(figures[ours], theirs[top], least) if top else None
            found.append(entry)
    return found


def _ratio(ours: float, theirs: float, least: float) -> float | None:
    return max(ours, least) / max(theirs, least) if max(theirs, least) else None


def write_suite(suite: Suite, methods: Sequence[str], lines: Sequence[Mapping[str, Any]], out: Path) -> None:
    """NAME.json, NAME.md, and for bbob the ECDFs in NAME.png."""
    found = comparisons(suite, methods, lines)
    shared.write_json(out / f"{suite.name}.json", {**shared.source(*PACKAGES), "comparisons": found})
    (out / f"{suite.name}.md").write_text("\n".join(table(found)) + "\n", encoding="utf-8")
    if suite.name == "bbob":
        plot(suite, methods, lines, out / "bbob.png")


def table(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of Markdown."""
    rows = ["| function | d | method | figure | best rival | its figure | ours / its | ours / best of all |"]
    rows.append("|---|---|---|---|---|---|---|---|")
    for e in found:
        rival = e["best_rival"]
        cells = [e["function"], str(e["d"]), e["method"], f"{e['figure']:.3g}", rival or "-"]
        cells += [f"{e['rivals'][rival]:.3g}" if rival else "-", _number(e["to_rival"])]
        rows.append(f"| {' | '.join([*cells, _number(e['to_best_of_all'])])} |")
    return rows


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def plot(suite: Suite, methods: Sequence[str], lines: Sequence[Mapping[str, Any]], path: Path) -> None:
    """ECDFs of runtimes: a row a dimension, a panel a method of ours that has rivals."""
    from matplotlib.figure import Figure

    pairs = [name for name in methods if rivals(suite.name, name)]
    dims = sorted({line["d"] for line in lines})
    if not pairs:
        return
    figure = Figure(figsize=(2.3 * len(pairs) + 0.3, 2.1 * len(dims) + 0.3), dpi=100, layout="constrained")
    panels = figure.subplots(len(dims), len(pairs), squeeze=False, sharex=True, sharey=True)
    for row, d in zip(panels, dims, strict=True):
        for axes, ours in zip(row, pairs, strict=True):
            draw = partial(_curve, axes, suite, d)
            for name, style in zip((ours, *rivals(suite.name, ours)), ("-", "--", ":", "-."), strict=False):
                draw([line for line in lines if (line["method"], line["d"]) == (name, d)], name, style)
            axes.set_title(f"{ours}, d = {d}", fontsize=8)
            if axes.lines:
                axes.legend(fontsize=6, frameon=False)
    figure.supxlabel("evaluations / d", fontsize=8)
    figure.supylabel("share of (function, instance, target)", fontsize=8)
    figure.savefig(path)


def _curve(
    axes: Any, suite: Suite, d: int, lines: Sequence[Mapping[str, Any]], name: str, style: str
) -> None:
    if lines:
        hits = np.concatenate([_hits(line) for line in lines])
        grid = np.geomspace(1, suite.budget(d), 200)
        axes.plot(grid / d, (hits[:, None] <= grid).mean(axis=0), style, label=name, lw=1.2)
        axes.set_xscale("log")
        axes.set_ylim(0, 1)
