"""Ways to choose a number of sub-blocks to close: those of the field, and evolution.

Each takes a problem and what may be spent, and gives a point of `gfo.Structure`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

import gfo
from gfo.core.domain import Array
from gfo.core.protocols import Cost

if TYPE_CHECKING:
    from gfo.models.frozen import FrozenModel

# EvoPress (Sieberling et al. 2025, arXiv:2410.14649) as options of "ga": (1 + lambda) with lambda = 32,
# offspring of the best alone, without crossover. An offspring exchanges some sub-blocks, as many on average
# as there; its stages are `gfo.Racing`.
EVOPRESS: dict[str, Any] = {
    "population": 32,
    "elites": 1,
    "p_c": 0.0,
    "selection": "truncation",
    "truncation_share": 1e-9,
}
EXCHANGES = 1.5  # genes set anew on average: min(U{1..3}, U{1..3}) has a mean of 14/9


@dataclass
class Problem:
    """A number of sub-blocks to close, the rows it is judged on, and what was spent.

    Attributes:
        model: whose sub-blocks they are.
        task: its training rows are searched on.
        closed: the number.
        seed: of what is drawn.
        spent: so far.
    """

    model: FrozenModel
    task: Any
    closed: int
    seed: int
    spent: Cost = field(default_factory=Cost)

    def __post_init__(self) -> None:
        self.space = gfo.Structure(self.model, closed=self.closed)
        self.d = self.space.domain.d
        self._any = gfo.LocalEvaluator(self.model, self.task, gfo.Structure(self.model))

    def losses(self, z: Array) -> Array:
        """Losses [K] of points [K, d] with any number of sub-blocks closed, which are paid for."""
        found = self._any(z, 0)
        self.spent = self.spent + found.cost
        return found.loss

    def score(self, z: Array, split: str) -> float:
        """The loss of one point [d] on a whole split, free."""
        return float(self._any.score(z[None], split).metrics["loss"][0])

    def point(self, genes: Array) -> Array:
        """The point [d] that closes the sub-blocks of these numbers."""
        z = np.zeros(self.d)
        z[genes] = 1.0
        return z


def singles(problem: Problem, tokens: int) -> Array:
    """Those whose closing alone costs least (single sensitivities)."""
    return problem.point(np.argsort(problem.losses(np.eye(problem.d)), kind="stable")[: problem.closed])


def greedy(problem: Problem, tokens: int) -> Array:
    """One after the other, each time the one that costs least behind those closed before."""
    z = np.zeros(problem.d)
    for _ in range(problem.closed):
        left = np.flatnonzero(z == 0)
        tried = np.repeat(z[None], len(left), axis=0)
        tried[np.arange(len(left)), left] = 1.0
        z = tried[np.nanargmin(problem.losses(tried))]
    return z


def random(problem: Problem, tokens: int) -> Array:
    """The best of random points, as many as the budget has room for."""
    rng, best, least = np.random.default_rng(problem.seed), np.zeros(problem.d), np.inf
    while problem.spent.forward_tokens < tokens:
        z = np.stack([problem.point(rng.permutation(problem.d)[: problem.closed]) for _ in range(32)])
        loss = problem.losses(z)
        if np.nanmin(loss) < least:
            best, least = z[np.nanargmin(loss)], float(np.nanmin(loss))
    return best


def one_shot(problem: Problem, tokens: int) -> Array:
    """Those that change the residual stream least: the mean of |f(x)| / |x| over the tokens of a text.

    As ShortGPT's block influence (Men et al. 2024, arXiv:2403.03853) for single sub-blocks, where it is 1
    less the cosine between x and x + f(x), which for small changes has the same order.
    """
    ratios = influence(problem.model, problem.task)
    problem.spent = problem.spent + Cost(forward_tokens=ratios.pop("tokens"))
    order = sorted(range(problem.d), key=lambda i: ratios[problem.space.domain.names[i]])  # type: ignore[index]
    return problem.point(np.array(order[: problem.closed]))


def evolved(problem: Problem, tokens: int) -> Array:
    """The genetic algorithm from the best single ones."""
    return _ga(problem, tokens, {"population": 32, "x0": singles(problem, tokens).tolist()})


def evopress(problem: Problem, tokens: int) -> Array:
    """The genetic algorithm with the settings of EvoPress, from random points."""
    return _ga(problem, tokens, EVOPRESS | {"p_reset": EXCHANGES / problem.d})


def _ga(problem: Problem, tokens: int, options: dict[str, Any]) -> Array:
    left = max(1, tokens - problem.spent.forward_tokens)
    result = gfo.tune(
        problem.model,
        problem.task,
        problem.space,
        optimizer="ga",
        options=options,
        budget=gfo.Budget(forward_tokens=left),
        seed=problem.seed,
        progress=False,
    )
    problem.spent = problem.spent + result.cost
    return np.asarray(result.z)


METHODS: dict[str, Callable[[Problem, int], Array]] = {
    "one-shot": one_shot,
    "singles": singles,
    "greedy": greedy,
    "random": random,
    "evolved": evolved,
    "evopress": evopress,
}


def influence(model: FrozenModel, task: Any) -> dict[str, Any]:
    """Name of a sub-block -> |f(x)| / |x|, the mean over the tokens of the training rows; and "tokens"."""
    import torch

    batch = task.bind(model).all_rows("train")
    sums: dict[str, float] = {}
    tokens = 0
    for before, endings in zip(batch.before, batch.endings, strict=True):
        ids = torch.tensor([[*before, *endings[0]]], device=model.device)
        tokens += ids.numel()
        with _ratios(model, sums):
            model.hidden_states(ids)
    return {name: total / tokens for name, total in sums.items()} | {"tokens": tokens}


@contextmanager
def _ratios(model: FrozenModel, sums: dict[str, float]) -> Iterator[None]:
    """Within, |f(x)| / |x| of each sub-block's tokens is added up by its name."""
    from gfo.models.families import sub_block_of
    from gfo.models.structure import hidden_of, hooked

    stream: list[Any] = []

    def enter(layer: Any, args: Any, kwargs: Any) -> None:
        stream[:] = [hidden_of(args, kwargs)]

    def leave(name: str) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            added = output if hasattr(output, "norm") else output[0]
            x = stream[0]
            sums[name] = sums.get(name, 0.0) + float((added.norm(dim=-1) / x.norm(dim=-1)).sum())
            stream[:] = [x + added]

        return hook

    handles = [layer.register_forward_pre_hook(enter, with_kwargs=True) for layer in model.all_layers]
    for place in model.sub_blocks:
        if found := sub_block_of(model.all_layers[place.layer], place.kind):
            handles.append(found[-1].register_forward_hook(leave(str(place))))
    with hooked(*handles):
        yield
