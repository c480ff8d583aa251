"""K candidates' changes in one forward pass, by hooks on the modules that they change.

The weights are never written. A changed linear module still makes one product for all candidates;
what belongs to a candidate is batched beside it. A function at "instead" makes the product itself.

Each slot is applied by one function here, at one of six places; at a place the functions act in the order
in which they stand here. With K candidates of N tokens each they take and give:

| place        | function                                                                             |
|--------------|--------------------------------------------------------------------------------------|
| "embeddings" | words [..., T, D], place int [..., T] (see `Change`), the slot's tensors -> [..., T, D] |
| "context"    | {layer: tensors}, number of layers -> the context that the K candidates start from     |
| "layer"      | what enters the layer, [rows, T, D], place int [rows, T], tensors -> [rows, T, D]     |
| "input"      | the module's input x [K, N, in], tensors -> [K, N, in]                               |
| "instead"    | the same x, the module, tensors -> its output [K, N, out]                            |
| "output"     | its output y [K, N, out], theirs to write, x() -> [K, N, in], tensors -> [K, N, out] |
| "sub-block"  | what a sub-block puts out, y [K, N, D], tensors -> [K, N, D]                          |
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from gfo.core.bank import Bank
from gfo.core.delta import Delta
from gfo.core.errors import GfoError
from gfo.core.slots import (
    Adapters,
    Banks,
    Biases,
    InputScales,
    LayerPrompts,
    LowRank,
    Prefixes,
    Prompts,
    Scales,
    Slot,
    is_shared,
)
from gfo.core.sub_blocks import Gates
from gfo.models.branches import Context, KeysValues
from gfo.models.by_candidate import as_it_lay, by_candidate, where_changed
from gfo.models.families import sub_block_of
from gfo.models.gates import Forks, forked
from gfo.models.structure import hidden_of, hooked, with_hidden

Place = Literal["embeddings", "context", "layer", "input", "instead", "output", "sub-block"]
F = TypeVar("F", bound=Callable[..., Any])
Input = Callable[[], Tensor]
"""A module's input [K, N, in], laid out by candidate when it is asked for."""

_APPLIED: dict[Place, dict[type[Slot], Callable[..., Any]]] = {place: {} for place in get_args(Place)}
_HOOKED: set[type[Slot]] = set()  # those that are applied within the model
OF_NODES = (Gates, InputScales)  # that candidates may have in common, so that they are one: see `gates`


def applies(slot: type[Slot], at: Place) -> Callable[[F], F]:
    """Decorator: the function applies a slot there; see this module."""

    def register(function: F) -> F:
        _APPLIED[at][slot] = function
        if at not in ("embeddings", "context"):
            _HOOKED.add(slot)
        return function

    return register


def check_applied(delta: Delta) -> None:
    """Raise GfoError for a slot that no function applies."""
    known = {kind for functions in _APPLIED.values() for kind in functions}
    for slot in delta.slots:
        if type(slot) not in known:
            raise GfoError(
                f"Delta: nothing applies the slot '{slot.name}'; write a function for it, with "
                "@gfo.models.apply.applies"
            )


@applies(Prompts, "embeddings")
def put_prompt(words: Tensor, place: Tensor, prompt: Tensor) -> Tensor:
    """The soft prompts in their places."""
    soft = prompt.flatten(0, 1)[place.clamp(min=0)]
    return torch.where((place >= 0)[..., None], soft, words)


@applies(Prefixes, "context")
def start_from_prefix(prefix: Mapping[int, KeysValues], layers: int) -> Context:
    """The prefixes' keys and values, K rows."""
    return Context.of_prefix(dict(prefix), layers)


@applies(LayerPrompts, "layer")
def add_prompt(hidden: Tensor, place: Tensor, prompt: Tensor) -> Tensor:
    """The prompts added in their places."""
    added = prompt.flatten(0, 1)[place.clamp(min=0)]
    return torch.where((place >= 0)[..., None], hidden + added, hidden)


@applies(InputScales, "input")
def multiply_input(x: Tensor, scale: Tensor) -> Tensor:
    """x scale with scale [K, in]."""
    return x * scale[:, None]


@applies(Banks, "instead")
def multiply_by_chosen(x: Tensor, module: nn.Module, shares: Tensor, bank: Bank) -> Tensor:
    """x W^T + b with the weight that the shares [K, M] give each candidate, one product for equal shares."""
    bias: Any = getattr(module, "bias", None)
    different, which = torch.unique(shares[:1] if is_shared(shares) else shares, dim=0, return_inverse=True)
    if len(different) == 1:
        return torch.nn.functional.linear(x, bank.mixed(shares[0]), bias)
    y = x.new_empty(*x.shape[:2], bank.shape[0])
    for i in range(len(different)):
        mine = (which == i).nonzero().flatten()
        y[mine] = torch.nn.functional.linear(x[mine], bank.mixed(shares[mine[0]]), bias)
    return y


