"""Delta: K batched modifications of a model, the only thing that spaces and models share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from gfo.core.errors import GfoError, check_name, unknown_name
from gfo.core.slots import SLOTS, Slot
from gfo.core.sub_blocks import Gates as Gates  # a slot, which is to be known

if TYPE_CHECKING:
    from torch import Tensor


PLACES = ("{here}", "{soft}", "read")


class Begin(NamedTuple):
    """Where in a row changes of modules begin: the tokens in front of it are the frozen model's.

    As activated LoRA (Greenewald et al. 2025, arXiv:2504.12397), which begins at the last time that a text
    has some tokens.

    Attributes:
        place: "{here}" or "{soft}", where a template has it, or "read", the token whose logits are read.
        tokens: those that must stand behind the place, where an adapter was made for them; empty for any.
    """

    place: str
    tokens: tuple[int, ...] = ()

    @classmethod
    def of(cls, given: str | None) -> Begin | None:
        """The place of this name, for a space; None for the start.

        Raises:
            GfoError: for an unknown place.
        """
        if given is None:
            return None
        check_name("begins", given, PLACES)
        return cls(given)


class Delta:
    """K candidates as changes of one frozen model: a set of slots (see `gfo.core.slots`).

    A module's output y = W x + b becomes y' = scale * (y + B A x) + bias, and with an adapter
    y' + B' gelu(A' y'); a bank gives each candidate its W. Modules are named as by `named_modules` of the
    transformers model; layers are counted from 0, an encoder's before its decoder's. A tensor that is
    expanded over K (stride 0) is shared by all candidates and costs one matrix product for all of them.

    Args:
        slots: changes as objects.
        first_layer: no hidden state that enters a layer below it, or it, depends on the candidate:
            0 if prompts differ. Above 0 all candidates of all steps have the same `prompt`.
        begins: where in a row modules begin to change; None for its start.
        changes: changes by the names of their slots; None, or no place at all, changes nothing.
            `prompt`: soft prompts [K, P, D]. `layer_prompt`: layer -> [K, P, D], added at the prompt's
            places. `prefix`: layer -> keys and values, each [K, H_kv, P', D_h]. `input_scale`: module ->
            [K, in]. `bank`: module -> shares [K, M] and a `gfo.core.bank.Bank`.
            `lora`: module -> A [K, r, in] and B [K, out, r].
            `scale` and `bias`: module -> [K, out]. `adapter`: module -> A' [K, r, out] and B' [K, out, r].
            `gate`: `gfo.core.sub_blocks.SubBlock` -> [K], 1 or 0.

    Attributes:
        slots: those given, in the order of `gfo.core.slots.SLOTS`. Under a slot's name stands what `changes`
            takes under it, as in `delta.lora`, which is empty without such changes; `delta.prompt` is None.
        by_class: the same by their classes.
        first_layer, begins: as given.
        candidates: K.

    Raises:
        GfoError: for a Delta without any change, a slot given twice, an unknown name, or slots of
            different K. This is seen once: what `map`, `to`, `select` and `take` make of a Delta fits too.
    """

    __slots__ = ("begins", "by_class", "candidates", "first_layer", "slots")

    slots: tuple[Slot, ...]
    by_class: Mapping[type[Slot], Slot]
    first_layer: int
    begins: Begin | None
    candidates: int

    def __init__(
        self, *slots: Slot, first_layer: int = 0, begins: Begin | None = None, **changes: Any
    ) -> None:
        given = list(slots)
        for name, value in changes.items():
            if name not in SLOTS:
                raise unknown_name("change of a Delta", name, SLOTS)
            if value is not None and len(value):
                given.append(SLOTS[name].of(value))
        if len(given) > 1:
            order = list(SLOTS)
            given.sort(key=lambda slot: order.index(slot.name))
        by_class: dict[type[Slot], Slot] = {}
        sizes: set[int] = set()
        for slot in given:
            if not len(slot.at):
                continue
            if type(slot) in by_class:
                raise GfoError(
                    f"Delta: one kind of change twice, of {', '.join(s.name for s in given)}; give it once"
                )
            by_class[type(slot)] = slot
            for tensor in slot.tensors():
                sizes.add(int(tensor.shape[0]))
        if len(sizes) != 1:
            raise _no_one_number(sizes)
        self.slots, self.by_class = tuple(by_class.values()), by_class
        self.first_layer, self.begins, self.candidates = first_layer, begins, sizes.pop()

    def __getattr__(self, name: str) -> Any:
        """The changes of a slot, by its name."""
        if name not in SLOTS:
            raise AttributeError(f"'Delta' object has no attribute '{name}'")
        slot = self.by_class.get(SLOTS[name])
        return SLOTS[name].absent if slot is None else slot.value

    @property
    def prompt_tokens(self) -> int:
        """P, the soft prompt's length; 0 without one."""
        return max(slot.prompt_tokens for slot in self.slots)

    @property
    def prefix_tokens(self) -> int:
        """P', the prefix's length; 0 without one."""
        return max(slot.prefix_tokens for slot in self.slots)

    @property
    def modules(self) -> set[str]:
        """Names of the modules that change."""
        return set().union(*(slot.modules for slot in self.slots))

    @property
    def lasting(self) -> bool:
        """Whether tokens that are generated are changed, too."""
        return any(slot.lasting for slot in self.slots)

    @property
    def everywhere(self) -> bool:
        """Whether a row's tokens, and not the soft prompt's alone, depend on the candidate from `first_layer`
        on; from the place on where they begin to change, if there is one.
        """
        return any(slot.everywhere for slot in self.slots)

    def tensors(self) -> Iterator[Tensor]:
        """All tensors, slot by slot."""
        for slot in self.slots:
            yield from slot.tensors()

    def map(self, change: Callable[[Tensor], Tensor]) -> Delta:
        """The Delta with `change` applied to each tensor, in their order; it must keep the axes."""
        return self._with([slot.map(change) for slot in self.slots])

    def to(self, device: Any, dtype: Any) -> Delta:
        """The Delta on a device and in a dtype, itself if it is there; shared tensors stay shared."""
        for slot in self.slots:
            for tensor in slot.tensors():
                if tensor.device != device or tensor.dtype != dtype:
                    return self._with([slot.to(device, dtype) for slot in self.slots])
        return self

    def select(self, part: slice) -> Delta:
        """Some of the candidates, as views; shared tensors stay shared."""
        return self._with([slot.select(part) for slot in self.slots])

    def take(self, candidates: Tensor) -> Delta:
        """Some of the candidates, by their numbers; shared tensors stay shared."""
        return self._with([slot.take(candidates) for slot in self.slots])

    def _with(self, slots: Sequence[Slot]) -> Delta:
        """The Delta with other tensors in the same slots, which need no second check."""
        made = Delta.__new__(Delta)
        made.slots, made.by_class = tuple(slots), dict(zip(self.by_class, slots, strict=True))
        made.first_layer, made.begins = self.first_layer, self.begins
        made.candidates = int(next(slots[0].tensors()).shape[0])
        return made


def _no_one_number(sizes: set[int]) -> GfoError:
    """That slots have these numbers of candidates."""
    found = "no change at all" if not sizes else f"slots of {sorted(sizes)} candidates"
    return GfoError(f"Delta: {found}; give every slot the same number of candidates K, in one at least")
