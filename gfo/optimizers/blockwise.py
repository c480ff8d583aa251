"""Any optimizer on one block of z at a time, the other blocks held at their means.

The scheme of BBTv2 (Sun, He, Qian, Zhou, Huang and Qiu 2022, arXiv:2205.11200, algorithm 1), which visits the
layers of a model in turn with one CMA-ES each. There each layer hands on the best point it ever saw,
scored beside older prompts of the other layers (`hand_on="incumbent"`); by default it hands on what its
optimizer recommends, for CMA-ES the mean of the distribution, which does not depend on stale losses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gfo.core.checking import named
from gfo.core.domain import Array, Domain
from gfo.optimizers import make_with
from gfo.optimizers.base import BaseOptimizer
from gfo.optimizers.inner import inner_options, plan, quiet
from gfo.optimizers.options import one_of, option_error, start_point, whole

HAND_ON = ("recommendation", "incumbent")


@named
class Blockwise(BaseOptimizer):
    """One optimizer a block, visited in turn.

    Args:
        domain: the box searched.
        seed: of the seeds of the blocks' optimizers.
        optimizer: name of the method for each block. One with a mean is best: an incumbent's loss is
            stale once the other blocks have moved.
        blocks: sizes of consecutive blocks, which sum to d, or their number, of sizes as equal as
            can be; at most d / 2 of them by default.
        steps: ask-tell steps in a block before the next one's turn.
        hand_on: what the other blocks are evaluated beside, and what is recommended in the end: each block's
            "recommendation", or its "incumbent", the best point it was ever told, as BBTv2 has it.
        scale: a typical change of a coordinate, handed on; 1 by default, within a box a fifth of its width.
        options: the optimizer's options; its own defaults without.
    """

    name = "blockwise"
    integers = True  # as far as the blocks' method takes them
    injects = False  # a block's losses are those of points that differ in this block alone
    _state = ("_block", "_step", "_incumbent", "_incumbent_loss")

    def __init__(
        self,
        domain: Domain,
        seed: int,
        *,
        optimizer: str = "cma",
        blocks: int | Sequence[int] | None = None,
        steps: int = 1,
        hand_on: str = "recommendation",
        scale: float | Sequence[float] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(domain, seed)
        self._take(scale=scale)
        self.steps = whole(self.name, "steps", steps)
        self.hand_on = one_of(self.name, "hand_on", hand_on, HAND_ON)
        sizes = self._sizes(min(4, max(1, domain.d // 2)) if blocks is None else blocks)
        ends = np.cumsum(sizes)
        self.blocks = [slice(int(end - size), int(end)) for size, end in zip(sizes, ends, strict=True)]
        self._inner = [
            make_with(
                optimizer,
                domain.part(b),
                int(self.rng.integers(2**31)),
                inner_options(optimizer, options, None if scale is None else self.scale[b]),
            )
            for b in self.blocks
        ]
        for inner in self._inner:
            quiet(inner)
        self.rank_based = all(getattr(inner, "rank_based", False) for inner in self._inner)
        self._block = 0
        self._step = 0
        self._incumbent = start_point(domain)
        self._incumbent_loss = np.full(len(self.blocks), np.inf)

    def plan(self, evaluations: int | None = None, *, batches_differ: bool = False) -> None:
        super().plan(evaluations, batches_differ=batches_differ)
        share = None if evaluations is None else max(1, evaluations // len(self.blocks))
        for inner in self._inner:
            plan(inner, share, batches_differ=batches_differ)

    def _sizes(self, blocks: int | Sequence[int]) -> list[int]:
        d = self.domain.d
        if isinstance(blocks, Sequence):
            sizes = [whole(self.name, "blocks", size) for size in blocks]
            if sum(sizes) != d:
                raise option_error(self.name, "blocks", blocks, f"sizes that sum to d = {d}")
            return sizes
        number = whole(self.name, "blocks", blocks)
        if number > d:
            raise option_error(self.name, "blocks", blocks, f"at most d = {d}")
        return [len(part) for part in np.array_split(np.arange(d), number)]

    def _ask(self) -> Array:
        part = self._inner[self._block].ask()
        z = np.repeat(self.recommend()[None], len(part), axis=0)
        z[:, self.blocks[self._block]] = part
        return z

    def _tell(self, z: Array, loss: Array) -> None:
        part = z[:, self.blocks[self._block]]
        self._inner[self._block].tell(part, loss)
        i = int(np.nanargmin(loss))
        if loss[i] < self._incumbent_loss[self._block] or self.noisy:
            self._incumbent_loss[self._block] = loss[i]
            self._incumbent[self.blocks[self._block]] = part[i]
        self._step += 1
        if self._step >= self.steps or self._inner[self._block].should_stop():
            self._step = 0
            self._next_block()

    def _skip(self, z: Array) -> None:
        self._inner[self._block].tell(z[:, self.blocks[self._block]], np.full(len(z), np.nan))

    def _next_block(self) -> None:
        """On to the next block that has not come to its end, or stay if all have."""
        for ahead in range(1, len(self.blocks) + 1):
            block = (self._block + ahead) % len(self.blocks)
            if self._inner[block].should_stop() is None:
                self._block = block
                return

    def recommend(self) -> Array:
        """What each block hands on, [d]."""
        if self.hand_on == "incumbent":
            return self._incumbent.copy()
        return np.concatenate([inner.recommend() for inner in self._inner])

    def should_stop(self) -> str | None:
        reasons = [inner.should_stop() for inner in self._inner]
        if all(reasons):
            return f"every block has come to its end; the first because {reasons[0]}"
        return super().should_stop()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "inner": [inner.state_dict() for inner in self._inner]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        for inner, inner_state in zip(self._inner, state["inner"], strict=True):
            inner.load_state_dict(inner_state)
