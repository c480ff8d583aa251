"""Speed of generated answers: gfo against transformers' `generate`, one candidate at a time, interleaved.

    python -m benchmarks.speed.generation --threads 1 --json FILE

See README.md of the benchmarks.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import shared
from benchmarks.shared import FEWEST_ROUNDS, chosen, say
from benchmarks.speed.data import DATA_SETS
from benchmarks.speed.measure import DisagreementError, Seconds, is_float32
from benchmarks.speed.models import add_model_options, check_model_options, make_model
from benchmarks.speed.workloads import WORKLOADS, Setting, setting
from gfo.core.metric import LOSS
from gfo.core.protocols import Cost, Decoding, Tokenizer, Tokens

CHOICES = ("text-first", "prompt-first")  # workloads whose candidates `generate` takes as embeddings
Answers = list[list[Tokens]]


class Writing:
    """A setting's rows, to be continued; the loss is the mean length of the answers.

    Args:
        it: the setting.
        new_tokens: of each answer; none ends before.
    """

    splits: tuple[str, ...] = ("train",)
    metrics = (LOSS,)

    def __init__(self, it: Setting, new_tokens: int) -> None:
        self.answers: Answers = []
        self._batch = replace(it.batch, decoding=Decoding(new_tokens, frozenset()))

    def bind(self, tokenizer: Tokenizer) -> Writing:
        """The rows are tokens already."""
        return self

    def batch(self, split: str, step: int) -> Any:
        """All rows."""
        return self._batch

    def all_rows(self, split: str) -> Any:
        """All rows."""
        return self._batch

    def loss(self, answers: Any, batch: Any) -> Any:
        """The answers' mean length, [K]; the answers themselves are kept in `answers`."""
        self.answers = answers
        return np.array([np.mean([len(text) for text in candidate]) for candidate in answers])

    def score(self, answers: Any, batch: Any) -> Any:
        """The same."""
        return {"loss": self.loss(answers, batch)}


def one_at_a_time(it: Setting, new_tokens: int) -> Answers:
    """Stock `generate` with its cache: a candidate's rows as a batch of embeddings, its prompt inserted."""
    import torch

    model, batch, delta = it.model, it.batch, it.delta()
    ids = (torch.tensor(rows, dtype=torch.long, device=model.device) for rows in (batch.before, batch.after))
    before, after = map(model.embed, ids)
    assert delta.prompt is not None
    answers = []
    for prompt in delta.prompt:
        rows = torch.cat([before, prompt.expand(len(batch), -1, -1), after], dim=1)  # (B, T, D)
        found = model.module.generate(
            inputs_embeds=rows,
            attention_mask=torch.ones(rows.shape[:2], dtype=torch.long, device=model.device),
            do_sample=False,
            max_new_tokens=new_tokens,
            pad_token_id=0,
        )
        answers.append([tuple(text) for text in found.tolist()])
    return answers


def same_answers(one: Answers, other: Answers) -> float:
    """The share of answers that are equal, token for token."""
    pairs = [(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)]
    return sum(a == b for a, b in pairs) / len(pairs)


def measure(it: Setting, new_tokens: int, repeats: int) -> dict[str, Any]:
    """Both in turn, `repeats` times, each time the other first; before that gfo once to warm up.

    Raises:
        DisagreementError: if float32 answers differ.
    """
    from gfo.evaluation.local import LocalEvaluator

    task = Writing(it, new_tokens)
    evaluator = LocalEvaluator(it.model, task, it.space, chunk_tokens=it.chunk_tokens)
    costs = [evaluator(it.z, 0).cost]
    found: dict[str, Answers] = {}

    def gfo() -> None:
        costs.append(evaluator(it.z, 0).cost)
        found["gfo"] = task.answers

    def serial() -> None:
        found["serial"] = one_at_a_time(it, new_tokens)

    it.model.module.generation_config.eos_token_id = None  # which gfo's answers do not stop at either
    seconds, same, order = Seconds(it.model.device), 1.0, [gfo, serial]
    for number in range(1, repeats + 1):
        for rival in order:
            seconds.run(rival.__name__, rival)  # type: ignore[arg-type]
            say(
                f"{it.title}, round {number} of {repeats}: {rival.__name__} took "
                f"{seconds.counted[rival.__name__][-1]:.2f} s ({seconds.clock})"
            )
        same = min(same, same_answers(found["gfo"], found["serial"]))
        order.reverse()
    if is_float32(it.model) and same < 1:
        raise DisagreementError(f"{1 - same:.1%} of the answers differ: they do not compute the same")
    return _entry(it, new_tokens, seconds, same, costs, found["gfo"])


