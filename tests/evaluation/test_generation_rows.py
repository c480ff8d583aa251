"""Generated text: drawn tokens, rows that leave, tokens counted by hand, failed candidates, errors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from changes import DIM, Changes, P
from generating import TEXTS, Writing, cut, decoding, generated, stops_in
from scipy import stats

from gfo import GfoError, LocalEvaluator
from gfo.core.protocols import Batches
from gfo.evaluation.generation import SHRINK
from gfo.models import decoding as decoding_of_models
from gfo.models import shared_attention

K, N = 4, 10
TEXT_FIRST = "Review: {text}\n{soft}Sentiment:"
PROMPT_FIRST = "{soft}Review: {text}\nSentiment:"
PLAIN = "Review: {text}\nSentiment:"
WORKLOADS = {
    "text first": (["prompt"], TEXT_FIRST),
    "prompt first": (["prompt"], PROMPT_FIRST),
    "lora": (["lora"], PLAIN),
    "prefix and lora": (["prefix", "lora", "prompt"], TEXT_FIRST),
}


@pytest.fixture
def llama(tiny):
    return tiny("llama", start=True, tie_word_embeddings=False)


@pytest.fixture(params=WORKLOADS)
def workload(request, llama):
    slots, template = WORKLOADS[request.param]
    return Changes(llama, slots), template


def points(seed=0, candidates=K):
    return np.random.default_rng(seed).standard_normal((candidates, DIM))


def test_drawn_tokens_are_the_same_whatever_goes_with_them(llama, workload):
    space, template = workload
    z, task = points(), Writing(template, decoding(N, temperature=1.0, seed=3))
    answers = generated(llama, space, task, z)
    for options in ({"chunk_tokens": 1}, {"chunk_tokens": 30}, {"memory": 20_000}, {"reuse": False}):
        assert generated(llama, space, task, z, **options) == answers, options
    assert [generated(llama, space, task, z[k : k + 1])[0] for k in range(K)] == answers
    assert generated(llama, space, task, z[[2, 2, 0]]) == [answers[k] for k in (2, 2, 0)]
    stop = stops_in(answers)
    ending = Writing(template, replace(task.decoding, stop=stop))
    assert generated(llama, space, ending, z) == cut(answers, stop)  # rows that leave change no other's draws
    # controls: another seed, no temperature, and rows of the same text, which draw for themselves
    for other in (decoding(N, temperature=1.0, seed=4), decoding(N)):
        assert generated(llama, space, Writing(template, other), z) != answers
    same = generated(llama, space, Writing(template, task.decoding, texts=["good"] * 3), z)
    assert len(set(same[0])) == 3


def test_tokens_are_drawn_from_the_softmax(llama):
    """Against the model's own logits, by a chi-square test."""
    space, z, temperature, draws = Changes(llama, ["prompt"]), points()[:1], 0.5, 400
    texts = ["good"] * draws
    first = generated(llama, space, Writing(TEXT_FIRST, decoding(1, temperature=temperature), texts=texts), z)
    evaluator = LocalEvaluator(llama, Writing(TEXT_FIRST, None, texts=["good"]), space)
    logits = evaluator.answers(z, evaluator.task.all_rows("train"))[0, 0].double()
    order = logits.argsort(descending=True)

    def p_value(temperature):
        share = (logits / temperature).softmax(0)[order]
        bins = torch.cat([share[:5], share[5:].sum()[None]]).numpy()
        rank = {int(token): min(i, 5) for i, token in enumerate(order)}
        seen = np.bincount([rank[text[0]] for text in first[0]], minlength=6)
        return stats.chisquare(seen, bins / bins.sum() * draws).pvalue

    assert p_value(temperature) > 0.01
    assert p_value(1.0) < 1e-4  # control


def rows_computed(lengths, most, *, equally_many):
    """Tokens that the steps compute, by hand: lengths [K, B] of answers, the token that stops included."""
    alive = np.minimum(lengths, most)
    rows, total = alive.size, 0
    for t in range(1, most):
        left = alive > t
        if not left.any():
            break
        wanted = left.sum(1).max() * left.any(1).sum() if equally_many else left.sum()
        rows = wanted if wanted <= SHRINK * rows else rows
        total += rows
    return total


