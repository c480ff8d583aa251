"""What is read of a batch's hidden states: logits, or log-likelihoods of endings."""

from __future__ import annotations

import torch
from torch import Tensor

from gfo.core.delta import Delta
from gfo.core.protocols import Batch
from gfo.evaluation.layouts import ByCandidate, ByExample
from gfo.evaluation.shape import Meter


def read_logits(layout: ByExample | ByCandidate, delta: Delta, batch: Batch, meter: Meter) -> Tensor:
    """float32 logits [K, B, V'] of K candidates at the batch's vocabulary."""
    model, V = layout.model, layout.model.vocabulary_size
    wanted = V if batch.vocabulary is None else len(batch.vocabulary)
    out = torch.empty(delta.candidates, len(batch.after), wanted, device=model.device)
    for k, i, hidden in layout(delta, meter):
        out[k, layout.groups[i]] = model.logits(hidden, batch.vocabulary)
    return out


def read_log_likelihoods(layout: ByExample | ByCandidate, delta: Delta, batch: Batch, meter: Meter) -> Tensor:
    """float32 log-likelihoods [K, B, m] of the batch's endings in nats, -inf where a row has fewer."""
    model, m = layout.model, max(map(len, batch.endings), default=0)
    out = torch.full((delta.candidates, len(batch.after) * m), -torch.inf, device=model.device)
    for k, i, hidden in layout(delta, meter):
        wanted = layout.wanted[i]
        out[k, wanted.answers] = wanted.sums(model.log_likelihood(hidden, wanted.tokens))
    return out.view(delta.candidates, len(batch.after), m)
