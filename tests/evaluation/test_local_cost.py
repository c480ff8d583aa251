"""Tokens counted by hand, minibatches, contexts kept, and rows that do not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from changes import DIM, Changes

from gfo import Classification, GfoError, LocalEvaluator, SoftPrompt

LABELS = {"bad": " terrible", "good": " great"}
K, P = 4, 3
TEXTS = ["good", "the food was good", "bad", "the movie is good, but short"]


def make(model, template, texts=TEXTS, splits=(), tokens=P, reuse=True, **options):
    rows = [{"text": text, "label": label} for text, label in zip(texts, ["good", "bad"] * 500, strict=False)]
    task = Classification(rows, template=template, labels=LABELS, **dict.fromkeys(splits, rows), **options)
    return LocalEvaluator(model, task, SoftPrompt(model, tokens=tokens, dim=5), reuse=reuse)


def z(candidates=K):
    return np.random.default_rng(0).standard_normal((candidates, 5))


def tokens_of(model, text):
    return len(model.tokenizer(text, add_special_tokens=False)["input_ids"])


def test_text_first_by_hand(tiny):
    model = tiny("llama", start=True)
    before = [1 + tokens_of(model, f"Review: {text}\n") for text in TEXTS]
    behind = tokens_of(model, "Sentiment:")
    evaluator = make(model, "Review: {text}\n{soft}Sentiment:")
    dependent = K * len(TEXTS) * (P + behind)
    first, second = evaluator(z(), 0).cost, evaluator(z(), 1).cost
    assert (first.candidates, first.tokens_needed) == (K, sum(before) + dependent)
    assert sorted(before) == [4, 4, 7, 10]
    assert first.forward_tokens == sum(before) + dependent  # 4 and 4 together, 7, 10: no padding
    assert (second.tokens_needed, second.forward_tokens) == (dependent, dependent)
    assert all(b > 1.2 * a for a, b in zip(sorted(set(before)), sorted(set(before))[1:], strict=False))
    assert first.seconds > 0


def test_prompt_first_by_hand(tiny):
    model = tiny("llama", start=True)
    behind = [tokens_of(model, f"Review: {text}\nSentiment:") for text in TEXTS]
    front = 1 + tokens_of(model, "Say: ")
    evaluator = make(model, "Say: {soft}Review: {text}\nSentiment:")
    texts = [model.encode(f"Review: {text}\nSentiment:") for text in TEXTS]
    common = next(i for i in range(99) if len({text[i] for text in texts}) > 1)
    assert common > 0
    dependent = K * (P + common + sum(behind) - common * len(TEXTS))
    first, second = evaluator(z(), 0).cost, evaluator(z(), 1).cost
    assert first.tokens_needed == front + dependent
    assert second.tokens_needed == dependent
    assert first.forward_tokens - second.forward_tokens == front
    assert second.forward_tokens == dependent  # packed into one row: no padding


def test_without_reuse_every_sequence_counts_whole(tiny):
    model = tiny("llama", start=True)
    for template in ("Review: {text}\n{soft}Sentiment:", "{soft}Review: {text}\nSentiment:"):
        before, behind = template.split("{soft}")
        whole = [
            1 + P + tokens_of(model, before.format(text=t)) + tokens_of(model, behind.format(text=t))
            for t in TEXTS
        ]
        slow = make(model, template, reuse=False)
        for step in range(2):
            cost = slow(z(), step).cost
            assert cost.tokens_needed == K * sum(whole)
            assert cost.forward_tokens >= K * sum(whole)
        shared = make(model, template)
        shared(z(), 0)
        assert shared(z(), 1).cost.forward_tokens < 0.8 * K * sum(whole)


@pytest.mark.parametrize("slots", [["lora"], ["layer_prompt"]], ids=str)
def test_lower_layers_once_by_hand(tiny, slots):
    """A token that goes through two of three layers is two thirds of a token."""
    model = tiny("llama", start=True)
    template = "{soft}{text} It was" if slots == ["layer_prompt"] else "{text} It was"
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, ["good", "bad"] * 2, strict=True)]
    task = Classification(rows, template=template, labels=LABELS)
    evaluator = LocalEvaluator(model, task, Changes(model, slots, first=1))
    soft = P if slots == ["layer_prompt"] else 0  # the start token is in front of it, and shared
    tokens = soft + sum(tokens_of(model, f"{text} It was") for text in TEXTS)
    own_start = 0 if soft else 1  # which a LoRA changes too
    points = np.random.default_rng(0).standard_normal((K, DIM))
    first, second = (evaluator(points, step).cost.tokens_needed for step in range(2))
    assert second == -(-K * (tokens + own_start) * 2 // 3)
    once = (tokens + own_start) * 1 + (1 - own_start) * 3  # layers of each: below the frontier, the start
    assert first == -(-(once + K * (tokens + own_start) * 2) // 3)


def test_behind_keys_and_values_of_the_last_layer_by_hand(tiny, family):
    """Nobody sees what happens to other tokens there: each row's last one is computed, a third of a token."""
    model = tiny(family, start=True)
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, ["good", "bad"] * 2, strict=True)]
    task = Classification(rows, template="{text} It was", labels=LABELS)
    tokens = sum(len(model.encode(f"{text} It was", start=True)) for text in TEXTS)
    points = np.random.default_rng(0).standard_normal((K, DIM))
    evaluator = LocalEvaluator(model, task, Changes(model, ["scale"], first=2))
    first, second = (evaluator(points, step).cost.tokens_needed for step in range(2))
    assert second == -(-K * len(TEXTS) // 3)
    assert first == -(-(3 * (tokens - len(TEXTS)) + 2 * len(TEXTS) + K * len(TEXTS)) // 3)
    # what a context holds of the layers below is let go
    (layout,) = evaluator._store.values()
    assert [pair is None for pair in layout.contexts[0].layers] == [True, True, False]
    # controls: keys change, or a layer below does
    for space in (KeyBiases(model), Changes(model, ["scale"], first=1)):
        assert not model.unseen(space.decode(torch.ones(1, DIM, dtype=torch.float64)))
        evaluator = LocalEvaluator(model, task, space)
        first, second = (evaluator(points, step).cost.tokens_needed for step in range(2))
        assert second >= -(-K * (tokens - len(TEXTS)) // 3)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("share", [0, 2 / 3])
def test_texts_without_room_are_computed_in_each_step(tiny, first, share):
    model = tiny("llama", start=True)
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, ["good", "bad"] * 2, strict=True)]
    task = Classification(rows, template="Review: {text}\n{soft}It was", labels=LABELS)
    space = Changes(model, ["layer_prompt"], first=first)
    texts = sum(map(len, task.bind(model).all_rows("train").before))
    points = np.random.default_rng(0).standard_normal((K, DIM))
    evaluator = LocalEvaluator(model, task, space, chunk_tokens=8)
    wanted, behind = evaluator(points, 0).loss, evaluator(points, 1).cost.tokens_needed
    (layout,) = evaluator._store.values()
    assert len(layout.groups) > 1
    tight = LocalEvaluator(model, task, space, chunk_tokens=8)
    tight.use(evaluator.settings() | {"store_bytes": int(share * layout.bytes)})
    found = [tight(points, step) for step in range(3)]
    for each in found:
        np.testing.assert_allclose(each.loss, wanted, atol=1e-5)
    again = found[2].cost.tokens_needed - behind
    assert (again >= texts) if share == 0 else (0 < again < texts)


class KeyBiases(Changes):
    """Biases of the keys, or of the fused projection, in the last layer."""

    def __init__(self, model):
        super().__init__(model, ["bias"], first=2)

    def modules(self, pattern):
        return super().modules(r"\.(k_proj|query_key_value|c_attn|qkv_proj)$")


def test_padding_of_a_realistic_mix_stays_under_five_percent(tiny):
    model = tiny("llama", start=True)
    rng = np.random.default_rng(0)
    words = ["the", "food", "was", "good", "but", "service", "is", "bad", "and", "I", "would", "say", "that"]
    lengths = np.clip(np.exp(rng.normal(2.7, 0.55, 64)), 2, 50).astype(
        int
    )  # mean 17 words, as sentences have
    texts = [" ".join(rng.choice(words, n)) for n in lengths]
    evaluator = make(model, "{soft}{text} It was", texts)
    evaluator(z(), 0)
    cost = evaluator(z(), 1).cost
    assert 1 <= cost.forward_tokens / cost.tokens_needed <= 1.05
    # control: padding to the longest row would be far more
    behind = [tokens_of(model, f"{text} It was") for text in texts]
    assert len(texts) * max(behind) > 1.5 * sum(behind)


def test_each_batch_has_its_contexts_and_keeps_them(tiny):
    model = tiny("llama")
    evaluator = make(model, "Review: {text}\n{soft}Sentiment:", splits=("dev",), batch_size=2)
    own = K * 2 * (P + tokens_of(model, "Sentiment:"))
    keys = [evaluator.task.batch("train", step).key for step in range(6)]
    last = None
    for step, key in enumerate(keys):
        needed = evaluator(z(), step).cost.tokens_needed
        assert (needed > own) == (key != last)  # texts are computed when a batch is not the last one again
        assert evaluator(z(), step).cost.tokens_needed == own
        last = key
    assert 1 < len(set(keys)) < 6
    assert evaluator.score(z(), "dev").cost.tokens_needed > evaluator.score(z(), "dev").cost.tokens_needed


def test_costs_add_up(tiny):
    evaluator = make(tiny("llama"), "Review: {text}\n{soft}Sentiment:")
    a, b = evaluator(z(), 0).cost, evaluator(z(2), 1).cost
    total = a + b
    assert total.candidates == 6
    assert total.forward_tokens == a.forward_tokens + b.forward_tokens > a.forward_tokens
    assert total.tokens_needed == a.tokens_needed + b.tokens_needed


@pytest.mark.parametrize("split", ["train", "dev", "test"])
@pytest.mark.parametrize("template", ["Review: {text}\n{soft}Sentiment:", "{soft}Review: {text}\nSentiment:"])
def test_a_row_longer_than_the_context(tiny, template, split):
    model = tiny("llama", start=True)
    rest = 1 + tokens_of(model, template.format(text="", soft=""))
    fits = " the" * (model.context_length - rest - 8)
    rows, full = ([{"text": text, "label": "bad"}] * 2 for text in ("good", fits))
    too_long = [full[0], {"text": fits + " the", "label": "bad"}]

    def build(last):
        data = {"train": rows, "dev": rows, "test": rows, split: last}
        task = Classification(**data, template=template, labels=LABELS)
        return LocalEvaluator(model, task, SoftPrompt(model, tokens=8, dim=5))

    build(full)  # control: exactly as long as the context
    with pytest.raises(GfoError) as error:
        build(too_long)
    message = str(error.value)
    assert "\n" not in message
    for part in (
        f"{split} row 2",
        f"{model.context_length + 1} tokens",
        str(model.context_length),
        "shorten",
    ):
        assert part in message


@pytest.mark.parametrize("size", [0, -1])
def test_chunk_tokens_out_of_range(tiny, size):
    model = tiny("llama")
    task = Classification([{"text": "a", "label": "bad"}], template="{text}{soft}", labels=LABELS)
    with pytest.raises(GfoError, match=rf"^chunk_tokens = {size} must be at least 1$"):
        LocalEvaluator(model, task, SoftPrompt(model, dim=5), chunk_tokens=size)


@pytest.mark.parametrize("shape", [(5,), (2, 4), (2, 6), (1, 2, 5)])
def test_points_of_another_shape(tiny, shape):
    evaluator = make(tiny("llama"), "{text}{soft}")
    with pytest.raises(GfoError, match=r"z has the shape .*takes \(K, 5\)"):
        evaluator(np.zeros(shape), 0)


def test_a_split_that_is_not_there(tiny):
    with pytest.raises(GfoError, match=r"split 'dev': the task has train; give it rows for dev"):
        make(tiny("llama"), "{text}{soft}").score(z(), "dev")


def test_scores_are_those_of_the_logits(tiny):
    evaluator = make(tiny("gpt2"), "{text}{soft} It was", splits=("dev", "test"))
    scores = evaluator.score(z(), "test")
    batch = evaluator.task.all_rows("test")
    predicted = evaluator.answers(z(), batch).argmax(-1).numpy()
    np.testing.assert_allclose(scores.metrics["accuracy"], (predicted == batch.target).mean(1))
    np.testing.assert_allclose(scores.metrics["loss"], evaluator(z(), 0).loss, atol=1e-6)
    assert scores.cost.candidates == K
