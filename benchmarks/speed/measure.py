"""Rivals run in turn: seconds, losses that must agree, and the device's matrix rate."""

from __future__ import annotations

import functools
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.shared import UnusableError
from benchmarks.speed.workloads import Setting

if TYPE_CHECKING:
    import torch

    from benchmarks.speed.rivals import Rival
    from gfo.core.domain import Array
    from gfo.core.protocols import Cost
    from gfo.evaluation.local import LocalEvaluator
    from gfo.models.decoder import Decoder

LARGEST_DIFFERENCE = 1e-4  # of two ways to a float32 loss
SQUARE = {"cpu": 1024, "cuda": 8192}  # sides of the matrices that the matrix rate is measured with
RIVALS = ("serial", "stacked", "plain", "peft")
WARMED_UP = ("gfo", "plain")  # on a CPU; the others do nothing for the first time alone
PRODUCTS = 10  # of which the fastest counts


class DisagreementError(UnusableError):
    """A rival computes something else than gfo, so their times cannot be compared."""


@dataclass
class Seconds:
    """Seconds of each rival, round by round.

    Attributes:
        device: where the rivals run; a GPU's work is waited for.
        cpu: seconds of the whole process, all threads.
        wall: seconds on the clock.
    """

    device: torch.device
    cpu: dict[str, list[float]] = field(default_factory=dict)
    wall: dict[str, list[float]] = field(default_factory=dict)

    @property
    def clock(self) -> str:
        """What ratios are of: "cpu" on a CPU, where others may be busy, else "wall"."""
        return "cpu" if self.device.type == "cpu" else "wall"

    @property
    def counted(self) -> dict[str, list[float]]:
        """The seconds that ratios are of."""
        return self.cpu if self.clock == "cpu" else self.wall

    def run(self, name: str, rival: Rival) -> Array | None:
        """Run a rival once and note its seconds."""
        wait(self.device)
        wall, cpu = time.perf_counter(), time.process_time()
        losses = rival()
        wait(self.device)
        self.cpu.setdefault(name, []).append(time.process_time() - cpu)
        self.wall.setdefault(name, []).append(time.perf_counter() - wall)
        return losses

    def median(self, name: str) -> float:
        """A rival's median of the rounds."""
        return median(self.counted[name])

    def ratio(self, name: str, other: str) -> float | None:
        """Median seconds of one rival per median second of the other; None for one that did not run."""
        return self.median(name) / self.median(other) if name in self.counted else None


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def largest_difference(losses: Mapping[str, Array], name: str, most: float = LARGEST_DIFFERENCE) -> float:
    """The largest difference of a rival's losses to gfo's, over all candidates.

    Raises:
        DisagreementError: if it is more than `most`, or not a number.
    """
    difference = float(np.max(np.abs(losses[name] - losses["gfo"])))
    if not difference <= most:
        raise DisagreementError(
            f"the losses of {name} and gfo differ by {difference:.2g}, more than {most:.0e}: "
            "they do not compute the same, and their times mean nothing"
        )
    return difference


def measure(
    it: Setting,
    repeats: int,
    names: Collection[str] = (),
    *,
    rivals: Mapping[str, Rival] | None = None,
    say: Any = lambda line: None,
) -> dict[str, Any]:
    """Run all rivals in turn, `repeats` times, each time in another order.

    Before that, gfo and plain run once to warm up; on a GPU all do.

    Args:
        it, repeats: model, rows and candidates; rounds.
        names: of the usual rivals that run beside gfo; all that fit for none.
        rivals: by name, instead of the usual ones.
        say: told each rival's seconds.

    Returns:
        One entry of `workloads` in the JSON.

    Raises:
        DisagreementError: if a rival's float32 losses are not gfo's, or losses are not numbers.
    """
    from benchmarks.speed.rivals import usual_rivals

    evaluator = make_evaluator(it)
    if rivals is None:
        usual = usual_rivals(it, evaluator)
        rivals = {name: rival for name, rival in usual.items() if name in ("gfo", *(names or usual))}
    seconds, worst, order = Seconds(it.model.device), 0.0, list(rivals)
    most = LARGEST_DIFFERENCE if is_float32(it.model) else 1e30
    losses: dict[str, Array] = {}
    for number in range(repeats + 1):
        noted = seconds if number else Seconds(it.model.device)
        for name in order if number or noted.clock == "wall" else [n for n in WARMED_UP if n in rivals]:
            found = noted.run(name, rivals[name])
            if found is not None:
                losses[name] = found
            where = f"round {number} of {repeats}" if number else "warm-up"
            say(f"{it.title}, {where}: {name} took {noted.counted[name][-1]:.2f} s ({noted.clock})")
        worst = max([worst, *(largest_difference(losses, name, most) for name in losses)])
        order = order[1:] + order[:1] if number else order
    cost = evaluator(it.z, 0).cost
    return {
        **described(it),
        "clock": seconds.clock,
        **{f"speedup_{name}": seconds.ratio(name, "gfo") for name in ("serial", "stacked", "peft")},
        "share_of_plain": seconds.ratio("plain", "gfo"),
        **matrix_shares(it.model, cost.tokens_needed, seconds),
        "max_loss_difference": worst,
        "difference_to_float32": difference_to_float32(it, losses["gfo"]),
        "losses": [float(losses["gfo"].min()), float(losses["gfo"].max())],
        "forward_tokens": cost.forward_tokens,
        "tokens_needed": cost.tokens_needed,
        "once": cost_once(it),
        "cpu_seconds": seconds.cpu,
        "wall_seconds": seconds.wall,
    }


