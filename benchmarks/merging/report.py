"""The table and the figure of merges and their controls."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from benchmarks import shared
from benchmarks.merging.tasks import ADAPTERS, TARGETS
from gfo.core.files import write_whole
from gfo.report.figures import COLOURS, GREY, Figure, tidy

METRICS = {"two": ("sst2.accuracy", "agnews.accuracy"), "held-out": ("accuracy",)}
WORDS = {"two": "SST-2 and AG News at once", "held-out": "RTE, which no adapter has seen"}
Found = Mapping[str, Mapping[str, Any]]
"""Name of a piece -> what it found."""
Row = tuple[str, list[Mapping[str, float]]]
"""A method, and its test scores, one a seed."""


def report(found: Found, options: argparse.Namespace) -> None:
    """Write merging.json, table.md and front.png, and show the table."""
    shared.write_json(options.out / "merging.json", dict(found))
    lines: list[str] = []
    for target in TARGETS:
        header = ["method", "loss", *METRICS[target]]
        table = [[name, *cells(scores, header[1:])] for name, scores in rows(found, target)]
        lines += [f"## {WORDS[target]}", "", *_markdown(header, table), ""]
        shared.show(f"{WORDS[target]}: test, mean and standard deviation over seeds", header, table)
    write_whole(options.out / "table.md", "\n".join(lines))
    plot(found).write(options.out / "front.png")


def rows(found: Found, target: str) -> Iterator[Row]:
    """The controls, the best parent and the best coefficient chosen on dev, and the searches."""
    for kind in ("trained", "random"):
        scores = found[f"controls-{kind}-{target}"]["scores"]
        parents = {name: scores[name] for name in ADAPTERS}
        best = min(parents, key=lambda name: parents[name]["dev"]["loss"])
        for name, some in scores.items():
            if kind == "random" and name in (*ADAPTERS, "unchanged"):
                continue
            said = f"{name} (best parent)" if name == best and kind == "trained" else name
            yield _of_kind(said, kind), [some["test"]]
        for optimizer in ("cma", "ga"):
            start = f"search-{kind}-{target}-{optimizer}-"
            some = [piece["test"] for name, piece in found.items() if name.startswith(start)]
            if some:
                yield _of_kind(optimizer, kind), some


def cells(scores: Sequence[Mapping[str, float]], names: Sequence[str]) -> list[str]:
    """Means, with standard deviations where there are several."""
    found = []
    for name in names:
        values = [each[name] for each in scores]
        spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
        found.append(f"{fmean(values):.3f}{spread}")
    return found


def plot(found: Found) -> Figure:
    """Accuracy on the two tasks: parents, mean, one coefficient, searches, and the front of nsga2."""
    figure = Figure(4.2)
    axes = figure.subplots(1, 1)
    first, second = METRICS["two"]
    for place, (name, scores) in enumerate(rows(found, "two")):
        colour = GREY if "random" in name else COLOURS[place % len(COLOURS)]
        marker = "x" if name.split(" ")[0] in (*ADAPTERS, "unchanged") else "o"
        x, y = ([100 * each[metric] for each in scores] for metric in (first, second))
        axes.plot(x, y, marker, color=colour, ms=5, label=name)
    front = [piece["front"] for piece in found.values() if "front" in piece]
    for some in front:
        points = sorted(zip(some[first], some[second], strict=True))
        axes.plot([100 * x for x, _ in points], [100 * y for _, y in points], ".-", label="nsga2, its front")
    axes.set_xlabel("SST-2, test accuracy, %")
    axes.set_ylabel("AG News, test accuracy, %")
    tidy(axes)
    figure.legend_outside(axes, columns=3)
    return figure


def _of_kind(name: str, kind: str) -> str:
    return name if kind == "trained" else f"{name}, random adapters"


def _markdown(header: Sequence[str], table: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *table]
    return ["| " + " | ".join(line) + " |" for line in lines]
