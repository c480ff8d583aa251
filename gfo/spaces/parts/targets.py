"""Which linear modules a space changes: by patterns of names, in chosen layers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from gfo.core.errors import GfoError, GfoWarning
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
    @property
    def experts(self) -> Mapping[str, int]: ...
    def weight(self, name: str) -> Tensor: ...
    def usual_targets(self, role: str) -> Sequence[Sequence[str]]: ...


def find_targets(
    model: HasLinears,
    targets: str | Sequence[str] | None,
    layers: Layers = None,
    *,
    role: str = "queries and values",
    images: bool = False,
) -> list[str]:
    """Names of the linear modules that match, in the model's order.

    Args:
        model: the model.
        targets: one pattern or several: the end of a name ("q_proj", "mlp.c_proj"), or the whole name with
            wildcards ("*.mlp.*"); None for the usual names of a role. A pattern that matches nothing of the
            text model may name modules that read images, if these are wanted.
        layers: which layers to look in.
        role: what the modules do: see `FrozenModel.usual_targets`. Of its groups of names the first is taken
            whose first name the model has.
        images: whether modules that read images may be named.

    Raises:
        GfoError: if a pattern, or no usual name, matches anything in these layers; says what there is.
    """
    names = _names(model, select_layers(layers, model.layers))
    if targets is None:
        if not (default := _usual(model, names, role)):
            raise _none_usual(model, names)
        return default
    known = list(linears_of(model))
    of_images = [name for name in known if name not in model.linears] if images and layers is None else []

    def why(pattern: str) -> str:
        return f"{_experts(model)}{_of_images(known, pattern, images)}"

    return match_targets(names, targets, why, of_images)


def match_targets(
    names: Sequence[str],
    targets: str | Sequence[str],
    why: Callable[[str], str] = lambda pattern: "",
    others: Sequence[str] = (),
) -> list[str]:
    """Those of the names that match a pattern or several, see `find_targets`.

    Args:
        names: of modules.
        targets: the patterns.
        why: pattern -> what an error adds of one that matches nothing.
        others: names in which a pattern is looked for that matches none of the first.

    Raises:
        GfoError: if a pattern matches nothing, or there is none; says what there is.
    """
    patterns = [targets] if isinstance(targets, str) else list(targets)
    found: set[str] = set()
    for pattern in patterns:
        here = _matching(names, [pattern]) or _matching(others, [pattern])
        if not here:
            raise GfoError(
                f"space: targets: '{pattern}' matches nothing in these layers{why(pattern)}; {_known(names)}"
            )
        found.update(here)
    if not patterns:
        raise GfoError(f"space: targets = []; {_known(names)}")
    return [name for name in (*names, *others) if name in found]


def linears_of(model: HasLinears) -> Mapping[str, Linear]:
    """Name -> sizes and layer of a model's linear modules, those at last that read images, in layer 0."""
    images = getattr(model, "images", None)
    return model.linears if images is None else {**model.linears, **images.linears}


def find_roles(model: HasLinears, layers: Layers, *roles: str) -> list[str]:
    """Names of the linear modules of all roles together, in the model's order.

    Routed experts are no modules: where a model has some, a line says that they are left out.

    Raises:
        GfoError: if a model without them lacks a role, or has none of these modules.
    """
    chosen = set(select_layers(layers, model.layers))
    names = _names(model, chosen)
    groups = [_usual(model, names, role) for role in roles]
    routed = chosen.intersection(model.experts.values())
    if not (any if routed else all)(groups):
        raise _none_usual(model, names)
    if routed:
        _tell_of_experts()
    return sorted({name for group in groups for name in group}, key=names.index)


def _names(model: HasLinears, layers: Collection[int]) -> list[str]:
    """Names of the linear modules in some layers, in the model's order."""
    return [name for name, info in model.linears.items() if info.layer in layers]


def _tell_of_experts() -> None:
    warnings.warn(
        "the model's routed experts are no linear modules: the space leaves them out, and changes the others",
        GfoWarning,
        stacklevel=5,
    )


def _usual(model: HasLinears, names: Sequence[str], role: str) -> list[str]:
    """The modules of a role among the names, by the first group whose first pattern is there."""
    groups = model.usual_targets(role)
    return next((_matching(names, group) for group in groups if _matching(names, group[:1])), [])


def _none_usual(model: HasLinears, names: Sequence[str]) -> GfoError:
    return GfoError(
        f"space: targets: the model has none of the usual names{_experts(model)}; {_known(names)}"
    )


def _experts(model: HasLinears) -> str:
    """What an error says of a model with routed experts."""
    return " (its routed experts are no linear modules)" if model.experts else ""


def _of_images(known: Sequence[str], pattern: str, wanted: bool) -> str:
    """What an error says of a pattern that names modules which read images, where they do not go."""
    if not _matching(known, [pattern]):
        return ""
    if not wanted:
        return " (it names what reads images, which this space does not change)"
    return " (layers are the text model's; for what reads images leave them out, and name its layers)"


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
