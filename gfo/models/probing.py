"""What is asked of a model by running it: which modules get which tokens, how much it computes and keeps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gfo.core.errors import GfoError
from gfo.models.branches import RowLayout
from gfo.models.structure import hooked
from gfo.models.weights import linear_sizes

ROWS, TOKENS = 5, 7  # of the pass, primes that few sizes are multiples of


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Within, no dropout: what is asked in a training step must not draw from its random numbers."""
    trains = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(trains)


def check_modules(model: Any, names: Iterable[str]) -> None:
    """Raise GfoError for a module that a change cannot reach: never called, or without each row's tokens.

    Args:
        model: whose modules they are.
        names: theirs, as by `named_modules`.
    """
    if model.images is not None:  # what reads those runs apart
        names = set(names).difference(model.images.linears)
    new = sorted(set(names) - set(model.reached))
    if new:
        parts = {name: model.module.get_submodule(name) for name in new}
        calls = _calls(model, parts)
        counts = {TOKENS, len(getattr(model, "answer_start", ()) or (0,) * TOKENS)}
        for name, part in parts.items():
            model.reached[name] = _why_not(calls.get(name, []), counts, linear_sizes(part))
    for name in sorted(names):
        if reason := model.reached[name]:
            raise GfoError(f"Delta: module '{name}' {reason}; leave it out of the targets")


def embedding_scale(model: Any) -> float:
    """What a model multiplies a row of its embedding matrix by, looked up by a few words."""
    weight, ids = model.module.get_input_embeddings().weight, model.probe_text
    rows, given = weight[ids].double(), model.embed(ids).double()
    scale = float((rows * given).sum() / rows.square().sum())
    error = float((given - scale * rows).abs().max() / given.abs().max())
    if not error <= 4 * torch.finfo(weight.dtype).eps:
        raise GfoError(
            f"model '{model.name}': its embeddings are no multiples of the rows of its embedding matrix; "
            "no soft prompt can be put into those: take another space, or another model"
        )
    return 1.0 if abs(scale - 1) < 1e-6 else scale


def given_whole_rows(model: Any, names: Iterable[str]) -> frozenset[str]:
    """Those of a decoder's modules that get each row's tokens of the encoder, not those of its answer."""
    parts = {name: model.module.get_submodule(name) for name in names}
    calls = _calls(model, parts).items()
    return frozenset(name for name, seen in calls if any(_of_rows(x, {TOKENS}) for x, _ in seen))


def _why_not(calls: list[tuple[Any, Any]], counts: set[int], sizes: tuple[int, int] | None) -> str | None:
    """Why a module cannot be changed by candidate; or None.

    Args:
        calls: each its first argument and output.
        counts: of tokens that rows can have.
        sizes: in and out features of its weight, if it has one.
    """
    if not calls:
        return "is never called in a forward pass (its weight is used in another way)"
    reasons = (_why_not_call(x, y, counts, sizes) for x, y in calls)
    return next(filter(None, reasons), None)


def _why_not_call(x: Any, y: Any, counts: set[int], sizes: tuple[int, int] | None) -> str | None:
    """The same by one call, its first argument and output."""
    if not (isinstance(x, Tensor) and isinstance(y, Tensor) and x.ndim == y.ndim):
        return "does not take one tensor and give one of the same axes"
    if sizes not in (None, (x.shape[-1], y.shape[-1])):
        return "does not give the product of its weight and its input (as a weight in groups does not)"
    if not _of_rows(x, counts):
        return (
            f"gets {tuple(x.shape)} of {ROWS} rows of {TOKENS} tokens, so that it is not told which "
            "candidate a token belongs to (as routed experts are not)"
        )
    return None


def _of_rows(x: Any, counts: set[int]) -> bool:
    """Whether it is a tensor of whole rows, of a number of tokens that rows can have."""
    if not isinstance(x, Tensor) or not x.ndim:
        return False
    whole = x.shape[0] == ROWS or (x.ndim == 2 and x.shape[0] % ROWS == 0)
    return whole and any(math.prod(x.shape[:-1]) % (ROWS * n) == 0 for n in counts)


@torch.no_grad()
def _calls(model: Any, parts: dict[str, nn.Module]) -> dict[str, list[tuple[Any, Any]]]:
    """What the modules get and give in one pass of `ROWS` rows, each first argument and output."""
    found: dict[str, list[tuple[Any, Any]]] = {}

    def keeper(name: str) -> Any:
        def keep(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            first = next(iter((*args, *kwargs.values())), None)
            found.setdefault(name, []).append((first, output))

        return keep

    hooks = (p.register_forward_hook(keeper(n), with_kwargs=True) for n, p in parts.items())
    with evaluating(model.module), hooked(*hooks):
        model.branches(None, *rows_of(model))
    return found


def rows_of(model: Any) -> tuple[Tensor, RowLayout]:
    """Input embeddings [1, ROWS, TOKENS, D] and layout of whole rows of different words, all places read."""
    text = model.probe_text
    start = torch.arange(ROWS, device=text.device)[:, None]
    column = torch.arange(TOKENS, device=text.device).expand(ROWS, -1)
    ids = text[(start + column) % len(text)]
    read = torch.arange(ROWS * TOKENS, device=text.device)[None]
    if not model.causal:
        read = torch.arange(ROWS, device=text.device)[None] * TOKENS
    return model.embed(ids)[None], RowLayout(start.expand(-1, TOKENS), column, read, ids=ids)


@torch.no_grad()
def layers_passed(model: Any) -> dict[str, int]:
    """Module outside of the layers -> how many of those a pass has been through when it is first called."""
    passed: set[int] = set()
    found: dict[str, int] = {}
    outside = [part for part in model.module.named_modules() if model.layer_of(part[0]) is None]

    def noter(name: str) -> Any:
        def note(module: nn.Module, args: Any) -> None:
            found.setdefault(name, len(passed))

        return note

    def pass_by(module: nn.Module, args: Any, output: Any) -> None:
        passed.add(id(module))

    hooks = [part.register_forward_pre_hook(noter(name)) for name, part in outside]
    hooks += [layer.register_forward_hook(pass_by) for layer in model.all_layers]
    with evaluating(model.module), hooked(*hooks):
        model.branches(None, *rows_of(model))
    return found


def widest(model: Any) -> int:
    """Numbers of a token that the widest module of the layers gives."""
    parts = {name: part for name, part in model.module.named_modules() if model.layer_of(name) is not None}
    sizes = [
        y.numel() // math.prod(x.shape[:-1])
        for calls in _calls(model, parts).values()
        for x, y in calls
        if isinstance(x, Tensor) and isinstance(y, Tensor) and x.ndim > 1
    ]
    return max(sizes, default=4 * int(model.hidden_size))


@torch.no_grad()
def kept(model: Any) -> int:
    """Numbers that are kept of a token where its keys and values are, in all layers."""
    if model.contexts:
        entry, length = model.embed(model.probe_text)[None], torch.tensor([12], device=model.device)
        with evaluating(model.module):
            context, _ = model.context(entry, length)
        return max(1, sum(int(t.numel()) for pair in context.layers if pair for t in pair) // 12)
    return int(2 * model.hidden_size * model.layers)
