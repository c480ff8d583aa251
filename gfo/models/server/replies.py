"""What replies of servers hold, in the two forms that there are: of completions and of chats."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

Reply = Mapping[str, Any]


def text_of(reply: Reply | None) -> str | None:
    """The text that was written; None where there is none, as of no reply."""
    choice = _choice(reply)
    message = choice.get("message")
    found = message.get("content") if isinstance(message, Mapping) else choice.get("text")
    return found if isinstance(found, str) else None


def usage_of(reply: Reply | None) -> tuple[int, int]:
    """The tokens of prompt and answer; 0 where the server does not count."""
    usage = _mapping(_mapping(reply).get("usage"))
    return _number(usage.get("prompt_tokens")), _number(usage.get("completion_tokens"))


def next_tokens(reply: Reply | None) -> list[tuple[bytes, float]] | None:
    """The likeliest tokens of the first place of the answer, with log-probabilities; None without."""
    found = _mapping(_choice(reply).get("logprobs"))
    in_chat = _mapping(_first(found.get("content"))).get("top_logprobs")
    if in_chat:
        return [(_bytes(each), float(each["logprob"])) for each in in_chat]
    tops = _first(found.get("top_logprobs"))
    if isinstance(tops, Mapping):
        return [(token.encode(), float(value)) for token, value in tops.items()]
    return None


def prompt_tokens(reply: Reply | None) -> list[tuple[int, int, float | None]] | None:
    """Of a reply that echoes its prompt, each token's first and last character, from 0, and log-probability;
    None where the server does not say."""
    found = _mapping(_choice(reply).get("logprobs"))
    keys = ("tokens", "token_logprobs")
    if not all(isinstance(found.get(key), list) for key in keys):
        return None
    tokens, values = (found[key] for key in keys)
    ends = list(itertools.accumulate(map(len, tokens)))
    starts = found.get("text_offset") or [end - len(token) for end, token in zip(ends, tokens, strict=True)]
    return [
        (start, start + len(token), value) for start, token, value in zip(starts, tokens, values, strict=True)
    ]


def _choice(reply: Reply | None) -> Mapping[str, Any]:
    return _mapping(_first(_mapping(reply).get("choices")))


def _mapping(found: Any) -> Mapping[str, Any]:
    """What was found, if it is a mapping; else an empty one."""
    return found if isinstance(found, Mapping) else {}


def _first(found: Any) -> Any:
    """The first of a list; None where there is none."""
    return found[0] if isinstance(found, list) and found else None


def _number(found: Any) -> int:
    """What was found, if it is a whole number; else 0."""
    return found if isinstance(found, int) else 0


def _bytes(token: Mapping[str, Any]) -> bytes:
    """A token's bytes, which may be a part of a character."""
    given = token.get("bytes")
    return bytes(given) if isinstance(given, list) else str(token.get("token", "")).encode()
