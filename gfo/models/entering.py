"""What a part of a model is given, as its text model of a row with images: a pass that is stopped there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gfo.core.errors import GfoError
from gfo.models.structure import hooked


class _ReachedError(Exception):
    """The part was called."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        super().__init__()
        self.given = given


def entering(module: Any, **inputs: Tensor) -> Mapping[str, Any]:
    """What a model's forward pass calls its text model with; nothing of that runs."""
    return given_to(module.get_decoder(), module, **inputs)


def given_to(part: Any, module: Any, **inputs: Any) -> Mapping[str, Any]:
    """What a model's forward pass calls a part of it with, by name; neither it nor what is behind it runs."""

    def stop(part: Any, args: Any, kwargs: Any) -> None:
        raise _ReachedError(kwargs)

    try:
        with hooked(part.register_forward_pre_hook(stop, with_kwargs=True)):
            module(**inputs)
    except _ReachedError as reached:
        return reached.given
    raise GfoError(
        f"model: the forward pass of {type(module).__name__} never calls its {type(part).__name__}"
    )


def counts(position: Tensor) -> bool:
    """Whether positions are those of text: 0, 1, 2, ... or from 1 on, in one dimension or the same in all."""
    wanted = torch.arange(position.shape[-1], device=position.device) + position.min()
    return bool((position == wanted).all())


def has_tensors(value: Any) -> bool:
    """Whether it is a tensor, or a list with one."""
    parts = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(part, Tensor) for part in parts)


def shows_all(mask: Any) -> bool:
    """Whether an attention mask hides nothing: none at all, or ones [B, T]."""
    ones = isinstance(mask, Tensor) and mask.ndim == 2 and bool((mask == 1).all())
    return mask is None or ones


def dimensions_of_moves(position: Any) -> int:
    """How many dimensions positions have that do not just count; 0 of those that do, or none."""
    return 0 if position is None or counts(position) else int(position.ndim)
