"""What a server's model answers to texts: what it writes, and how likely words are that a task names.

A word's log-probability is the sum of its tokens', as of a model that is here. The server lists the likeliest
next tokens only, so that

- a word of one token is read off the list, and one of several token by token, a request each, the longest of
  the list that the word goes on with;
- a token that is not listed has at most the smallest probability of the list, and what the list leaves over:
  that bound stands for it, and how often it did is told;
- in a chat, where an answer cannot be begun for the model, a word's first token stands for it, if no other
  word begins so, and blanks in front of words and tokens do not count.

Where a server gives the log-probabilities of a prompt's own tokens ("echo"), long endings are read there,
each by one request.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gfo.core.domain import Array
from gfo.core.errors import GfoError, GfoWarning, shown
from gfo.core.protocols import Decoding, Tokens
from gfo.models.endpoint import COMPLETIONS, Endpoint
from gfo.models.server.characters import in_pieces, messages_in
from gfo.models.server.replies import next_tokens, prompt_tokens, text_of, usage_of
from gfo.models.server.sending import Request

LONG = 32  # characters of an ending, from which on it is not read token by token
MOST_STOPS = 4  # texts that a server takes; the task cuts answers at all of them
SHORT = {"max_tokens": 1}
LONGER = {"max_tokens": 4, "ignore_eos": True}  # where the first token is no whole character, or the end
NO_LOGPROBS = (
    "server: it answers without log-probabilities of tokens, which the task reads (many servers ignore the "
    "request); take gfo.Generation with the label's word as target and metric 'exact_match', or a server "
    "that gives logprobs, such as vLLM"
)
Listed = list[tuple[bytes, float]]
"""The likeliest next tokens with their log-probabilities."""


class Asker:
    """Reads what tasks want to know off a server's replies.

    Args:
        model: the server's.
    """

    def __init__(self, model: Endpoint) -> None:
        self.model = model
        self._read = self._unlisted = 0  # words read, and those beyond the lists
        self._told = False

    def written(self, prompts: Sequence[str], decoding: Decoding) -> list[Tokens | None]:
        """What the model writes behind each prompt, in as many pieces as tokens; None where that failed."""
        more: dict[str, object] = {"max_tokens": decoding.max_tokens, "temperature": decoding.temperature}
        if decoding.temperature > 0:
            more["seed"] = decoding.seed
        if decoding.stop_texts:
            more["stop"] = list(decoding.stop_texts[:MOST_STOPS])
        replies = self.model.ask([self.model.request(prompt, **more) for prompt in prompts])
        found: list[Tokens | None] = []
        for reply in replies:
            text = None if reply is None else text_of(reply)
            found.append(None if reply is None or text is None else in_pieces(text, usage_of(reply)[1]))
        return found

    def likelihoods(self, prompts: Sequence[str], endings: Sequence[Sequence[str]]) -> Array:
        """Log-probabilities of each prompt's endings, float64 [N, m]; -inf beyond a prompt's own, nan where a
        request failed.

        Raises:
            GfoError: for a server that does not give what this needs.
        """
        own = len(set(map(tuple, endings))) > 1  # options, not label words
        longest = max((len(text) for some in endings for text in some), default=0)
        chat = any(messages_in(prompt) is not None for prompt in prompts[:1])
        if not chat and (own or longest > LONG) and self.model.echoes:
            return self._echoed(prompts, endings)
        if longest > LONG:
            raise GfoError(
                f"task: an option has {longest} characters, and the server gives no log-probabilities of a "
                "prompt's tokens (echo); write the options into the template with a letter each, and take "
                "gfo.Classification of the letters"
            )
        found = self._token_by_token(prompts, endings, chat)
        self._tell_unlisted()
        return found

    def _echoed(self, prompts: Sequence[str], endings: Sequence[Sequence[str]]) -> Array:
        """Each ending behind its prompt, in one request."""
        found = np.full((len(prompts), max(map(len, endings))), -math.inf)
        places = [(n, j) for n, some in enumerate(endings) for j in range(len(some))]
        more = {"max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True}
        replies = self.model.ask([self.model.request(prompts[n] + endings[n][j], **more) for n, j in places])
        for (n, j), reply in zip(places, replies, strict=True):
            tokens = None if reply is None else prompt_tokens(reply)
            start, end = len(prompts[n]), len(prompts[n]) + len(endings[n][j])
            inside = [value for first, last, value in tokens or () if last > start and first < end]
            found[n, j] = sum(value or 0.0 for value in inside) if inside else math.nan
        return found

    def _token_by_token(self, prompts: Sequence[str], endings: Sequence[Sequence[str]], chat: bool) -> Array:
        words = [tuple(word.lstrip() if chat else word for word in some) for some in endings]
        found = np.full((len(prompts), max(map(len, words))), -math.inf)
        begun = {(n, j): b"" for n, some in enumerate(words) for j in range(len(some))}
        for n, j in begun:
            found[n, j] = 0.0
        self._read += len(begun)
        while begun:
            lists = self._listed(sorted({(prompts[n], front) for (n, _), front in begun.items()}))
            later: dict[tuple[int, int], bytes] = {}
            for (n, j), front in begun.items():
                listed = lists[prompts[n], front]
                if listed is None:
                    found[n, j] = math.nan
                    continue
                rest = words[n][j].encode()[len(front) :]
                value, token = self._next(rest, _stripped(listed) if chat else listed)
                found[n, j] += value
                if token and len(token) < len(rest):
                    later[n, j] = front + token
            if chat:
                _check_first_tokens(words, later)
                break
            begun = later
        return found

    def _listed(self, fronts: Sequence[tuple[str, bytes]]) -> dict[tuple[str, bytes], Listed | None]:
        """The next tokens behind prompts with the beginnings of words; None where a request failed."""
        asked = [(prompt, front) for prompt, front in fronts if _is_text(front)]
        texts = [prompt + front.decode() for prompt, front in asked]
        replies = self.model.ask([self._request(text) for text in texts])
        again = [i for i, reply in enumerate(replies) if reply is not None and next_tokens(reply) is None]
        if again and len(again) == len(texts):
            raise GfoError(NO_LOGPROBS)
        later = self.model.ask([self._request(texts[i], more=LONGER) for i in again])
        for i, reply in zip(again, later, strict=True):
            replies[i] = reply
        found: dict[tuple[str, bytes], Listed | None] = {front: [] for front in fronts}
        for front, reply in zip(asked, replies, strict=True):
            found[front] = None if reply is None else next_tokens(reply)
        if min(len(listed) for listed in found.values() if listed) < min(2, self.model.top):
            raise GfoError(NO_LOGPROBS)
        return found

    def _request(self, prompt: str, more: Mapping[str, Any] = SHORT) -> Request:
        """What asks for the likeliest next tokens."""
        top, request = self.model.top, self.model.request(prompt, temperature=0, **more)
        if request.path == COMPLETIONS:
            return Request(request.path, {**(request.body or {}), "logprobs": top})
        return Request(request.path, {**(request.body or {}), "logprobs": True, "top_logprobs": top})

    def _next(self, rest: bytes, listed: Listed) -> tuple[float, bytes]:
        """The log-probability of the token that the rest of a word begins with, and that token; the bound and
        nothing if none is listed."""
        whole = [value for token, value in listed if token == rest]
        if whole:
            return float(np.logaddexp.reduce(whole)), rest
        front = max((token for token, _ in listed if token and rest.startswith(token)), key=len, default=b"")
        if front:
            return float(np.logaddexp.reduce([value for token, value in listed if token == front])), front
        self._unlisted += 1
        return _bound([value for _, value in listed]), b""

    def _tell_unlisted(self) -> None:
        """Warn of words that were not among the likeliest tokens, once."""
        if self._unlisted and not self._told:
            self._told = True
            warnings.warn(
                f"server: {self._unlisted} of {self._read} words were not among the {self.model.top} "
                "likeliest next tokens; the most that they can have counts: take words that the model says, "
                "or raise top",
                GfoWarning,
                stacklevel=2,
            )


def _bound(values: Sequence[float]) -> float:
    """The most that the log-probability of a token can be that is not listed."""
    if not values:
        return 0.0
    left = 1 - float(np.exp(values).sum())
    return min(min(values), math.log(left)) if left > 0 else min(values)


def _stripped(listed: Listed) -> Listed:
    """Tokens without the blanks in front of them; blanks alone are left out."""
    return [(token.lstrip(), value) for token, value in listed if token.strip()]


def _is_text(front: bytes) -> bool:
    """Whether bytes end with a whole character."""
    try:
        front.decode()
    except UnicodeDecodeError:
        return False
    return True


def _check_first_tokens(words: Sequence[Sequence[str]], begun: dict[tuple[int, int], bytes]) -> None:
    """Raise GfoError for two words of a row that begin with one token, of which a chat knows no more."""
    for (n, j), front in begun.items():
        same = [word for i, word in enumerate(words[n]) if i != j and word.encode().startswith(front)]
        if same:
            raise GfoError(
                f"task: the words {shown(words[n][j])} and {shown(same[0])} begin with the same token "
                f"{shown(front.decode(errors='replace'))}, and a chat's answer is read by its first; give "
                "words that differ there, or write the template as text"
            )
