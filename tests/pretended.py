"""A pretended device: tensors that say "cuda:0" over data on the CPU, which nothing may mix with the CPU's.

As on a GPU, operations with tensors elsewhere fail, and so does `.numpy()`. What would make the host wait for
the device is counted by the line that asks for it. There is nothing of a GPU's arithmetic or speed in it.
"""

from __future__ import annotations

import collections
import sys
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from gfo.models import weights

DEVICE, HOST = torch.device("cuda:0"), torch.device("cpu")
MEMORY = 8 * 2**30
# what asks the device for a number, or for a size that depends on numbers
ASKING = {
    *(Tensor.item, Tensor.tolist, Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__),
    *(Tensor.__contains__, torch.equal, Tensor.equal, torch.allclose, Tensor.allclose, torch.is_nonzero),
    *(torch.nonzero, Tensor.nonzero, torch.argwhere, torch.unique, Tensor.unique, torch.masked_select),
    *(Tensor.masked_select, torch.bincount, Tensor.bincount),
}
MIXING = {Tensor.__getitem__, Tensor.__setitem__, Tensor.copy_}  # take the host's indices and numbers, too
CASTS = {Tensor.to, Tensor.cuda, Tensor.cpu}


class Pretended(Tensor):
    """A tensor on the pretended device."""

    def __array__(self, *args, **kwargs):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


def there(value):
    """Nested values with their tensors on the device."""
    return _as(Pretended, value)


def _as(kind, value):
    def change(x):
        return x.as_subclass(kind) if isinstance(x, Tensor) and type(x) is not kind else x

    with torch._C.DisableTorchFunction():
        return tree_map(change, value)


def _is_there(x):
    return isinstance(x, Pretended)


class Pretending(TorchFunctionMode):
    """Within, "cuda:0" is the pretended device.

    Attributes:
        waits: "file:line function" -> how often it made the host wait.
    """

    def __init__(self):
        super().__init__()
        self.waits = collections.Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func == Tensor.device.__get__:
            return DEVICE if _is_there(args[0]) else HOST
        if func == Tensor.is_cuda.__get__:
            return _is_there(args[0])
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        on_device, target = any(map(_is_there, tensors)), _target(func, args, kwargs)
        if on_device:
            self._check(func, tensors, moved=func in CASTS)
            if func in ASKING or target == HOST or _selects(func, args):
                self.waits[f"{_line()} {func.__name__}"] += 1
        host_args = tuple(HOST if _names_device(x) else x for x in args)
        out = func(*_as(Tensor, host_args), **_as(Tensor, {k: _hosted(k, v) for k, v in kwargs.items()}))
        name = getattr(func, "__name__", "")
        if name.endswith("_") and not name.endswith("__") and isinstance(args[0], Tensor):
            return args[0]  # in place
        return there(out) if (on_device if target is None else target == DEVICE) else out

    @staticmethod
    def _check(func, tensors, *, moved):
        """Raise as torch does for what cannot be on two devices."""
        if func is Tensor.numpy:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        beside = [x for x in tensors if not _is_there(x) and x.ndim]
        if beside and func not in MIXING and not moved:
            raise RuntimeError(f"{func.__name__}: tensors on cuda:0 and cpu")


def _names_device(x):
    return isinstance(x, torch.device) or (isinstance(x, str) and x.startswith("cuda"))


def _hosted(key, value):
    return HOST if key == "device" and value is not None else value


def _target(func, args, kwargs):
    """Where an operation is asked to put its result; None if it is not."""
    if func in (Tensor.cpu, Tensor.cuda):
        return HOST if func is Tensor.cpu else DEVICE
    found = [kwargs.get("device")]
    if func is Tensor.to:
        found += [x for x in args[1:] if _names_device(x) or (isinstance(x, str) and x == "cpu")]
        found += [DEVICE if _is_there(x) else HOST for x in args[1:] if isinstance(x, Tensor)]
    found = [torch.device(x).type for x in found if x is not None]
    return (DEVICE if found[0] == "cuda" else HOST) if found else None


def _selects(func, args):
    """Whether the size of what comes out depends on numbers: an index of truth values, `where` alone."""
    if func in (torch.where, Tensor.where):
        return len(args) == 1
    return func is Tensor.__getitem__ and any(
        isinstance(x, Tensor) and x.dtype == torch.bool for x in tree_leaves(args[1])
    )


def _line():
    """The line of gfo, or of transformers below it, that runs."""
    frame = sys._getframe(2)
    while frame is not None:
        path = frame.f_code.co_filename
        if "/gfo/" in path or "/transformers/" in path:
            return f"{path.rpartition('/gfo/')[2].rpartition('/transformers/')[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


@contextmanager
def pretending(monkeypatch):
    """Within, there is a GPU, to all appearances; gives the mode."""
    for name, value in (
        ("is_available", lambda: True),
        ("mem_get_info", lambda device=None: (MEMORY, MEMORY)),
        ("memory_reserved", lambda device=None: 0),
        ("memory_allocated", lambda device=None: 0),
        ("empty_cache", lambda: None),
        ("get_device_name", lambda device=None: "pretended"),
        ("reset_peak_memory_stats", lambda device=None: None),
        ("max_memory_allocated", lambda device=None: 0),
    ):
        monkeypatch.setattr(torch.cuda, name, value)
    quantized = weights.is_quantized
    monkeypatch.setattr(
        weights, "is_quantized", lambda part: not _is_there(getattr(part, "weight", None)) and quantized(part)
    )
    with Pretending() as mode, torch.no_grad():
        yield mode


def put(module):
    """A transformers model, on the device; tied weights stay tied."""
    moved = {}
    for part in module.modules():
        for held in (part._parameters, part._buffers):
            for name, tensor in held.items():
                if tensor is not None:
                    held[name] = moved.setdefault(id(tensor), there(tensor.detach()))
    return module
