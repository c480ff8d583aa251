"""Rows that continue copies of a text's states: what is computed once, and which ways are right."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import transformers
from conftest import VOCABULARY, make_tokenizer

import gfo
from gfo.models.continued_rows import ContinuedRows, Going, States, _tensors, _with_tensors
from gfo.testing.tiny import draw_weights

SIZES = {"vocab_size": VOCABULARY + 8, "hidden_size": 32}
CONFIGS = {
    "lfm2_moe": lambda: transformers.Lfm2MoeConfig(
        **SIZES,
        intermediate_size=48,
        moe_intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_experts=4,
        num_experts_per_tok=2,
        layer_types=["conv", "full_attention"],
    ),
    "qwen3_next": lambda: transformers.Qwen3NextConfig(
        **SIZES,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        mlp_only_layers=[0, 1],
        layer_types=["linear_attention", "full_attention"],
    ),
    "bamba": lambda: transformers.BambaConfig(
        **SIZES,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_layer_indices=[1],
        mamba_n_heads=4,
        mamba_d_head=16,
        mamba_d_state=8,
        mamba_n_groups=1,
        mamba_chunk_size=8,
    ),
    "mamba": lambda: transformers.MambaConfig(**SIZES, state_size=8, num_hidden_layers=2),
    "bloom": lambda: transformers.BloomConfig(**SIZES, n_layer=2, n_head=4),
}
TEXTS = ["good", "the food was good", "bad", "the movie is good, but short"]
K, P = 3, 2


def frozen(family, dtype=torch.float32):
    module = transformers.AutoModelForCausalLM.from_config(CONFIGS[family]()).eval()
    draw_weights(module, 0)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", gfo.GfoWarning)
        model = gfo.freeze(module.to(dtype), make_tokenizer(start=True), family)
    return model, [str(each.message) for each in found if each.category is gfo.GfoWarning]


@pytest.fixture(scope="module", params=CONFIGS)
def model(request):
    return frozen(request.param)[0]


def task(template="Review: {text}\n{soft}It was"):
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, ["good", "bad"] * 2, strict=True)]
    return gfo.Classification(rows, template=template, labels={"bad": " bad", "good": " good"})


def z(K=K):
    return np.random.default_rng(0).standard_normal((K, 5))


def test_texts_are_computed_once_and_their_states_stay(model):
    space = gfo.SoftPrompt(model, tokens=P, dim=5)
    evaluator = gfo.LocalEvaluator(model, task(), space)
    batch = evaluator.task.all_rows("train")
    behind = K * sum(P + len(after) for after in batch.after)
    found = [evaluator(z(), step) for step in range(3)]
    assert [each.cost.tokens_needed for each in found[1:]] == [behind] * 2
    assert found[0].cost.tokens_needed == sum(map(len, batch.before)) + behind
    assert found[0].cost.forward_tokens == found[0].cost.tokens_needed  # no padding: texts of one length each
    np.testing.assert_array_equal(found[1].loss, found[2].loss)
    whole = gfo.LocalEvaluator(model, task(), space, reuse=False)(z(), 0)
    np.testing.assert_allclose(found[0].loss, whole.loss, atol=1e-5)
    assert whole.cost.tokens_needed > 1.5 * behind  # control
    assert np.ptp(whole.loss) > 1e-3


@pytest.mark.parametrize("chunk_tokens", [1, 30])
def test_any_number_of_candidates_at_once(model, chunk_tokens):
    space = gfo.SoftPrompt(model, tokens=P, dim=5)
    at_once = gfo.LocalEvaluator(model, task(), space)(z(), 0).loss
    few = gfo.LocalEvaluator(model, task(), space, chunk_tokens=chunk_tokens)
    np.testing.assert_allclose(few(z(), 0).loss, at_once, atol=1e-5)


@pytest.mark.parametrize("share", [0, 2 / 3])
def test_texts_without_room_are_computed_in_each_step(model, share):
    space = gfo.SoftPrompt(model, tokens=P, dim=5)
    evaluator = gfo.LocalEvaluator(model, task(), space)
    wanted, behind = evaluator(z(), 0).loss, evaluator(z(), 1).cost.tokens_needed
    (layout,) = evaluator._store.values()
    tight = gfo.LocalEvaluator(model, task(), space)
    tight.use(evaluator.settings() | {"store_bytes": int(share * layout.bytes)})
    found = [tight(z(), step) for step in range(3)]
    for each in found:
        np.testing.assert_allclose(each.loss, wanted, atol=1e-5)
    again = found[2].cost.tokens_needed - behind
    assert found[1].cost.tokens_needed == behind + again
    texts = sum(map(len, evaluator.task.all_rows("train").before))
    assert again == texts if share == 0 else 0 < again < texts
    assert sum(held.bytes for held in tight._store.values()) <= layout.bytes * max(share, 0.01)


def test_endings_share_the_states_of_their_text(model):
    """Of two endings behind each text, in rows of their own, the text is computed once."""
    choices = {"options": [" good food", " bad movie"]}
    rows = [{"text": text, "label": i % 2, **choices} for i, text in enumerate(TEXTS)]
    options = {"template": "Review: {text}\n{soft}It was", "delimiter": ""}
    space = gfo.SoftPrompt(model, tokens=P, dim=5)
    evaluator = gfo.LocalEvaluator(model, gfo.MultipleChoice(rows, **options), space)
    found = [evaluator(z(), step) for step in range(2)]
    once = found[0].cost.tokens_needed - found[1].cost.tokens_needed
    assert once == sum(map(len, evaluator.task.all_rows("train").before))
    whole = gfo.LocalEvaluator(model, gfo.MultipleChoice(rows, **options), space, reuse=False)
    np.testing.assert_allclose(found[1].loss, whole(z(), 0).loss, atol=1e-5)


def test_all_that_is_kept_is_needed(model):
    """With zeros in the place of any of the keys, values and states, what is behind a text is another."""
    row, context = model.embed(model.probe_text), model.context
    for left_out in range(len(_tensors(context(row[None, :6], None)[0].cache))):

        def without(entry, length, left_out=left_out):
            states, hidden = context(entry, length)
            numbers = iter(range(99))
            cache = _with_tensors(states.cache, lambda t: t * 0 if next(numbers) == left_out else t)
            return States(cache, states.length, states.axes), hidden

        other = ContinuedRows(model.module, model.tokenizer, "other")
        other.context = without
        with pytest.raises(gfo.GfoError, match="differ from a plain forward pass"):
            other.check_row(row)


def test_few_words_in_front_are_not_kept(model):
    """Of rows that are mostly behind the prompt whole ones run."""
    space = gfo.SoftPrompt(model, tokens=P, dim=5)
    evaluator = gfo.LocalEvaluator(model, task("It {soft}was a {text}, was it not? Yes, it was"), space)
    first, second = (evaluator(z(), step).cost.tokens_needed for step in range(2))
    batch = evaluator.task.all_rows("train")
    assert (
        first
        == second
        == K * sum(len(b) + P + len(a) for b, a in zip(batch.before, batch.after, strict=True))
    )


def test_gradients_are_those_of_whole_rows(model):
    space = gfo.SoftPrompt(model, tokens=P, dim=5)
    found = []
    for reuse in (True, False):
        evaluator = gfo.LocalEvaluator(model, task(), space, reuse=reuse)
        evaluator(z(), 0)  # states are kept
        point = torch.from_numpy(z()).requires_grad_()
        loss, _ = evaluator.loss_tensor(point, 0)
        loss.sum().backward()
        found.append(point.grad)
    torch.testing.assert_close(*found, atol=1e-6, rtol=1e-4)
    assert float(found[0].abs().max()) > 1e-4


def test_racing_keeps_what_it_needs(model):
    space = gfo.SoftPrompt(model, tokens=P, dim=5)
    plain = gfo.LocalEvaluator(model, task(), space)(z(), 0)
    raced = gfo.LocalEvaluator(model, task(), space, racing=gfo.Racing(block=1, first=2, survivors=K))
    np.testing.assert_allclose(raced(z(), 0).loss, plain.loss, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_how_passes_go_on_is_seen_in_half_precision_too(dtype):
    """Mamba's pass of several tokens begins without the state, whatever its cache holds."""
    for family, several in (("mamba", False), ("lfm2_moe", True), ("bloom", True)):
        model, (warning,) = frozen(family, dtype)
        assert type(model) is ContinuedRows
        assert "continue copies of the text's states" in warning
        assert model.going == Going(
            "cache_params" if family == "mamba" else "past_key_values", False, several
        )


