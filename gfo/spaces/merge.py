"""Merging of checkpoints as a search: how much of each, by groups of layers and kinds of modules."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gfo.core.delta import Delta
from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError
from gfo.core.recording import recorded, remember
from gfo.spaces.parts.checkpoints import Adapter, HasTokens, labels_of, open_checkpoints, own_bias
from gfo.spaces.parts.merging import Merged, Parts, Reader, Recipe, find_method
from gfo.spaces.parts.options import even_sizes, positive

if TYPE_CHECKING:
    from torch import Tensor

REST = "*"  # what modules that no filter names are called


class Place(NamedTuple):
    """Modules that have coefficients in common.

    Attributes:
        layers: the first layer, and the one behind the last.
        filter: what their names have in common, or REST.
        names: the modules.
    """

    layers: tuple[int, int]
    filter: str
    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.filter} of layers {self.layers[0]} to {self.layers[1] - 1}"


class Stacked(NamedTuple):
    """Adapters of one module, one behind the other.

    Attributes:
        A: [r, in], r the sum of their ranks.
        B: [out, r].
        which: the adapter that each column is of, int [r].
    """

    A: Tensor
    B: Tensor
    which: Tensor


@recorded
class Merge:
    """Coefficients of checkpoints of one model, for groups of layers and kinds of modules.

    The linear modules in the layers are merged, with their biases; embeddings, norms and the head stay the
    model's. z = 0 is the uniform mean: coefficients are 1 / N plus `spread` z; of "linear", without the mean
    of z, so that they sum to 1; SLERP's t is 1/2 plus `spread` z. Adapters merged by "linear",
    "task_arithmetic" or "pick" are low-rank changes, and no weight is made of them; all else is merged module
    by module from the files.

    Args:
        model: a frozen model of `gfo.load_model`, from which task vectors are counted.
        checkpoints: two or more folders: LoRA adapters of PEFT for the model, or whole models of its shapes
            in safetensors.
        method: "linear", "task_arithmetic", "ties", "dare_linear", "dare_ties", or "slerp" of two, as
            mergekit has them; "pick" for a categorical gene for each place: whose weights it gets.
        groups: of neighbouring layers, each with coefficients of its own; by default 1, for "pick" the number
            of layers.
        filters: parts of modules' names, such as "self_attn" and "mlp": those of each have coefficients of
            their own, by the first that fits; modules that none fits are one more kind, "*".
        density: the share of each task vector that TIES (by default 0.2) and DARE (0.1) keep.
        spread: what a coefficient changes by where z does by 1.
        seed: of what DARE keeps.

    Attributes:
        checkpoints: their folders.
        labels: a name for each.
        places: what has coefficients of its own, in the order of z: for each place one of each checkpoint.
        adapters: whether they are adapters.
        starts_from: the change that decode(0) is, of one candidate.

    Raises:
        GfoError: for checkpoints of another model, an unknown method, or options that it has not.
    """

    def __init__(
        self,
        model: HasTokens,
        checkpoints: Sequence[str | Path],
        *,
        method: str = "linear",
        groups: int | None = None,
        filters: Sequence[str] = (),
        density: float | None = None,
        spread: float = 0.25,
        seed: int = 0,
    ) -> None:
        self.method, self._how = method, find_method(method)
        self.spread, self.seed = positive("spread", spread), seed
        self.density = self._density(density)
        self._model, self._found = model, open_checkpoints(checkpoints, model)
        self.checkpoints = tuple(each.path for each in self._found)
        self.labels, self.N = tuple(labels_of(self.checkpoints)), len(self._found)
        if method == "slerp" and self.N != 2:
            raise GfoError(f"space: checkpoints: SLERP is between two, {self.N} are given; give two")
        self.adapters = isinstance(self._found[0], Adapter)
        if groups is None:
            groups = self._usual_groups()
        self.places = _places(model, self._modules(), groups, filters)
        self._place_of = {name: i for i, place in enumerate(self.places) for name in place.names}
        self.domain = self._domain()
        self.dim = self.domain.d
        self.first_layer = min(model.linears[name].layer for name in self._place_of)
        self._recipe = Recipe(self._how, self.density, seed)
        self._reader = Reader(self._weights)
        self._make = self._low_rank() if self.adapters and self._how.low_rank else self._banks()
        self.starts_from = self._start()
        given = {"method": method, "groups": groups, "filters": list(filters), "spread": spread}
        prints = [each.fingerprint for each in self._found]
        remember(self, {**given, "density": self.density, "seed": seed, "checkpoints": prints})

    def decode(self, z: Tensor) -> Delta:
        """z [K, d] -> low-rank changes, or weights of all checkpoints mixed; decode(0) is `starts_from`."""
        return self._make(self.shares(z))

    def shares(self, z: Tensor) -> Tensor:
        """z [K, d] -> the coefficients, float32 [K, places, M]; M is N, or 1 for SLERP's t.

        Of "pick" the one that is picked has 1.
        """
        import torch

        if self.method == "pick":
            genes = z.round().long().clamp(0, self.N - 1)
            return torch.nn.functional.one_hot(genes, self.N).float()
        z = z.view(len(z), len(self.places), -1)
        if self.method == "linear":
            z = z - z.mean(dim=-1, keepdim=True)
        return (self._even + self.spread * z).float()

    def coefficients(self, z: Array) -> dict[str, float]:
        """What z [d] stands for: names of the domain -> coefficients; of "pick" the checkpoint's number."""
        import torch

        names = self.domain.names or ()
        if self.method == "pick":
            return dict(zip(names, self.domain.clip(z).tolist(), strict=True))
        found = self.shares(torch.from_numpy(np.asarray(z, dtype=np.float64)[None]))[0]
        return dict(zip(names, found.flatten().tolist(), strict=True))

    def point(self, coefficients: Sequence[float] | Array) -> Array:
        """The point [d] with these coefficients [M] in all places.

        Raises:
            GfoError: for coefficients of another number, or for "linear" with another sum than 1.
        """
        given = np.asarray(coefficients, dtype=np.float64)
        M = self.dim // len(self.places)
        if given.shape != (M,):
            raise GfoError(f"point: coefficients of shape {list(given.shape)}; give {M}")
        if self.method == "linear" and abs(given.sum() - 1) > 1e-6:
            raise GfoError(f"point: coefficients of 'linear' sum to 1, these to {given.sum():g}; give such")
        z = given if self.method == "pick" else (given - self._even) / self.spread
        return np.tile(z, len(self.places))

    def parents(self) -> Array:
        """The points [N, d] that are each checkpoint alone."""
        if self.method in ("pick", "slerp"):
            return np.stack([self.point([float(i)]) for i in range(self.N)])
        return np.stack([self.point(row) for row in np.eye(self.N)])

    def sweep(self, values: Sequence[float]) -> Array:
        """The points [V, d] with one coefficient for all: of "linear" of two, as SLERP's t, the second's.

        Raises:
            GfoError: for "pick", and "linear" of more than two, which have no such.
        """
        if self.method == "pick" or (self.method == "linear" and self.N > 2):
            raise GfoError(
                f"sweep: '{self.method}' of {self.N} has no coefficient of one number; take task_arithmetic"
            )
        if self.method == "linear":
            return np.stack([self.point([1 - value, value]) for value in values])
        M = self.dim // len(self.places)
        return np.stack([self.point([value] * M) for value in values])

    def _start(self) -> Delta:
        import torch

        return self.decode(torch.zeros(1, self.dim, dtype=torch.float64, device=self._model.device))

    @property
    def starts_at_model(self) -> bool:
        """Whether coefficients of 0 are the model itself."""
        return self._how.of_changes

    @property
    def _even(self) -> float:
        """The coefficient of z = 0."""
        return 1 / self.N

    def _density(self, given: float | None) -> float:
        usual = self._how.density
        if given is None:
            return 1.0 if usual is None else usual
        if usual is None:
            raise GfoError(f"space: density = {given}: '{self.method}' keeps all; leave it out")
        if not 0 < given <= 1:
            raise GfoError(f"space: density = {given} must be above 0 and at most 1")
        return given

    def _usual_groups(self) -> int:
        """The number of groups of layers, where none is given."""
        return self._model.layers if self.method == "pick" else 1

    def _modules(self) -> list[str]:
        """What is merged, in the model's order: of adapters what any of them changes."""
        names = list(self._model.linears)
        if self.adapters:
            changed = {name for each in self._found for name in each.low_rank}  # type: ignore[union-attr]
            return [name for name in names if name in changed]
        return names

    def _domain(self) -> Domain:
        if self.method == "pick":
            return Domain.box(
                0, self.N - 1, len(self.places), categorical=True, names=tuple(map(str, self.places))
            )
        labels = ("t",) if self.method == "slerp" else self.labels
        names = tuple(f"{label}, {place}" for place in self.places for label in labels)
        free = Domain.unbounded(len(names))
        return Domain(free.low, free.high, free.integer, names=names)

    def _low_rank(self) -> Callable[[Tensor], Delta]:
        """Shares [K, places, N] -> low-rank changes: A is shared by all candidates."""
        stacked = {name: _stacked(self._found, name) for name in self._place_of}  # type: ignore[arg-type]

        def make(shares: Tensor) -> Delta:
            lora = {}
            for name, (A, B, which) in stacked.items():
                share = shares[:, self._place_of[name], which]
                lora[name] = A.expand(len(shares), -1, -1), B * share[:, None]
            return Delta(lora=lora, first_layer=self.first_layer)

        return make

    def _banks(self) -> Callable[[Tensor], Delta]:
        """Shares [K, places, M] -> weights, each mixed where it is used, and what biases change by."""
        M = 1 if self.method == "slerp" else self.N
        banks, biases = {}, {}
        for name in self._place_of:
            banks[name] = Merged(name, self._reader, self._how, M, self._model.weight(name))
            if (found := self._biases(name)) is not None:
                biases[name] = found

        def make(shares: Tensor) -> Delta:
            of = {name: shares[:, i] for name, i in self._place_of.items()}
            bank = {name: (of[name], merged) for name, merged in banks.items()}
            bias = {name: self._added(parts, of[name]) for name, parts in biases.items()}
            return Delta(bank=bank, bias=bias, first_layer=self.first_layer)

        return make

    def _weights(self, name: str) -> Parts:
        """What is merged in a module's weight, read from the files."""
        return self._recipe.parts(name, self._model.weight(name), (each.weight(name) for each in self._found))

    def _biases(self, name: str) -> tuple[Tensor, Parts] | None:
        """A module's own bias [out], and what is merged in it; None where it stays."""
        own, found = own_bias(self._model, name), [each.bias(name) for each in self._found]
        if own is None or any(bias is None for bias in found):
            return None
        copies = [bias.clone() for bias in found if bias is not None]  # off the files
        return own, self._recipe.parts(f"{name}.bias", own, copies)

    def _added(self, bias: tuple[Tensor, Parts], shares: Tensor) -> Tensor:
        """What a module's bias changes by, [K, out], of its coefficients [K, M]."""
        import torch

        own, (base, parts) = bias
        return torch.stack([self._how.mix(base, parts, some) for some in shares]) - own.float()


