"""What all Deltas of a space have in common, and a count of what goes through the model."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gfo.core.delta import Delta
from gfo.core.protocols import Cost
from gfo.evaluation.rows import TokenRows
from gfo.models.apply import Change

if TYPE_CHECKING:
    from gfo.models.frozen import FrozenModel

FORWARD_AND_BACKWARD = 3  # a backward pass counts as two forward passes


@dataclass(frozen=True)
class Shape:
    """What all Deltas of a space have in common.

    Attributes:
        P: tokens of the soft prompt.
        prefix: tokens of the prefix.
        everywhere: whether all tokens depend on the candidate, not the soft prompt's and those behind, or,
            where there is none, the last one alone.
        modules: whether modules change, or others that want as many tokens for each candidate.
        gates: whether sub-blocks are closed, whole or in parts, so that candidates may have layers in common.
        begins: the place in each row where they begin to, if it is not the start.
        first_layer: the layer below which, and at whose entrance, none does.
        prompt: the soft prompt that all candidates share where first_layer > 0, [1, P, D].
    """

    P: int
    prefix: int
    everywhere: bool
    modules: bool
    gates: bool
    begins: str | None
    first_layer: int
    prompt: Tensor | None

    @classmethod
    def of(cls, delta: Delta, model: FrozenModel) -> Shape:
        """The shape of a space for a model, from any of its Deltas."""
        prompt = None if delta.prompt is None else delta.prompt[:1]
        everywhere = delta.everywhere and not model.unseen(delta)
        begins = _begins(delta, model) if everywhere else None
        everywhere = everywhere and begins is None
        return cls(
            delta.prompt_tokens,
            delta.prefix_tokens,
            everywhere,
            delta.lasting,
            bool(delta.gate) or (everywhere and _has_nodes(delta, model)),
            begins,
            delta.first_layer if model.shares_layers else 0,
            prompt,
        )

    def whole(self) -> Shape:
        """The shape with which every candidate computes all layers, of all tokens where modules change."""
        return replace(self, first_layer=0, everywhere=self.everywhere or (self.modules and not self.begins))

    def enter(self, model: FrozenModel, rows: TokenRows) -> Tensor:
        """Input embeddings [R, T, D] of rows with the soft prompt that all candidates share."""
        words = rows.embed(model)
        if self.prompt is None:
            return words
        return Change(Delta(prompt=self.prompt), rows.places(1, self.P)[0]).put_prompts(words)


def _begins(delta: Delta, model: FrozenModel) -> str | None:
    """The place in each row where modules begin to change; None for the start."""
    if not model.causal:  # all that changes is in the decoder, whose tokens stand behind the row's
        return None
    return None if delta.begins is None else delta.begins.place


def _has_nodes(delta: Delta, model: FrozenModel) -> bool:
    """Whether candidates may have layers in common by the factors on inputs of modules in sub-blocks."""
    return bool(delta.input_scale) and model.in_sub_blocks(delta.input_scale)


@dataclass
class Meter:
    """Counts tokens times layers.

    Where gates close sub-blocks, a token through one of a layer's two counts as its share of their parameters
    (in SmolLM2-135M a quarter for attention), not at all where it is closed or another candidate's serves.

    Attributes:
        layers: L of the model.
        computed: what went through the model, padding included.
        needed: what the frontiers require.
        laid: the layouts that were used, by the keys under which they are kept, and whether they will recur.
        once: of computed and needed, what laying them out took now.
    """

    layers: int
    computed: float = 0
    needed: float = 0
    laid: dict[tuple[Any, bool], Any] = field(default_factory=dict)
    once: tuple[float, float] = (0, 0)

    def __reduce__(self) -> Any:  # a copy, as in another process, begins anew
        return type(self), (self.layers,)

    def cost(self, candidates: int, start: float) -> Cost:
        """What was counted since the time `start`, in tokens: those of some layers are that share of one."""
        computed = math.ceil(self.computed / self.layers - 1e-6)
        needed = math.ceil(self.needed / self.layers - 1e-6)
        return Cost(candidates, computed, needed, time.perf_counter() - start)

    def count(self, computed: int, needed: int, layers: float) -> None:
        """Tokens that went through `layers` layers, and go back through them where gradients are kept."""
        passes = FORWARD_AND_BACKWARD if torch.is_grad_enabled() else 1
        self.computed += passes * computed * layers
        self.needed += passes * needed * layers
