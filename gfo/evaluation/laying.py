"""A batch laid out: which of the layouts, and for what rows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from gfo.core.protocols import Batch
from gfo.evaluation.endings import with_endings
from gfo.evaluation.layouts import ByCandidate, ByExample
from gfo.evaluation.plan import plan
from gfo.evaluation.shape import Meter, Shape
from gfo.evaluation.structures import ByGenes
from gfo.evaluation.tower import Seen
from gfo.models.frozen import FrozenModel

if TYPE_CHECKING:
    from gfo.models.decoder import Decoder


def lay_out_batch(
    model: FrozenModel,
    batch: Batch,
    shape: Shape,
    most: int,
    meter: Meter,
    *,
    room: int,
    reuse: bool = True,
    states: bool = True,
) -> ByExample | ByCandidate:
    """A batch laid out, with what all candidates share computed.

    Args:
        model: a frozen model.
        batch: the examples.
        shape: of the space's Deltas.
        most: the most tokens of a forward pass.
        meter: counts what is computed here once.
        room: bytes of texts that may be kept.
        reuse: False to compute every sequence whole, the slow way.
        states: False to compute it whole where the model keeps states, which have no gradients.
    """
    P = shape.P
    if isinstance(batch, Seen):  # whose soft tokens stand in the rows
        P, shape = 0, replace(shape, P=batch.soft)
    by_genes = _shares_by_genes(model, batch, shape) if shape.gates and reuse else False
    todo = plan(
        batch,
        P,
        everywhere=shape.everywhere,
        begins=shape.begins,
        contexts=model.contexts and not by_genes,
        states=model.states and states and not by_genes,
        reuse=reuse,
        images_whole=model.images is not None and model.images.tokens.whole,
    )
    forks = model.contexts or not model.causal
    if batch.endings:
        todo = with_endings(todo, batch, model, most if reuse and forks else 0)
    if todo.by_example:
        return ByExample(cast("Decoder", model), todo, shape, most, meter, room=room)
    return (ByGenes if by_genes else ByCandidate)(model, todo, shape, most, meter)


def _shares_by_genes(model: FrozenModel, batch: Batch, shape: Shape) -> bool:
    """Whether candidates with gates share what they do alike; else sub-blocks are run and masked.

    Prefixes and sequences that grow have keys and values of each candidate.
    """
    alone = bool(shape.prefix) or batch.decoding is not None
    if model.images is not None and model.images.tokens.deep:  # what is added is each row's
        return False
    return not alone and model.shares_layers and model.skips_sub_blocks
