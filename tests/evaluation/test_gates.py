"""Gates: candidates equal copies of the model whose closed sub-blocks are removed, whatever is shared."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from changes import DIM, Changes, changed_module
from conftest import SHAPE, make_encoder_tokenizer
from removed import closed_of, without_sub_blocks

import gfo
from gfo import Classification, Delta, GfoError, LanguageModeling, LocalEvaluator, ProductSpace, SoftPrompt
from gfo.core.sub_blocks import SubBlock
from gfo.models.loading import freeze
from gfo.spaces.structure import Structure
from gfo.testing.tiny import draw_weights, token_ids

K = 7
TOLERANCE = 5e-5
LABELS = {"bad": " terrible", "good": " great"}
TEXTS = [
    "a",
    "a great joy from the first minute to the last",
    "bad!",
    "the food was good",
    "I would say that the service was not good, and the food neither: a terrible waste.",
]
ROWS = [{"text": t, "label": v} for t, v in zip(TEXTS, ["good", "good", "bad", "good", "bad"], strict=True)]
PLAIN = "Review: {text}\nSentiment:"


def points(d, seed=0):
    """Candidates of all kinds: all open, all closed, alike, some that differ in the last gene alone."""
    z = np.random.default_rng(seed).integers(0, 2, (K, d)).astype(float)
    z[1], z[2], z[4] = 0, 1, z[0]
    z[5] = z[3]
    z[5, -1] = 1 - z[3, -1]
    return z


def all_logits(model, space, z, template=PLAIN, **options):
    evaluator = LocalEvaluator(
        model, Classification(ROWS, template=template, labels=LABELS), space, **options
    )
    return evaluator.answers(z, evaluator.task.all_rows("train"))


@torch.no_grad()
def slow_logits(model, delta, K=K, template=PLAIN):
    """[K, B, V'], one candidate and one row at a time, in a copy without the closed sub-blocks."""
    words = [model.encode(word)[0] for word in LABELS.values()]
    out = torch.empty(K, len(ROWS), len(words))
    for k in range(K):
        one = delta.select(slice(k, k + 1))
        module = without_sub_blocks(model, closed_of(one, 0), changed_module(model, one))
        for b, row in enumerate(ROWS):
            ids = torch.tensor([model.encode(template.format(**row), start=True)])
            out[k, b] = module(input_ids=ids, use_cache=False).logits[0, -1, words]
    return out


def difference(a, b):
    assert a.shape == b.shape
    return float((a - b).abs().max())


def decoded(space, z):
    return space.decode(torch.from_numpy(z))


def test_gates_equal_a_model_without_the_sub_blocks(tiny, family, record_property):
    model = tiny(family)
    space = Structure(model)
    assert model.skips_sub_blocks
    z = points(space.domain.d)
    expected = slow_logits(model, decoded(space, z))
    ways = {
        "at once": all_logits(model, space, z),
        "one by one": torch.cat([all_logits(model, space, z[k : k + 1]) for k in range(K)]),
        "masked": all_logits(model, space, z, reuse=False),
        "another order": all_logits(model, space, z[::-1].copy()).flip(0),
        **{f"chunks of {n}": all_logits(model, space, z, chunk_tokens=n) for n in (16, 64, 200)},
    }
    for name, logits in ways.items():
        assert difference(logits, expected) < TOLERANCE, name
        assert difference(logits, expected.roll(1, 0)) > 0.05, name  # controls
        assert difference(logits, expected.roll(1, 1)) > 0.05, name
    record_property("worst", max(difference(logits, expected) for logits in ways.values()))


def test_the_same_sub_blocks_are_shared_or_not_to_the_bit(tiny):
    model = tiny("llama")
    space = Structure(model)
    z = points(space.domain.d)
    shared, masked = (all_logits(model, space, z, reuse=reuse) for reuse in (True, False))
    assert torch.equal(shared, masked)
    assert torch.equal(shared[0], shared[4])
    assert not torch.equal(shared[3], shared[5])


@pytest.mark.parametrize("options", [{"layers": "upper"}, {"attention": False}, {"feedforward": False}])
def test_some_sub_blocks_have_genes(tiny, options):
    model = tiny("qwen3")
    space = Structure(model, **options)
    z = points(space.domain.d)
    expected = slow_logits(model, decoded(space, z))
    for kwargs in ({}, {"chunk_tokens": 40}, {"reuse": False}):
        assert difference(all_logits(model, space, z, **kwargs), expected) < TOLERANCE
    whole = decoded(Structure(model), np.zeros((1, 6)))
    assert difference(expected[1:2], slow_logits(model, whole, 1)) == 0
    assert difference(expected[2:3], expected[1:2]) > 0.05


@pytest.mark.parametrize("first", [0, 1, 2])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_with_low_rank_changes(tiny, family, first):
    model = tiny(family)
    structure = Structure(model)
    space = ProductSpace(structure, Changes(model, ["lora", "scale"], first=first))
    moves = np.random.default_rng(1).standard_normal((K, DIM))
    z = np.hstack([points(structure.domain.d), moves])
    expected = slow_logits(model, decoded(space, z))
    for kwargs in ({}, {"chunk_tokens": 60}, {"reuse": False}):
        logits = all_logits(model, space, z, **kwargs)
        assert difference(logits, expected) < TOLERANCE
        assert difference(logits[0], logits[4]) > 1e-3  # the same genes, other changes


@pytest.mark.parametrize("slots", [["prompt"], ["layer_prompt"], ["prefix"], ["prompt", "lora"]])
def test_with_prompts_and_prefixes(tiny, slots):
    model = tiny("llama")
    structure = Structure(model)
    space = ProductSpace(structure, Changes(model, slots))
    moves = np.random.default_rng(1).standard_normal((K, DIM))
    z = np.hstack([points(structure.domain.d), moves])
    template = "Review: {text}\n{soft}Sentiment:"
    expected = all_logits(model, space, z, template, reuse=False)
    alone = all_logits(model, Changes(model, slots), moves, template, reuse=False)
    assert difference(expected[1], alone[1]) < TOLERANCE  # the second candidate closes nothing
    assert difference(expected[0], alone[0]) > 0.05
    for kwargs in ({}, {"chunk_tokens": 60}):
        assert difference(all_logits(model, space, z, template, **kwargs), expected) < TOLERANCE


def language(model, space, z, **options):
    documents = [{"text": " ".join(TEXTS)}, {"text": TEXTS[1]}]
    task = LanguageModeling(documents, template="{text}", window=20)
    return LocalEvaluator(model, task, space, **options)(z, 0)


@torch.no_grad()
def test_language_modeling(tiny):
    model = tiny("mistral", start=True)
    space = Structure(model)
    z = points(space.domain.d)
    delta = decoded(space, z)
    nats, tokens = np.zeros(K), 0
    for text in (" ".join(TEXTS), TEXTS[1]):
        ids = model.encode(text)
        for begin in range(0, len(ids), 20):
            window = torch.tensor([[*model.encode("", start=True), *ids[max(0, begin - 1) : begin + 20]]])
            scored = len(ids[begin : begin + 20])
            tokens += scored
            for k in range(K):
                logits = without_sub_blocks(model, closed_of(delta, k))(input_ids=window).logits[0]
                log_p = logits.log_softmax(-1)[:-1].gather(-1, window[0, 1:, None])[-scored:]
                nats[k] -= float(log_p.sum())
    for kwargs in ({}, {"chunk_tokens": 50}, {"reuse": False}):
        loss = language(model, space, z, **kwargs).loss
        np.testing.assert_allclose(loss, nats / tokens, atol=1e-4)
    assert np.ptp(nats / tokens) > 0.1


def test_generated_text(tiny):
    model = tiny("llama")
    space = Structure(model)
    z = points(space.domain.d)
    delta = decoded(space, z)
    task = gfo.Generation(
        [{"text": t, "target": "a joy"} for t in TEXTS],
        template="Review: {text}\nWords:",
        max_tokens=6,
        metric="rouge1",
    )
    evaluator = LocalEvaluator(model, task, space)
    batch = evaluator.task.all_rows("train")
    found = evaluator.answers(z, batch)
    stop = batch.decoding.stop
    for k in range(K):
        module = without_sub_blocks(model, closed_of(delta, k))
        for b, text in enumerate(TEXTS):
            ids = list(model.encode(f"Review: {text}\nWords:", start=True))
            begin = len(ids)
            for _ in range(6):
                with torch.no_grad():
                    token = int(module(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
                if token in stop:
                    break
                ids.append(token)
            assert found[k][b] == tuple(ids[begin:])
    assert found[1] != found[2]


def test_what_ran_is_counted(tiny):
    """By hand: a sub-block runs once for the candidates that are alike up to it and have it open."""
    model = tiny("llama")
    space = Structure(model)
    z = points(space.domain.d)
    evaluator = LocalEvaluator(model, Classification(ROWS, template=PLAIN, labels=LABELS), space)
    cost = evaluator(z, 0).cost
    one = LocalEvaluator(model, Classification(ROWS, template=PLAIN, labels=LABELS), space)(z[1:2], 0).cost
    share = {kind: model.sub_blocks[SubBlock(0, kind)].parameters for kind in ("attention", "feed-forward")}
    share = {kind: size / sum(share.values()) for kind, size in share.items()}
    genes = z.reshape(K, 3, 2)
    work = 0.0
    for layer in range(3):
        below = [tuple(genes[k, :layer].ravel()) for k in range(K)]
        attention = {(below[k], genes[k, layer, 0]) for k in range(K) if not genes[k, layer, 0]}
        network = {(below[k], *genes[k, layer]) for k in range(K) if not genes[k, layer, 1]}
        work += len(attention) * share["attention"] + len(network) * share["feed-forward"]
    assert cost.forward_tokens == pytest.approx(one.forward_tokens * work / 3, abs=1)
    assert cost.forward_tokens < 0.6 * K * one.forward_tokens


def test_chunks_share_what_one_pass_does(tiny):
    model = tiny("llama")
    space = Structure(model)
    z = points(space.domain.d)

    def tokens(**options):
        task = Classification(ROWS[:1], template=PLAIN, labels=LABELS)
        return LocalEvaluator(model, task, space, **options)(z, 0).cost.forward_tokens

    assert tokens() == tokens(chunk_tokens=16) < tokens(reuse=False)


def test_closed_sub_blocks_are_not_run(tiny):
    model = tiny("opt")
    space = Structure(model)
    seen = []
    layer = model.all_layers[1]
    hooks = [
        part.register_forward_hook(lambda module, args, y: seen.append(y.numel() // y.shape[-1]))
        for part in (layer.self_attn.q_proj, layer.fc1)
    ]
    try:
        z = np.zeros((4, 6))
        z[:, 2:4] = 1
        evaluator = LocalEvaluator(model, Classification(ROWS[:1], template=PLAIN, labels=LABELS), space)
        evaluator(z, 0)
        seen.clear()
        evaluator(z, 0)
        assert not any(seen)
        z[0, 2:4] = 0
        evaluator(z, 0)
        assert len([n for n in seen if n]) == 2  # control: of one node
    finally:
        for hook in hooks:
            hook.remove()


def test_a_failed_candidate_fails_alone(tiny):
    model = tiny("llama")
    structure = Structure(model)
    space = ProductSpace(structure, Changes(model, ["lora"], first=1))
    z = np.hstack([points(structure.domain.d), np.ones((K, DIM))])
    whole = language(model, space, z).loss
    z[0, -1] = np.nan
    loss = language(model, space, z).loss
    assert np.isnan(loss[0])
    assert np.isfinite(whole).all()
    np.testing.assert_allclose(loss[1:], whole[1:], atol=1e-5)


def pre_norm_encoder():
    config = transformers.ModernBertConfig(
        **SHAPE, **token_ids(), intermediate_size=48, global_attn_every_n_layers=2, local_attention=8
    )
    module = transformers.AutoModelForMaskedLM.from_config(config)
    draw_weights(module, 0)
    return freeze(module, make_encoder_tokenizer(), "tiny-modernbert")


def test_an_encoder(tiny):
    model = pre_norm_encoder()
    space = Structure(model)
    z = points(space.domain.d)
    template = "Review: {text} It was {mask}."
    labels = {"bad": "a", "good": "I"}
    rows = [row for row in ROWS if len(row["text"]) > 1]
    task = Classification(rows, template=template, labels=labels)
    shared, masked = (LocalEvaluator(model, task, space, reuse=reuse) for reuse in (True, False))
    np.testing.assert_allclose(shared(z, 0).loss, masked(z, 0).loss, atol=1e-5)
    delta = decoded(space, z)
    batch = shared.task.all_rows("train")
    for k in (0, 3):
        module = without_sub_blocks(model, closed_of(delta, k))
        for b in range(len(rows)):
            ids = torch.tensor([batch.before[b] + batch.after[b]])
            at = int((ids[0] == model.read_token).nonzero()[0])
            with torch.no_grad():
                plain = module(input_ids=ids).logits[0, at]
            assert difference(shared.answers(z, batch)[k, b], plain[list(batch.vocabulary)]) < TOLERANCE


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_layers_of_other_parts_are_refused(tiny, name):
    with pytest.raises(GfoError, match="no attention and feed-forward network of names that are known"):
        Structure(tiny(name))


def test_post_norm_layers_are_refused(tiny):
    with pytest.raises(GfoError, match="layer 0 still changes what enters it; take a model whose layers add"):
        Structure(tiny("opt", do_layer_norm_before=False))


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_encoder_decoders_are_refused(tiny, name):
    with pytest.raises(GfoError, match="is an encoder-decoder, whose sub-blocks cannot be closed"):
        Structure(tiny(name))


def test_a_branch_that_adds_the_residual_itself_is_refused(tokenizer):
    config = transformers.BloomConfig(hidden_size=32, n_layer=3, n_head=4, vocab_size=200, **token_ids())
    module = transformers.AutoModelForCausalLM.from_config(config)
    draw_weights(module, 0)
    model = freeze(module, tokenizer(), "tiny-bloom")
    with pytest.raises(GfoError, match="still changes what enters it"):
        Structure(model)


@pytest.mark.parametrize("place", [SubBlock(3, "attention"), SubBlock(0, "embedding"), (0, "norm")])
def test_gates_of_what_is_not_there(tiny, place):
    model = tiny("llama")
    with pytest.raises(GfoError, match="layers 0 to 2; give one of them"):
        model.check(Delta(gate={SubBlock(*place): torch.ones(1)}))


def test_changes_that_begin_at_a_place(tiny):
    model = tiny("llama")
    space = ProductSpace(Structure(model), gfo.LoRASubspace(model, dim=4, rank=1, begins="read"))
    with pytest.raises(GfoError, match="all tokens pass the sub-blocks that are closed; leave begins out"):
        LocalEvaluator(model, Classification(ROWS, template=PLAIN, labels=LABELS), space)


def test_two_spaces_of_the_same_sub_block(tiny):
    model = tiny("llama")
    with pytest.raises(GfoError, match="two spaces change the gate of"):
        ProductSpace(Structure(model), Structure(model, layers="last"))
    ProductSpace(Structure(model, attention=False), Structure(model, feedforward=False))


def test_soft_prompt_and_structure_share_a_template(tiny):
    model = tiny("llama")
    space = ProductSpace(Structure(model, closed=2), SoftPrompt(model, tokens=2, dim=4))
    task = Classification(ROWS, template="{text}\n{soft}Sentiment:", labels=LABELS)
    z = np.hstack([points(6), np.ones((K, 4))])
    found = [LocalEvaluator(model, task, space, reuse=reuse)(z, 0).loss for reuse in (True, False)]
    np.testing.assert_allclose(*found, atol=1e-5)
