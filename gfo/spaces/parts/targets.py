"""Which linear modules a space changes: by patterns of names, in chosen layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from gfo.core.errors import GfoError
from gfo.spaces.parts.options import Layers, select_layers

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Linear(Protocol):
    """The sizes of a linear module and the layer it is in."""

    @property
    def in_features(self) -> int: ...
    @property
    def out_features(self) -> int: ...
    @property
    def layer(self) -> int: ...


@runtime_checkable
class HasLinears(Protocol):
    """What a space on linear modules needs of a model."""

    layers: int

    @property
    def device(self) -> torch.device: ...
    @property
    def linears(self) -> Mapping[str, Linear]: ...
    def weight(self, name: str) -> Tensor: ...

    def usual_targets(self, role: str) -> Sequence[Sequence[str]]: ...


def find_targets(
    model: HasLinears,
    targets: str | Sequence[str] | None,
    layers: Layers = None,
    *,
    role: str = "queries and values",
) -> list[str]:
    """Names of the linear modules that match, in the model's order.

    Args:
        model: the model.
        targets: one pattern or several: the end of a name ("q_proj", "mlp.c_proj"), or the whole name with
            wildcards ("*.mlp.*"); None for the usual names of a role.
        layers: which layers to look in.
        role: what the modules do: see `FrozenModel.usual_targets`. Of its groups of names the first is taken
            that the model has.

    Raises:
        GfoError: if a pattern, or no usual name, matches anything in these layers; says what there is.
    """
    chosen = set(select_layers(layers, model.layers))
    names = [name for name, info in model.linears.items() if info.layer in chosen]
    if targets is None:
        found = (_matching(names, group) for group in model.usual_targets(role))
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
