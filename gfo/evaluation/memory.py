"""How much is computed and kept at once, from the memory at hand."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import psutil
import torch

if TYPE_CHECKING:
    from gfo.models.branches import Context
    from gfo.models.decoder import Decoder

# Beyond this many tokens a forward pass gains nothing: on a CPU the activations leave the cache,
# on a GPU the matrix products are long since full.
ENOUGH_TOKENS = {"cpu": 4096, "cuda": 32768}
SHARE_FOR_ACTIVATIONS = 0.25
SHARE_FOR_CONTEXTS = 0.25


def free_bytes(device: torch.device) -> int:
    """Memory free on the device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def chunk_tokens(model: Decoder) -> int:
    """Tokens of one forward pass: enough to be fast, few enough for the free memory.

    A token's activations live for one layer only: about the input, its norm, query, key, value
    and attention output (8 D) and the feed-forward network's inner state (4 I), and its keys and
    values of all layers, which transformers' caches hold.
    """
    config: Any = model.config
    inner = int(getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
    element = torch.empty(0, dtype=model.dtype).element_size()
    layer = 8 * config.hidden_size + 4 * inner
    kept = 2 * config.hidden_size * config.num_hidden_layers
    by_memory = SHARE_FOR_ACTIVATIONS * free_bytes(model.device) / (element * (layer + kept))
    return max(64, min(ENOUGH_TOKENS.get(model.device.type, 4096), int(by_memory)))


class ContextStore:
    """Contexts kept from step to step, the least recently used dropped when memory runs short."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._held: OrderedDict[Hashable, list[Context]] = OrderedDict()

    def get(self, key: Hashable) -> list[Context] | None:
        """The contexts kept under the key."""
        if key in self._held:
            self._held.move_to_end(key)
        return self._held.get(key)

    def put(self, key: Hashable, contexts: list[Context]) -> None:
        """Keep contexts, unless they alone are too large."""
        if _size(contexts) > self._most:
            return
        self._held[key] = contexts
        while sum(map(_size, self._held.values())) > self._most:
            self._held.popitem(last=False)


def _size(contexts: list[Context]) -> int:
    return sum(context.bytes for context in contexts)
