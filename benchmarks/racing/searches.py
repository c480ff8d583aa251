"""Searches with and without racing at the same forward tokens, on one set of rows after the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gfo
from benchmarks.racing.losses import SPACES, task_of
from benchmarks.shared import say
from gfo.models.frozen import FrozenModel

METHODS = ("ga", "openai-es", "sa", "de")
SPACE = "biases, last"


def searches(
    model: FrozenModel, data: Path, task: str, shuffle: int, *, rows: int, population: int, tokens: int
) -> Iterator[dict[str, Any]]:
    """Each method without and with racing on the first rows in an order.

    Without, all candidates are survivors. What is computed once is there before the first search, so that all
    spend their tokens on candidates. "best" is the lowest loss found, which is of all rows, "point" that of
    what the method recommends, evaluated again on all rows.
    """
    space = SPACES[SPACE](model)
    given = task_of(data, task, rows, shuffle=shuffle)
    ways = {False: gfo.Racing(survivors=population), True: gfo.Racing()}
    evaluator = gfo.LocalEvaluator(model, given, space, racing=ways[False])
    evaluator(gfo.optimizers.make("random", domain=space.domain, seed=1, population=2).ask(), 0)
    for method in METHODS:
        for racing, way in ways.items():
            evaluator.racing = way
            options: dict[str, Any] = {"domain": space.domain, "seed": shuffle, "population": population}
            made = gfo.optimizers.make(method, **options)
            result = gfo.minimize(made, evaluator, budget=gfo.Budget(forward_tokens=tokens))
            assert result.loss is not None  # all are finite
            evaluator.racing, last = ways[False], result.history[-1]
            point = float(evaluator(result.z[None], 0).loss[0])
            found = {"task": task, "shuffle": shuffle, "method": method, "racing": racing}
            found |= {"best": round(result.loss, 5), "point": round(point, 5), "steps": len(result.history)}
            found |= {"tokens": last.forward_tokens, "seconds": round(last.search_seconds, 2)}
            say(f"{task}, {shuffle}, {method}{', racing' if racing else ''}: {found['best']:.3f}")
            yield found
