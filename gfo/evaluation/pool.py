"""Messages to workers: who gets which, what comes back, and what happens when a worker is late or dies.

Who does a message makes no difference to what comes back, so each is given to whoever is idle. One that a
worker died over, or that is late, is given to another.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Collection, Iterator
from statistics import median
from typing import Protocol

from gfo.core.errors import GfoError
from gfo.evaluation.worker import About, Died, Message, Reply

WAIT = 0.2  # seconds between looks for what is late
LATE, LATE_SECONDS = 3.0, 0.5  # a message is late at so many times the usual seconds, and so many at least
FIRST_SECONDS = 60.0  # at which one is late as long as nothing is usual
MOST_DEATHS = 3  # workers that die over a message, or one after the other while they are made
REMEMBERED = 32  # replies by which the usual seconds are known


class Engine(Protocol):
    """Where workers run; they are numbered from 0."""

    def start(self, worker: int) -> None:
        """Make a worker, in the place of the one of that number if there was one."""
        ...

    def send(self, worker: int, message: Message) -> None:
        """Give a worker a message; one that has died is heard of by `wait`."""
        ...

    def wait(self, seconds: float) -> list[tuple[int, About | Reply | Died]]:
        """What workers say, or that they died; waits so long for the first word."""
        ...

    def close(self) -> None:
        """End all workers; they can be started again."""
        ...


class Pool:
    """Workers that messages are put to and replies taken of.

    Args:
        engine: where they run.
        n: how many there are.

    Attributes:
        about: what the first one says of its evaluator.
        ready: the workers that are made, with what they say of their evaluators.

    Raises:
        GfoError: if a worker cannot be made.
    """

    def __init__(self, engine: Engine, n: int) -> None:
        self._engine, self._n = engine, n
        self._open = False
        self._todo: deque[Message] = deque()
        self._begin()
        self.about = self._first_about()

    def put(self, message: Message) -> None:
        """Have a message done."""
        if not self._open:
            self._begin()
        self._wanted.add(message.number)
        self._todo.append(message)
        self._hand_out()

    def take(self, numbers: Collection[int]) -> Reply:
        """The reply that came first to one of these messages, which were put; waits for it."""
        while True:
            number = next((number for number in self._replies if number in numbers), None)
            if number is not None:
                return self._replies.pop(number)
            self._listen()

    def forget(self, numbers: Collection[int]) -> None:
        """Want no reply to these messages any more."""
        self._wanted.difference_update(numbers)
        kept = [message for message in self._todo if message.number not in numbers]
        self._todo.clear()
        self._todo.extend(kept)
        for number in numbers:
            self._replies.pop(number, None)

    def close(self) -> None:
        """End all workers and forget all messages; those put later find new workers."""
        self._open = False
        self._engine.close()

    def _begin(self) -> None:
        self._open = True
        self._todo.clear()
        self._wanted: set[int] = set()
        self._replies: dict[int, Reply] = {}  # in the order in which they came
        self.ready: dict[int, About] = {}
        self._busy: dict[int, tuple[Message, float]] = {}  # a worker's message, and since when
        self._usual: deque[float] = deque(maxlen=REMEMBERED)
        self._deaths: Counter[int] = Counter()  # of workers over a message
        self._unmade = 0  # workers in a row that died while they were made
        for worker in range(self._n):
            self._engine.start(worker)

    def _first_about(self) -> About:
        while not self.ready:
            self._listen()
        return next(iter(self.ready.values()))

    def _listen(self) -> None:
        """Hear what workers have to say, and hand out."""
        for worker, said in self._engine.wait(WAIT):
            if isinstance(said, Reply):
                self._replied(worker, said)
            elif isinstance(said, About):
                self._made(worker, said)
            else:
                self._died(worker, said)
        self._hand_out()

    def _made(self, worker: int, about: About) -> None:
        if about.error:
            raise GfoError(f"worker {worker}: its evaluator cannot be made ({about.error})")
        self.ready[worker], self._unmade = about, 0

    def _replied(self, worker: int, reply: Reply) -> None:
        message, since = self._busy.pop(worker)
        self._usual.append(time.monotonic() - since)
        if message.number in self._wanted:
            self._wanted.remove(message.number)
            self._replies[message.number] = reply

    def _died(self, worker: int, how: Died) -> None:
        """Put another worker in its place, and have its message done again."""
        message, _ = self._busy.pop(worker, (None, 0.0))
        if self.ready.pop(worker, None) is None:
            self._died_unmade(worker, how)
        if message is not None and message.number in self._wanted:
            self._died_over(message, worker, how)
        self._engine.start(worker)

    def _died_unmade(self, worker: int, how: Died) -> None:
        """Raise GfoError for a worker that died while it was made, as too many before it."""
        self._unmade += 1
        if self._unmade >= MOST_DEATHS:
            raise GfoError(
                f"worker {worker} died while it was made, as {self._unmade - 1} before it ({how.why}); a "
                'script must start them under `if __name__ == "__main__":`; else see its stderr'
            )

    def _died_over(self, message: Message, worker: int, how: Died) -> None:
        """Have a wanted message done again, unless too many workers died over it: that is its reply."""
        self._deaths[message.number] += 1
        if self._deaths[message.number] >= MOST_DEATHS:
            self._wanted.remove(message.number)
            error = f"died, as {MOST_DEATHS - 1} others did over the same candidates ({how.why})"
            self._replies[message.number] = Reply(message.number, worker, error=error)
        elif not any(other is message for other, _ in self._busy.values()):
            self._todo.appendleft(message)

    def _hand_out(self) -> None:
        """Give idle workers what is to be done, else what is late."""
        for worker in sorted(self.ready.keys() - self._busy.keys()):
            message = self._todo.popleft() if self._todo else next(self._late(), None)
            if message is None:
                return
            self._busy[worker] = message, time.monotonic()
            self._engine.send(worker, message)

    def _late(self) -> Iterator[Message]:
        """Messages that one worker alone has had for too long."""
        most = max(LATE_SECONDS, LATE * median(self._usual)) if self._usual else FIRST_SECONDS
        times = Counter(message.number for message, _ in self._busy.values())
        for message, since in self._busy.values():
            alone = message.number in self._wanted and times[message.number] == 1
            if alone and time.monotonic() - since > most:
                yield message
