"""Slots: the kinds of changes that a `Delta` is made of, each a class of tensors whose first axis is K.

A slot says where in the model its tensors belong and what they must fit. How it is applied is a function in
`gfo.models.apply`, how it leaves gfo one in `gfo.report.export`: a new kind of change is a class here and
these two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from gfo.core.errors import GfoError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor

SLOTS: dict[str, type[Slot]] = {}
"""Name -> class, in the order in which they are written down; filled by the classes."""


class HasParts(Protocol):
    """What slots ask a model about its parts."""

    name: str
    contexts: bool
    layers: int
    module: Any

    @property
    def prompt_layers(self) -> int: ...

    @property
    def linears(self) -> Mapping[str, Any]: ...

    @property
    def sub_blocks(self) -> Mapping[Any, Any]: ...

    def lowest_layer(self, name: str) -> int: ...


def is_shared(tensor: Tensor) -> bool:
    """Whether all candidates have the same slice of a tensor [K, ...]: it is expanded, or K is 1."""
    return tensor.shape[0] == 1 or tensor.stride(0) == 0


@dataclass(frozen=True, eq=False)
class Slot:
    """One kind of change of K candidates; a subclass gives its name, as in `class Biases(..., name="bias")`.

    A tensor that is expanded over K (stride 0) is shared by all candidates.

    Attributes:
        at: place in the model -> a tensor [K, ...], or a tuple of them.
        name: the keyword of `Delta`, and what errors call it.
        absent: what a Delta without the slot says under this name.
        everywhere: whether all tokens depend on the candidate from the first layer that changes on, not the
            soft prompt's and those behind it alone.
        at_rest: the number that `effects` are where nothing changes, or None where there is no such.
        remedy: what to do where two spaces change the same place.
    """

    at: Mapping[Any, Any]

    name: ClassVar[str] = ""
    absent: ClassVar[Any] = MappingProxyType({})
    everywhere: ClassVar[bool] = False
    at_rest: ClassVar[float | None] = None
    remedy: ClassVar[str] = "give them different targets or layers"

    def __init_subclass__(cls, name: str = "") -> None:
        super().__init_subclass__()
        if name:
            cls.name = name
            SLOTS[name] = cls

    @classmethod
    def of(cls, value: Any) -> Self:
        """The slot of what `Delta` takes under its name: a mapping from places."""
        return cls(value)

    @property
    def value(self) -> Any:
        """What `Delta` gives under the slot's name."""
        return self.at

    def tensors(self) -> Iterator[Tensor]:
        """All tensors."""
        for value in self.at.values():
            yield from value if isinstance(value, tuple) else (value,)

    def effects(self) -> list[Tensor]:
        """What candidates change, each [K, ...], equal where they do the same."""
        return list(self.tensors())

    @property
    def modules(self) -> set[str]:
        """Names of the modules that change."""
        return set()

    @property
    def lasting(self) -> bool:
        """Whether tokens that are generated are changed, too, as many for each candidate."""
        return bool(self.modules)

    @property
    def prompt_tokens(self) -> int:
        """P, the length of the soft prompt that it changes; 0 for none."""
        return 0

    @property
    def prefix_tokens(self) -> int:
        """P', the tokens that it puts in front of all; 0 for none."""
        return 0

    def touched(self, model: HasParts) -> list[int]:
        """The layers that change."""
        return []

    def check(self, model: HasParts) -> None:
        """Raise GfoError for a place that the model lacks, or tensors that do not fit there."""

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The slot with `change` applied to each tensor; it must keep the axes."""

        def deep(value: Any) -> Any:
            return tuple(map(change, value)) if isinstance(value, tuple) else change(value)

        return type(self)({place: deep(value) for place, value in self.at.items()})

    def to(self, device: Any, dtype: Any) -> Self:
        """The slot on a device and in a dtype; shared tensors stay shared."""

        def moved(tensor: Tensor) -> Tensor:
            if is_shared(tensor):
                return tensor[:1].to(device, dtype).expand_as(tensor)
            return tensor.to(device, dtype)

        return self.map(moved)

    def select(self, part: slice) -> Self:
        """Some of the candidates, as views; shared tensors stay shared."""
        return self.map(lambda tensor: tensor[part])

    def take(self, candidates: Tensor) -> Self:
        """Some of the candidates, by their numbers; shared tensors stay shared."""

        def taken(tensor: Tensor) -> Tensor:
            if is_shared(tensor):
                return tensor[:1].expand(len(candidates), *tensor.shape[1:])
            return tensor[candidates]

        return self.map(taken)


class LayerSlot(Slot):
    """A slot whose places are layers, counted from 0, an encoder's before its decoder's."""

    def touched(self, model: HasParts) -> list[int]:
        """The layers that change."""
        return list(self.at)

    def check(self, model: HasParts) -> None:
        """Raise GfoError for a layer that the model lacks."""
        for layer in self.at:
            if not 0 <= layer < model.layers:
                raise GfoError(f"Delta: layer {layer} must be 0 to {model.layers - 1}, the model's layers")


class ModuleSlot(Slot):
    """A slot whose places are modules, named as by `named_modules` of the transformers model."""

    everywhere = True

    @property
    def modules(self) -> set[str]:
        """Names of the modules that change."""
        return set(self.at)

    def widths(self, name: str) -> tuple[int | None, int | None]:
        """The sizes of a module's input and output that the tensors are for; None for any."""
        return None, None

    def touched(self, model: HasParts) -> list[int]:
        """The layers that change, or that modules outside of them come behind."""
        return [model.lowest_layer(name) for name in self.at]

    def check(self, model: HasParts) -> None:
        """Raise GfoError for a module that the model lacks, or tensors of other sizes."""
        names = dict(model.module.named_modules())
        for name in sorted(self.at):
            if name not in names:
                raise GfoError(f"Delta: {unknown_name('module', name, names)}")
            has = _widths(model, name, names[name])
            for what, wanted, size in zip(("input", "output"), self.widths(name), has, strict=True):
                if None not in (wanted, size) and wanted != size:
                    raise GfoError(
                        f"Delta: the {self.name} of '{name}' is for an {what} of {wanted} numbers, not of "
                        f"{size}; give tensors of the module's sizes"
                    )


