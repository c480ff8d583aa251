"""Losses of class scores, by name: float32 scores [K, B, C] and targets [B] -> one loss a candidate, [K].

A class score is a logit or a log-likelihood: softmax makes it a probability. Losses that have a gradient
are tensors; the others are arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from gfo.core.domain import Array
from gfo.tasks.parts.metrics import macro_f1

if TYPE_CHECKING:
    from torch import Tensor

RowLosses = Callable[["Tensor", Array], "Tensor"]
Loss = Callable[["Tensor", Array], "Tensor | Array"]


def cross_entropies(scores: Tensor, target: Array) -> Tensor:
    """Negative log-likelihood of the target among the labels, in nats, of each row, [K, B]."""
    import torch

    K, B, C = scores.shape
    right = torch.as_tensor(target, device=scores.device).repeat(K)
    each = torch.nn.functional.cross_entropy(scores.reshape(K * B, C), right, reduction="none")
    return each.view(K, B)


def hinges(scores: Tensor, target: Array, margin: float = 2.0) -> Tensor:
    """Multi-class hinge loss of each row, [K, B]: the mean over C labels of max(0, margin - l_target + l_j),
    j != target.

    The sum form of Weston and Watkins, as torch's `multi_margin_loss` has it; the margin
    of 2 is that of Black-Box Tuning (Sun et al. 2022).
    """
    import torch

    right = torch.as_tensor(target, device=scores.device).expand(scores.shape[:2])[..., None]
    beyond = (margin - scores.gather(-1, right) + scores).clamp(min=0)  # nan stays, as in torch's it does not
    return beyond.scatter(-1, right, 0.0).mean(dim=-1)


def own_losses(scores: Tensor, target: Array) -> Tensor:
    """The negative of the target's score of each row, [K, B]: of log-likelihoods, its own in nats."""
    import torch

    right = torch.as_tensor(target, device=scores.device).expand(scores.shape[:2])[..., None]
    return -scores.gather(-1, right)[..., 0]


def errors(scores: Tensor, target: Array) -> Tensor:
    """1 for a row whose label is wrong, 0 for a right one, nan where a score is, [K, B]."""
    import torch

    wrong = (scores.argmax(dim=-1) != torch.as_tensor(target, device=scores.device)).float()
    return wrong.masked_fill(scores.isnan().any(dim=-1), torch.nan)


ROW_LOSSES: dict[str, RowLosses] = {"ce": cross_entropies, "hinge": hinges, "accuracy": errors}
"""Losses that are means over rows, as those of each row."""


def cross_entropy(scores: Tensor, target: Array) -> Tensor:
    """Negative log-likelihood of the target among the labels, in nats, the rows' mean."""
    return cross_entropies(scores, target).mean(dim=1)


def hinge(scores: Tensor, target: Array) -> Tensor:
    """Multi-class hinge loss, the mean over C labels of max(0, margin - l_target + l_j), j != target.

    The sum form of Weston and Watkins (1999), margin 2; see `hinges`.
    """
    return hinges(scores, target).mean(dim=1)


def error(scores: Tensor, target: Array) -> Array:
    """1 - accuracy: the share of rows whose label is wrong."""
    found: Array = as_array(errors(scores, target)).mean(axis=1)
    return found


def f1_error(scores: Tensor, target: Array) -> Array:
    """1 - macro F1."""
    predicted = scores.argmax(dim=-1).cpu().numpy()
    failed = scores.detach().isnan().flatten(1).any(dim=1).cpu().numpy()
    C = scores.shape[-1]
    return np.array(
        [np.nan if bad else 1 - macro_f1(target, p, C) for bad, p in zip(failed, predicted, strict=True)]
    )


def error_then_cross_entropy(scores: Tensor, target: Array) -> Array:
    """1 - accuracy + ce / (1 + ce) / (B + 1): cross-entropy decides between equal accuracies alone.

    One row more that is right is worth 1 / B, and the second term is less: candidates are ranked by
    accuracy, and where that is the same by cross-entropy.
    """
    ce = as_array(cross_entropy(scores, target))
    ce = np.minimum(ce, np.finfo(np.float32).max)  # inf is worst, and still less than one row
    found: Array = error(scores, target) + ce / (1 + ce) / (len(target) + 1)
    return found


LOSSES: dict[str, Loss] = {
    "ce": cross_entropy,
    "hinge": hinge,
    "accuracy": error,
    "macro_f1": f1_error,
    "accuracy+ce": error_then_cross_entropy,
}


def failures(scores: Tensor, target: Array) -> Array:
    """Which candidates failed, bool [K]: a nan or +inf, or no finite score of the right class."""
    values = scores.detach().cpu().numpy()
    right = np.take_along_axis(values, np.asarray(target)[None, :, None], axis=-1)
    wrong = np.isnan(values) | np.isposinf(values)
    found: Array = wrong.any(axis=(1, 2)) | ~np.isfinite(right).all(axis=(1, 2))
    return found


def as_array(values: Tensor | Array) -> Array:
    """Losses as a float64 array."""
    if isinstance(values, np.ndarray):
        return values
    found: Array = values.detach().double().cpu().numpy()
    return found


def only_finite(values: Array, failed: Array) -> Array:
    """Values [K] or [K, B], nan for the candidates that failed, bool [K]."""
    return np.where(failed.reshape(-1, *[1] * (values.ndim - 1)), np.nan, values)
