"""Delta: K batched modifications of a model, the only thing that spaces and models share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from gfo.core.errors import GfoError

if TYPE_CHECKING:
    from torch import Tensor

MODULE_SLOTS = ("lora", "scale", "bias", "adapter")


def is_shared(tensor: Tensor) -> bool:
    """Whether all candidates have the same slice of a tensor [K, ...]: it is expanded, or K is 1."""
    return tensor.shape[0] == 1 or tensor.stride(0) == 0


@dataclass(frozen=True)
class Delta:
    """K candidates as changes of one frozen model; a slot that is left out changes nothing.

    A module's output y = W x + b becomes y' = scale * (y + B A x) + bias, and with an adapter
    y' + B' gelu(A' y'). Modules are named as by `named_modules` of the transformers model; layers are
    counted from 0, an encoder's before its decoder's. A tensor that is `expand`ed over K (stride 0) is
    shared by all candidates and costs one matrix product for all of them.

    Attributes:
        prompt: soft prompts in the model's input-embedding space, [K, P, D], in the place that the
            template gives them.
        layer_prompt: layer -> [K, P, D], added to the hidden states that enter the layer at the
            soft prompt's places (as BBTv2, Sun et al. 2022, arXiv:2205.11200).
        prefix: layer -> keys and values, each [K, H_kv, P', D_h], that all tokens see in front of
            their own, at positions 0 to P' - 1 (Li and Liang 2021, arXiv:2101.00190).
        lora: module -> A [K, r, in] and B [K, out, r] (Hu et al. 2021, arXiv:2106.09685).
        scale: module -> [K, out], a factor on its output (as IA3, Liu et al. 2022).
        bias: module -> [K, out], added to its output (as BitFit, Ben Zaken et al. 2022).
        adapter: module -> A' [K, r, out] and B' [K, out, r], a bottleneck behind its output (Houlsby et
            al. 2019, arXiv:1902.00751).
        first_layer: no hidden state that enters a layer below it, or it, depends on the candidate:
            0 if prompts differ. Above 0 all candidates of all steps have the same `prompt`.

    Raises:
        GfoError: for a Delta without any change, or slots of different K.
    """

    prompt: Tensor | None = None
    layer_prompt: Mapping[int, Tensor] = field(default_factory=dict)
    prefix: Mapping[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    lora: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    scale: Mapping[str, Tensor] = field(default_factory=dict)
    bias: Mapping[str, Tensor] = field(default_factory=dict)
    adapter: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    first_layer: int = 0

    def __post_init__(self) -> None:
        sizes = {int(tensor.shape[0]) for tensor in self._tensors()}
        if len(sizes) != 1:
            found = "no change at all" if not sizes else f"slots of {sorted(sizes)} candidates"
            raise GfoError(
                f"Delta: {found}; give every slot the same number of candidates K, in one at least"
            )

    @property
    def candidates(self) -> int:
        """K."""
        return int(next(self._tensors()).shape[0])

    @property
    def prompt_tokens(self) -> int:
        """P, the soft prompt's length; 0 without one."""
        prompts = [*([] if self.prompt is None else [self.prompt]), *self.layer_prompt.values()]
        return int(prompts[0].shape[1]) if prompts else 0

    @property
    def prefix_tokens(self) -> int:
        """P', the prefix's length; 0 without one."""
        return next((int(key.shape[2]) for key, _ in self.prefix.values()), 0)

    @property
    def modules(self) -> set[str]:
        """Names of the modules whose outputs change."""
        return {name for slot in MODULE_SLOTS for name in getattr(self, slot)}

    def width(self, module: str) -> int:
        """The size of a changed module's output."""
        for slot in (self.scale, self.bias):
            if module in slot:
                return int(slot[module].shape[-1])
        return next(int(slot[module][1].shape[1]) for slot in (self.lora, self.adapter) if module in slot)

    @property
    def everywhere(self) -> bool:
        """Whether all tokens depend on the candidate from `first_layer` on, not the soft prompt's alone."""
        return bool(self.prefix or self.modules)

    def map(self, change: Callable[[Tensor], Tensor]) -> Delta:
        """The Delta with `change` applied to each tensor; it must keep the axes."""

        def deep(value: Any) -> Any:
            return tuple(map(change, value)) if isinstance(value, tuple) else change(value)

        slots: dict[str, Any] = {
            slot: {name: deep(value) for name, value in getattr(self, slot).items()}
            for slot in ("layer_prompt", "prefix", *MODULE_SLOTS)
        }
        prompt = None if self.prompt is None else change(self.prompt)
        return replace(self, prompt=prompt, **slots)

    def to(self, device: Any, dtype: Any) -> Delta:
        """The Delta on a device and in a dtype; shared tensors stay shared."""

        def moved(tensor: Tensor) -> Tensor:
            if is_shared(tensor):
                return tensor[:1].to(device, dtype).expand_as(tensor)
            return tensor.to(device, dtype)

        return self.map(moved)

    def select(self, part: slice) -> Delta:
        """Some of the candidates, as views; shared tensors stay shared."""
        return self.map(lambda tensor: tensor[part])

    def take(self, candidates: Tensor) -> Delta:
        """Some of the candidates, by their numbers; shared tensors stay shared."""

        def taken(tensor: Tensor) -> Tensor:
            if is_shared(tensor):
                return tensor[:1].expand(len(candidates), *tensor.shape[1:])
            return tensor[candidates]

        return self.map(taken)

    def _tensors(self) -> Iterator[Tensor]:
        if self.prompt is not None:
            yield self.prompt
        yield from self.layer_prompt.values()
        for slot in (self.prefix, self.lora, self.adapter):
            for pair in slot.values():
                yield from pair
        yield from self.scale.values()
        yield from self.bias.values()
