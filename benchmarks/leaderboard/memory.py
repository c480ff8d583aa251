"""Peak memory of tuning with and without gradients against plain inference, each in a process of its own.

    python -m benchmarks.leaderboard.memory --data DIR

All see the same rows, 16-shot SST-2 at once. Writes results/leaderboard/memory.json, which the report draws.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import shared
from benchmarks.leaderboard.runs import RESULTS
from gfo.core.domain import Array, Domain

PLAIN = "plain inference"
SOFT, LORA_SUBSPACE = "soft prompt, cma", "LoRA subspace, cma"
DEFAULT = "soft prompt, cma, a quarter of free memory"
BASELINES = {
    "MeZO (LoRA)": "mezo-lora",
    "prompt tuning": "prompt-tuning",
    "LoRA": "lora",
    "full fine-tuning": "full",
}
STEPS, POPULATION = 3, 20
MIB = 2**20


def measure(method: str, data: Path, pass_bytes: int | None) -> dict[str, Any]:
    """Memory before and at its highest in a few steps of a method, of this process.

    Args:
        method: as in the results.
        data: folder of the data sets.
        pass_bytes: what a forward pass may take; None for gfo's default.
    """
    import gfo

    model = gfo.load_model("smollm2-135m", device="cpu")
    task = gfo.Classification(
        data / "kshot16" / "sst2" / "seed13" / "train.jsonl",
        template="Review: {text}\n{soft}Sentiment:",
        labels={"negative": " negative", "positive": " positive"},
        label_field="label_text",
    )
    if method == PLAIN:
        return _plain(model, task)
    if method in BASELINES:
        space = gfo.SoftPrompt(model, tokens=4, dim=200) if method == "prompt tuning" else None
        found = gfo.baselines.run(
            BASELINES[method], model, task, space, budget=gfo.Budget(evaluations=STEPS), progress=False
        )
        return found.record
    soft = method != LORA_SUBSPACE
    found = gfo.tune(
        model,
        task,
        gfo.SoftPrompt(model, tokens=4, dim=200) if soft else gfo.LoRASubspace(model),
        options={"population": POPULATION},
        budget=gfo.Budget(evaluations=STEPS * POPULATION),
        progress=False,
        memory=None if method == DEFAULT else pass_bytes,
    )
    return found.record


def _plain(model: Any, task: Any) -> dict[str, Any]:
    """transformers' own forward pass over all rows at once, padded, reading the last token's logits only."""
    import torch

    import gfo
    from gfo.run.environment import PeakMemory

    rows = task.bind(model).all_rows("train")
    texts = [list(before + after) for before, after in zip(rows.before, rows.after, strict=True)]
    width = max(map(len, texts))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in texts])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in texts])

    def forward(z: Array) -> Array:
        with torch.inference_mode():
            logits = model.module(input_ids=ids, attention_mask=mask, logits_to_keep=1).logits
        return logits[: len(z), -1, 0].double().numpy()  # type: ignore[no-any-return]

    record: dict[str, Any] = {}
    optimizer = gfo.optimizers.make("random", domain=Domain.unbounded(1), seed=0, population=2)
    peak = PeakMemory(record, model.device)
    gfo.minimize(optimizer, forward, budget=gfo.Budget(evaluations=2 * STEPS), callbacks=[peak])
    return {**record, "tokens": int(ids.numel())}


def kind(method: str) -> str:
    """As in `benchmarks.leaderboard.statistics.KINDS`."""
    if method == PLAIN:
        return "untrained"
    return {"mezo-lora": "mezo"}.get(BASELINES[method], "gradients") if method in BASELINES else "gfo"


def run_all(data: Path) -> dict[str, Any]:
    """All methods, plain inference first: what its pass takes is what gfo's may take."""
    rows: list[dict[str, Any]] = []
    pass_bytes = 0
    for method in (PLAIN, SOFT, LORA_SUBSPACE, DEFAULT, *BASELINES):
        command = shared.itself(
            "benchmarks.leaderboard.memory", "--data", str(data), "--here", method, "--bytes", str(pass_bytes)
        )
        found = json.loads(_printed(method, command))
        memory = found["memory"]
        if method == PLAIN:
            pass_bytes = memory["peak_bytes"] - memory["start_bytes"]
        peak = memory["peak_bytes"] - found.get("beside_bytes", 0)
        rows.append(
            {
                "method": method,
                "kind": kind(method),
                "start_mib": round(memory["start_bytes"] / MIB),
                "peak_mib": round(peak / MIB),
                "beside_mib": round(found.get("beside_bytes", 0) / MIB),
                "to_plain": round(peak / rows[0]["peak_mib"] / MIB, 3) if rows else 1.0,
            }
        )
        shared.say(json.dumps(rows[-1]))
    return {"plain": PLAIN, "runs": rows, **shared.source()}


def _printed(method: str, command: Sequence[str]) -> str:
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise shared.UnusableError(f"{method}: its process ended with exit code {done.returncode}")
    return done.stdout


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the command line."""
    parser = shared.Parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--json", type=Path, default=RESULTS / "memory.json", help="where it is written")
    parser.add_argument("--here", help="measure this method in this process, and print it")
    parser.add_argument("--bytes", type=int, default=0, help="what a forward pass may take, with --here")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    """Measure one method in this process, or all, each in its own."""
    if options.here:
        found = measure(options.here, options.data, options.bytes or None)
        print(json.dumps({key: found[key] for key in ("memory", "beside_bytes") if key in found}))
    else:
        shared.write_json(options.json, run_all(options.data))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    return shared.command(arguments, parse, run)


if __name__ == "__main__":
    shared.start(main, threads=1)
