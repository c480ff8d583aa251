"""Log-likelihoods of endings by encoder-decoders, and of words in several masks by masked language models."""

from __future__ import annotations

import numpy as np
import pytest
from changes import DIM, Changes
from continuations import check_all_ways, difference, found_by, slow, tokenized
from test_equality_encoders import DECODER_WORKLOADS, WORKLOADS

K = 3
TOLERANCE = 5e-5
MASKED = "Review: {text} {soft} It was {masks}."
ANSWERED = "Review: {text}\n{soft}Sentiment:"
ROWS = [("a", 2), ("a great joy from the first minute to the last", 1), ("bad!", 3), ("not good", 2)]
WORDS = ["very good", "very bad", "great", "I would say that it was not good", "bad"]
MORE_DECODER_WORKLOADS = {"decoder, upper, cross-attention too": (["lora"], 4, None)}


def points():
    return np.random.default_rng(0).standard_normal((K, DIM))


def rows_of(model, soft):
    """Rows of one, two and three masks; or endings of one token and more, fewer for some rows."""
    template = (MASKED if model.mask else ANSWERED).replace("{soft}", "{soft}" if soft else "")
    rows = []
    for b, (text, masks) in enumerate(ROWS):
        endings = [model.encode(word) for word in WORDS[b % 2 :]]
        if model.mask:
            endings = [tuple((7 * b + 11 * j + 5 * i) % 180 + 3 for i in range(masks)) for j in range(3)]
        rows.append((text, endings, masks))
    return tokenized(model, template, rows)


def check(model, workload):
    slots, first, last = workload
    first = model.layers - 1 if first < 0 else first
    space, z = Changes(model, slots, first=first, last=last), points()
    soft = bool({"prompt", "layer_prompt"} & set(slots))
    rows = rows_of(model, soft)
    expected = slow(model, space, rows, soft, z)
    found = check_all_ways(model, space, rows, soft, z, expected, TOLERANCE)
    other = Changes(model, slots, first=first, last=last, seed=1)
    assert difference(found_by(model, other, rows, soft, z), expected) > 1e-3  # controls
    turned = [(left, right, endings[::-1]) for left, right, endings in rows]
    assert difference(found_by(model, space, turned, soft, z), expected) > 1e-2
    assert not model.mask or float((found - expected.roll(1, 1)).abs().max()) > 1e-2


@pytest.mark.parametrize("workload", WORKLOADS)
def test_all_ways_equal_plain_forward_passes(tiny, encoder_family, workload):
    check(tiny(encoder_family), WORKLOADS[workload])


@pytest.mark.parametrize("encoder_family", ["t5", "bart"], indirect=True)
@pytest.mark.parametrize("workload", DECODER_WORKLOADS | MORE_DECODER_WORKLOADS)
def test_changes_of_the_decoder_alone(tiny, encoder_family, workload):
    check(tiny(encoder_family), (DECODER_WORKLOADS | MORE_DECODER_WORKLOADS)[workload])
