"""What is kept from step to step."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar


class Sized(Protocol):
    """Something that knows the memory it holds."""

    @property
    def bytes(self) -> int: ...


S = TypeVar("S", bound=Sized)


class Store(OrderedDict[Hashable, S]):
    """What is kept from step to step, the least recently used dropped when memory runs short.

    Of what will not recur the newest alone is kept. A copy, as in another process, begins empty.
    """

    def __init__(self, most_bytes: int) -> None:
        super().__init__()
        self.most_bytes = most_bytes
        self._once: Hashable | None = None

    def __reduce__(self) -> Any:
        return type(self), (self.most_bytes,)

    def find(self, key: Hashable, make: Callable[[], S], *, recurs: bool = True) -> S:
        """What is kept under the key, or made and, unless it alone is too large, kept."""
        if key in self:
            self.move_to_end(key)
            return self[key]
        if not recurs:
            self.pop(self._once, None)
            self._once = key
        made = make()
        if made.bytes <= self.most_bytes:
            self[key] = made
        while sum(held.bytes for held in self.values()) > self.most_bytes:
            self.popitem(last=False)
        return made
