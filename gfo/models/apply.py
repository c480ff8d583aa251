"""K candidates' changes in one forward pass, by hooks on the modules that they change.

The weights are never written. A changed linear module still makes one product for all candidates;
what belongs to a candidate is batched beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gfo.core.delta import MODULE_SLOTS, Delta, is_shared
from gfo.core.errors import GfoError
from gfo.models.structure import hidden_of, hooked, with_hidden


@dataclass(frozen=True)
class Change:
    """K candidates in the rows of a forward pass.

    Attributes:
        delta: the changes, in the model's dtype. Those of modules want as many tokens for each candidate.
        place: which token of the K soft prompts stands there, k * P + p, int [rows, T]; -1 elsewhere.
        cycles: how often the candidates follow each other in the tokens, from first to last each time;
            None where rows are sorted by candidate.
    """

    delta: Delta
    place: Tensor
    cycles: int | None = None

    def put_prompts(self, words: Tensor) -> Tensor:
        """The soft prompts in their places among input embeddings [rows, T, D]."""
        if self.delta.prompt is None:
            return words
        soft = self.delta.prompt.flatten(0, 1)[self.place.clamp(min=0)]
        return torch.where((self.place >= 0)[..., None], soft, words)


@contextmanager
def applied(change: Change | None, module: nn.Module, layers: Sequence[nn.Module]) -> Iterator[None]:
    """Within, the module computes the changed outputs; `prompt` and `prefix` are the caller's to place.

    Args:
        change: the candidates, or None to change nothing.
        module: the whole model; the names of the Delta's modules are its.
        layers: the layers that the Delta's `layer_prompt` counts.

    Raises:
        GfoError: if a module's rows are not the pass's.
    """
    if change is None:
        yield
        return
    handles = []
    for layer, prompt in change.delta.layer_prompt.items():
        hook = _add_prompt(prompt.flatten(0, 1), change.place)
        handles.append(layers[layer].register_forward_pre_hook(hook, with_kwargs=True))
    for name in sorted(change.delta.modules):
        hook = _change_output(change, name)
        handles.append(module.get_submodule(name).register_forward_hook(hook))
    with hooked(*handles):
        yield


def _add_prompt(prompt: Tensor, place: Tensor) -> Any:
    """A hook that adds soft-prompt tokens [K * P, D] to a layer's input in their places [rows, T]."""
    there = (place >= 0)[..., None]

    def hook(module: nn.Module, args: Any, kwargs: Any) -> Any:
        hidden = hidden_of(args, kwargs)
        added = prompt[place.clamp(min=0)]
        return with_hidden(torch.where(there, hidden + added, hidden), args, kwargs)

    return hook


def _change_output(change: Change, name: str) -> Any:
    """A hook that gives each candidate's part of the tokens the output that `Delta` says."""
    K, again = change.delta.candidates, change.cycles or 1
    lora, scale, bias, adapter = (getattr(change.delta, slot).get(name) for slot in MODULE_SLOTS)

    def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        x = args[0]
        shared_out = x.shape[0] if change.cycles is None else math.prod(x.shape[:-1])
        if shared_out % (K * again) or output.ndim != x.ndim:
            raise GfoError(
                f"module '{name}' gets {tuple(x.shape)} for {K} candidates; take modules whose first axis is "
                "the rows of the batch"
            )
        y = _by_candidate(output, K, again)
        if lora is not None:
            y = add_low_rank(y, _by_candidate(x, K, again), *lora)
        if scale is not None:
            y = y * scale[:, None]
        if bias is not None:
            y = y + bias[:, None]
        if adapter is not None:
            A, B = adapter
            y = y + torch.nn.functional.gelu(times(y, A)) @ B.mT
        return y.view(K, again, -1, y.shape[-1]).transpose(0, 1).reshape(output.shape)

    return hook


def _by_candidate(x: Tensor, K: int, again: int) -> Tensor:
    """Tokens [..., D], in which K candidates follow each other so many times: [K, N, D]."""
    return x.reshape(again, K, -1, x.shape[-1]).transpose(0, 1).reshape(K, -1, x.shape[-1])


def add_low_rank(y: Tensor, x: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """y [K, N, out] + (x [K, N, in] A^T) B^T with A [K, r, in], B [K, out, r]: [K, N, out]."""
    inner = times(x, A)  # (K, N, r)
    if is_shared(B):
        return torch.addmm(y.flatten(0, 1), inner.flatten(0, 1), B[0].T).view(y.shape)
    return torch.baddbmm(y, inner, B.mT)


def times(x: Tensor, A: Tensor) -> Tensor:
    """x [K, N, in] A^T with A [K, r, in]: [K, N, r], one product for all K if they share A."""
    return x @ A[0].T if is_shared(A) else torch.bmm(x, A.mT)
