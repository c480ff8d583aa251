"""Log-likelihoods of endings by decoders: those of plain forward passes over whole sequences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from changes import DIM, Changes
from continuations import check_all_ways, difference, evaluator_of, found_by, slow, tokenized
from test_equality_changes import WORKLOADS
from test_memory import peak_bytes

from gfo.models import frozen

K = 3
TOLERANCE = 5e-5
TEXTS = ["a", "a great joy from the first minute to the last", "bad!"]
WORDS = [
    (
        " very good",
        " very bad service",
        " great",
        " very good food",
        " terrible",
    ),  # two fork, one is in another
    (" the movie", " the movie"),  # the same twice
    (" I would say that the service was not good", " it is not", " t"),
]


def points(seed=0, candidates=K):
    return np.random.default_rng(seed).standard_normal((candidates, DIM))


def rows_of(model, template):
    endings = [[model.encode(word) for word in words] for words in WORDS]
    return tokenized(model, template, list(zip(TEXTS, endings, strict=True)))


@pytest.mark.parametrize("workload", WORKLOADS)
def test_all_ways_equal_plain_forward_passes(tiny, family, workload, record_property):
    slots, first, template = WORKLOADS[workload]
    model = tiny(family)
    space, z, soft = Changes(model, slots, first=first), points(), "{soft}" in template
    rows = rows_of(model, template)
    sizes = [list(map(len, row[2])) for row in rows]
    assert sizes == [[5, 6, 1, 6, 1], [2, 2], [9, 3, 1]]
    expected = slow(model, space, rows, soft, z)
    found = check_all_ways(model, space, rows, soft, z, expected, TOLERANCE)
    assert found.shape == (K, 3, 5)
    assert found.isinf().sum() == K * (0 + 3 + 2)
    assert torch.equal(found[:, 1, 0], found[:, 1, 1])
    other = Changes(model, slots, first=first, seed=1)
    assert difference(found_by(model, other, rows, soft, z), expected) > 1e-3  # control: other changes
    turned = [(left, right, endings[::-1]) for left, right, endings in rows]
    assert difference(found_by(model, space, turned, soft, z)[:, 0], expected[:, 0]) > 1e-2  # control
    record_property("worst", difference(found, expected))


LONG = 640


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral", "gemma2"], indirect=True)
@pytest.mark.parametrize(
    "workload", ["deep prompt", "lora-upper", "prefix and prompt", "scale in the last layer"]
)
def test_a_long_window_of_a_document(tiny, family, workload):
    """One ending of hundreds of tokens a row, as language modelling has."""
    slots, first, template = WORKLOADS[workload]
    model = tiny(family, max_position_embeddings=1024)
    space, z = Changes(model, slots, first=first), points(candidates=2)
    rng = np.random.default_rng(0)
    windows = [tuple(rng.integers(3, 200, n).tolist()) for n in (LONG, LONG - 90, 30)]
    rows = tokenized(model, template, [(text, [w]) for text, w in zip(TEXTS, windows, strict=True)])
    soft = "{soft}" in template
    expected = slow(model, space, rows, soft, z)
    assert expected.shape == (2, 3, 1)
    check_all_ways(model, space, rows, soft, z, expected, 1e-6, chunks=(700, 10**9))
    assert float((expected - expected.roll(1, 1)).abs().min()) > 1
    cut = [(left, right, tuple(e[:-1] for e in endings)) for left, right, endings in rows]
    assert difference(found_by(model, space, cut, soft, z), expected) > 0.1  # control: the last token counts


@pytest.mark.parametrize("workload", ["deep prompt", "lora", "prefix and prompt"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_a_failed_candidate_leaves_the_others_alone(tiny, workload, bad):
    slots, first, template = WORKLOADS[workload]
    model, z = tiny("llama"), points()
    z[1, 0] = bad
    space, soft, rows = Changes(model, slots, first=first), "{soft}" in template, rows_of(model, template)
    for reuse in (True, False):
        found = found_by(model, space, rows, soft, z, reuse=reuse)
        expected = found_by(model, space, rows, soft, z[[0, 2]], reuse=reuse)
        there = ~expected.isinf()
        assert bool(found[1][there[0]].isnan().all())
        assert bool(expected[there].isfinite().all())
        assert difference(found[[0, 2]], expected) < TOLERANCE * float(expected[there].abs().max())


def test_one_token_is_the_softmax_of_the_logits(tiny, family):
    """An ending of one token asks for what the vocabulary's logits say, at the same cost."""
    model = tiny(family)
    slots, first, template = WORKLOADS["deep prompt"]
    space, z = Changes(model, slots, first=first), points()
    words = (70, 12, 150)
    rows = tokenized(model, template, [(text, [(word,) for word in words]) for text in TEXTS])
    asked = evaluator_of(model, space, rows, True)
    batch = asked.task.all_rows("train")
    logits = asked.answers(z, replace(batch, key=("logits",), endings=()))
    assert logits.shape == (K, len(TEXTS), model.vocabulary_size)
    expected = logits.log_softmax(-1)[..., list(words)]
    found = asked.answers(z, batch)
    assert difference(found, expected) < 5e-5
    assert difference(found, expected.roll(1, 2)) > 0.05  # control


def test_log_likelihoods_by_blocks_of_the_vocabulary(tiny, family, monkeypatch):
    model = tiny(family)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 5, model._head.weight.shape[1], generator=generator)
    tokens = torch.randint(0, model.vocabulary_size, (5, 3), generator=generator)
    expected = model.logits(hidden, None).log_softmax(-1).gather(-1, tokens.expand(2, -1, -1))
    for most in (1, 70, 640, 10**9):  # blocks of 1, 7, 64 and all tokens
        monkeypatch.setattr(frozen, "LOGITS_AT_ONCE", most)
        found = model.log_likelihood(hidden, tokens)
        assert difference(found, expected) < 5e-5, most  # 1e-5 with other kernels, of 200 sums of two
        assert difference(found, expected.flip(0)) > 1e-2


def test_few_logits_live_at_once(tiny):
    """Of 1,000 places and 30,000 tokens all logits would be 120 MB, and as much for their exponentials."""
    model = tiny("llama", vocab_size=30_000)
    hidden, tokens = torch.randn(1, 1000, model.hidden_size), torch.zeros(1000, 1, dtype=torch.long)
    assert peak_bytes(lambda: model.log_likelihood(hidden, tokens)) < 4.5 * 4 * frozen.LOGITS_AT_ONCE
    assert peak_bytes(lambda: model.logits(hidden, None)) >= 4 * 1000 * 30_000  # control


def test_out_of_memory_halves_and_goes_on(tiny, monkeypatch):
    slots, first, template = WORKLOADS["prompt and lora"]
    model, z = tiny("llama"), points()
    space, rows = Changes(model, slots, first=first), rows_of(model, template)
    expected = found_by(model, space, rows, True, z)
    plain, tried = model.branches, []

    def branches(context, entry, rows, **options):
        tried.append(entry.shape[:3].numel())
        if tried[-1] > 100:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(context, entry, rows, **options)

    monkeypatch.setattr(model, "branches", branches)
    evaluator = evaluator_of(model, space, rows, True, chunk_tokens=400)
    found = evaluator.answers(z, evaluator.task.all_rows("train"))
    assert difference(found, expected) < TOLERANCE * 100
    assert evaluator.tokens_at_once in (50, 100)
    assert max(tried) > 100 >= tried[-1]
