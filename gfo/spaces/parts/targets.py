"""Which linear modules a space changes: by patterns of names, in chosen layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Protocol

from gfo.core.errors import GfoError
from gfo.spaces.parts.options import Layers, select_layers

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Usual names: groups of patterns, of which the first that the model has is taken.
_FUSED = (("qkv_proj",), ("query_key_value",), ("c_attn",), ("Wqkv",))
_T5 = ("SelfAttention", "EncDecAttention")
QUERIES_VALUES = (
    ("q_proj", "v_proj"),
    ("query", "value"),
    ("q_lin", "v_lin"),
    tuple(f"{part}.{name}" for part in _T5 for name in "qv"),
    *_FUSED,
)
KEYS_VALUES = (
    ("k_proj", "v_proj"),
    ("key", "value"),
    ("k_lin", "v_lin"),
    tuple(f"{part}.{name}" for part in _T5 for name in "kv"),
    *_FUSED,
)
QUERIES = (("q_proj",), ("query",), ("q_lin",), tuple(f"{part}.q" for part in _T5), *_FUSED)
# the last matrix of the feed-forward network
DOWN = (
    ("down_proj",),
    ("fc2",),
    ("mlp.c_proj",),
    ("dense_4h_to_h",),
    ("*layer.[0-9].output.dense", "*layer.[0-9][0-9].output.dense"),
    ("lin2",),
    ("wo",),
)
# the matrix whose outputs are the inner activations where they are gated, or the last one
FEED_FORWARD = (("up_proj",), ("wi_1",), *DOWN)
# the first matrix
UP = (
    ("up_proj",),
    ("gate_up_proj",),
    ("fc1",),
    ("mlp.c_fc",),
    ("dense_h_to_4h",),
    ("intermediate.dense",),
    ("lin1",),
    ("wi_1",),
    ("wi",),
)


class Linear(Protocol):
    """The sizes of a linear module and the layer it is in."""

    @property
    def in_features(self) -> int: ...
    @property
    def out_features(self) -> int: ...
    @property
    def layer(self) -> int: ...


class HasLinears(Protocol):
    """What a space on linear modules needs of a model."""

    layers: int

    @property
    def device(self) -> torch.device: ...
    @property
    def linears(self) -> Mapping[str, Linear]: ...
    def weight(self, name: str) -> Tensor: ...


def find_targets(
    model: HasLinears,
    targets: str | Sequence[str] | None,
    layers: Layers = None,
    *,
    defaults: Sequence[Sequence[str]] = QUERIES_VALUES,
) -> list[str]:
    """Names of the linear modules that match, in the model's order.

    Args:
        model: the model.
        targets: one pattern or several: the end of a name ("q_proj", "mlp.c_proj"), or the whole name with
            wildcards ("*.mlp.*"); None for the first of `defaults` that the model has.
        layers: which layers to look in.
        defaults: groups of patterns.

    Raises:
        GfoError: if a pattern, or no default, matches anything in these layers; says what there is.
    """
    chosen = set(select_layers(layers, model.layers))
    names = [name for name, info in model.linears.items() if info.layer in chosen]
    if targets is None:
        found = (_matching(names, group) for group in defaults)
        default = next((group for group in found if group), None)
        if default is None:
            raise GfoError(f"space: targets: the model has none of the usual names; {_known(names)}")
        return default
    patterns = [targets] if isinstance(targets, str) else list(targets)
    for pattern in patterns:
        if not _matching(names, [pattern]):
            raise GfoError(f"space: targets: '{pattern}' matches nothing in these layers; {_known(names)}")
    if not patterns:
        raise GfoError(f"space: targets = []; {_known(names)}")
    return _matching(names, patterns)


def _matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    def matches(name: str) -> bool:
        return any(
            name == pattern or name.endswith(f".{pattern}") or fnmatchcase(name, pattern)
            for pattern in patterns
        )

    return [name for name in names if matches(name)]


def _known(names: Sequence[str]) -> str:
    ends = sorted({name.rsplit(".", 1)[-1] for name in names})
    return f"give some of {', '.join(ends)}, or a whole name with wildcards such as '*.{ends[0]}'"
