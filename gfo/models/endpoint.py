"""A model behind a server that takes OpenAI's requests: it is asked with texts, and has no weights here."""

from __future__ import annotations

import functools
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gfo.core.checking import checked
from gfo.core.errors import GfoError, GfoWarning, shown
from gfo.core.files import absolute
from gfo.models.download import cache_dir
from gfo.models.server.cache import Answers, Opened, key_of
from gfo.models.server.characters import Characters, messages_in
from gfo.models.server.replies import Reply, prompt_tokens, text_of, usage_of
from gfo.models.server.sending import Failure, RefusedError, Request, Sender, check_installed

CHAT, COMPLETIONS, MODELS = "chat/completions", "completions", "models"
VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
KEYLESS = "put it into an environment variable and give its name as key"
MILLION = 1_000_000
ECHO = {"prompt": "one two three", "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True}


@dataclass(frozen=True)
class Spent:
    """What a server was asked.

    Attributes:
        requests: sent, each try counted.
        prompt_tokens, completion_tokens: read and written, as the server counts them.
        dollars: what they cost; 0 without prices.
        failed: requests without an answer after all tries.
        cached: requests that had been asked before, and were not sent.
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    dollars: float = 0.0
    failed: int = 0
    cached: int = 0


@checked
class Endpoint(Characters):
    """The model of an OpenAI-compatible server, such as vLLM, llama.cpp's or `transformers serve`.

    It takes the place of a model of `gfo.load_model`, with spaces of texts: `gfo.Words` and `gfo.Texts`. A
    template of messages is asked as a chat, in the server's format for it; one of text as a completion.

    Args:
        url: of the server, with its "/v1", as "http://127.0.0.1:8000/v1".
        model: its name there.
        key: the environment variable that holds the key, if the server wants one. The key itself is kept
            nowhere: it is read when requests are sent.
        concurrency: requests under way at a time.
        timeout: seconds without a word of the server, after which a try has failed.
        tries: of each request, with waits that double, or as the server's Retry-After says.
        requests_per_minute: the most that are sent; None for any number.
        prices: dollars for a million tokens that are read, and for a million written.
        cache: keep answers on disk, so that what was asked before is not asked again: True for
            "answers.sqlite" in gfo's cache folder, a file, or False.
        top: how many of the likeliest next tokens to ask for, where a task reads label words.
        body: more keys for all requests.

    Raises:
        GfoError: for an address that is none, or has a key in it, or a number out of range.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key: str = "OPENAI_API_KEY",
        concurrency: int = 16,
        timeout: float = 60.0,
        tries: int = 8,
        requests_per_minute: float | None = None,
        prices: Sequence[float] | None = None,
        cache: bool | str | Path = True,
        top: int = 20,
        body: Mapping[str, Any] | None = None,
    ) -> None:
        check_installed()
        _check_url(url)
        if not VARIABLE.fullmatch(key):
            raise GfoError(f"Endpoint: key is no name of an environment variable; {KEYLESS}")
        at_least = {"concurrency": concurrency, "tries": tries, "top": top}
        _check_numbers(at_least, {"timeout": timeout, "requests_per_minute": requests_per_minute})
        self.url, self.name, self.key = url.rstrip("/"), model, key
        self.prices = _checked_prices(prices)
        self.top, self.body = top, dict(body or {})
        self.spent = Spent()
        self._answers = Answers(_cache_file(cache))
        self._sender = Sender(self.url, concurrency, timeout, tries, requests_per_minute)
        self._warned = False

    def __repr__(self) -> str:
        return f"Endpoint({self.url!r}, {self.name!r})"

    def check(self) -> None:
        """See that the server is there, takes the key and has the model.

        Raises:
            GfoError: if not; of a model that it lacks, names those that it has.
        """
        names = self.models()
        if names and self.name not in names:
            raise GfoError(f"model = '{self.name}': the server lacks it; it has {', '.join(names)}")

    def models(self) -> list[str]:
        """The names of the server's models; none where it does not say.

        Raises:
            GfoError: if it cannot be reached, or refuses the key.
        """
        found: list[Reply] = []
        sender = replace(self._sender, tries=min(3, self._sender.tries))
        try:
            failures = sender.send([Request(MODELS)], self._headers(), lambda _, reply: found.append(reply))
        except RefusedError as error:
            if error.status != 404:
                raise self._refusal(error, MODELS) from None
            return []
        if failures:
            reason = self._clean(failures[0].reason)
            if "HTTP" not in reason:
                raise GfoError(f"url = {self.url}: no server answers there ({reason}); start it, or mend url")
            return []
        return _names_in(found[0])

    def request(self, prompt: str, **more: Any) -> Request:
        """What asks for what follows a prompt: its messages as a chat, or its text as a completion."""
        messages = messages_in(prompt)
        if messages is not None:
            return Request(CHAT, {**self._start(), "messages": messages, **more})
        return Request(COMPLETIONS, {**self._start(), "prompt": prompt, **more})

    def ask(self, requests: Sequence[Request]) -> list[Reply | None]:
        """The replies; None to one that failed for good, of which a warning tells the first time.

        Raises:
            GfoError: if the server refuses key, model or place, or none of its replies comes.
        """
        keys = [key_of(self.url, request.path, request.body) for request in requests]
        with self._answers.opened() as file:
            known = file.get(set(keys))
            fresh = {key: request for key, request in zip(keys, requests, strict=True) if key not in known}
            self.spent = replace(self.spent, cached=self.spent.cached + len(known))
            if fresh:
                known |= self._send(fresh, file)
        return [known.get(key) for key in keys]

    def write(
        self, prompts: Sequence[str], *, max_tokens: int = 256, temperature: float = 1.0, seed: int = 0
    ) -> list[str | None]:
        """What the model answers each prompt, as a chat; None for one that failed for good."""
        requests = [
            self.request(
                self.chat([{"role": "user", "content": prompt}]),
                max_tokens=max_tokens,
                temperature=temperature,
                seed=seed + i,
            )
            for i, prompt in enumerate(prompts)
        ]
        return list(map(text_of, self.ask(requests)))

    @functools.cached_property
    def echoes(self) -> bool:
        """Whether the server gives the log-probabilities of a prompt's own tokens."""
        reply = self.ask([Request(COMPLETIONS, {**self._start(), **ECHO})])[0]
        tokens = prompt_tokens(reply) or []
        return any(value is not None for _, _, value in tokens[:-1])

    def _start(self) -> dict[str, Any]:
        return {**self.body, "model": self.name}

    def _headers(self) -> dict[str, str]:
        key = os.environ.get(self.key, "").strip()
        return {"Authorization": f"Bearer {key}"} if key else {}

    def _send(self, fresh: Mapping[str, Request], file: Opened) -> dict[str, Any]:
        """The replies to requests that are not known, by key."""
        keys, requests, found = list(fresh), list(fresh.values()), dict[str, Any]()
        before = self._sender.sent

        def got(i: int, reply: Reply) -> None:
            found[keys[i]] = reply
            file.put(keys[i], reply)

        try:
            failures = self._sender.send(requests, self._headers(), got)
        except RefusedError as error:
            raise self._refusal(error, requests[0].path) from None
        finally:
            self._count(self._sender.sent - before, list(found.values()), len(fresh) - len(found))
        self._tell(failures, len(requests))
        return found

    def _count(self, sent: int, replies: Sequence[Reply], failed: int) -> None:
        usage = [usage_of(reply) for reply in replies]
        read, written = sum(first for first, _ in usage), sum(second for _, second in usage)
        price = self.prices or (0.0, 0.0)
        was = self.spent
        self.spent = Spent(
            was.requests + sent,
            was.prompt_tokens + read,
            was.completion_tokens + written,
            was.dollars + (read * price[0] + written * price[1]) / MILLION,
            was.failed + failed,
            was.cached,
        )

    def _tell(self, failures: Mapping[int, Failure], number: int) -> None:
        """Warn of requests that failed for good, once; a server that is gone ends the run."""
        if not failures:
            return
        reason = self._clean(next(iter(failures.values())).reason)
        if len(failures) == number and all(failure.gone for failure in failures.values()):
            raise GfoError(
                f"server: none of {number} requests to {self.url} was answered ({reason}); start it again, "
                "and go on with gfo resume or resume=True"
            )
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"server: {len(failures)} of {number} requests failed for good ({reason}); their rows are "
                "left out, as are those of others later, without another word",
                GfoWarning,
                stacklevel=2,
            )

    def _refusal(self, error: RefusedError, path: str) -> GfoError:
        said = self._clean(str(error))
        if error.status == 404:
            other = ", or write the template as messages" if path == COMPLETIONS else ""
            return GfoError(f"server: {self.url}/{path} says {said}; mend url or model{other}")
        has = f"the one in {self.key}" if os.environ.get(self.key) else f"none, as {self.key} is not set"
        return GfoError(
            f"server: {self.url} refuses the key, {has} ({said}); set the variable that key names"
        )

    def _clean(self, text: str) -> str:
        """A text without the key."""
        key = os.environ.get(self.key, "").strip()
        return text.replace(key, "***") if key else text


