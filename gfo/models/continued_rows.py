"""Models whose rows continue copies of what the model's own cache keeps of a text.

Texts of one length run side by side, once; a row behind one begins with a copy of its keys and values, states
of convolutions and recurrent states, whatever the family keeps, and no token of padding enters any of them.
So text in front of what depends on the candidate is computed once in families that branches cannot express:
hybrids, state spaces, position biases.
"""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from gfo.core.errors import GfoError
from gfo.models.apply import Change
from gfo.models.branches import Context, RowLayout
from gfo.models.precision import nearness
from gfo.models.whole_rows import CACHES, SAME, WholeRows

NOISE = 4.0  # so many times as far from a plain pass as the nearest way may be one that is tried before it


@dataclass(frozen=True)
class States:
    """What a model's cache keeps of C texts of one length.

    Attributes:
        cache: the cache, of any class.
        length: tokens of each text.
        axes: the axis of the texts in each of its tensors, in order; None where it has none.
    """

    cache: Any
    length: int
    axes: tuple[int | None, ...]

    @property
    def bytes(self) -> int:
        """Memory held."""
        return sum(tensor.nbytes for tensor in _tensors(self.cache))

    def take(self, rows: Tensor) -> States:
        """Copies of some of the texts', by their numbers, each as often as it is named."""
        axes = iter(self.axes)

        def some(tensor: Tensor) -> Tensor:
            axis = next(axes)
            return tensor.clone() if axis is None else tensor.index_select(axis, rows)

        return States(_with_tensors(self.cache, some), self.length, self.axes)

    def above(self, layer: int) -> States:
        """The same: a pass that begins at a layer leaves alone what is kept of those below."""
        return self


class Going(NamedTuple):
    """How passes go on from a cache.

    Attributes:
        name: under which the forward pass takes it.
        positions: whether it is told where its tokens stand.
        several: whether several tokens of a row go through one pass, not one.
    """

    name: str
    positions: bool
    several: bool


