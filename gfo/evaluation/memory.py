"""How much is computed and kept at once, from the memory at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil
import torch

from gfo.core.errors import GfoError

if TYPE_CHECKING:
    from gfo.models.continued_rows import ContinuedRows
    from gfo.models.frozen import FrozenModel

# Beyond this many tokens a forward pass gains nothing: on a CPU the activations leave the cache,
# on a GPU the matrix products are long since full.
ENOUGH_TOKENS = {"cpu": 4096, "cuda": 32768}
# How else than by its class an error says so, by what of torch or CUDA asked for the memory.
NO_MEMORY = ("can't allocate memory", "out of memory", "status_alloc_failed", "not enough memory")
LEAST_TOKENS = 16  # of a forward pass; a model that fails at so few has no room at all
SHARE_FOR_ACTIVATIONS = 0.25
SHARE_FOR_CONTEXTS = 0.25


def free_bytes(device: torch.device) -> int:
    """Memory free on the device: what the driver has, and what torch has reserved there and not in use."""
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + reserved)
    return int(psutil.virtual_memory().available)


def token_bytes(model: FrozenModel) -> int:
    """Memory that a token of a forward pass takes at its peak, by a model of what lives at once.

    In the feed-forward network: the residual stream, the layer's input and its norm (in float32, as
    transformers' norms compute) and the input and output of the network (6 D), and its gate, up and
    activated product (3 I, by the widest module that a probe shows). A decoder's contexts also keep keys and
    values of all layers. It is 1.1 to 2.1 times the measured peaks (see tests/evaluation/test_memory.py).
    """
    element = torch.empty(0, dtype=model.dtype).element_size()
    return (6 * model.hidden_size + 3 * model.widest) * element + kept_bytes(model) * model.contexts


def kept_bytes(model: FrozenModel) -> int:
    """Memory that the keys and values of a token take in all layers, by a probe."""
    return model.kept * torch.empty(0, dtype=model.dtype).element_size()


def state_tokens(model: ContinuedRows, length: int) -> int:
    """Tokens of a forward pass that take as much memory as the states of a text of so many tokens."""
    return model.state_bytes(length) // token_bytes(model)


def chunk_tokens(model: FrozenModel, memory: int | None = None) -> int:
    """Tokens of one forward pass: enough to be fast, few enough for the memory.

    Args:
        model: a frozen model.
        memory: bytes that a forward pass may take; by default a quarter of what is free.
    """
    room = SHARE_FOR_ACTIVATIONS * free_bytes(model.device) if memory is None else memory
    enough = ENOUGH_TOKENS.get(model.device.type, 4096)
    return max(LEAST_TOKENS, min(enough, int(room / token_bytes(model))))


def kept_tokens(model: FrozenModel, memory: int | None = None) -> int:
    """Tokens whose keys and values are kept at once where texts are generated.

    Args:
        model: a frozen model.
        memory: bytes that a forward pass may take, and they as much; by default a quarter of what is free.
    """
    room = SHARE_FOR_ACTIVATIONS * free_bytes(model.device) if memory is None else memory
    return int(room / kept_bytes(model))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch could not get memory, on a GPU or a CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in NO_MEMORY)


def halved(tokens: int, error: Exception) -> int:
    """Half the tokens of a forward pass that memory ran out at.

    Raises:
        GfoError: if they are 16 already.
        Exception: the error, if it is another one.
    """
    if not is_out_of_memory(error):
        raise error
    if tokens <= LEAST_TOKENS:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise GfoError(
            f"out of memory with {tokens} tokens a forward pass ({reason}); free some memory, or "
            "take a smaller model, a smaller dtype or another device"
        ) from None
    return max(LEAST_TOKENS, tokens // 2)


def empty_cache(device: torch.device) -> None:
    """Give back to the device what torch keeps of it without need."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