@applies(LowRank, "output")
def add_low_rank(y: Tensor, x: Input, A: Tensor, B: Tensor) -> Tensor:
    """y + (x A^T) B^T with A [K, r, in], B [K, out, r]; written into y where no gradient needs it."""
    inner = times(x(), A)  # (K, N, r)
    to = y.clone() if torch.is_grad_enabled() else y
    if is_shared(B):
        return to.flatten(0, 1).addmm_(inner.flatten(0, 1), B[0].T).view(y.shape)
    if inner.shape[-1] == 1:  # an outer product, which is half as fast as a matrix product
        return to.addcmul_(inner, B.mT)
    return to.baddbmm_(inner, B.mT)


@applies(Scales, "output")
def multiply(y: Tensor, x: Input, scale: Tensor) -> Tensor:
    """y scale with scale [K, out]."""
    return y * scale[:, None]


@applies(Biases, "output")
def add(y: Tensor, x: Input, bias: Tensor) -> Tensor:
    """y + bias with bias [K, out]."""
    return y + bias[:, None]


@applies(Adapters, "output")
def add_bottleneck(y: Tensor, x: Input, A: Tensor, B: Tensor) -> Tensor:
    """y + gelu(y A^T) B^T with A [K, r, out], B [K, out, r]."""
    return y + torch.nn.functional.gelu(times(y, A)) @ B.mT


@applies(Gates, "sub-block")
def open_or_not(y: Tensor, runs: Tensor) -> Tensor:
    """y where runs [K] is above 0, else 0."""
    return torch.where((runs > 0)[:, None, None], y, 0.0)


def times(x: Tensor, A: Tensor) -> Tensor:
    """x [K, N, in] A^T with A [K, r, in]: [K, N, r], one product for all K if they share A."""
    return x @ A[0].T if is_shared(A) else torch.bmm(x, A.mT)


@dataclass(frozen=True)
class Change:
    """K candidates in the rows of a forward pass.

    Attributes:
        delta: the changes, in the model's dtype. Those of modules want as many tokens for each candidate.
        place: which token of the K soft prompts stands there, k * P + p, int [rows, T]; -1 elsewhere.
        cycles: how often the candidates follow each other in the tokens, from first to last each time;
            None where rows are sorted by candidate.
        changed: which tokens modules change, bool [rows, T]; None for all. Those that are read are.
        forks: how rows part in the layers by the gates, whose closed sub-blocks are then not run; None where
            each candidate has its rows, in which they are run and masked.
    """

    delta: Delta
    place: Tensor
    cycles: int | None = None
    changed: Tensor | None = None
    forks: Forks | None = None

    def of_tokens(self, place: Tensor) -> Change:
        """What of it reaches some tokens of each row, by their places, int [t]."""
        changed = None if self.changed is None else self.changed[:, place]
        return replace(self, place=self.place[:, place], changed=changed)

    def put_prompts(self, words: Tensor) -> Tensor:
        """Input embeddings [rows, T, D] -> what enters the model: with the soft prompts in their places."""
        for function, slot in _found("embeddings", self.delta):
            words = function(words, self.place, slot.value)
        return words


def context_of(delta: Delta, layers: int) -> Context | None:
    """What the K candidates start from, K rows, in a model of so many layers; None for nothing."""
    return next((function(slot.value, layers) for function, slot in _found("context", delta)), None)


@contextmanager
def applied(change: Change | None, module: nn.Module, layers: Sequence[nn.Module]) -> Iterator[None]:
    """Within, layers and modules compute what is changed; embeddings and contexts are the caller's to place.

    Args:
        change: the candidates, or None to change nothing.
        module: the whole model; the names of the Delta's modules are its.
        layers: the layers that the Delta's slots count.

    Raises:
        GfoError: if a module's rows are not the pass's.
    """
    if change is None or (change.forks is None and _HOOKED.isdisjoint(change.delta.by_class)):
        yield
        return
    with ExitStack() as hooks:
        if change.forks is not None:  # in front of all else: rows are the candidates' behind it
            hooks.enter_context(forked(change.forks, module, layers))
        hooks.enter_context(hooked(*_of_layers(change, layers)))
        hooks.enter_context(hooked(*_of_modules(change, module)))
        yield


def _of_layers(change: Change, layers: Sequence[nn.Module]) -> Iterator[Any]:
    """Hooks on layers and their sub-blocks."""
    for function, slot in _hooked("layer", change):
        for layer, value in slot.at.items():
            hook = _change_layer(function, change.place, value)
            yield layers[layer].register_forward_pre_hook(hook, with_kwargs=True)
    for function, slot in _hooked("sub-block", change):
        for place, value in slot.at.items():
            if found := sub_block_of(layers[place.layer], place.kind):
                yield found[-1].register_forward_hook(_change_sub_block(change, function, value))