def test_a_cache_that_does_not_go_on_is_seen(model):
    other = ContinuedRows(model.module, model.tokenizer, "other")
    other.going = other.going._replace(name="state" if other.going.name != "state" else "cache_params")
    with pytest.raises(Exception, match="has no attribute"):
        other.check_branches()
    wrong = ContinuedRows(model.module, model.tokenizer, "wrong")
    wrong.context = lambda entry, length: model.context(entry.flip(1), length)
    with pytest.raises(gfo.GfoError, match="differ from a plain forward pass"):
        wrong.check_branches()
    with pytest.raises(gfo.GfoError, match="differ from a plain forward pass"):
        wrong.check_row(model.embed(model.probe_text))
    model.check_branches()  # control
    model.check_row(model.embed(model.probe_text))


@torch.no_grad()
def plain_answer(model, before, prompt, after, decoding):
    """Greedy tokens by plain passes of all that stands in front of each."""
    entry = torch.cat([model.embed(torch.tensor(before)), prompt, model.embed(torch.tensor(after))])[None]
    answer = []
    for _ in range(decoding.max_tokens):
        token = model.module(inputs_embeds=entry, use_cache=False).logits[0, -1].argmax()
        if int(token) in decoding.stop:
            break
        answer.append(int(token))
        entry = torch.cat([entry, model.embed(token)[None, None]], dim=1)
    return tuple(answer)


@pytest.mark.parametrize("room", [None, 0])
def test_answers_behind_kept_texts(model, room):
    rows = [{"text": text, "answer": "x"} for text in TEXTS]
    options = {"template": "Review: {text}\n{soft}It", "target": "answer", "max_tokens": 3}
    space = gfo.SoftPrompt(model, tokens=P, dim=5)
    evaluator = gfo.LocalEvaluator(model, gfo.Generation(rows, metric="exact_match", **options), space)
    if room is not None:
        evaluator.use(evaluator.settings() | {"store_bytes": room})
    batch = evaluator.task.all_rows("train")
    point = 30 * z()  # far, so that candidates write different words
    prompts = space.decode(torch.from_numpy(point)).prompt.float()
    wanted = [
        [
            plain_answer(model, before, prompt, after, batch.decoding)
            for before, after in zip(batch.before, batch.after, strict=True)
        ]
        for prompt in prompts
    ]
    costs = []
    for step in range(2):
        assert evaluator.answers(point, batch) == wanted
        costs.append(evaluator(point, step).cost.tokens_needed)
    assert len({tuple(answers) for answers in wanted}) > 1  # control
    assert costs[0] == costs[1]  # the texts are kept already, or computed each time
    whole = gfo.LocalEvaluator(
        model, gfo.Generation(rows, metric="exact_match", **options), space, reuse=False
    )
    times = (K if room is None else K - 1) if model.grows else 0  # that a text is not computed again
    assert whole(point, 0).cost.tokens_needed - costs[0] == times * sum(map(len, batch.before))