def _entry(
    it: Setting, new_tokens: int, seconds: Seconds, same: float, costs: list[Cost], answers: Answers
) -> dict[str, Any]:
    """One entry of `workloads` in the JSON."""
    from benchmarks.speed.measure import described

    return {
        **described(it),
        "new_tokens": new_tokens,
        "clock": seconds.clock,
        "speedup_serial": seconds.ratio("serial", "gfo"),
        "same_answers": same,
        "different_answers": len({text for candidate in answers for text in candidate}),
        "forward_tokens": costs[-1].forward_tokens,
        "tokens_needed": costs[-1].tokens_needed,
        "once_forward_tokens": costs[0].forward_tokens - costs[-1].forward_tokens,
        "cpu_seconds": seconds.cpu,
        "wall_seconds": seconds.wall,
    }


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    """The checked options."""
    parser = shared.Parser(__doc__)
    add = parser.add_argument
    add("--workload", action="append", help=f"{', '.join(CHOICES)}; may be repeated; default: {CHOICES[0]}")
    add("--candidates", type=int, default=10, help="K (default %(default)s)")
    add("--rows", type=int, default=16, help="B (default %(default)s)")
    add("--text-length", type=int, default=128, help="random tokens of a text (default %(default)s)")
    add("--new-tokens", type=int, default=32, help="of an answer (default %(default)s)")
    add("--repeats", type=int, default=FEWEST_ROUNDS, help="rounds (default %(default)s)")
    add("--chunk-tokens", type=int, help="most tokens of a forward pass; default: from the memory")
    add("--json", type=Path, help="write the results to this file")
    add_model_options(add)
    options = parser.parse_args(arguments)
    options.workload = chosen("--workload", options.workload or CHOICES[:1], CHOICES)
    shared.check_at_least_one(
        options, ["candidates", "rows", "text_length", "new_tokens", "repeats", "chunk_tokens"]
    )
    check_model_options(options)
    shared.check_rounds(options)
    shared.check_output("--json", options.json)
    return options


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all workloads asked for; the JSON's contents."""
    from gfo.evaluation.memory import chunk_tokens

    model = make_model(options)
    entries = []
    for workload in [WORKLOADS[name][0] for name in options.workload]:
        it = setting(
            workload,
            DATA_SETS["agnews"],
            model,
            candidates=options.candidates,
            chunk_tokens=options.chunk_tokens or chunk_tokens(model),
            text_length=options.text_length,
            rows=options.rows,
            seed=options.seed,
        )
        entries.append(measure(it, options.new_tokens, options.repeats))
    return {"workloads": entries, "seed": options.seed, **shared.source()}


def show(entry: dict[str, Any]) -> str:
    """An entry in a line."""
    gfo, serial = (median(entry[f"{entry['clock']}_seconds"][name]) for name in ("gfo", "serial"))
    return (
        f"{entry['workload']}, {entry['candidates']} x {entry['rows']}, {entry['tokens_per_row']:.0f} + "
        f"{entry['new_tokens']} tokens: gfo {gfo:.2f} s, one candidate at a time {serial:.2f} s, "
        f"{entry['speedup_serial']:.2f} x, {entry['same_answers']:.1%} of the answers the same"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    return shared.command(arguments, _options, _run)


def _run(options: argparse.Namespace) -> None:
    found = run(options)
    for entry in found["workloads"]:
        print(show(entry))
    shared.write_json(options.json, found)


if __name__ == "__main__":
    shared.start(main)
