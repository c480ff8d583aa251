"""Changes of what reads images: the tower and the projector then run by candidate.

To the text model an image's features are then soft tokens, of which each candidate has its own. So all else
of an evaluation is that of a soft prompt. Of the tower, layers below the first changed one run once an image.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gfo.core.compared import Compared
from gfo.core.delta import Delta
from gfo.core.errors import GfoError
from gfo.core.images import FIRST
from gfo.core.protocols import Batch, Tokens
from gfo.core.slots import LayerPrompts, ModuleSlot, Prompts, Slot
from gfo.core.sub_blocks import Gates
from gfo.evaluation.joining import parts
from gfo.evaluation.memory import SHARE_FOR_CONTEXTS, free_bytes
from gfo.evaluation.shape import Meter, Shape
from gfo.evaluation.store import Store
from gfo.models.apply import Change, Instead, applied
from gfo.models.entering import entering
from gfo.models.images import Block
from gfo.models.precision import nearness
from gfo.models.structure import hooked

if TYPE_CHECKING:
    from gfo.models.frozen import FrozenModel

SAME = 1e-4  # of their spread: so near are features behind layers that ran once to whole passes', in float32


@dataclass(frozen=True)
class Seen(Batch):
    """A batch in whose rows the soft prompt's tokens stand already, and images' features as some of them.

    Attributes:
        soft: how many soft tokens there are.
    """

    soft: int = 0


@dataclass(frozen=True)
class Kept:
    """What is kept of an image: its row of tokens, the model's inputs, and the tower's lower layers' output.

    Attributes:
        image: which tokens are the image's, bool [T].
        ids: int [1, T].
        inputs: those of the model beside them.
        lower: what leaves the last layer that runs once, or as much of the first one's for its size.
        in_tuple: whether layers give it in a tuple.
    """

    image: Tensor
    ids: Tensor
    inputs: dict[str, Tensor]
    lower: Tensor
    in_tuple: bool

    @property
    def bytes(self) -> int:
        """Memory held."""
        return int(self.lower.nbytes + sum(value.nbytes for value in self.inputs.values()))

    @property
    def tokens(self) -> int:
        """Of the tower, that a candidate's pass runs."""
        return int(self.lower[..., 0].numel())