@pytest.mark.parametrize("shape", ["text first", "lora"])
def test_tokens_by_hand_and_rows_that_leave(llama, shape):
    slots, template = WORKLOADS[shape]
    space, z = Changes(llama, slots), points()
    free = generated(llama, space, Writing(template, decoding(N)), z)
    stop = stops_in(free)
    task = Writing(template, decoding(N, stop))
    answers = generated(llama, space, task, z)
    lengths = np.array([[len(text) + 1 for text in candidate] for candidate in answers])
    assert len(set(np.minimum(lengths, N).flatten().tolist())) > 2
    evaluator = LocalEvaluator(llama, task, space)
    evaluator(z, 0)
    cost = evaluator(z, 1).cost
    behind = [len(llama.encode(f"Review: {text}\nSentiment:")) for text in TEXTS]
    if shape == "text first":
        begun = K * len(TEXTS) * (P + len(llama.encode("Sentiment:")))
    else:  # the common first tokens once a candidate
        rows = task.bind(llama).rows
        whole = [before + after for before, after in rows]
        common = next(i for i in range(99) if len({row[i] for row in whole}) > 1)
        begun = K * (1 + sum(behind) + len(TEXTS) - 1 - common * (len(TEXTS) - 1))
    steps = int((np.minimum(lengths, N) - 1).sum())
    assert cost.tokens_needed == begun + steps
    padding = cost.forward_tokens - begun - rows_computed(lengths, N, equally_many=shape == "lora")
    assert padding == 0 if shape == "text first" else 0 <= padding <= 0.05 * begun
    full = LocalEvaluator(llama, Writing(template, decoding(N)), space)(z, 0).cost
    assert full.tokens_needed > cost.tokens_needed  # control: where none stops, more is computed
    assert full.forward_tokens > cost.forward_tokens


def test_texts_are_computed_once_in_a_run(llama):
    space, z = Changes(llama, ["prompt"]), points()
    once = sum(1 + len(llama.encode(f"Review: {text}\n")) for text in TEXTS)
    for recurs in (True, False):
        evaluator = LocalEvaluator(llama, Writing(TEXT_FIRST, decoding(N), recurs=recurs), space)
        first, second = (evaluator(z, step).cost.tokens_needed for step in range(2))
        assert first - second == once
    other = LocalEvaluator(llama, Writing(PROMPT_FIRST, decoding(N)), space)  # control
    assert other(z, 0).cost.tokens_needed - other(z, 1).cost.tokens_needed == 1  # the start token


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_failed_candidate_leaves_the_others_alone(llama, workload, bad):
    space, template = workload
    z, others = points(), [0, 1, 3]
    z[2, 0] = bad
    task = Writing(template, decoding(N))
    for options in ({}, {"reuse": False}, {"chunk_tokens": 40}):
        answers = generated(llama, space, task, z, **options)
        assert answers[2] is None
        assert [answers[k] for k in others] == generated(llama, space, task, z[others])
    evaluator = LocalEvaluator(llama, task, space)
    np.testing.assert_array_equal(evaluator(z, 0).loss, [N, N, np.nan, N])
    np.testing.assert_array_equal(evaluator.score(z, "train").metrics["loss"], [N, N, np.nan, N])


@pytest.mark.parametrize("family", ["t5", "bart"], indirect=False)
def test_a_failed_candidate_of_an_encoder_decoder(tiny, family):
    model = tiny(family)
    for slots, template in ((["prompt"], TEXT_FIRST), (["lora"], PLAIN)):
        space, z, task = Changes(model, slots), points(), Writing(template, decoding(N))
        z[1, 0] = np.nan
        answers = generated(model, space, task, z)
        assert answers[1] is None
        assert [answers[k] for k in (0, 2, 3)] == generated(model, space, task, z[[0, 2, 3]])


def test_out_of_memory_halves_and_goes_on(llama, workload, monkeypatch):
    space, template = workload
    z, task = points(), Writing(template, decoding(N))
    expected = generated(llama, space, task, z)
    step, sizes = decoding_of_models.DecoderSequences.step, []

    def limited(self, token, change):
        sizes.append(len(token))
        if len(token) > 16:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(self, token, change)

    monkeypatch.setattr(decoding_of_models.DecoderSequences, "step", limited)
    evaluator = LocalEvaluator(llama, task, space, chunk_tokens=1000)
    assert evaluator.answers(z, evaluator.task.all_rows("train")) == expected
    assert evaluator.tokens_at_once < 1000
    assert max(sizes) > 16 >= sizes[-1]