class Prompts(Slot, name="prompt"):
    """Soft prompts in the model's input-embedding space, [K, P, D], in the place that the template gives."""

    absent = None
    remedy = "keep one (DeepPrompt moves its own at layer 0)"
    PLACE: ClassVar[str] = "{soft}"

    @classmethod
    def of(cls, value: Tensor) -> Self:
        """The slot of prompts [K, P, D]."""
        return cls({cls.PLACE: value})

    @property
    def value(self) -> Tensor:
        """[K, P, D]."""
        return self.at[self.PLACE]  # type: ignore[no-any-return]

    @property
    def prompt_tokens(self) -> int:
        """P."""
        return int(self.value.shape[1])


class LayerPrompts(LayerSlot, name="layer_prompt"):
    """Layer -> [K, P, D], added to the hidden states that enter the layer at the soft prompt's places.

    As BBTv2 (Sun et al. 2022, arXiv:2205.11200).
    """

    at_rest = 0.0

    @property
    def prompt_tokens(self) -> int:
        """P."""
        return next(int(tensor.shape[1]) for tensor in self.tensors())

    def check(self, model: HasParts) -> None:
        """Raise GfoError for a layer that the soft prompt does not pass through."""
        super().check(model)
        late = [layer for layer in self.at if layer >= model.prompt_layers]
        if late:
            raise GfoError(
                f"Delta: layer_prompt in layer {late[0]}, but the soft prompt is in the encoder; give layers "
                f"0 to {model.prompt_layers - 1}"
            )


class Prefixes(LayerSlot, name="prefix"):
    """Layer -> keys and values, each [K, H_kv, P', D_h], that all tokens see in front of their own.

    They are at positions 0 to P' - 1 (Li and Liang 2021, arXiv:2101.00190).
    """

    everywhere = True

    @property
    def prefix_tokens(self) -> int:
        """P'."""
        return next(int(tensor.shape[2]) for tensor in self.tensors())

    def check(self, model: HasParts) -> None:
        """Raise GfoError for a model without keys and values in front."""
        if not model.contexts:
            raise GfoError(
                f"Delta: a prefix, but '{model.name}' keeps no keys and values of a text in front; give it a "
                "soft prompt instead"
            )
        super().check(model)


