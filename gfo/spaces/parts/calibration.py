"""What enters linear modules on some texts: for errors of outputs, and for scales of columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self

from gfo.core.errors import GfoError
from gfo.spaces.parts.levels import Level
from gfo.spaces.parts.measure import HasModules

if TYPE_CHECKING:
    from torch import Tensor

TOKENS = 512  # that are kept of the texts, evenly spread
EXPONENTS = (0.0, 0.25, 0.5, 0.75)


class Place(Protocol):
    """Where factors can be moved: see `gfo.models.rescaling.Rescaling`."""

    @property
    def source(self) -> str: ...
    @property
    def into(self) -> tuple[str, ...]: ...
    def columns(self, s: Tensor) -> Tensor: ...
    def reduced(self, squares: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Calibration:
    """What texts say of a model's weights; nothing, where there are none.

    Attributes:
        inputs: module -> what enters it, float32 [tokens, in].
        factors: source -> s [n], by which its outputs are divided and the columns behind it multiplied.
        rows, columns: module -> the factors of its rows [out, 1], which are divided, and of its columns [in].
    """

    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    factors: Mapping[str, Tensor] = field(default_factory=dict)
    rows: Mapping[str, Tensor] = field(default_factory=dict)
    columns: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls, model: HasModules, names: Sequence[str], texts: Sequence[str], levels: Sequence[Level]
    ) -> Self:
        """That of texts, for the levels given; columns are scaled for the coarsest that rounds.

        Raises:
            GfoError: for a family in which no factors can be moved, or texts without tokens.
        """
        import torch

        rounding = [level for level in levels if level.weighted is None and level.name != "F32"]
        if not rounding:
            return cls(module_inputs(model, names, texts))
        level = rounding[-1]
        places: Sequence[Place] = getattr(model, "rescalings", ())
        if not places:
            raise GfoError(
                "space: calibration: of this family it is not known where factors of columns can be moved; "
                "leave it out, or take a decoder with a gated feed-forward network"
            )
        inputs = module_inputs(model, names, texts)
        weights = {name: model.weight(name).float() for name in names}
        with torch.no_grad():
            factors = activation_aware(places, weights, inputs, level)
        moved = [(place, factors[place.source]) for place in places if place.source in factors]
        rows = {place.source: s[:, None] for place, s in moved}
        columns = {name: place.columns(s) for place, s in moved for name in place.into}
        return cls(inputs, factors, rows, columns)

    def rounded(self, name: str, weight: Tensor, level: Level) -> Tensor:
        """What a level leaves of a module's weight, float32 [out, in]."""
        if level.weighted is not None:
            return level.weighted(weight, self.inputs.get(name))
        rows, columns = self.rows.get(name, 1.0), self.columns.get(name, 1.0)
        return level.rounded(weight * columns / rows) / columns * rows


def module_inputs(model: HasModules, names: Sequence[str], texts: Sequence[str]) -> dict[str, Tensor]:
    """Module -> what enters it, float32 [tokens, in], in plain forward passes of texts.

    Raises:
        GfoError: for texts without tokens.
    """
    import torch

    rows = _tokens(model, texts)
    every = max(1, sum(map(len, rows)) // TOKENS)
    seen: dict[str, list[Tensor]] = {name: [] for name in names}

    def keeping(name: str) -> Any:
        return lambda module, args: seen[name].append(args[0].flatten(0, -2)[::every].float())

    parts = [(name, model.module.get_submodule(name)) for name in names]
    hooks = [part.register_forward_pre_hook(keeping(name)) for name, part in parts]
    try:
        with torch.no_grad():
            for ids in rows:
                model.hidden_states(torch.tensor([ids], device=model.device))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: torch.cat(found) for name, found in seen.items()}


def _tokens(model: HasModules, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of texts that have some, those that are read of each; GfoError if none has."""
    most = min(TOKENS, model.context_length)
    rows = [ids for ids in (list(model.encode(text, start=True))[:most] for text in texts) if ids]
    if not rows:
        raise GfoError(
            "space: calibration: the texts have no tokens; give some that the model is to be good at"
        )
    return rows


def output_error(change: Tensor, inputs: Tensor | None) -> float:
    """|X dW^T|^2 / tokens of a change dW [out, in], with inputs X [tokens, in]; |dW|^2 without."""
    if inputs is None:
        return float(change.square().sum())
    return float((inputs @ change.T).square().sum()) / len(inputs)


def activation_aware(
    places: Iterable[Place], weights: Mapping[str, Tensor], inputs: Mapping[str, Tensor], level: Level
) -> dict[str, Tensor]:
    """Factors of columns by which rounding costs the outputs least: source -> s [n].

    As AWQ (Lin et al. 2023, arXiv:2306.00978): s = rms(x)^a, normalized to a geometric mean of 1, with the a
    of 0, 0.25, 0.5 and 0.75 that has the least |X (Q(W s) / s - W)^T|^2 at a level.

    Args:
        places: where factors can be moved; those whose modules have inputs here are taken.
        weights: module -> W, float32 [out, in].
        inputs: module -> X, float32 [tokens, in].
        level: that of the errors.
    """
    found = {}
    for place in places:
        if all(name in inputs for name in place.into):
            squares = inputs[place.into[0]].square().mean(dim=0)
            rms = place.reduced(squares).sqrt()
            tried = [_factors(rms, a) for a in EXPONENTS]
            found[place.source] = min(tried, key=lambda s: _error(place, s, weights, inputs, level))
    return found


def _factors(rms: Tensor, a: float) -> Tensor:
    """rms^a with a geometric mean of 1; a column that is nearly never used counts as one of a thousandth."""
    logs = a * rms.clamp(min=1e-3 * float(rms.mean())).log()
    return (logs - logs.mean()).exp()


def _error(
    place: Place, s: Tensor, weights: Mapping[str, Tensor], inputs: Mapping[str, Tensor], level: Level
) -> float:
    """The error of all outputs with factors s."""
    columns = place.columns(s)
    return sum(
        output_error(level.rounded(weights[name] * columns) / columns - weights[name], inputs[name])
        for name in place.into
    )
