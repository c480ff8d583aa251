"""Compression as a search: how many bits each linear module gets, under a limit of bytes."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from gfo.core.bank import Bank
from gfo.core.delta import Delta
from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError
from gfo.core.recording import recorded
from gfo.spaces.parts.calibration import Calibration, output_error
from gfo.spaces.parts.knapsack import demoted
from gfo.spaces.parts.levels import LEVELS, check_columns, check_embeddings, find_levels
from gfo.spaces.parts.measure import HasModules
from gfo.spaces.parts.options import Layers, select_layers
from gfo.spaces.parts.targets import find_targets

if TYPE_CHECKING:
    from torch import Tensor


class HasFile(Protocol):
    """What the file of a model would be: see `gfo.models.gguf_form.GGUFForm`."""

    @property
    def refusal(self) -> str | None: ...
    def rest_bytes(self, modules: Sequence[str], embeddings: str) -> int: ...


@recorded
class Compression:
    """Each linear module at one of several levels: a gene for each, 0 the level with most bits.

    Weights of a level are made when it is first chosen for a module, and kept as floats: up to the size of
    the modules for each level (425 MB in float32 for SmolLM2-135M), shared by all candidates.

    Args:
        model: a frozen model of `gfo.load_model`.
        levels: two or more of F32, F16, Q8_0, Q5_1, Q5_0, Q4_1, Q4_0 (types of GGUF files) and, for merged
            folders, HQ4, HQ3, HQ2 (half-quadratic, in groups of 64 of a row), S25, S50, S2:4 (a quarter or
            half of the weights 0, or two of each four) and R75, R50 (low rank, that share of parameters).
        limit: what the file may take: a number above 1 is bytes, any other a share of what the modules take
            in Q8_0, the rest apart. Points beyond it are repaired. None for no limit.
        targets: linear modules, see `find_targets`; None for all.
        layers: None for all, "upper" or "lower" for a half, "last", or their numbers.
        embeddings: the type in which a file has the embeddings, and a head of its own.
        calibration: texts by which the columns of weights are scaled before they are rounded, as AWQ does,
            and errors are those of outputs. None for neither.
        sensitivity: what each level costs each module, [d, L], most bits first: by it points are repaired.
            By default the squared error of outputs, or without calibration of weights.

    Attributes:
        names: the modules, in order, one for each gene.
        levels: the levels, most bits first.
        sizes: bytes of each module at each level, int [d, L].
        rest_bytes: what the file takes beside the modules.
        limit_bytes: what the file may take; infinite without a limit.
        calibration: the factors found, and what enters the modules.
        banks: module -> its weights at the levels.

    Raises:
        GfoError: for unknown levels, modules that a level does not fit, a limit below the smallest model, or
            calibration of a family in which no factors can be moved.
    """

    def __init__(
        self,
        model: HasModules,
        levels: Sequence[str] = ("Q8_0", "Q5_0", "Q4_0"),
        *,
        limit: float | None = None,
        targets: str | Sequence[str] | None = None,
        layers: Layers = None,
        embeddings: str = "Q8_0",
        calibration: Sequence[str] | None = None,
        sensitivity: Sequence[Sequence[float]] | Array | None = None,
    ) -> None:
        import torch

        self._model, self.levels, self.embeddings = model, find_levels(levels), embeddings
        self.names = tuple(_modules(model, targets, layers))
        check_columns({name: model.linears[name].in_features for name in self.names}, self.levels)
        check_embeddings(model.embed(torch.tensor([0], device=model.device)).shape[-1], embeddings)
        shapes = map(self._shape, self.names)
        self.sizes = np.array([[level.bytes(*shape) for level in self.levels] for shape in shapes])
        self.domain = Domain.box(0, len(self.levels) - 1, len(self.names), integer=True, names=self.names)
        self.rest_bytes = self._rest()
        self.limit_bytes = self._bytes_of(limit)
        self._costs = None if sensitivity is None else self._checked(sensitivity)
        self.calibration = Calibration()
        if calibration is not None:
            self.calibration = Calibration.of(model, self.names, calibration, self.levels)
        self.banks = {name: self._bank(name) for name in self.names}

    def decode(self, z: Tensor) -> Delta:
        """z [K, d] -> the chosen weights; decode(0) has most bits everywhere."""
        import torch

        genes = z.round().long().clamp(0, len(self.levels) - 1)
        shares = torch.nn.functional.one_hot(genes, len(self.levels)).float()  # [K, d, L]
        first = min(self._model.linears[name].layer for name in self.names)
        return Delta(
            bank={name: (shares[:, i], self.banks[name]) for i, name in enumerate(self.names)},
            first_layer=first,
        )

    def measure(self, z: Array) -> dict[str, Array]:
        """z [K, d] -> "bytes" of the file, and "bits" of a weight of the modules, each [K]."""
        taken = self._taken(self.domain.clip(z).astype(int))
        weights = sum(math.prod(self._shape(name)) for name in self.names)
        return {"bytes": (self.rest_bytes + taken).astype(np.float64), "bits": 8 * taken / weights}

    def repair(self, z: Array) -> Array:
        """z [K, d] within the limit: modules lose bits, first where that costs least for the bytes saved."""
        z = np.array(z, dtype=np.float64)
        room = self.limit_bytes - self.rest_bytes
        genes = self.domain.clip(z).astype(int)
        for k in np.flatnonzero(self._taken(genes) > room):
            z[k] = demoted(genes[k], self.costs, self.sizes, room)
        return z

    def chosen(self, z: Array) -> dict[str, str]:
        """Module -> name of its level at z [d]."""
        genes = self.domain.clip(z).astype(int)
        return {name: self.levels[g].name for name, g in zip(self.names, genes, strict=True)}

    @property
    def costs(self) -> Array:
        """What each level costs each module, [d, L]: see `sensitivity`."""
        return self.errors if self._costs is None else self._costs

    @functools.cached_property
    def errors(self) -> Array:
        """Squared errors of outputs, or without calibration of weights, [d, L]."""
        import torch

        found = np.zeros(self.sizes.shape)
        with torch.no_grad():
            for i, name in enumerate(self.names):
                own, inputs = self._model.weight(name).float(), self.calibration.inputs.get(name)
                for m in range(len(self.levels)):
                    found[i, m] = output_error(self.weight(name, m).float() - own, inputs)
        return found

    def weight(self, name: str, m: int) -> Tensor:
        """What level m leaves of a module's weight, [out, in], in the model's dtype."""
        own = self._model.weight(name)
        if self.levels[m].name == "F32":
            return own
        return self.calibration.rounded(name, own.float(), self.levels[m]).to(own.dtype)

    def _bank(self, name: str) -> Bank:
        """The weights of a module at the levels, each made when it is asked for."""
        return Bank(functools.partial(self.weight, name), len(self.levels), self._shape(name))

    def _shape(self, name: str) -> tuple[int, int]:
        info = self._model.linears[name]
        return info.out_features, info.in_features

    def _taken(self, genes: Array) -> Array:
        """Bytes of the modules, int [K], of genes int [K, d]."""
        return np.asarray(self.sizes[np.arange(len(self.names)), genes].sum(axis=1))

    def _rest(self) -> int:
        """Bytes of the file beside the modules: exact where it can be a GGUF file, else of the tensors."""
        file: HasFile | None = getattr(self._model, "gguf", None)
        if file is not None and file.refusal is None:
            return file.rest_bytes(self.names, self.embeddings)
        parts = self._model.module.named_parameters()
        own = {f"{name}.weight" for name in self.names}
        return sum(parameter.nbytes for name, parameter in parts if name not in own)

    def _bytes_of(self, limit: float | None) -> float:
        """The limit of the file in bytes."""
        if limit is None:
            return math.inf
        if not limit > 0:
            raise GfoError(f"space: limit = {limit} must be a share above 0, or bytes")
        whole = sum(LEVELS["Q8_0"].bytes(*self._shape(name)) for name in self.names)
        most = limit if limit > 1 else self.rest_bytes + limit * whole
        least = self.rest_bytes + int(self.sizes[:, -1].sum())
        if most < least:
            share = (least - self.rest_bytes) / whole
            raise GfoError(
                f"space: limit = {limit:,}: with {self.levels[-1].name} everywhere the file has {least:,} "
                f"bytes, a share of {share:.3f}; raise the limit, or give levels of fewer bits"
            )
        return most

    def _checked(self, sensitivity: Any) -> Array:
        """The costs given, if they are finite numbers of the right shape."""
        costs = np.asarray(sensitivity, dtype=np.float64)
        if costs.shape != self.sizes.shape or not np.isfinite(costs).all():
            raise GfoError(
                f"space: sensitivity of shape {list(costs.shape)} must be finite numbers "
                f"{list(self.sizes.shape)}, one for each module and level"
            )
        return costs


def _modules(model: HasModules, targets: str | Sequence[str] | None, layers: Layers) -> list[str]:
    """The linear modules asked for, or all in the layers."""
    if targets is not None:
        return find_targets(model, targets, layers)
    chosen = set(select_layers(layers, model.layers))
    found = [name for name, info in model.linears.items() if info.layer in chosen]
    if not found:
        raise GfoError("space: the model has no linear modules in these layers; take another model")
    return found