class InputScales(ModuleSlot, name="input_scale"):
    """Module -> [K, in], factors on what enters it: 0 in the columns of heads or neurons closes these."""

    at_rest = 1.0
    remedy = "give them different layers, or one heads and the other widths"

    def widths(self, name: str) -> tuple[int | None, int | None]:
        """(in, None)."""
        return int(self.at[name].shape[1]), None


class Banks(ModuleSlot, name="bank"):
    """Module -> shares [K, M] and a `Bank`, which makes W of them: sum_m shares_m W_m, mostly one W_m.

    The bank is no candidate's: it stays as it is where candidates are chosen or moved. Shares stay float32.
    """

    def tensors(self) -> Iterator[Tensor]:
        """The shares, each [K, M]."""
        for shares, _ in self.at.values():
            yield shares

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The slot with `change` applied to the shares."""
        return type(self)({name: (change(shares), bank) for name, (shares, bank) in self.at.items()})

    def to(self, device: Any, dtype: Any) -> Self:
        """The shares on a device."""
        return super().to(device, None)

    def widths(self, name: str) -> tuple[int | None, int | None]:
        """(in, out)."""
        out, columns = self.at[name][1].shape
        return columns, out

    def check(self, model: HasParts) -> None:
        """Raise GfoError for a module that is not linear, or shares of another number of weights."""
        super().check(model)
        for name, (shares, bank) in sorted(self.at.items()):
            if name not in model.linears:
                raise GfoError(f"Delta: the bank of '{name}', which is no linear module of a layer; take one")
            if shares.shape[1:] != (len(bank),):
                raise GfoError(
                    f"Delta: the bank of '{name}' has {len(bank)} weights, its shares are "
                    f"{list(shares.shape)}; give [K, {len(bank)}]"
                )


class LowRank(ModuleSlot, name="lora"):
    """Module -> A [K, r, in] and B [K, out, r]: y + B A x (Hu et al. 2021, arXiv:2106.09685)."""

    at_rest = 0.0

    def effects(self) -> list[Tensor]:
        """The products B A, [K, out, in]."""
        return [B @ A for A, B in self.at.values()]

    def widths(self, name: str) -> tuple[int | None, int | None]:
        """(in, out)."""
        A, B = self.at[name]
        return int(A.shape[2]), int(B.shape[1])


class _OfOutputs(ModuleSlot):
    """Module -> tensors whose axis 1 is the module's output, of a tuple the last one's."""

    def widths(self, name: str) -> tuple[int | None, int | None]:
        """(None, out)."""
        value = self.at[name]
        return None, int((value[-1] if isinstance(value, tuple) else value).shape[1])


class Scales(_OfOutputs, name="scale"):
    """Module -> [K, out], factors on its output (as IA3, Liu et al. 2022, arXiv:2205.05638)."""

    at_rest = 1.0


class Biases(_OfOutputs, name="bias"):
    """Module -> [K, out], added to its output (as BitFit, Ben Zaken et al. 2022, arXiv:2106.10199)."""

    at_rest = 0.0


class Adapters(_OfOutputs, name="adapter"):
    """Module -> A' [K, r, out] and B' [K, out, r]: y + B' gelu(A' y).

    Houlsby et al. 2019, arXiv:1902.00751.
    """

    at_rest = 0.0

    def effects(self) -> list[Tensor]:
        """The matrices B', [K, out, r]."""
        return [B for _, B in self.at.values()]


def _widths(model: HasParts, name: str, module: Any) -> tuple[int | None, int | None]:
    """The sizes of a module's input and output, as far as they are known."""
    linear, weight = model.linears.get(name), getattr(module, "weight", None)
    if linear is not None:
        return linear.in_features, linear.out_features
    size = len(weight) if weight is not None and weight.ndim == 1 else None  # of a norm
    return size, size
