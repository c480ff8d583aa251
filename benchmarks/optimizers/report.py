"""results.json, table.md and the empirical distribution plots of the optimizer benchmark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import shared
from benchmarks.optimizers.explanations import why
from benchmarks.optimizers.methods import Pair, pair
from benchmarks.optimizers.problems import (
    BOX,
    HOPELESS,
    INTEGER,
    LOW,
    LOW_BUDGET,
    MAIN,
    PRECISIONS,
    REAL,
    SIGMA0,
)
from benchmarks.optimizers.statistics import (
    RATIO,
    SHARE,
    Comparison,
    Line,
    Runs,
    compare,
    ecdf,
    evaluations,
    interval,
    quantiles,
    seconds,
    summary,
)
from gfo.core.files import write_whole

PACKAGES = ("cma", "nevergrad", "noisyopt", "pymoo", "pypop7", "scipy")


def write_report(out: Path, lines: Sequence[Line], methods: Sequence[str]) -> None:
    """results.json, table.md and a plot for each dimension."""
    runs, pairs = Runs(lines), [pair(name) for name in methods]
    found = results(runs, pairs)
    shared.write_json(out / "results.json", found)
    write_whole(out / "table.md", "\n".join(table(runs, pairs, found)) + "\n")
    for d in runs.dimensions():
        plot_ecdf(runs, pairs, d, out / f"ecdf-d{d}.png")


def results(runs: Runs, pairs: Sequence[Pair]) -> dict[str, Any]:
    """The contents of results.json."""
    return {
        **shared.source(*PACKAGES),
        "protocol": {
            "precision": MAIN, "precisions": PRECISIONS, "box": BOX, "sigma0": SIGMA0, "hopeless": HOPELESS,
        },
        "rule": [
            {"method": p.name, "reference": r, "precision": at, **summary(compare(runs, p, r, at))}
            for p in pairs
            for r in p.references
            for at in PRECISIONS
        ],
        "low_budget": list(_low_budget(runs, pairs)),
        "medians": list(_medians(runs)),
    }  # fmt: skip


def _number(value: float) -> float | None:
    """None, JSON's null, for inf and nan."""
    return float(f"{value:.4g}") if np.isfinite(value) else None


def _medians(runs: Runs) -> Iterator[dict[str, Any]]:
    """Median and quartiles of evaluations and of seconds, and seeds that solve, at the main precision."""
    for method in runs.methods():
        for function in (*REAL, *INTEGER):
            for d in runs.dimensions():
                if line := runs.get(method, function, d):
                    runtimes = evaluations(line)
                    yield {
                        "method": method,
                        "function": function,
                        "d": d,
                        "budget": line["budget"],
                        "evaluations": [_number(q) for q in quantiles(runtimes)],
                        "seconds": [_number(q) for q in quantiles(seconds(line))],
                        "solved": int(np.isfinite(runtimes).sum()),
                        "seeds": len(runtimes),
                    }


def _low_budget(runs: Runs, pairs: Sequence[Pair]) -> Iterator[dict[str, Any]]:
    """Loss after 500 evaluations at d = 200 as a share of the start's, beside random search's."""
    for function in LOW:
        random = runs.get("random", function, LOW_BUDGET["d"], low=True)
        for p in pairs:
            line = runs.get(p.name, function, LOW_BUDGET["d"], low=True)
            if line and random:
                yield {
                    "method": p.name,
                    "function": function,
                    "loss": [_number(q) for q in quantiles(np.array(line["loss"]))],
                    "random": _number(quantiles(np.array(random["loss"]))[0]),
                    "seeds_below_random": int(np.sum(np.array(line["loss"]) < np.array(random["loss"]))),
                    "seeds": len(line["loss"]),
                }


