"""How far candidates' next tokens are from the unchanged model's, at the tokens of endings.

Of the unchanged model the hidden states are kept, not its logits: they are as many as the tokens, and their
product with the head is one of the K + 1 that are computed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gfo.core.delta import Delta
from gfo.core.protocols import Batch
from gfo.evaluation.endings import Wanted, wanted_of, with_endings
from gfo.evaluation.layouts import ByCandidate, ByExample
from gfo.evaluation.packing import lay_out
from gfo.evaluation.plan import plan
from gfo.evaluation.shape import Meter
from gfo.models.frozen import LOGITS_AT_ONCE, FrozenModel


@torch.no_grad()
def plain_states(
    model: FrozenModel, batch: Batch, most: int, meter: Meter, groups_wanted: Sequence[Wanted]
) -> list[Tensor]:
    """Hidden states of the unchanged model at the places of each group of another layout, [M, D] each.

    Args:
        model: a decoder.
        batch: with endings, and without soft prompts.
        most: the most tokens of a forward pass.
        meter: counts them.
        groups_wanted: what is wanted of that layout's groups.
    """
    todo = plan(batch, 0, everywhere=True, contexts=False)
    todo = with_endings(todo, batch, model, most if model.contexts else 0)
    groups, laid = lay_out(model, todo, most)
    found: dict[int, Tensor] = {}  # by the number of an ending's answer, at its tokens
    for (rows, lie), wanted in zip(laid, wanted_of(todo, groups, model.device), strict=True):
        hidden = model.branches(None, rows.embed(model)[None], lie)[0]
        meter.count(rows.ids.numel(), rows.real, meter.layers)
        for number, places in _places(wanted).items():
            found[number] = hidden[places]
    return [_at_places(wanted, found) for wanted in groups_wanted]


def _at_places(wanted: Wanted, states: Mapping[int, Tensor]) -> Tensor:
    """The states of endings, by their answers' numbers, at the places of a group, [M, D]."""
    M, D = len(wanted.tokens), next(iter(states.values())).shape[-1]
    found = next(iter(states.values())).new_zeros(M, D)
    for number, places in _places(wanted).items():
        found[places] = states[number]
    return found


def read_divergences(layout: ByExample | ByCandidate, delta: Delta, batch: Batch, meter: Meter) -> Tensor:
    """float32 sums [K, B, m] of KL(p || q) in nats over the tokens of the batch's endings."""
    model, m = layout.model, max(map(len, batch.endings), default=0)
    out = torch.full((delta.candidates, len(batch.after) * m), torch.inf, device=model.device)
    for k, i, hidden in layout(delta, meter):
        wanted = layout.wanted[i]
        each = divergence(model, hidden, layout.plain[i])[..., None].expand(-1, -1, wanted.tokens.shape[1])
        out[k, wanted.answers] = wanted.sums(each)
    return out.view(delta.candidates, len(batch.after), m)


def divergence(model: FrozenModel, hidden: Tensor, plain: Tensor) -> Tensor:
    """KL(p || q) in nats of the tokens behind hidden states: q behind [K, M, D], p behind [M, D]; [K, M].

    The vocabulary goes by in blocks: with a and b the logits, sum p (a - b) - log Z_a + log Z_b.
    """
    size = max(1, LOGITS_AT_ONCE // max(1, hidden.shape[0] * hidden.shape[1]))
    blocks = [slice(first, first + size) for first in range(0, model.vocabulary_size, size)]
    total = plain.new_full(plain.shape[:1], -math.inf, dtype=torch.float32)
    for block in blocks:
        total = torch.logaddexp(total, model.logits(plain, block).logsumexp(dim=-1))
    own_total = hidden.new_full(hidden.shape[:2], -math.inf, dtype=torch.float32)
    found = torch.zeros_like(own_total)
    for block in blocks:
        a, b = model.logits(plain, block), model.logits(hidden, block)
        own_total = torch.logaddexp(own_total, b.logsumexp(dim=-1))
        found = found + ((a - total[:, None]).exp() * (a - b)).sum(dim=-1)
    return found - total + own_total


def _places(wanted: Wanted) -> dict[int, Tensor]:
    """The number of each answer -> its places in order, int [L]."""
    M, W = wanted.tokens.shape
    return {
        int(number): terms[terms < M * W] // W
        for number, terms in zip(wanted.answers, wanted.terms, strict=True)
    }
