"""Levels of compression: what a weight becomes, and the bytes that it then takes.

Types of GGUF files are rounded by the package `gguf`, as ggml rounds them. Half-quadratic levels, for which
GGUF has no type, can be searched and merged: q = round(W / s + z) in groups of 64 of a row. So can sparse
weights and products of low rank, which look at what enters a module: see `gfo.spaces.parts.weighted`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gfo.core.errors import GfoError, unknown_name
from gfo.spaces.parts.weighted import low_rank, sparse, two_of_four

if TYPE_CHECKING:
    from torch import Tensor

GROUP = 64  # weights of a row that share a step and an offset, in half-quadratic levels
ALIGNMENT = 32  # bytes, that each tensor of a file begins at a multiple of
ROUNDS, BETA, KAPPA, P = 20, 10.0, 1.01, 0.7  # of the half-quadratic solver, as HQQ has them


@dataclass(frozen=True)
class Level:
    """One way to keep a weight.

    Attributes:
        name: such as "Q4_0"; that of the GGUF type, where `gguf` says that it is one.
        bits: of a weight, with its share of steps and offsets, or of where those lie that are not 0.
        block: the columns must be a multiple of it.
        rounded: float32 weights [out, in] -> what is left of them.
        gguf: whether a GGUF file can have it.
        weighted: the same with the module's inputs [tokens, in], or None, for levels that look at them.
    """

    name: str
    bits: float
    block: int
    rounded: Callable[[Tensor], Tensor]
    gguf: bool = True
    weighted: Callable[[Tensor, Tensor | None], Tensor] | None = None

    def bytes(self, out: int, columns: int) -> int:
        """What a weight [out, columns] takes in a file, up to where the next begins."""
        return -(-int(out * columns * self.bits) // (8 * ALIGNMENT)) * ALIGNMENT


def gguf_bytes(weight: Tensor, kind: str) -> Any:
    """A float32 weight [out, in] as a GGUF type has it, an array of its bytes or floats."""
    import gguf

    return gguf.quants.quantize(weight.numpy(force=True), gguf.GGMLQuantizationType[kind])


def _as_gguf(kind: str, weight: Tensor) -> Tensor:
    """What is left of a weight [out, in] in a GGUF type."""
    import gguf
    import torch

    read = gguf.quants.dequantize(gguf_bytes(weight, kind), gguf.GGMLQuantizationType[kind])
    return torch.from_numpy(read.reshape(weight.shape)).to(weight.device)


def half_quadratic(bits: int, weight: Tensor) -> Tensor:
    """What is left of a weight [out, in] in 2^bits steps, with offsets by half-quadratic splitting.

    HQQ (Badri and Shaji 2023, https://mobiusml.github.io/hqq_blog): min over z of |W - s (q - z)|_p with
    p = 0.7, by turns of e = shrink(W - W_q) and z = mean(q - (W - e) / s), beta growing by kappa.
    """
    W = weight.reshape(-1, GROUP)
    low, high = W.amin(dim=1, keepdim=True), W.amax(dim=1, keepdim=True)
    s = ((high - low) / (2**bits - 1)).clamp(min=1e-8)
    z, beta = -low / s, BETA
    best, error = W, float("inf")
    for _ in range(ROUNDS):
        q = (W / s + z).round().clamp(0, 2**bits - 1)
        found = s * (q - z)
        if not (now := float((W - found).abs().mean())) < error:
            break
        best, error, left = found, now, W - found
        e = left.sign() * (left.abs() - left.abs().clamp(min=1e-8) ** (P - 1) / beta).clamp(min=0)
        z = (q - (W - e) / s).mean(dim=1, keepdim=True)
        beta *= KAPPA
    return best.reshape(weight.shape)


def _unchanged(weight: Tensor) -> Tensor:
    return weight


_BITS = {"F16": 16.0, "Q8_0": 8.5, "Q5_1": 6.0, "Q5_0": 5.5, "Q4_1": 5.0, "Q4_0": 4.5}
LEVELS: dict[str, Level] = {"F32": Level("F32", 32.0, 1, _unchanged)}
LEVELS |= {
    name: Level(name, bits, 1 if name == "F16" else 32, functools.partial(_as_gguf, name))
    for name, bits in _BITS.items()
}
LEVELS |= {  # a step and an offset in half precision for each group
    f"HQ{bits}": Level(f"HQ{bits}", bits + 32 / GROUP, GROUP, functools.partial(half_quadratic, bits), False)
    for bits in (4, 3, 2)
}


def _weighted(name: str, bits: float, block: int, make: Callable[..., Tensor]) -> Level:
    """A level that looks at inputs."""
    return Level(name, bits, block, functools.partial(make, inputs=None), False, make)


# Values in half precision. A bit of each weight says where those lie that are not 0; in 2:4 two bits of each
# of the two.
LEVELS |= {
    name: _weighted(name, 16 * (1 - share) + 1, 1, functools.partial(sparse, share))
    for name, share in (("S25", 0.25), ("S50", 0.5))
}
LEVELS["S2:4"] = _weighted("S2:4", 9.0, 4, two_of_four)
LEVELS |= {
    name: _weighted(name, 16 * share, 1, functools.partial(low_rank, share))
    for name, share in (("R75", 0.75), ("R50", 0.5))
}


def find_levels(names: Sequence[str]) -> tuple[Level, ...]:
    """The levels of these names, those with most bits first.

    Raises:
        GfoError: for an unknown name, fewer than two, or two of equal size.
    """
    for name in names:
        if name not in LEVELS:
            raise unknown_name("level", name, LEVELS)
    found = sorted((LEVELS[name] for name in names), key=lambda level: -level.bits)
    if len(found) < 2:
        raise GfoError(f"space: levels = {list(names)}; give two or more of {', '.join(LEVELS)}")
    for first, second in itertools.pairwise(found):
        if first.bits == second.bits:
            raise GfoError(
                f"space: levels: '{first.name}' and '{second.name}' both take {first.bits:g} bits a weight; "
                "give one of them"
            )
    return tuple(found)


def check_columns(columns: Mapping[str, int], levels: Sequence[Level]) -> None:
    """Raise GfoError for a module whose columns are no whole blocks of a level."""
    for name, number in columns.items():
        for level in levels:
            if number % level.block:
                fits = [each.name for each in LEVELS.values() if number % each.block == 0]
                raise GfoError(
                    f"space: levels: '{level.name}' wants columns in blocks of {level.block}, '{name}' has "
                    f"{number}; leave it out of targets, or give levels of {', '.join(fits)}"
                )


def check_embeddings(columns: int, kind: str) -> None:
    """Raise GfoError for a type of embeddings that GGUF does not have, or that does not fit their columns."""
    kinds = {name: level for name, level in LEVELS.items() if level.gguf}
    if kind not in kinds:
        raise unknown_name("type of embeddings", kind, kinds)
    if columns % kinds[kind].block:
        raise GfoError(
            f"space: embeddings = '{kind}' wants columns in blocks of {kinds[kind].block}, they have "
            f"{columns}; give F16 or F32"
        )
