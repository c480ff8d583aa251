"""What a server's model answers to texts: what it writes, and how likely words are that a task names.

A word's log-probability is the sum of its tokens', as of a model that is here. The server lists the likeliest
next tokens only, so that

- a word of one token is read off the list, and one of several token by token, a request each, the longest of
  the list that the word goes on with; how many tokens a word has is the server's count of a prompt with it
  less that without, asked once where only a part of it is listed (0 where the server counts none);
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
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from gfo.core.domain import Array
from gfo.core.errors import GfoError, GfoWarning, shown
from gfo.core.protocols import Decoding, Tokens
from gfo.models.endpoint import COMPLETIONS, Endpoint
from gfo.models.server.characters import in_pieces, messages_in
from gfo.models.server.replies import Reply, next_tokens, prompt_tokens, text_of, usage_of
from gfo.models.server.sending import Request

LONG = 32  # characters of an ending, from which on it is not read token by token
MOST_STOPS = 4  # texts that a server takes; the task cuts answers at all of them
SHORT = {"max_tokens": 1}
ECHOED = {"max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True}
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
        self._sizes: dict[str, int] = {}  # tokens of words of which only a part was listed

    def written(self, prompts: Sequence[str], decoding: Decoding) -> list[Tokens | None]:
        """What the model writes behind each prompt, in as many pieces as tokens; None where that failed."""
        more = _how(decoding)
        return list(map(_written, self.model.ask([self.model.request(prompt, **more) for prompt in prompts])))

    def likelihoods(
        self, prompts: Sequence[str], endings: Sequence[Sequence[str]], *, options: bool
    ) -> Array:
        """Log-probabilities of each prompt's endings, float64 [N, m]; -inf beyond a prompt's own, nan where a
        request failed.

        Args:
            prompts: N texts.
            endings: what may follow each.
            options: whether they are each row's own, and no label words.

        Raises:
            GfoError: for a server that does not give what this needs.
        """
        longest = max(len(text) for some in endings for text in some)
        chat = messages_in(prompts[0]) is not None
        if not chat and (options or longest > LONG) and self.model.echoes:
            return self._echoed(prompts, endings)
        _check_short(longest)
        return self._in_chat(prompts, endings) if chat else self._token_by_token(prompts, endings)

    def _echoed(self, prompts: Sequence[str], endings: Sequence[Sequence[str]]) -> Array:
        """Each ending behind its prompt, in one request."""
        found, places = _places(endings)
        asked = [self.model.request(prompts[n] + endings[n][j], **ECHOED) for n, j in places]
        for (n, j), reply in zip(places, self.model.ask(asked), strict=True):
            found[n, j] = _sum_behind(reply, len(prompts[n]), len(endings[n][j]))
        return found

    def _token_by_token(self, prompts: Sequence[str], words: Sequence[Sequence[str]]) -> Array:
        """Each word behind its prompt: its first token, then those that it goes on with."""
        found, places = _places(words)
        begun, done = dict.fromkeys(places, b""), 0
        self._read += len(places)
        while begun:
            lists = self._listed({(prompts[n], front) for (n, _), front in begun.items()})
            rests = {(n, j): words[n][j].encode()[len(front) :] for (n, j), front in begun.items()}
            here = {(n, j): lists[prompts[n], front] for (n, j), front in begun.items()}
            parted = {words[n][j] for (n, j), rest in rests.items() if _in_part(rest, here[n, j])}
            self._measure(prompts[0], parted)
            later = {}
            for (n, j), rest in rests.items():
                left = self._sizes.get(words[n][j], 0) - done
                value, token = self._next(rest, here[n, j], last=left == 1)
                found[n, j] += value
                if b"" != token != rest:
                    later[n, j] = begun[n, j] + token
            begun, done = later, done + 1
        return found

    def _measure(self, prompt: str, words: Collection[str]) -> None:
        """Ask how many tokens words behind a prompt are, of those for which it is not known."""
        new = sorted(set(words) - self._sizes.keys())
        if new:
            replies = self._asked([prompt, *(prompt + word for word in new)], SHORT)
            alone, *sizes = (usage_of(reply)[0] for reply in replies)
            known = (size - alone if alone and size else 0 for size in sizes)
            self._sizes |= dict(zip(new, known, strict=True))

    def _in_chat(self, prompts: Sequence[str], words: Sequence[Sequence[str]]) -> Array:
        """Each word by its first token, without the blanks in front."""
        found, places = _places(words)
        self._read += len(places)
        lists = self._listed({(prompt, b"") for prompt in prompts})
        for n, j in places:
            word, listed = words[n][j].lstrip().encode(), lists[prompts[n], b""]
            found[n, j], token = self._next(word, listed and _stripped(listed))
            if b"" != token != word:
                _check_alone(words[n], j, token)
        return found

    def _listed(self, fronts: Collection[tuple[str, bytes]]) -> dict[tuple[str, bytes], Listed | None]:
        """The next tokens behind prompts with the beginnings of words; None where a request failed."""
        asked = sorted(front for front in fronts if _is_text(front[1]))
        lists = self._lists([prompt + front.decode() for prompt, front in asked])
        return {front: [] for front in fronts} | dict(zip(asked, lists, strict=True))

    def _lists(self, texts: Sequence[str]) -> list[Listed | None]:
        """The next tokens behind texts; None where a request failed."""
        replies = self._asked(texts, SHORT)
        found = list(map(next_tokens, replies))
        bare = [i for i, reply in enumerate(replies) if reply is not None and found[i] is None]
        for i, reply in zip(bare, self._asked([texts[i] for i in bare], LONGER), strict=True):
            found[i] = next_tokens(reply)
        if 0 < len(bare) == len(texts) and not any(found):
            raise GfoError(NO_LOGPROBS)
        if any(len(listed) < min(2, self.model.top) for listed in found if listed):
            raise GfoError(NO_LOGPROBS)
        return found

    def _asked(self, texts: Sequence[str], more: Mapping[str, Any]) -> list[Reply | None]:
        """The replies that have the likeliest next tokens behind texts."""
        return self.model.ask([self._request(text, more) for text in texts])

    def _request(self, prompt: str, more: Mapping[str, Any]) -> Request:
        """What asks for the likeliest next tokens."""
        top, request = self.model.top, self.model.request(prompt, temperature=0, **more)
        if request.path == COMPLETIONS:
            return Request(request.path, {**(request.body or {}), "logprobs": top})
        return Request(request.path, {**(request.body or {}), "logprobs": True, "top_logprobs": top})

    def _next(self, rest: bytes, listed: Listed | None, *, last: bool = False) -> tuple[float, bytes]:
        """The log-probability of the token that the rest of a word begins with, or is if it is the last one,
        and that token; the bound and nothing if it is not listed, nan without a list."""
        if listed is None:
            return math.nan, b""
        token = _begun_with(rest, listed)
        if token and not (last and token != rest):
            return float(np.logaddexp.reduce([value for each, value in listed if each == token])), token
        self._unlisted += 1
        return _bound([value for _, value in listed]), b""

    def tell_unlisted(self) -> None:
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


def _begun_with(rest: bytes, listed: Listed) -> bytes:
    """The longest token of a list that the rest of a word begins with; nothing if none does."""
    return max((token for token, _ in listed if rest.startswith(token)), key=len, default=b"")


def _in_part(rest: bytes, listed: Listed | None) -> bool:
    """Whether the rest of a word is not listed, and something is that it begins with."""
    return listed is not None and b"" != _begun_with(rest, listed) != rest


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


def _check_short(longest: int) -> None:
    """Raise GfoError for endings of so many characters, if they are too long to be read token by token."""
    if longest > LONG:
        raise GfoError(
            f"task: an option has {longest} characters, and the server gives no log-probabilities of a "
            "prompt's tokens (echo); write the options into the template with a letter each, and take "
            "gfo.Classification of the letters"
        )


def _check_alone(words: Sequence[str], j: int, token: bytes) -> None:
    """Raise GfoError if another word than the j-th begins with a token, too: a chat knows no more of them."""
    same = [word for i, word in enumerate(words) if i != j and word.lstrip().encode().startswith(token)]
    if same:
        raise GfoError(
            f"task: the words {shown(words[j])} and {shown(same[0])} begin with the same token "
            f"{shown(token.decode(errors='replace'))}, and a chat's answer is read by its first; give words "
            "that differ there, or write the template as text"
        )


def _how(decoding: Decoding) -> dict[str, Any]:
    """How a request says how answers are written."""
    more: dict[str, Any] = {"max_tokens": decoding.max_tokens, "temperature": decoding.temperature}
    if decoding.temperature > 0:
        more["seed"] = decoding.seed
    if decoding.stop_texts:
        more["stop"] = list(decoding.stop_texts[:MOST_STOPS])
    return more


def _written(reply: Reply | None) -> Tokens | None:
    """What was written, in pieces."""
    text = text_of(reply)
    return None if text is None else in_pieces(text, usage_of(reply)[1])


def _places(endings: Sequence[Sequence[str]]) -> tuple[Array, list[tuple[int, int]]]:
    """Zeros [N, m], -inf beyond a row's own endings, and the places of those."""
    found = np.full((len(endings), max(map(len, endings))), -math.inf)
    places = [(n, j) for n, some in enumerate(endings) for j in range(len(some))]
    found[tuple(np.array(places).T)] = 0.0
    return found, places


def _sum_behind(reply: Reply | None, start: int, length: int) -> float:
    """The log-probability of the characters of an echoed text from one on; nan where there is none."""
    tokens = prompt_tokens(reply) or []
    inside = [value or 0.0 for first, last, value in tokens if last > start and first < start + length]
    return sum(inside) if inside else math.nan
