"""Decoders whose attention adds a bias to a head's scores that depends on where the key stands: ALiBi.

Press et al. 2022, Train Short, Test Long, arXiv:2108.12409. Models of transformers take a key's column for
its position, which in branches it is not. So here masks are the heads', and hold what the model's own forward
pass adds for the key's position. A softmax does not see what is added to all scores of a query: keys may be
counted from any place in a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from gfo.core.errors import GfoError
from gfo.models.branches import Context, RowLayout
from gfo.models.decoder import Decoder, Placed
from gfo.models.entering import given_to
from gfo.models.families import KEY_BIASES
from gfo.models.structure import hooked

LEAST_KEYS = 64  # of a table of biases; the next has twice as many


@dataclass(frozen=True)
class KeysSeen:
    """Which keys tokens see, and where these stand; of it the heads' masks are made when layers run.

    Attributes:
        mask: additive, [rows, 1, T, keys].
        position: of the keys, int [rows, keys].
    """

    mask: Tensor
    position: Tensor

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return self.mask.nbytes + self.position.nbytes


@dataclass(frozen=True)
class _Added:
    """In the place of a mask of booleans by which attention fills scores: one that is added to them.

    Attributes:
        mask: additive, [rows, heads, T, keys].
    """

    mask: Tensor
    ndim = 4

    def __getitem__(self, part: Any) -> _Added:
        return _Added(self.mask[part])

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is not Tensor.masked_fill:
            return NotImplemented
        scores, added, _ = args
        return scores + added.mask


class BiasedDecoder(Decoder):
    """A decoder of transformers with biases by the key's position.

    Raises:
        GfoError: for a model without such biases, or with others.
    """

    biased = True

    def __init__(self, module: Any, tokenizer: Any, name: str = "") -> None:
        super().__init__(module, tokenizer, name)
        given = self._given(2)
        self._name = next((name for name in KEY_BIASES if given.get(name) is not None), "")
        if not self._name:
            raise GfoError(f"model '{self.name}': its layers are given no biases; take gfo.freeze")
        self._fills = getattr(given.get("attention_mask"), "dtype", None) is torch.bool
        self._tables: dict[int, Tensor] = {}
        few, more = self._biases(LEAST_KEYS // 2), self._biases(LEAST_KEYS)
        self._from_first = torch.equal(more[:, : few.shape[1]], few)
        if not self._from_first and not torch.equal(more[:, -few.shape[1] :], few):
            raise GfoError(f"model '{self.name}': its biases are not those of positions; take gfo.freeze")
        self.context_length = min(self.context_length, self._most_keys)

    @cached_property
    def shares_attention(self) -> bool:
        """See `Decoder`: such attention is the family's own."""
        return False

    def place(self, context: Context | None, C: int, rows: RowLayout, dtype: torch.dtype) -> Placed:
        """See `Decoder.place`."""
        placed = super().place(context, C, rows, dtype)
        position = placed.position
        if context is not None:
            before = context.position.repeat_interleave(len(rows.branch), dim=0)
            position = torch.cat([before, position], dim=1)
        return replace(placed, mask=self.mask_of_keys(placed.mask, position))

    def mask_of_keys(self, mask: Tensor, position: Tensor) -> KeysSeen:
        """See `Decoder.mask_of_keys`."""
        return KeysSeen(mask, position)

    def _through(self, part: nn.Module, **inputs: Any) -> Tensor:
        """See `FrozenModel`; the body makes masks of its own, in whose place layers get ours."""
        give = partial(self._give, self._of_heads(inputs.pop("attention_mask")))
        hooks = [  # in front of those that part rows
            layer.register_forward_pre_hook(give, with_kwargs=True, prepend=True) for layer in self._layers
        ]
        with hooked(*hooks):
            return super()._through(part, **inputs)

    def _give(self, mask: Tensor | _Added, layer: nn.Module, args: Any, kwargs: Any) -> Any:
        """A layer's arguments with the heads' mask, and with biases of 0 in the place of the body's."""
        none = torch.zeros_like(kwargs[self._name][..., :1])
        return args, kwargs | {"attention_mask": mask, self._name: none}

    def _of_heads(self, seen: KeysSeen) -> Tensor | _Added:
        """The heads' additive masks [rows, heads, T, keys]."""
        position = seen.position
        table = self._table(position.shape[1])
        place = position - position[:, :1]
        if not self._from_first:
            place = position - position.amax(dim=1, keepdim=True) + table.shape[1] - 1
        bias = table[:, place.clamp(min=0)].transpose(0, 1)[:, :, None]  # (rows, heads, 1, keys)
        mask = torch.where(seen.mask < 0, torch.finfo(bias.dtype).min, bias)
        return _Added(mask) if self._fills else mask

    def _table(self, keys: int) -> Tensor:
        """The biases of as many keys or more."""
        size = max(LEAST_KEYS, 1 << (keys - 1).bit_length())
        if size not in self._tables:
            self._tables[size] = self._biases(size)
        return self._tables[size]

    def _biases(self, keys: int) -> Tensor:
        """What a plain pass adds to the scores of so many keys, or the most there can be, [heads, keys].

        Some count positions from the first key, others back from the last one; some put them in the mask.
        """
        given = self._given(keys)
        bias, mask = given[self._name], given.get("attention_mask")
        if mask is not None and not self._fills and bool(mask.any()):
            bias = mask
        return bias.reshape(-1, bias.shape[-1])[:, -keys:]  # type: ignore[no-any-return]

    @property
    def _most_keys(self) -> int:
        """The most keys that there are biases for."""
        width = int(self._given(2)[self._name].shape[-1])
        return width if width > 2 else self.context_length

    @torch.no_grad()
    def _given(self, keys: int) -> Mapping[str, Any]:
        """What the first layer is given in a plain pass of the last of so many tokens."""
        key = torch.zeros(1, 1, keys - 1, 1, dtype=self.dtype, device=self.device)
        before = Context.of_prefix(dict.fromkeys(range(self.layers), (key, key)), self.layers)
        return given_to(
            self._layers[0],
            self.module,
            input_ids=self.probe_text[None, :1],
            past_key_values=before.frozen_cache,
            use_cache=True,
        )