def _of_modules(change: Change, module: nn.Module) -> Iterator[Any]:
    """Hooks on modules."""
    before, behind = _hooked("input", change), _hooked("output", change)
    instead = _hooked("instead", change)
    names: set[str] = set()
    for _, slot in before + instead + behind:
        names.update(slot.at)
    for name in sorted(names):
        part = module.get_submodule(name)
        if steps := _steps(before, name):
            yield part.register_forward_pre_hook(_change_input(change, name, steps))
        if steps := _steps(instead, name):
            yield Instead(part, _replace(change, name, steps, part))
        if steps := _steps(behind, name):
            yield part.register_forward_hook(_change_output(change, name, steps))


class Instead:
    """Another forward pass in the place of a module's own, until it is removed, as a hook is."""

    def __init__(self, part: nn.Module, forward: Callable[..., Tensor]) -> None:
        self._part, self._own = part, part.__dict__.get("forward")  # not its class', as libraries put there
        part.__dict__["forward"] = forward

    def remove(self) -> None:
        """Put the module's own back."""
        if self._own is None:
            del self._part.__dict__["forward"]
        else:
            self._part.__dict__["forward"] = self._own


Steps = list[tuple[Callable[..., Tensor], tuple[Any, ...]]]
"""Functions in their order, with what a slot has for one module."""
Found = list[tuple[Callable[..., Any], Slot]]
"""Functions in their order, with the slots that they apply."""


def _found(place: Place, delta: Delta) -> Found:
    """The functions at a place that have something to do, in their order, with their slots."""
    found: Found = []
    for kind, function in _APPLIED[place].items():
        if kind in delta.by_class:
            found.append((function, delta.by_class[kind]))
    return found


def _hooked(place: Place, change: Change) -> Found:
    """Those at a place within the model; where rows part, without what nodes have and candidates have not."""
    found = _found(place, change.delta)
    if change.forks is None:
        return found
    return [(function, slot) for function, slot in found if not isinstance(slot, OF_NODES)]


def _steps(found: Found, name: str) -> Steps:
    """What is done to a module."""
    todo = [(function, slot.at[name]) for function, slot in found if name in slot.at]
    return [(function, value if isinstance(value, tuple) else (value,)) for function, value in todo]


def _change_layer(function: Callable[..., Tensor], place: Tensor, value: Tensor) -> Any:
    """A hook that changes what enters a layer."""

    def hook(module: nn.Module, args: Any, kwargs: Any) -> Any:
        return with_hidden(function(hidden_of(args, kwargs), place, value), args, kwargs)

    return hook


def _change_sub_block(change: Change, function: Callable[..., Tensor], value: Tensor) -> Any:
    """A hook that gives each candidate's part of the tokens what its sub-block puts out."""
    K, again = change.delta.candidates, change.cycles or 1

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        y = output if isinstance(output, Tensor) else output[0]
        y = as_it_lay(function(by_candidate(y, K, again), value), y, K, again)
        return y if isinstance(output, Tensor) else type(output)((y, *output[1:]))

    return hook


def _change_input(change: Change, name: str, steps: Steps) -> Any:
    """A hook that gives a module each candidate's input."""
    K, again = change.delta.candidates, change.cycles or 1

    def hook(module: nn.Module, args: Any) -> Any:
        _check_rows(change, name, args[0])
        x = by_candidate(args[0], K, again)
        for function, tensors in steps:
            x = function(x, *tensors)
        x = as_it_lay(x, args[0], K, again)
        if change.changed is not None:
            x = where_changed(change.changed, name, x, args[0])
        return x, *args[1:]

    return hook


def _replace(change: Change, name: str, steps: Steps, part: nn.Module) -> Callable[[Tensor], Tensor]:
    """A forward pass that makes a module's product with each candidate's own weight."""
    K, again, own = change.delta.candidates, change.cycles or 1, part.forward

    def forward(x: Tensor) -> Tensor:
        _check_rows(change, name, x)
        y = by_candidate(x, K, again)
        for function, tensors in steps:
            y = function(y, part, *tensors)
        y = as_it_lay(y, x, K, again)
        return y if change.changed is None else where_changed(change.changed, name, y, own(x))

    return forward


def _change_output(change: Change, name: str, steps: Steps) -> Any:
    """A hook that gives each candidate's part of the tokens the output that `Delta` says."""
    K, again = change.delta.candidates, change.cycles or 1

    def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        _check_rows(change, name, args[0], output)
        x = functools.partial(by_candidate, args[0], K, again)
        y = by_candidate(output if change.changed is None else output.clone(), K, again)
        for function, tensors in steps:
            y = function(y, x, *tensors)
        y = as_it_lay(y, output, K, again)
        return y if change.changed is None else where_changed(change.changed, name, y, output)

    return hook


def _check_rows(change: Change, name: str, x: Tensor, output: Tensor | None = None) -> None:
    """Raise GfoError for a module that does not get all candidates' tokens."""
    K, again = change.delta.candidates, change.cycles or 1
    shared_out = x.shape[0] if change.cycles is None else math.prod(x.shape[:-1])
    if shared_out % (K * again) or (output is not None and output.ndim != x.ndim):
        raise GfoError(
            f"module '{name}' gets {tuple(x.shape)} for {K} candidates; take modules whose first axis is "
            "the rows of the batch"
        )
