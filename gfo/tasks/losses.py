"""Losses of label logits, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Loss = Callable[["Tensor", "Tensor"], "Tensor"]


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Negative log-likelihood of the target among the labels; [N, C], [N] -> [N], in nats."""
    from torch.nn import functional

    return functional.cross_entropy(logits, target, reduction="none")


def hinge(logits: Tensor, target: Tensor, margin: float = 2.0) -> Tensor:
    """Multi-class hinge loss, the mean over C labels of max(0, margin - l_target + l_j), j != target.

    Crammer and Singer's and Weston and Watkins' sum form as torch's `multi_margin_loss` has it;
    the margin of 2 is that of Black-Box Tuning (Sun et al. 2022). [N, C], [N] -> [N].
    """
    from torch.nn import functional

    return functional.multi_margin_loss(logits, target, margin=margin, reduction="none")


LOSSES: dict[str, Loss] = {"ce": cross_entropy, "hinge": hinge}
