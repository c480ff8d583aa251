"""The last layer where few tokens are read: its feed-forward network runs on those alone.

Nothing sees what it gives for the other tokens, and it is two thirds or more of a layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from gfo.models.branches import RowLayout
from gfo.models.structure import hooked


@contextmanager
def read_tokens_only(network: nn.Module | None, rows: RowLayout) -> Iterator[None]:
    """Within, the last layer's feed-forward network gives 0 for tokens that are not read.

    Args:
        network: that one; None where there is none, and all tokens go through.
        rows: how branches lie in R rows of T tokens, behind each of any number of contexts.
    """
    R, T = rows.branch.shape
    if network is None or rows.read.shape[1] == R * T:
        yield
        return

    def gather(module: nn.Module, args: Any) -> Any:  # some add the residual stream themselves
        return tuple(rows.reading(x.reshape(-1, R * T, x.shape[-1])) for x in args)

    def scatter(module: nn.Module, args: Any, output: Any) -> Any:
        read = output if isinstance(output, Tensor) else output[0]
        C, _, D = read.shape
        index = rows.read[:, :, None].expand(C, -1, D)
        whole = read.new_zeros(C, R * T, D).scatter(1, index, read).view(C * R, T, D)
        return whole if isinstance(output, Tensor) else (whole, *output[1:])

    with hooked(network.register_forward_pre_hook(gather), network.register_forward_hook(scatter)):
        yield
