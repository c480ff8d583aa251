"""Requests to a server, many at a time: each is tried again after errors that pass, and waits as told."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import functools
import logging
import math
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from gfo.core.errors import GfoError

T = TypeVar("T")
PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})  # statuses that pass
REFUSING = frozenset({401, 403, 404})  # those that all requests will have
MOST_WAIT = 300.0  # seconds that a server may ask to wait
FIRST_WAIT, LAST_WAIT = 0.25, 20.0  # seconds between tries, doubled each time, where it does not say
Reply = Mapping[str, Any]
Got = Callable[[int, Reply], None]

logging.getLogger("stamina").addHandler(logging.NullHandler())  # each wait would be a line on standard error


@dataclass(frozen=True)
class Request:
    """A body for a place below a server's address; without a body it is got, not posted."""

    path: str
    body: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Failure:
    """Why a request failed for good, and whether the server may be gone."""

    reason: str
    gone: bool


class PassingError(Exception):
    """A try that failed as it may not the next time; `wait` in seconds, where the server says."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class RefusedError(Exception):
    """A request that the server does not take."""

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.status = status


@dataclass
class Sender:
    """How requests are sent.

    Attributes:
        url: of the server, with "/v1" or the like.
        concurrency: requests under way at a time.
        timeout: seconds without a word of the server, after which a try has failed.
        tries: of each request.
        per_minute: the most requests a minute; None for any.
        sent: requests until now, each try counted.
    """

    url: str
    concurrency: int
    timeout: float
    tries: int
    per_minute: float | None = None
    sent: int = 0

    def send(self, requests: Sequence[Request], headers: Mapping[str, str], got: Got) -> dict[int, Failure]:
        """Send them, and give each reply with its request's number to `got`; those that failed for good.

        Raises:
            RefusedError: of a status that all requests will have.
        """
        return in_a_loop(self._all(requests, headers, got))

    async def _all(
        self, requests: Sequence[Request], headers: Mapping[str, str], got: Got
    ) -> dict[int, Failure]:
        import httpx

        kept = self.concurrency if _encrypted(self.url) else 0  # a server of few threads has none beside them
        limits = httpx.Limits(max_connections=self.concurrency, max_keepalive_connections=kept)
        slots, pace = asyncio.Semaphore(self.concurrency), Pace(self.per_minute)
        failures: dict[int, Failure] = {}
        how: dict[str, Any] = {"timeout": self.timeout, "trust_env": False, "limits": limits}
        client = httpx.AsyncClient(headers=headers, verify=_trusted(self.url), **how)

        async def one(i: int, request: Request) -> None:
            try:
                got(i, await self._tried(lambda: self._sent(client, request, slots, pace)))
            except PassingError as error:
                failures[i] = Failure(f"{error}, {self.tries} times", gone=True)
            except RefusedError as error:
                if error.status in REFUSING:
                    raise
                failures[i] = Failure(str(error), gone=False)

        async with client:
            await asyncio.gather(*(one(i, request) for i, request in enumerate(requests)))
        return failures

    async def _tried(self, call: Callable[[], Coroutine[Any, Any, Reply]]) -> Reply:
        """What a call gives, by and by."""
        import stamina

        waits = {"wait_initial": FIRST_WAIT, "wait_max": LAST_WAIT, "wait_jitter": FIRST_WAIT}
        async for attempt in stamina.retry_context(on=_wait, attempts=self.tries, timeout=None, **waits):
            with attempt:
                return await call()
        raise AssertionError("retries end in a reply or an exception")

    async def _sent(self, client: Any, request: Request, slots: asyncio.Semaphore, pace: Pace) -> Reply:
        """The reply to one try."""
        import httpx

        url = f"{self.url}/{request.path}"
        async with slots:
            await pace.wait()
            self.sent += 1
            try:
                if request.body is None:
                    reply = await client.get(url)
                else:
                    reply = await client.post(url, json=request.body)
            except httpx.TransportError as error:
                raise PassingError(type(error).__name__) from None
        return _read(reply)


class Pace:
    """At most so many passes a minute, evenly."""

    def __init__(self, per_minute: float | None) -> None:
        self._gap, self._next = 60 / per_minute if per_minute else 0.0, 0.0

    async def wait(self) -> None:
        """Wait for one's turn."""
        now = time.monotonic()
        turn, self._next = max(now, self._next), max(now, self._next) + self._gap
        if turn > now:
            await asyncio.sleep(turn - now)


def in_a_loop(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine gives; in a thread of its own where a loop is running, as in notebooks."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    found: list[T] = []
    errors: list[BaseException] = []
    loop = asyncio.new_event_loop()
    task = loop.create_task(work)

    def run() -> None:
        try:
            found.append(loop.run_until_complete(task))
        except BaseException as error:
            errors.append(error)
        finally:
            loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        thread.join()
    except BaseException:  # Ctrl-C: nothing more is sent
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(task.cancel)
        thread.join()
        raise
    if errors:
        raise errors[0]
    return found[0]


def _encrypted(url: str) -> bool:
    return url.startswith("https:")


def _trusted(url: str) -> Any:
    """Whom to trust behind an address: those of the system, read once; nobody where nothing is encrypted."""
    return _context() if _encrypted(url) else False


@functools.cache
def _context() -> ssl.SSLContext:
    return ssl.create_default_context()


def _wait(error: Exception) -> bool | float:
    """Whether to try again, or in how many seconds."""
    if not isinstance(error, PassingError):
        return False
    return True if error.wait is None else error.wait


def _read(reply: Any) -> Reply:
    """A reply as JSON has it."""
    status = reply.status_code
    if status in PASSING:
        wait = _retry_after(reply.headers.get("retry-after"))
        if wait is not None and wait > MOST_WAIT:
            raise RefusedError(f"HTTP {status}, and to wait {wait:.0f} s", status)
        raise PassingError(f"HTTP {status}{_message(reply)}", wait)
    if status != 200:
        raise RefusedError(f"HTTP {status}{_message(reply)}", status)
    try:
        found = reply.json()
    except ValueError:
        raise PassingError("a reply that is no JSON") from None
    if not isinstance(found, dict) or found.get("error"):
        raise PassingError(f"a reply without an answer{_message(reply)}")
    return found


def _message(reply: Any) -> str:
    """What a server says of an error, in one line."""
    try:
        found = reply.json()
        error = found.get("error", found.get("detail", found))
        text = error.get("message", error) if isinstance(error, dict) else error
    except (ValueError, AttributeError):
        text = reply.text
    line = " ".join(str(text).split())[:200]
    return f": {line}" if line else ""


def _retry_after(value: str | None) -> float | None:
    """Seconds of the header, which gives them or a date."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def check_installed() -> None:
    """Raise GfoError without the packages of the extra."""
    try:
        import httpx  # noqa: F401
        import stamina  # noqa: F401
    except ImportError as error:
        raise GfoError(f"Endpoint needs {error.name}; install gfo-llm[endpoint]") from None