def make_evaluator(it: Setting, model: Decoder | None = None) -> LocalEvaluator:
    """gfo's evaluator of a setting."""
    from gfo.evaluation.local import LocalEvaluator

    return LocalEvaluator(model or it.model, it.task, it.space, chunk_tokens=it.chunk_tokens)


def described(it: Setting) -> dict[str, Any]:
    """What was measured, for the JSON."""
    return {
        "workload": it.workload.name,
        "template": it.workload.template(it.data),
        "dataset": it.data.name,
        "data": it.rows,
        "model": Path(it.model.name).name,
        "dtype": str(it.model.dtype).removeprefix("torch."),
        "candidates": len(it.z),
        "rows": len(it.batch),
        "tokens_per_row": round(float(np.mean(row_lengths(it))), 1),
        "longest_row": max(row_lengths(it)),
        "prompt_tokens": it.workload.prompt_tokens,
        "chunk_tokens": it.chunk_tokens,
    }


def row_lengths(it: Setting) -> list[int]:
    """Tokens of each row, template and soft prompt included."""
    rows = zip(it.batch.before, it.batch.after, strict=True)
    return [len(before) + it.workload.prompt_tokens + len(after) for before, after in rows]


def cost_once(it: Setting) -> dict[str, float]:
    """What gfo computes once per run: a new evaluator's first call less its second, one candidate."""
    evaluator, seconds = make_evaluator(it), Seconds(it.model.device)
    costs: list[Cost] = []

    def once() -> None:
        costs.append(evaluator(it.z[:1], 0).cost)

    seconds.run("once", once)
    seconds.run("once", once)
    tokens = costs[0].forward_tokens - costs[1].forward_tokens
    spent = seconds.counted["once"][0] - seconds.counted["once"][1]
    return {"forward_tokens": tokens, "seconds": max(0.0, spent) if tokens else 0.0}


def is_float32(model: Decoder) -> bool:
    """Whether the weights are float32."""
    import torch

    return model.dtype == torch.float32


def difference_to_float32(it: Setting, losses: Array) -> float | None:
    """The largest difference of gfo's losses in half precision to those of the same weights in float32.

    None in float32, and where the float32 copy does not fit into memory.
    """
    from benchmarks.speed.models import float32_copy

    copy = None if is_float32(it.model) else float32_copy(it.model)
    if copy is None:
        return None
    return float(np.max(np.abs(make_evaluator(it, copy)(it.z, 0).loss - losses)))


def matrix_shares(model: Decoder, tokens: int, seconds: Seconds) -> dict[str, float]:
    """The device's rate of a large square matrix product in the model's dtype, and gfo's share of it.

    gfo's operations are 2 for each parameter of the layers and token that depends on a candidate.

    Args:
        model: the model.
        tokens: tokens that depend on a candidate; one that went through half of the layers is half a one.
        seconds: of all rivals.
    """
    from benchmarks.speed.models import layer_parameters

    rate = matrix_rate(model.device, model.dtype)
    done = 2 * layer_parameters(model) * tokens / seconds.median("gfo")
    return {"matrix_rate": rate, "share_of_matrix_rate": done / rate}


@functools.cache
def matrix_rate(device: torch.device, dtype: torch.dtype, side: int | None = None) -> float:
    """Operations a second of a square matrix product: 2 n^3 over the fastest of 10, on the device's clock.

    Measured once in a run.
    """
    import torch

    n = side or SQUARE.get(device.type, 1024)
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    seconds = Seconds(device)

    def product() -> None:
        a @ b

    for _ in range(PRODUCTS + 1):
        seconds.run("product", product)
    return float(2 * n**3 / min(seconds.counted["product"][1:]))
