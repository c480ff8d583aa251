"""Every optimizer with its defaults on one soft prompt of SST-2, and the table of what they reach.

    python -m benchmarks.quality.optimizers_sst2 --data DIR

Runs what is missing in results/optimizers_sst2, from one config (see experiments/sst2), and writes table.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import shared
from benchmarks.quality import runs

CONFIG = shared.EXPERIMENTS / "sst2" / "soft_prompt--optimizers.toml"
RESULTS = shared.RESULTS / "optimizers_sst2"
METHODS = ("cma", "sep-cma", "ga", "pso", "sa", "openai-es", "snes", "spsa", "bo", "random")
RIVAL = "random"  # which every other method must beat


def run(method: str, seed: int, data: Path, out: Path) -> None:
    """One run in a folder of its own."""
    from gfo.config import load_config

    overrides = [f'task.data_dir="{data}"', f'optimizer.name="{method}"', f"seed={seed}"]
    load_config(CONFIG, overrides).run(out)


def table(folder: Path) -> str:
    """Markdown of all finished runs in the folder, the lowest training loss first; and who lost to random."""
    results = sorted(runs.finished(folder).values(), key=lambda result: result["loss"])
    first = results[0]
    lines = [
        f"{first['model']}, d = {first['d']}, from one config "
        f"([{CONFIG.name}](../../experiments/sst2/{CONFIG.name})). Training loss: the lowest found; test: "
        "the recommendation selected on dev. Seconds: of the search.",
        "",
        "| optimizer | seed | evaluations | training loss | test loss | test accuracy | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_line(result) for result in results]
    before = first["scores"]["before"]["test"]
    lines += ["", f"The start: test loss {before['loss']:.3f}, accuracy {before['accuracy']:.1%}."]
    lines += [_losers(results)]
    return "\n".join(lines) + "\n"


def _line(result: dict[str, Any]) -> str:
    test, cost = result["scores"]["after"]["test"], result["cost"]
    return (
        f"| `{result['optimizer']}` | {result['seed']} | {cost['candidates']} | {result['loss']:.3f} "
        f"| {test['loss']:.3f} | {test['accuracy']:.1%} | {cost['seconds']:.0f} |"
    )


def _losers(results: Sequence[dict[str, Any]]) -> str:
    """A sentence on the methods whose training loss is not below random search's of the same seed."""
    rivals = {result["seed"]: result["loss"] for result in results if result["optimizer"] == RIVAL}
    lost = [
        f"`{result['optimizer']}` (seed {result['seed']})"
        for result in results
        if result["optimizer"] != RIVAL and not result["loss"] < rivals.get(result["seed"], float("inf"))
    ]
    return f"Not below random search's training loss: {', '.join(lost) or 'none'}."


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    return runs.main(
        arguments, doc=__doc__ or "", option="method", names=METHODS, run=run, table=table, results=RESULTS
    )


if __name__ == "__main__":
    shared.start(main)
