"""Discrete prompts: tokens by genes, candidates, text, a search that finds words, and bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gfo import Budget, Classification, GfoError, LocalEvaluator, tune
from gfo.spaces.discrete_prompt import DiscretePrompt

ROWS = [{"text": text, "label": "b"} for text in ("a great joy", "bad!", "the food")]
LABELS = {"a": " terrible", "b": " great"}


@pytest.fixture(scope="module")
def model(tiny):
    return tiny("llama")


@pytest.fixture(scope="module")
def words(model):
    """Words of one token each."""
    vocabulary = (model.tokenizer.decode([i]) for i in range(model.vocabulary_size))
    return [word for word in vocabulary if word.strip().isalpha() and len(model.encode(word)) == 1][-6:]


def test_genes_pick_tokens(model, words):
    space = DiscretePrompt(model, 3, words, init="the food was")
    assert space.domain.integer.all()
    assert (space.domain.low.tolist(), space.domain.high.tolist()) == ([0, 0, 0], [6, 6, 6])
    ids = [model.encode(word)[0] for word in words]
    assert space.candidates == tuple(ids)
    z = torch.tensor([[0, 0, 0], [1, 6, 2], [0, 3, 0]], dtype=torch.float64)
    first = model.encode("the food was")[:3]
    expected = [list(first), [ids[0], ids[5], ids[1]], [first[0], ids[2], first[2]]]
    assert torch.equal(space.decode(z).prompt, model.embed(torch.tensor(expected)))
    assert [space.tokens_of(row) for row in z] == expected
    assert space.text(z[1].numpy()) == words[0] + words[5] + words[1]
    assert space.init_tokens == tuple(first)


def test_equals_the_text_written_out(model, words):
    space = DiscretePrompt(model, 3, words)
    z = np.array([[1, 2, 3], [4, 0, 5]])
    task = Classification(ROWS, template="Review: {text}{soft} It was", labels=LABELS)
    evaluator = LocalEvaluator(model, task, space)
    found = evaluator.answers(z, evaluator.task.all_rows("train"))
    answers = [model.encode(word)[0] for word in LABELS.values()]
    for k, b in np.ndindex(2, 3):
        sides = model.encode(f"Review: {ROWS[b]['text']}"), model.encode(" It was")
        ids = torch.tensor([*sides[0], *space.tokens_of(z[k]), *sides[1]])[None]
        with torch.no_grad():
            expected = model.module(ids).logits[0, -1, answers]
        assert float((found[k, b] - expected).abs().max()) < 5e-5
    assert float((found[0] - found[1]).abs().max()) > 1e-3


def test_frequent_words_come_first(model):
    few, many = DiscretePrompt(model, 2, number=5), DiscretePrompt(model, 2, "frequent", number=30)
    assert many.candidates[:5] == few.candidates
    assert list(many.candidates) == sorted(many.candidates)
    texts = [model.tokenizer.decode([i]).strip() for i in many.candidates]
    assert all(text.isalpha() and len(text) > 1 for text in texts)
    skipped = set(range(max(many.candidates))) - set(many.candidates) - model.special_tokens
    texts = [model.tokenizer.decode([i]).strip() for i in skipped]
    assert not any(text.isalpha() and len(text) > 1 for text in texts)


def test_similar_words(model):
    own = model.encode("food")
    space = DiscretePrompt(model, 2, similar_to="food", number=len(own) + 10)
    assert set(own) <= set(space.candidates[: len(own) + 1])
    words = torch.nn.functional.normalize(model.embed(torch.arange(model.vocabulary_size)), dim=1)
    nearness = (words @ words[list(own)].T).amax(1)
    inside = nearness[list(space.candidates)]
    outside = [i for i in range(model.vocabulary_size) if i not in space.candidates]
    outside = [i for i in outside if i not in model.special_tokens | model.unused_tokens]
    assert float(inside.min()) >= float(nearness[outside].max())
    assert not set(space.candidates) & model.special_tokens


def test_random_start_is_of_the_candidates_and_seeded(model, words):
    starts = [DiscretePrompt(model, 4, words, seed=seed).init_tokens for seed in (0, 0, 1, 2)]
    assert starts[0] == starts[1]
    assert len(set(starts)) > 1
    assert all(set(start) <= {model.encode(word)[0] for word in words} for start in starts)


@pytest.mark.parametrize("optimizer", ["ga", "sa", "nevergrad:DE", "random"])
def test_a_search_improves_and_stays_readable(model, words, optimizer):
    space = DiscretePrompt(model, 3, words, seed=1)
    task = Classification(ROWS, template="Review: {text}{soft} It was", labels=LABELS)
    result = tune(model, task, space, optimizer=optimizer, budget=Budget(evaluations=120), progress=False)
    evaluator = LocalEvaluator(model, task, space)
    before, after = evaluator(np.stack([np.zeros(3), result.z]), 0).loss
    assert after < before
    assert all(token in {*space.candidates, *space.init_tokens} for token in space.tokens_of(result.z))
    assert space.domain.contains(result.z)
    assert result.prompt == result.summary()["prompt"] == space.text(result.z)
    assert f"prompt:     {result.prompt!r}" in str(result)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"tokens": 0}, ["tokens = 0", "at least 1"]),
        ({"candidates": ["snow storm"]}, ["'snow storm' has", "tokens; give words of one token"]),
        ({"candidates": [1000]}, ["id 1000", "0 to 199"]),
        ({"candidates": []}, ["candidates: none"]),
        ({"candidates": "rare"}, ["candidates = 'rare'", "'frequent'"]),
        ({"candidates": [5], "similar_to": "food"}, ["both given"]),
        ({"similar_to": ""}, ["similar_to = ''", "no tokens"]),
        ({"number": 0}, ["number = 0"]),
        ({"init": ""}, ["init = ''", "no tokens"]),
    ],
)
def test_bad_options(model, options, parts):
    with pytest.raises(GfoError) as error:
        DiscretePrompt(model, **{"tokens": 3} | options)
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in parts), str(error.value)


def test_an_optimizer_without_integer_genes_says_so(model, words):
    task = Classification(ROWS, template="Review: {text}{soft} It was", labels=LABELS)
    space = DiscretePrompt(model, 3, words)
    with pytest.raises(GfoError, match="cannot take integer genes"):
        tune(model, task, space, optimizer="cma", budget=Budget(evaluations=10), progress=False)
