"""Every space with its defaults on 16-shot SST-2, 300 evaluations each, and the table of what they reach.

    python -m benchmarks.quality.spaces --data DIR

Runs what is missing in results/spaces, each from one config of experiments/spaces, and writes table.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import shared
from benchmarks.quality import runs

CONFIGS = shared.EXPERIMENTS / "spaces"
RESULTS = shared.RESULTS / "spaces"


def names() -> list[str]:
    """The names of the configs, one a space."""
    return sorted(path.stem for path in CONFIGS.glob("*.toml"))


def run(name: str, seed: int, data: Path, out: Path) -> None:
    """One run in a folder of its own."""
    from gfo.config import load_config

    overrides = [f'task.data_dir="{data}"', f"seed={seed}"]
    load_config(CONFIGS / f"{name}.toml", overrides).run(out)


def table(folder: Path) -> str:
    """Markdown of all finished runs in the folder, the lowest test loss first."""
    results = runs.finished(folder)
    first = next(iter(results.values()))
    lines = [
        f"{first['model']}, SST-2, 16 shots a class, {first['cost']['candidates']} evaluations, each space "
        "with its defaults from one config ([experiments/spaces](../../experiments/spaces)): CMA-ES, for the "
        "discrete prompt the genetic algorithm; spaces that reach every token change the upper half of the "
        "layers. Training loss: the lowest found; test: the recommendation selected on dev against the "
        "starting point; forward tokens and seconds of the search.",
        "",
        "| space | d | training loss | test loss | test accuracy | forward tokens | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    order = sorted(results, key=lambda name: results[name]["scores"]["after"]["test"]["loss"])
    lines += [_line(name, results[name]) for name in order]
    return "\n".join([*lines, "", _not_better(results)]) + "\n"


def _line(name: str, result: dict[str, Any]) -> str:
    before, after = (result["scores"][when]["test"] for when in ("before", "after"))
    losses = f"{result['loss']:.3f} | {before['loss']:.3f} → {after['loss']:.3f}"
    accuracy = f"{before['accuracy']:.1%} → {after['accuracy']:.1%}"
    cost = result["cost"]
    counts = f"{cost['forward_tokens']:,} | {cost['seconds']:.0f}"
    return f"| `{_space(name)}` | {result['d']} | {losses} | {accuracy} | {counts} |"


def _not_better(results: runs.Results) -> str:
    """A sentence on the spaces whose test loss is not below that of their starting point."""
    scores = {name: results[name]["scores"] for name in sorted(results)}
    same = [
        f"`{_space(name)}`"
        for name, of in scores.items()
        if not of["after"]["test"]["loss"] < of["before"]["test"]["loss"]
    ]
    return f"Not below its starting point's test loss: {', '.join(same) or 'none'}."


def _space(name: str) -> str:
    return name.partition("--seed")[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    return runs.main(
        arguments, doc=__doc__ or "", option="space", names=names(), run=run, table=table, results=RESULTS
    )


if __name__ == "__main__":
    shared.start(main)