def _stacked(adapters: Sequence[Adapter], name: str) -> Stacked:
    """Those of the adapters that change a module."""
    import torch

    found = [(i, *each.low_rank[name]) for i, each in enumerate(adapters) if name in each.low_rank]
    which = torch.cat([torch.full((len(A),), i) for i, A, _ in found])
    A, B = torch.cat([A for _, A, _ in found]), torch.cat([B for *_, B in found], dim=1)
    return Stacked(A, B, which.to(A.device))


def _places(model: HasTokens, names: Sequence[str], groups: int, filters: Sequence[str]) -> list[Place]:
    """Groups of layers times kinds of modules, without those that have no module.

    Raises:
        GfoError: for a number of groups that cannot be, a filter given twice, or one that no module fits.
    """
    if not 1 <= groups <= model.layers:
        raise GfoError(f"space: groups = {groups} must be 1 to {model.layers}, the model's layers")
    filters = [filters] if isinstance(filters, str) else list(filters)
    kinds = _kinds(names, filters)
    starts = np.cumsum([0, *even_sizes(model.layers, groups)]).tolist()
    places = itertools.product(itertools.pairwise(starts), (*filters, REST))
    found = [_place(model, kinds, layers, kind) for layers, kind in places]
    return [place for place in found if place.names]


def _place(model: HasTokens, kinds: Mapping[str, str], layers: tuple[int, int], kind: str) -> Place:
    """The modules of a kind in some layers, of all modules' kinds."""
    of_kind = [name for name, its_kind in kinds.items() if its_kind == kind]
    return Place(layers, kind, tuple(name for name in of_kind if model.linears[name].layer in range(*layers)))


def _kinds(names: Sequence[str], filters: Sequence[str]) -> dict[str, str]:
    """Module -> the first filter that fits its name, or REST.

    Raises:
        GfoError: for a filter given twice, or one that no module fits.
    """
    if len({*filters, REST}) <= len(filters):
        raise GfoError(f"space: filters = {filters}; give each once, and '*' not at all: it is the rest")
    kinds = {name: next((part for part in filters if part in name), REST) for name in names}
    unused = next((part for part in filters if part not in kinds.values()), None)
    if unused is not None:
        known = ", ".join(_words(names))
        raise GfoError(f"space: filters: '{unused}' is first in no module's name; give some of {known}")
    return kinds


def _words(names: Sequence[str]) -> list[str]:
    """The parts of modules' names but their numbers, sorted."""
    return sorted({piece for name in names for piece in name.split(".") if not piece.isdigit()})