@pytest.mark.parametrize("how", ["another attention", "attention with more to it"])
def test_families_whose_attention_is_not_shared(tiny, workload, monkeypatch, how):
    """Keys and values are copied then, with the same answers."""
    _, template = workload
    model = tiny("mistral", start=True)
    space, z, task = Changes(model, workload[0].slots), points(), Writing(template, decoding(N))
    attended = []
    attend = shared_attention.attend

    def seen(*args, **options):
        attended.append(1)
        return attend(*args, **options)

    monkeypatch.setitem(shared_attention.AttentionInterface._global_mapping, shared_attention.NAME, seen)
    expected = generated(model, space, task, z)
    assert len(attended) >= model.layers * (N - 1)
    attended.clear()
    monkeypatch.delitem(model.__dict__, "shares_attention")  # is asked again
    if how == "another attention":
        monkeypatch.setattr(shared_attention, "REPLACED", ())
        most = 0
    else:
        monkeypatch.setattr(shared_attention, "BEYOND", ("sliding_window",))
        most = 4  # tried once for each chunk
    assert generated(model, space, task, z) == expected
    assert len(attended) <= most


def test_several_batches_in_one(llama):
    space, z = Changes(llama, ["prompt"]), points()
    task = Writing(TEXT_FIRST, decoding(N))
    evaluator = LocalEvaluator(llama, task, space)
    batch = task.all_rows("train")
    plain = replace(batch, key=("logits",), decoding=None)
    texts, logits = evaluator.answers(z, Batches((batch, plain)))
    assert texts == generated(llama, space, task, z)
    first = torch.tensor([[text[0] for text in candidate] for candidate in texts])
    assert torch.equal(logits.argmax(-1), first)


@pytest.mark.parametrize("family", ["gpt2", "llama"], indirect=False)
def test_the_longest_row_that_fits_and_one_token_more(tiny, family):
    model = tiny(family, start=True)
    space, z = Changes(model, ["prompt"]), points()
    rest = len(model.encode("Review: ", start=True)) + P + len(model.encode(" It"))
    for more in (0, 1):
        texts = ["good", " the" * (model.context_length - rest - N + more)]
        task = Writing("Review: {text}{soft} It", decoding(N), texts=texts)
        if more:
            wanted = rf"^train row 2 has {model.context_length - N + 1} tokens .* takes {N} new .*lower max_t"
            with pytest.raises(GfoError, match=wanted):
                LocalEvaluator(model, task, space)
        else:
            assert [len(text) for text in generated(model, space, task, z)[0]] == [N, N]


def test_models_that_do_not_generate_and_answers_too_long(tiny):
    bert, bart = tiny("bert"), tiny("bart")
    with pytest.raises(GfoError, match=r"wants generated text, but 'tiny-bert' is an encoder; take"):
        LocalEvaluator(bert, Writing(PLAIN, decoding(N)), Changes(bert, ["lora"]))
    most = bart.context_length - len(bart.answer_start)
    LocalEvaluator(bart, Writing(PLAIN, decoding(most)), Changes(bart, ["lora"]))
    with pytest.raises(GfoError, match=rf"^max_tokens = {most + 1} must be at most {most} for this model$"):
        LocalEvaluator(bart, Writing(PLAIN, decoding(most + 1)), Changes(bart, ["lora"]))


@pytest.mark.parametrize("shape", ["text first", "prefix and lora"])
def test_half_precision(tiny, shape):
    """Rounding moves some tokens; most answers begin as in float32."""
    slots, template = WORKLOADS[shape]
    answers = []
    for dtype in (torch.float32, torch.bfloat16):
        model = tiny("llama", start=True, dtype=dtype, tie_word_embeddings=False)
        answers.append(generated(model, Changes(model, slots), Writing(template, decoding(3)), points()))
    first, half = (np.array([[text[0] for text in candidate] for candidate in found]) for found in answers)
    assert (first == half).mean() > 0.7
    assert (first == np.roll(half, 1, axis=1)).mean() < 0.3  # control


def test_contexts_of_candidates_stay_within_a_pass(llama, monkeypatch):
    """A long common beginning, of which many candidates would not fit into one pass."""
    space, z = Changes(llama, ["lora"]), points()
    task = Writing("Say good or bad, great or terrible: {text}", decoding(3), texts=["a", "b"])
    expected, passes = generated(llama, space, task, z), []
    run = llama.stacks[0].body.forward

    def seen(**inputs):
        if inputs.get("inputs_embeds") is not None:  # not of the plain passes that rows are compared with
            passes.append(inputs["inputs_embeds"].shape[0] * inputs["inputs_embeds"].shape[1])
        return run(**inputs)

    monkeypatch.setattr(llama.stacks[0].body, "forward", seen)
    one, other = (before + after for before, after in task.rows)
    own = next(i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
    for most in (2 * own + 1, 10**6):
        passes.clear()
        assert generated(llama, space, task, z, chunk_tokens=most) == expected
        _, *ours = passes  # the first is of the two rows that are compared with plain passes
        assert max(ours) == (2 if most < 100 else K) * own