class Tower:
    """What reads a model's images, run by candidate.

    Args:
        model: of images and text.
        zero: a Delta that changes some of it.
        once: whether layers below the first changed one may run once an image.

    Raises:
        GfoError: for a family whose images are no words to the text model, or changes that need other tokens.
    """

    def __init__(self, model: FrozenModel, zero: Delta, *, once: bool = True) -> None:
        self._model, self._images = model, model.images
        _check(model, zero)
        self.names = sorted(zero.modules & set(model.images.linears))
        self._layers, start = _lower_layers(model, self.names)
        self._start = start if once else 0
        self._store: Store[Kept] = Store(int(SHARE_FOR_CONTEXTS * free_bytes(model.device)))
        self._checked = False

    @classmethod
    def of(cls, model: FrozenModel, zero: Delta, *, once: bool = True) -> Tower | None:
        """That of a model, if any of it changes."""
        if model.images is None or zero.modules.isdisjoint(model.images.linears):
            return None
        return cls(model, zero, once=once)

    def shape(self, zero: Delta) -> Shape:
        """What all Deltas of the space have in common, for the text model."""
        text, _ = self._parted(zero)
        if not text:
            return Shape(0, 0, False, False, False, None, 0, None)
        delta = Delta(*text)
        self._model.check(delta)
        return Shape.of(delta, self._model)

    def enter(self, delta: Delta, batch: Batch, meter: Meter, most: int) -> tuple[Delta, Seen]:
        """Changes of the text model alone and a batch, the images' features in them as soft tokens.

        Args:
            delta: K candidates.
            batch: any rows.
            meter: counts what the tower runs.
            most: the most tokens of a forward pass.
        """
        if isinstance(batch, Compared):
            raise GfoError(
                "space: targets: rows are compared with the unchanged model's answers, by features that all "
                "candidates share; take modules of the text model"
            )
        text, own = self._parted(delta)
        P, blocks = delta.prompt_tokens, self._blocks(batch)
        with self._model.lock:
            features = [self._features(Delta(*own), block, meter, most) for block in blocks]
        features = features or [torch.zeros(delta.candidates, 1, self._model.hidden_size)]
        prompt = torch.cat(
            [*([delta.prompt] if P else []), *(f.to(delta_like(delta)) for f in features)], dim=1
        )
        numbers = {block.first + i for block in blocks for i in range(block.size)}
        places = {token: -1 - P - i for i, token in enumerate(sorted(numbers))}
        others = [slot for slot in text if not isinstance(slot, Prompts)]
        return Delta(Prompts.of(prompt), *others), _seen(batch, P, places, prompt.shape[1])

    def _blocks(self, batch: Batch) -> list[Block]:
        """The images of a batch, in the order of their tokens."""
        firsts = {token for row in (*batch.before, *batch.after) for token in row if token >= FIRST}
        return list(filter(None, map(self._images.block, sorted(firsts))))

    def _parted(self, delta: Delta) -> tuple[list[Slot], list[Slot]]:
        """The slots of the text model, and those of what reads images."""
        text: list[Slot] = []
        own: list[Slot] = []
        for slot in delta.slots:
            mine = slot.at.keys() & self.names if isinstance(slot, ModuleSlot) else ()
            if mine:
                own.append(_at(slot, mine))
            if len(mine) < len(slot.at):
                text.append(_at(slot, slot.at.keys() - mine) if mine else slot)
        return text, own

    def _features(self, delta: Delta, block: Block, meter: Meter, most: int) -> Tensor:
        """An image's features [K, size, D] to each candidate."""
        if not self._checked:
            self._check_lower(delta, block)
        kept = self._store.find(block.first, partial(self._make, block))
        share = _share_of_layer(self._model, self._layers)
        found = []
        for k in parts(delta.candidates, most // kept.tokens):
            found.append(self._run(delta.select(k), kept, self._start))
            tokens = (k.stop - k.start) * kept.tokens
            meter.count(tokens, tokens, (len(self._layers) - self._start) * share)
        return torch.cat(found)

    @torch.no_grad()
    def _check_lower(self, delta: Delta, block: Block) -> None:
        """See whether layers can run once, and candidates together.

        Raises:
            GfoError: if they cannot.
        """
        noise = torch.Generator().manual_seed(0)
        some = delta.take(torch.zeros(2, dtype=torch.long, device=delta_like(delta).device))
        some = some.map(lambda t: t + 0.1 * torch.randn(t.shape, generator=noise).to(t))  # two that differ
        alone = self._run(some.select(slice(1)), self._make(block), 0)
        for start in sorted({self._start, 0}, reverse=True):
            self._start = start
            found = self._run(some, self._make(block), start)[:1]
            if float((found - alone).abs().max()) <= nearness(self._model, SAME) * float(alone.std()):
                self._checked = True
                return
        raise GfoError(
            f"model '{self._model.name}': what reads its images does not keep candidates apart; take modules "
            "of the text model"
        )

    @torch.no_grad()
    def _make(self, block: Block) -> Kept:
        """What is kept of an image."""
        ids, inputs = self._images.alone(block)
        row = torch.tensor([ids], device=self._model.device)
        seen: list[Any] = []
        at = max(0, self._start - 1)
        hook = self._layers[at].register_forward_hook(lambda part, args, output: seen.append(output))
        with hooked(hook):
            entering(self._model.module, input_ids=row, **inputs)
        (output,) = seen
        lower = output if isinstance(output, Tensor) else output[0]
        lower = lower if self._start else torch.empty_like(lower[..., :1])
        return Kept(self._images.places(row)[0], row, inputs, lower, not isinstance(output, Tensor))

    def _run(self, delta: Delta, kept: Kept, start: int) -> Tensor:
        """An image's features [K, size, D] from the layer `start` on."""
        K = delta.candidates
        inputs = {name: _repeated(value, K) for name, value in kept.inputs.items()}
        change = Change(delta, torch.empty(0, dtype=torch.long))
        self._images.runs += 1
        with ExitStack() as hooks:
            for i, layer in enumerate(self._layers[:start]):
                output = _repeated(kept.lower, K) if i == start - 1 else None
                hooks.enter_context(hooked(Instead(layer, _giving(output, kept.in_tuple))))
            hooks.enter_context(applied(change, self._model.module, ()))
            given = entering(self._model.module, input_ids=kept.ids.repeat(K, 1), **inputs)
        return given["inputs_embeds"][:, kept.image]  # type: ignore[no-any-return]


def _at(slot: Slot, names: Collection[str]) -> Slot:
    """What of a slot is at some modules."""
    return replace(slot, at={name: value for name, value in slot.at.items() if name in names})


def delta_like(delta: Delta) -> Tensor:
    """A tensor of a Delta, for its device and dtype."""
    return next(delta.tensors())


def _check(model: FrozenModel, zero: Delta) -> None:
    """Raise GfoError for a family, or changes, that features by candidate do not fit."""
    tokens = model.images.tokens
    if tokens.moved or tokens.deep or tokens.whole:
        raise GfoError(
            f"space: targets: '{model.name}' ({model.module.config.model_type}) takes images otherwise than "
            "words, so that changes of what reads them are not built; take modules of the text model"
        )
    for kind, what in ((LayerPrompts, "a deep prompt"), (Gates, "closed sub-blocks")):
        if kind in zero.by_class:
            raise GfoError(f"space: {what} and changes of what reads images do not go together; take one")
    if zero.begins is not None:
        raise GfoError(
            f"space: begins = '{zero.begins.place}', but images are read in front of all; leave begins out, "
            "or take modules of the text model"
        )


def _lower_layers(model: FrozenModel, names: Sequence[str]) -> tuple[Sequence[nn.Module], int]:
    """The layers of what reads images, and how many of the first do not change nor see what does."""
    lists = _lists_of_layers(model)
    changed = {path: [n for n in names if n.startswith(f"{path}.")] for path in lists}
    own = [path for path, found in changed.items() if found]
    path = own[0] if own else max(lists, key=lambda path: len(lists[path]))
    layers = lists[path]
    inside = [int(name.removeprefix(f"{path}.").split(".")[0]) for name in changed[path]]
    return layers, min(inside, default=len(layers)) if len(own) < 2 else 0


def _lists_of_layers(model: FrozenModel) -> dict[str, list[nn.Module]]:
    """The lists of layers that are not the text model's, by their names."""
    return {
        name: list(part)
        for name, part in model.module.named_modules()
        if isinstance(part, nn.ModuleList) and part and not any(p.startswith(name) for p in model.linears)
    }


def _seen(batch: Batch, P: int, places: dict[int, int], soft: int) -> Seen:
    """A batch with the soft prompt's tokens in front of what is behind it, and soft tokens for features."""
    prompt = tuple(-1 - p for p in range(P))

    def laid(row: Tokens) -> Tokens:
        return tuple(places.get(token, token) for token in row)

    given = {field.name: getattr(batch, field.name) for field in fields(Batch)}
    before = tuple(laid(row) + prompt for row in batch.before)
    changed = {"key": (*batch.key, "seen"), "before": before, "after": tuple(map(laid, batch.after))}
    return Seen(**{**given, **changed}, soft=soft)


def _share_of_layer(model: FrozenModel, layers: Sequence[nn.Module]) -> float:
    """Parameters of a layer of what reads images, as a share of one of the text model's."""
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in (layers[0], model.all_layers[0])]
    return sizes[0] / sizes[1]


def _repeated(value: Tensor, K: int) -> Tensor:
    """K copies, one behind the other in the first axis."""
    return value.repeat(K, *[1] * (value.ndim - 1))


def _giving(output: Tensor | None, in_tuple: bool) -> Any:
    """A forward pass that gives this, or what enters where that is None."""

    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        given = hidden_states if output is None else output
        return (given,) if in_tuple else given

    return forward
