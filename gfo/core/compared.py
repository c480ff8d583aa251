"""A batch whose answers are compared with the unchanged model's."""

from __future__ import annotations

from dataclasses import dataclass, fields

from gfo.core.protocols import Batch


@dataclass(frozen=True)
class Compared(Batch):
    """A batch of whose endings no log-likelihood is wanted, but how far the next tokens' distributions are.

    At each token of an ending, KL(p || q) in nats, with p the unchanged model's in front of it and q the
    candidate's; an ending's answer is the sum over its tokens.
    """

    @classmethod
    def of(cls, batch: Batch) -> Compared:
        """Another batch, compared."""
        return cls(**{field.name: getattr(batch, field.name) for field in fields(batch)})
