"""What a population of structures costs: shared by genes, masked, and one at a time without closed blocks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

import gfo
from gfo.core.domain import Array

if TYPE_CHECKING:
    from gfo.models.frozen import FrozenModel

CANDIDATES, SHARE = 32, 0.25
SWITCHES = 3  # at most; EvoPress draws the lesser of two such numbers


def offspring(d: int, closed: int, seed: int, switches: int = SWITCHES) -> Array:
    """Children [32, d] of one random parent, each with min(U{1..s}, U{1..s}) pairs of genes exchanged."""
    rng = np.random.default_rng(seed)
    parent = np.zeros(d)
    parent[rng.choice(d, closed, replace=False)] = 1.0
    z = np.repeat(parent[None], CANDIDATES, axis=0)
    for child in z:
        for _ in range(min(rng.integers(1, switches + 1, 2))):
            child[rng.choice(np.flatnonzero(child == 1))] = 0.0
            child[rng.choice(np.flatnonzero(child == 0))] = 1.0
    return z


def work_left(z: Array, shares: Array) -> float:
    """The share of sub-blocks, weighted, that are run: simulated by a set of prefixes of genes."""
    total = 0.0
    for i in range(z.shape[1]):
        total += shares[i] * len({tuple(row[: i + 1]) for row in z if row[i] == 0})
    return total / (len(z) * float(shares.sum()))


def measure(model: FrozenModel, task: Any, rounds: int, seed: int, switches: int) -> dict[str, Any]:
    """CPU seconds of the three ways, interleaved, and shares of work.

    Args:
        model: a decoder.
        task: language modelling; its training rows are one batch.
        rounds: of measurement, behind one that is not counted.
        seed: of the candidates.
        switches: of an offspring, at most.
    """
    space = gfo.Structure(model)
    z = offspring(space.domain.d, round(SHARE * space.domain.d), seed, switches)
    shared, masked = (gfo.LocalEvaluator(model, task, space, reuse=reuse) for reuse in (True, False))
    first = {"shared": shared(z, 0), "masked": masked(z, 0)}
    ways: dict[str, Callable[[], Array]] = {
        "shared": lambda: shared(z, 0).loss,
        "masked": lambda: masked(z, 0).loss,
        "one at a time": lambda: one_at_a_time(model, space, z, shared.task.all_rows("train")),
    }
    losses = {name: found.loss for name, found in first.items()} | {"one at a time": ways["one at a time"]()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            begin = time.process_time()
            way()
            seconds[name].append(time.process_time() - begin)
    tokens = {name: found.cost.forward_tokens for name, found in first.items()}
    spent = {name: median(values) for name, values in seconds.items()}
    sizes = np.array([model.sub_blocks[place].parameters for place in space.places], dtype=float)
    return {
        "candidates": len(z),
        "closed": int(z[0].sum()),
        "switches": switches,
        "cpu_seconds": spent,
        "rounds": seconds,
        "of_masked": spent["shared"] / spent["masked"],
        "of_one_at_a_time": spent["shared"] / spent["one at a time"],
        "work_left": tokens["shared"] / tokens["masked"],
        "work_left_simulated": work_left(z, sizes),
        "largest_difference": max(float(np.abs(losses[way] - losses["shared"]).max()) for way in ways),
    }


def one_at_a_time(model: FrozenModel, space: Any, z: Array, batch: Any) -> Array:
    """Losses [K] in nats per token by transformers' own forward pass of a model without the closed blocks."""
    import torch

    rows = [(before, ends[0]) for before, ends in zip(batch.before, batch.endings, strict=True)]
    found = []
    for point in z:
        closed = [place for place, gene in zip(space.places, point, strict=True) if gene]
        with torch.no_grad(), removed(model, closed):
            found.append(sum(_nats(model, *row) for row in rows))
    return np.array(found) / sum(len(ending) for _, ending in rows)


def _nats(model: FrozenModel, before: Any, ending: Any) -> float:
    import torch

    ids = torch.tensor([[*before, *ending]], device=model.device)
    logits = model.module(input_ids=ids, use_cache=False).logits[0, len(before) - 1 : -1].float()
    target = ids[0, len(before) :]
    return float(torch.nn.functional.cross_entropy(logits, target, reduction="sum"))


@contextmanager
def removed(model: FrozenModel, closed: Any) -> Iterator[None]:
    """Within, the closed sub-blocks are modules that give 0 and do nothing else."""
    import torch

    class Nothing(torch.nn.Module):
        def __init__(self, alone: bool) -> None:
            super().__init__()
            self.alone = alone

        def forward(self, x: Any = None, *args: Any, hidden_states: Any = None, **kwargs: Any) -> Any:
            zeros = torch.zeros_like(hidden_states if x is None else x)
            return zeros if self.alone else (zeros, None)

    names = {"attention": "self_attn", "feed-forward": "mlp"}
    before = []
    try:
        for place in closed:
            layer, name = model.all_layers[place.layer], names[place.kind]
            before.append((layer, name, getattr(layer, name)))
            setattr(layer, name, Nothing(name == "mlp"))
        yield
    finally:
        for layer, name, module in before:
            setattr(layer, name, module)