class ContinuedRows(WholeRows):
    """A causal language model of transformers, whose rows run whole or continue copies of a text's states."""

    states = True

    def context(self, entry: Tensor, length: Tensor, *, ids: Tensor | None = None) -> tuple[States, Tensor]:
        """Run C texts and keep their states.

        Args:
            entry: input embeddings [C, S, D].
            length: int [C], S of each: none is padded.
            ids: the words, of which nothing is needed.

        Returns:
            The states, and what enters the output embedding, [C, S, D].
        """
        hidden, cache = self.keeping(self.going.name if self.going else "", None, inputs_embeds=entry)
        return States(cache, entry.shape[1], self._axes), hidden

    def branches(
        self,
        context: Context | States | None,
        entry: Tensor,
        rows: RowLayout,
        *,
        change: Change | None = None,
        start: int = 0,
        stop: int | None = None,
        placed: None = None,
    ) -> Tensor:
        """Run R rows behind each of C texts, or, with None for a context, whole ones; see `WholeRows`."""
        if not isinstance(context, States):
            return super().branches(context, entry, rows, change=change, start=start, stop=stop)
        C, R = entry.shape[:2]
        assert self.going is not None  # there are states
        each = torch.arange(C, device=entry.device).repeat_interleave(R)
        cache = context.take(each).cache
        hidden = self._behind(self.going, cache, context.length, entry.flatten(0, 1), change, start, stop)
        hidden = hidden.view(C, R, entry.shape[2], -1)
        return rows.reading(hidden.flatten(1, 2)) if stop is None else hidden

    def place(self, context: Any, C: int, rows: RowLayout, dtype: torch.dtype) -> None:
        """Nothing: the model's own pass knows where its tokens stand."""

    @functools.cached_property
    def going(self) -> Going | None:
        """How passes go on from a cache so that they equal those without; None if they do not."""
        text = self.embed(self.probe_text)[None]
        whole = self._run(self.stacks[0], text, None, 0, None, use_cache=False)[:, 6:]
        found: dict[Going, float] = {}
        for way in map(Going._make, itertools.product(CACHES, (False, True), (True, False))):
            try:
                _, cache = self.keeping(way.name, None, inputs_embeds=text[:, :6])
                found[way] = self._distance(self._behind(way, cache, 6, text[:, 6:], None, 0, None), whole)
            except Exception:  # of any kind: it is not the way
                continue
        nearest = min(found.values(), default=math.inf)
        if not nearest <= nearness(self, SAME):
            return None
        return next(way for way, distance in found.items() if distance <= max(SAME, NOISE * nearest))

    @functools.cached_property
    def _axes(self) -> tuple[int | None, ...]:
        """The axis of the texts in each tensor of a cache: the one that is longer for more of them."""
        few, more = ([t.shape for t in self._kept_of(rows, 7)] for rows in (2, 3))
        pairs = [list(zip(a, b, strict=True)) for a, b in zip(few, more, strict=True)]
        return tuple(pair.index((2, 3)) if (2, 3) in pair else None for pair in pairs)

    @functools.cached_property
    def _state_sizes(self) -> tuple[int, int]:
        """Bytes that are kept of a text of any length, and those that each of its tokens adds."""
        few, more = (sum(t.nbytes for t in self._kept_of(1, length)) for length in (6, 12))
        return max(0, 2 * few - more), (more - few) // 6

    @torch.no_grad()
    def _kept_of(self, rows: int, length: int) -> list[Tensor]:
        """The tensors of what is kept of a text's first tokens, so many times."""
        assert self.going is not None  # there are states
        entry = self.embed(self.probe_text[:length]).expand(rows, -1, -1).contiguous()
        return _tensors(self.keeping(self.going.name, None, inputs_embeds=entry)[1])

    def state_bytes(self, length: int) -> int:
        """Memory that the states of a text of so many tokens take, about."""
        fixed, each = self._state_sizes
        return fixed + each * length

    @functools.cached_property
    def grows(self) -> bool:
        """Whether rows behind texts can then grow token by token, by the same cache."""
        return self.going == Going(self.cache_name or "", positions=False, several=True)

    @torch.no_grad()
    def check_branches(self) -> None:
        """Compare two rows behind each of two texts with whole rows; see also `check_row`.

        Raises:
            GfoError: if passes do not go on from a cache, or what rows get is not theirs.
        """
        if self.going is None:
            raise GfoError(f"model '{self.name}': its passes do not go on from a cache; take whole rows")
        text, rest = self.probe_text[:7], self.probe_text[7:]
        texts, rests = torch.stack([text, text.flip(0)]), torch.stack([rest, rest.flip(0)])
        ids = torch.cat([texts.repeat_interleave(2, dim=0), rests.repeat(2, 1)], dim=1)
        plain = self.module(input_ids=ids).logits[:, -1, list(self.probe_vocabulary)].float()
        context, _ = self.context(self.embed(texts), torch.tensor([7, 7], device=self.device))
        column = torch.arange(5, device=self.device).expand(2, -1)
        rows = RowLayout(torch.zeros_like(column), column, torch.tensor([[4, 9]], device=self.device))
        hidden = self.branches(context, self.embed(rests).expand(2, -1, -1, -1), rows)
        self.compare(self.logits(hidden.flatten(0, 1), self.probe_vocabulary), plain)

    @torch.no_grad()
    def check_row(self, row: Tensor) -> None:
        """Compare a row of input embeddings [T, D] that is cut in two, at some places, with the whole one.

        Raises:
            GfoError: if what stands behind a cut gets other numbers.
        """
        T = len(row)
        whole = self.logits(
            self._run(self.stacks[0], row[None], None, 0, None, use_cache=False)[0], self.probe_vocabulary
        )
        for size in sorted({T // 4, T // 2, 3 * T // 4, T - 1} - {0}):
            context, _ = self.context(row[None, :size], torch.tensor([size], device=row.device))
            column = torch.arange(T - size, device=row.device)[None]
            rest = self.branches(
                context, row[None, None, size:], RowLayout(torch.zeros_like(column), column, column)
            )
            self.compare(self.logits(rest[0], self.probe_vocabulary), whole[size:])

    def _behind(
        self,
        way: Going,
        cache: Any,
        length: int,
        entry: Tensor,
        change: Change | None,
        start: int,
        stop: int | None,
    ) -> Tensor:
        """Rows [rows, T, D] that enter layer `start`, behind texts whose cache they change: [rows, T, D]."""
        found, T = [], entry.shape[1]
        size = T if way.several else 1
        for first in range(0, T, size):
            place = torch.arange(first, first + size, device=entry.device)
            inputs = {way.name: cache, "use_cache": True}
            if way.positions:
                inputs["position_ids"] = (length + place).expand(len(entry), -1)
            part = change if change is None or way.several else change.of_tokens(place)
            found.append(self._run(self.stacks[0], entry[:, place], part, start, stop, **inputs))
        return torch.cat(found, dim=1)


def _tensors(value: Any) -> list[Tensor]:
    """The tensors of a cache of transformers, in order."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    _with_tensors(value, note)
    return found


def _with_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """A copy of a cache of transformers, or of what is in it, with the function of each of its tensors."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: _with_tensors(each, function) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_with_tensors(each, function) for each in value)
    if not type(value).__module__.startswith("transformers.") or isinstance(value, PreTrainedConfig):
        return value
    twin = copy.copy(value)
    twin.__dict__.update(_with_tensors(vars(value), function))
    return twin
