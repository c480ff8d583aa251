"""The slow way, plain transformers: one candidate and one row a pass, whole sequences. And fake words."""

from __future__ import annotations

import pytest
import torch

from gfo import GfoError


class Words:
    """A tokenizer of gfo's protocol: each word is a token, numbered as met; 0 starts a text."""

    context_length, continues = 1000, True

    def __init__(self, reads="next"):
        self.ids = {}
        self.reads, self.mask = reads, "<mask>" if reads == "mask" else None

    def encode(self, text, *, start=False, end=False):
        words = [self.ids.setdefault(word, len(self.ids) + 1) for word in text.split() if word != "☃"]
        return tuple([0] * start + words)

    def encode_rows(self, rows, *, start=False, end=False, behind=None, where=None):
        return [self.encode("".join(row), start=start, end=end) for row in rows]


def refused(call, *parts):
    with pytest.raises(GfoError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


@torch.no_grad()
def plain_logits(model, before, prompt, after):
    """Logits [T, V] of a plain forward pass over before + soft prompt [P, D] (or None) + after."""
    parts = [
        model.embed(torch.tensor(before, dtype=torch.long)),
        prompt,
        model.embed(torch.tensor(after, dtype=torch.long)),
    ]
    embeds = torch.cat([part for part in parts if part is not None])
    return model.module(inputs_embeds=embeds[None]).logits[0].float()


def plain_log_likelihood(model, before, prompt, after, ending):
    """Of an ending behind the row, summed over its tokens."""
    log_p = plain_logits(model, before, prompt, (*after, *ending)).log_softmax(-1)
    at = len(log_p) - len(ending) - 1
    return sum(float(log_p[at + i, token]) for i, token in enumerate(ending))


def prompts(space, z):
    """The soft prompts [K, P, D] of search points."""
    return space.decode(torch.as_tensor(z)).prompt.float()