def _names_in(reply: Reply) -> list[str]:
    """The names of models that a reply lists."""
    data = reply.get("data")
    if not isinstance(data, list):
        return []
    return [str(each["id"]) for each in data if isinstance(each, Mapping) and "id" in each]


def _check_url(url: str) -> None:
    """Raise GfoError for an address that is none, or holds what may be a key."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port  # ValueError for one that is out of range
    except ValueError:
        good = False
    if not good:
        raise GfoError(f"Endpoint: url = {shown(url)} is no address; write it as 'http://127.0.0.1:8000/v1'")
    if parts.username or parts.password or parts.query:
        raise GfoError(f"Endpoint: url has a user, a password or a query, which may hold a key; {KEYLESS}")


def _check_numbers(at_least_one: Mapping[str, int], positive: Mapping[str, float | None]) -> None:
    for name, value in at_least_one.items():
        if value < 1:
            raise GfoError(f"Endpoint: {name} = {value} must be at least 1")
    for name, number in positive.items():
        if number is not None and not 0 < number < float("inf"):
            raise GfoError(f"Endpoint: {name} = {number} must be a positive number")


def _checked_prices(prices: Sequence[float] | None) -> tuple[float, float] | None:
    if prices is None:
        return None
    if len(prices) != 2 or min(prices) < 0:
        raise GfoError(
            f"Endpoint: prices = {list(prices)}; give dollars for a million tokens read, and for one written"
        )
    return float(prices[0]), float(prices[1])


def _cache_file(cache: bool | str | Path) -> Path | None:
    if isinstance(cache, bool):
        return cache_dir() / "answers.sqlite" if cache else None
    return absolute(cache, "cache")
