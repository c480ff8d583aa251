"""What replies of servers hold, in the two forms that there are: of completions and of chats."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

Reply = Mapping[str, Any]


def text_of(reply: Reply) -> str | None:
    """The text that was written; None where there is none."""
    choice = _choice(reply)
    message = choice.get("message")
    found = message.get("content") if isinstance(message, Mapping) else choice.get("text")
    return found if isinstance(found, str) else None


def usage_of(reply: Reply) -> tuple[int, int]:
    """The tokens of prompt and answer; 0 where the server does not count."""
    usage = reply.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    first, second = (usage.get(f"{name}_tokens") for name in ("prompt", "completion"))
    return (first if isinstance(first, int) else 0, second if isinstance(second, int) else 0)


def next_tokens(reply: Reply) -> list[tuple[bytes, float]] | None:
    """The likeliest tokens of the first place of the answer, with log-probabilities; None without."""
    found = _choice(reply).get("logprobs")
    if not isinstance(found, Mapping):
        return None
    content, tops = found.get("content"), found.get("top_logprobs")
    if isinstance(content, list) and content and content[0].get("top_logprobs"):
        return [(_bytes(each), float(each["logprob"])) for each in content[0]["top_logprobs"]]
    if isinstance(tops, list) and tops and isinstance(tops[0], Mapping):
        return [(token.encode(), float(value)) for token, value in tops[0].items()]
    return None


def prompt_tokens(reply: Reply) -> list[tuple[int, int, float | None]] | None:
    """Of a reply that echoes its prompt, each token's first and last character, from 0, and log-probability;
    None where the server does not say."""
    found = _choice(reply).get("logprobs")
    keys = ("tokens", "token_logprobs")
    if not isinstance(found, Mapping) or not all(isinstance(found.get(key), list) for key in keys):
        return None
    tokens, values = (found[key] for key in keys)
    ends = list(itertools.accumulate(map(len, tokens)))
    starts = found.get("text_offset") or [end - len(token) for end, token in zip(ends, tokens, strict=True)]
    return [
        (start, start + len(token), value) for start, token, value in zip(starts, tokens, values, strict=True)
    ]


def _choice(reply: Reply) -> Mapping[str, Any]:
    choices = reply.get("choices")
    found = choices[0] if isinstance(choices, list) and choices else {}
    return found if isinstance(found, Mapping) else {}


def _bytes(token: Mapping[str, Any]) -> bytes:
    """A token's bytes, which may be a part of a character."""
    given = token.get("bytes")
    return bytes(given) if isinstance(given, list) else str(token.get("token", "")).encode()