def plot_ecdf(runs: Runs, pairs: Sequence[Pair], d: int, path: Path) -> None:
    """A panel a pair: ours against its references."""
    from matplotlib.figure import Figure

    pairs = [p for p in pairs if any(runs.get(p.name, f, d) for f in REAL)]
    columns = min(4, max(len(pairs), 1))
    rows = max(1, -(-len(pairs) // columns))
    figure = Figure(figsize=(2.9 * columns, 2.3 * rows + 0.3), dpi=100, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    styles = (("#2563a8", "-"), ("#d9720f", "--"), ("#9aa4b1", ":"))
    for p, axes in zip(pairs, panels, strict=False):
        for name, (color, style) in zip((p.name, *p.references), styles, strict=False):
            lines = [line for f in REAL if (line := runs.get(name, f, d))]
            if lines:
                grid = np.geomspace(1, min(line["budget"] for line in lines), 300)
                share = ecdf(runs, name, d, grid)
                axes.plot(grid / d, share, linestyle=style, color=color, label=name, lw=1.6)
        axes.set_xscale("log")
        axes.set_ylim(0, 1)
        axes.legend(frameon=False, fontsize=7, loc="upper left")
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(pairs) :]:
        axes.set_visible(False)
    figure.supxlabel("evaluations / d", fontsize=9)
    figure.supylabel("share of functions, seeds and precisions reached", fontsize=9)
    figure.suptitle(f"d = {d}", fontsize=10)
    figure.savefig(path)


def table(runs: Runs, pairs: Sequence[Pair], found: Mapping[str, Any]) -> Iterator[str]:
    """The lines of table.md."""
    yield "# Optimizers against reference implementations"
    yield ""
    yield f"Written by `python -m benchmarks.optimizers` on {found['date'][:10]}; protocol and columns:"
    yield "[`benchmarks/README.md`](../../README.md). Precision 1e-2 unless another is named."
    yield ""
    yield from _rule_table(pairs, found)
    yield from _exceptions([c for p in pairs for r in p.references[:1] for c in compare(runs, p, r)])
    yield from _low_budget_table(found["low_budget"])
    for p in pairs:
        for reference in p.references:
            yield from _details(runs, compare(runs, p, reference))


def _rule_table(pairs: Sequence[Pair], found: Mapping[str, Any]) -> Iterator[str]:
    others = [p for p in PRECISIONS if p != MAIN]
    yield f"## At most {RATIO} times the evaluations on {SHARE:.0%} of what both solve, and as many solved"
    yield ""
    yield (
        f"| method | reference | within {RATIO} x | solved by ours, by it | kept | "
        + " | ".join(f"at {p:g}" for p in others)
        + " |"
    )
    yield "|---" * (5 + len(others)) + "|"
    for p in pairs:
        for reference in p.references:
            rows = {
                row["precision"]: row
                for row in found["rule"]
                if (row["method"], row["reference"]) == (p.name, reference) and row["functions"]
            }
            if rows:
                main = rows[MAIN]
                shown = reference if reference == p.references[0] else f"({reference})"
                cells = [
                    p.name,
                    shown,
                    _within(main),
                    f"{main['ours']}, {main['theirs']} of {main['functions']}",
                ]
                cells += ["yes" if main["kept"] else "no", *(_within(rows[q]) for q in others)]
                yield "| " + " | ".join(cells) + " |"
    yield ""
    yield (
        "References in brackets are shown for information. The first of each method: "
        + "; ".join(f"{p.references[0]}: {p.why}" for p in pairs if p.references)
        + "."
    )
    yield ""


def _within(row: Mapping[str, Any]) -> str:
    if not row["both"]:
        return "none solved by both"
    return f"{row['within']} of {row['both']} ({row['within'] / row['both']:.0%})"


def _exceptions(found: Sequence[Comparison]) -> Iterator[str]:
    """Each function on which ours falls behind its reference, with the reason."""
    yield "## Exceptions"
    yield ""
    yield "| method | reference | function | d | ours | reference | ratio | its 95 % interval | reason |"
    yield "|---" * 9 + "|"
    for c in found:
        if c.exception:
            low, high = interval(c.ours, c.theirs)
            reason = why(c.method, c.reference, c.function)
            if low <= RATIO:
                reason = f"not distinguishable from {RATIO} with these seeds" + (
                    f"; {reason}" if reason else ""
                )
            cells = [
                c.method,
                c.reference,
                c.function,
                c.d,
                _spread(c.ours),
                _spread(c.theirs),
                _times(c.ratio),
            ]
            spread = f"{_times(low)} to {_times(high)}" if np.isfinite(low) else "-"
            cells += [spread, reason or "not explained yet"]
            yield "| " + " | ".join(map(str, cells)) + " |"
    yield ""


def _low_budget_table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    evaluations, d = LOW_BUDGET["evaluations"], LOW_BUDGET["d"]
    yield f"## {evaluations} evaluations at d = {d}, unbounded, from z = 0"
    yield ""
    yield "Loss of what the method recommends, as a share of the loss at the start: median (quartiles)."
    yield ""
    yield "| method | " + " | ".join(LOW) + " | seeds below random search |"
    yield "|---" * (2 + len(LOW)) + "|"
    for name in dict.fromkeys(row["method"] for row in rows):
        own = {row["function"]: row for row in rows if row["method"] == name}
        shares = ["{:.3g} ({:.3g} to {:.3g})".format(*own[f]["loss"]) if f in own else "" for f in LOW]
        below = sum(row["seeds_below_random"] for row in own.values())
        seeds = sum(row["seeds"] for row in own.values())
        yield "| " + " | ".join([name, *shares, f"{below} of {seeds}"]) + " |"
    yield ""


def _details(runs: Runs, found: Sequence[Comparison]) -> Iterator[str]:
    """Every function and dimension of a pair."""
    if not found:
        return
    yield f"## {found[0].method} and {found[0].reference}"
    yield ""
    yield "| function | d | ours | reference | ratio | solved of seeds | seconds of ours, of the reference |"
    yield "|---" * 7 + "|"
    for c in found:
        solved = ", ".join(f"{np.isfinite(x).sum()} of {len(x)}" for x in (c.ours, c.theirs))
        lines = [runs.get(name, c.function, c.d) for name in (c.method, c.reference)]
        times = ", ".join(_times(quantiles(seconds(line))[0]) for line in lines if line)
        cells = [c.function, c.d, _spread(c.ours), _spread(c.theirs), _times(c.ratio), solved, times]
        yield "| " + " | ".join(map(str, cells)) + " |"
    yield ""


def _spread(runtimes: np.ndarray[Any, Any]) -> str:
    """Median (quartiles), - for runs that do not reach the precision."""
    middle, low, high = (f"{q:.0f}" if np.isfinite(q) else "-" for q in quantiles(runtimes))
    return f"{middle} ({low} to {high})" if middle != "-" or low != "-" else "-"


def _times(value: float) -> str:
    return f"{value:.2g}" if np.isfinite(value) else "-"
