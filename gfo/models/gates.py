"""Gates in a forward pass: a closed sub-block is not run, and what candidates share is computed once.

Candidates that do the same in all layers up to one are one node there: the nodes are those of a trie over
layers. A pass begins with some nodes of R rows each; in front of each layer they part, by copies, and each of
its sub-blocks runs on the rows of those nodes alone for which it is open. Stock transformers code does the
rest: its layers do not look at the number of rows, and all nodes have the same masks and positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from gfo.models.families import sub_block_of
from gfo.models.narrowing import Narrow
from gfo.models.structure import hidden_of, hooked, with_hidden

_FORMS: WeakKeyDictionary[nn.Module, tuple[int, ...]] = WeakKeyDictionary()
"""What modules that were run put out beside hidden states: how many things, or () for a tensor alone."""


@dataclass(frozen=True)
class Open:
    """Which of a layer's nodes a sub-block runs for.

    Attributes:
        run: the nodes that it is computed for, int [m]; None for all, in order.
        source: which of the m results each node takes, int [nodes].
        closed: the nodes that take none, but 0, int.
    """

    run: Tensor | None
    source: Tensor
    closed: Tensor


@dataclass(frozen=True)
class Fork:
    """The nodes of a layer.

    Attributes:
        rise: the node of the layer below that each comes from, int [nodes]; None where none parts.
        nodes: how many there are.
        open: by the kind of sub-block; one that is not named runs for all.
        inputs: module -> factors on what enters it, of the m nodes that its sub-block runs for, [m, in].
        narrow: module -> the inputs of it that they run, the others being 0.
    """

    rise: Tensor | None
    nodes: int
    open: Mapping[str, Open]
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    narrow: Mapping[str, Narrow] = field(default_factory=dict)


@dataclass(frozen=True)
class Forks:
    """How the rows of a pass part.

    Attributes:
        rows: R, of each node.
        nodes: how many enter.
        layers: layer -> its nodes, for each layer run.
    """

    rows: int
    nodes: int
    layers: Mapping[int, Fork]


@contextmanager
def forked(forks: Forks, module: nn.Module, layers: Sequence[nn.Module]) -> Iterator[None]:
    """Within, rows part in front of layers, and sub-blocks run on those of open nodes.

    Args:
        forks: how.
        module: the whole model.
        layers: its layers, as they are counted.
    """
    laid = _Laid(forks.rows)
    with ExitStack() as hooks:
        for number, fork in forks.layers.items():
            part = _parting(forks.rows * forks.nodes, fork, laid)
            handle = layers[number].register_forward_pre_hook(part, with_kwargs=True)
            hooks.enter_context(hooked(handle))
            for name, factors in fork.inputs.items():
                handle = module.get_submodule(name).register_forward_pre_hook(partial(_scaled, factors))
                hooks.enter_context(hooked(handle))
            for name, narrow in fork.narrow.items():  # within what gates put around them
                for some_part, forward in narrow.forwards(module, name):
                    hooks.enter_context(_running(some_part, forward))
            for kind, some in fork.open.items():
                if found := sub_block_of(layers[number], kind):
                    hooks.enter_context(_gated(found, _Sub(some, fork.nodes, laid)))
        yield


def _scaled(factors: Tensor, module: nn.Module, args: Any) -> Any:
    """A module's arguments with what enters it, of m nodes' rows, times their factors [m, in]."""
    if not len(factors):
        return args
    x = args[0].reshape(len(factors), -1, factors.shape[1]) * factors[:, None]
    return x.view(args[0].shape), *args[1:]


@dataclass
class _Laid:
    """Tensors with a row for each of the pass's, such as masks, for other numbers of rows.

    Attributes:
        period: rows after which they repeat.
    """

    period: int
    _made: dict[tuple[int, int], tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __call__(self, value: Any, have: int, want: int) -> Any:
        """An argument of a module in a pass of `have` rows, for one of `want`."""
        if isinstance(value, tuple | list):
            return type(value)(self(each, have, want) for each in value)
        if not isinstance(value, Tensor) or value.ndim < 2 or len(value) != have or have == want:
            return value
        if want < have:
            return value[:want]
        return self._repeated(value, want)

    def _repeated(self, value: Tensor, want: int) -> Tensor:
        """A tensor that repeats after `period` rows, with more of them; made once."""
        key = id(value), want
        if key not in self._made:
            first = value[: self.period]
            self._made[key] = value, first.repeat(want // self.period, *[1] * (value.ndim - 1))
        return self._made[key][1]


def _parting(have: int, fork: Fork, laid: _Laid) -> Any:
    """A hook that lets the rows that enter a layer part; masks and the like have the pass's rows."""
    want = fork.nodes * laid.period

    def hook(layer: nn.Module, args: Any, kwargs: Any) -> Any:
        hidden = hidden_of(args, kwargs)
        if fork.rise is not None:
            hidden = _taken(hidden, len(hidden) // laid.period, fork.rise)
        args = tuple(laid(value, have, want) for value in args)
        kwargs = {name: laid(value, have, want) for name, value in kwargs.items()}
        return with_hidden(hidden, args, kwargs)

    return hook


@dataclass
class _Sub:
    """A sub-block in a pass: what enters it is cut to the open nodes', and 0 put in place of the others'."""

    open: Open
    nodes: int
    laid: _Laid
    _entered: Tensor | None = None

    def enter(self, args: Any, kwargs: Any) -> Any:
        """Its arguments, of the rows that are computed."""
        hidden = self._entered = hidden_of(args, kwargs)
        run = self.open.run
        if run is None:
            return args, kwargs
        hidden = _taken(hidden, self.nodes, run)
        have, want = self.nodes * self.laid.period, len(run) * self.laid.period
        args = tuple(self.laid(value, have, want) for value in args)
        kwargs = {name: self.laid(value, have, want) for name, value in kwargs.items()}
        return with_hidden(hidden, args, kwargs)

    def leave(self, output: Any) -> Any:
        """What it puts out, for all nodes."""
        if not isinstance(output, Tensor):
            return type(output)((self.leave(output[0]), *output[1:]))
        if self.open.run is not None:
            output = _taken(output, len(self.open.run), self.open.source)
        if len(self.open.closed):
            blocks = output.reshape(self.nodes, -1, *output.shape[1:])
            output = blocks.index_fill(0, self.open.closed, 0.0).flatten(0, 1)
        return output

    @property
    def idle(self) -> bool:
        """Whether it runs for no node."""
        return self.open.run is not None and not len(self.open.run)

    def nothing(self, form: tuple[int, ...]) -> Any:
        """What it puts out where it runs for none."""
        assert self._entered is not None
        zeros = torch.zeros_like(self._entered)
        return (zeros, *[None] * form[0]) if form else zeros

    def first(self, run: Any, /, *args: Any, **kwargs: Any) -> Any:
        """The forward pass `run` of its first module, if another is the last."""
        args, kwargs = self.enter(args, kwargs)
        return hidden_of(args, kwargs) if self.idle else run(*args, **kwargs)

    def last(self, run: Any, /, *args: Any, **kwargs: Any) -> Any:
        """The forward pass `run` of its last module, if another is the first."""
        return self.nothing(()) if self.idle else self.leave(run(*args, **kwargs))

    def only(self, module: nn.Module, run: Any, /, *args: Any, **kwargs: Any) -> Any:
        """The forward pass `run` of its only module."""
        some, named = self.enter(args, kwargs)
        if self.idle:
            if module not in _FORMS:  # what it puts out is seen once, of all rows
                _FORMS[module] = _form(run(*args, **kwargs))
            return self.nothing(_FORMS[module])
        output = run(*some, **named)
        _FORMS[module] = _form(output)
        return self.leave(output)


def _form(output: Any) -> tuple[int, ...]:
    """What a module put out, as `_FORMS` has it."""
    return () if isinstance(output, Tensor) else (len(output) - 1,)


@contextmanager
def _gated(modules: tuple[nn.Module, nn.Module], sub: _Sub) -> Iterator[None]:
    """Within, the module (or the first and the last) of a sub-block runs on some rows, or not at all."""
    first, last = modules
    swaps = {first: partial(sub.first, first.forward), last: partial(sub.last, last.forward)}
    if first is last:
        swaps = {first: partial(sub.only, first, first.forward)}
    with ExitStack() as back:
        for module, forward in swaps.items():
            back.enter_context(_running(module, forward))
        yield


def _taken(rows: Tensor, nodes: int, index: Tensor) -> Tensor:
    """The rows of some nodes, of as many each, in order."""
    return rows.reshape(nodes, -1, *rows.shape[1:])[index].flatten(0, 1)


@contextmanager
def _running(module: nn.Module, forward: Any) -> Iterator[None]:
    """Within, the module runs another forward pass."""
    own = module.__dict__.get("forward")
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        if own is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = own
