"""ALiBi in branches: each key's bias is that of its place in its row, whatever column it lies in."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from family_models import build, frozen
from test_families import Change, check_change, plain_logits, rows_of

import gfo
from gfo.models.biased_decoder import BiasedDecoder, KeysSeen
from gfo.models.branches import Context, RowLayout
from gfo.models.continued_rows import ContinuedRows
from gfo.models.whole_rows import WholeRows

# heads that are a power of two and not, keys of one head, of all and of some; biases count from the first
# key, or from the last one, or are rounded to bfloat16 (Falcon)
MODELS = {
    "bloom": ("bloom", {}),
    "bloom of 6 heads": ("bloom", {"n_head": 6, "hidden_size": 48}),
    "mpt": ("mpt", {}),
    "mpt of 6 heads": ("mpt", {"n_heads": 6, "d_model": 48}),
    "falcon": ("falcon", {"alibi": True, "max_position_embeddings": 600}),
    "falcon of groups": ("falcon", {"alibi": True, "new_decoder_architecture": True, "num_kv_heads": 2}),
}
FAMILIES = ("bloom", "mpt", "falcon")
TEXTS = ("a joy", "the service was bad and a terrible waste of time", "good")
K, P, DIM = 3, 2, 3


@pytest.fixture(scope="module")
def models():
    return {name: frozen(build(family, **more), family, "causal") for name, (family, more) in MODELS.items()}


def deviation(model, length):
    """How far branches of 3 and 2 tokens behind a context are from plain passes, in spreads."""
    text = model.probe_text[torch.arange(length + 10) % 12]
    behind = [text[length : length + 3].tolist(), text[length + 5 : length + 7].tolist()]
    shared, _ = model.context(model.embed(text[None, :length]), torch.tensor([length]))
    rows = RowLayout(torch.tensor([[0, 0, 0, 1, 1]]), torch.tensor([[0, 1, 2, 0, 1]]), torch.tensor([[2, 4]]))
    ids = torch.tensor([[list(itertools.chain(*behind))]])
    found = model.logits(model.branches(shared, model.embed(ids), rows)[0], None)
    plain = [
        model.module(input_ids=torch.tensor([[*text[:length].tolist(), *b]])).logits[0, -1] for b in behind
    ]
    return float((found - torch.stack(plain)).abs().max() / torch.stack(plain).std())


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_branches_are_plain_passes(models, name):
    """On both sides of the sizes of tables, and where bfloat16 rounds positions."""
    model, warning = models[name]
    assert type(model) is BiasedDecoder
    assert not warning
    for length in (7, 58, 61, 120, *((300, 500) if model.context_length > 500 else ())):
        assert deviation(model, length) < 1e-4, length


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_without_biases_numbers_are_others(models, name, monkeypatch):
    model, _ = models[name]
    table = model._table
    monkeypatch.setattr(model, "_table", lambda keys: 0 * table(keys))
    assert deviation(model, 58) > 0.1
    monkeypatch.setattr(model, "_table", table)
    column = torch.arange(58 + 5)[None]
    monkeypatch.setattr(
        model, "mask_of_keys", lambda mask, position: KeysSeen(mask, column[:, : mask.shape[3]])
    )
    assert deviation(model, 58) > 1e-2  # the second branch lies 3 columns behind its place
    monkeypatch.undo()
    assert deviation(model, 58) < 1e-4


@torch.no_grad()
def test_keys_may_be_counted_from_any_place(models):
    """As behind a prefix's place alone, of which layers below the first changed one have no keys."""
    for name in FAMILIES:
        model, _ = models[name]
        embeds, length = model.embed(model.probe_text[None, :6]), torch.tensor([6])
        found = [
            model.context(embeds, length, Context.nothing(start, model.layers, model.device))[0]
            for start in (0, 90)
        ]
        for pair, other in zip(*(context.layers for context in found), strict=True):
            torch.testing.assert_close(pair, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_changes_of_all_kinds(models, name):
    """Prompts behind and in front, in each layer and as keys and values; all tokens by weights."""
    model, _ = models[name]
    for kind in (
        "prompt behind",
        "prompt in front",
        "deep prompt",
        "prefix",
        "bias",
        "lora in the last layer",
    ):
        check_change(model, kind)


def task(template="Say {text}{soft} It was"):
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, ("joy", "bad", "good"), strict=True)]
    return gfo.Classification(rows, template=template, labels={"joy": " joy", "bad": " bad", "good": " good"})


@pytest.mark.parametrize("name", FAMILIES)
def test_any_number_of_tokens_a_pass(models, name):
    model, _ = models[name]
    z = np.random.default_rng(0).standard_normal((K, 5))
    for template in ("Say {text}{soft} It was", "Say {soft}{text} It was"):
        space = gfo.SoftPrompt(model, tokens=P, dim=5)
        losses = [
            gfo.LocalEvaluator(model, task(template), space, **options)(z, 0).loss
            for options in ({}, {"chunk_tokens": 1}, {"chunk_tokens": 40}, {"reuse": False})
        ]
        for loss in losses[1:]:
            np.testing.assert_allclose(loss, losses[0], atol=1e-5)
        assert np.ptp(losses[0]) > 1e-3


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("template", ["{text}{soft} It", "{soft}{text} It"])
def test_answers_are_those_of_plain_passes(models, name, template):
    """Sequences of unequal length behind contexts that are theirs, or shared."""
    model, _ = models[name]
    rows = [{"text": text, "answer": "x"} for text in TEXTS]
    options = {"template": template, "target": "answer", "metric": "exact_match", "max_tokens": 6}
    space = Change(model, "prompt")
    evaluator = gfo.LocalEvaluator(model, gfo.Generation(rows, **options), space)
    batch = evaluator.task.all_rows("train")
    z = 3 * np.random.default_rng(2).standard_normal((K, DIM))
    found = evaluator.answers(z, batch)
    for k in range(K):
        delta = space.decode(torch.from_numpy(z[k : k + 1]))
        for b, row in enumerate(rows_of(batch)):
            assert found[k][b] == written(model, row, delta, batch.decoding), (k, b)
    assert len(set(itertools.chain(*found))) > 1  # control


def written(model, row, delta, decoding):
    answer = []
    while len(answer) < decoding.max_tokens:
        token = int(plain_logits(model, (*row, *answer), len(row) + len(answer) - 1, delta).argmax())
        if token in decoding.stop:
            break
        answer.append(token)
    return tuple(answer)


@pytest.mark.parametrize("name", FAMILIES)
def test_options_are_ways_of_one_row(models, name):
    """Trees: what stands behind a fork has its place behind what is in front of the fork."""
    model, _ = models[name]
    options = ["was bad and terrible", "was good", "a joy"]
    rows = [{"text": text, "options": options, "answer": i} for i, text in enumerate(TEXTS)]
    for template, kind in (("Say {text}{soft} It", "prompt"), ("Say {text} It", "bias")):
        given = gfo.MultipleChoice(
            rows, template=template, options="options", label_field="answer", delimiter=" "
        )
        space = Change(model, kind)
        evaluator = gfo.LocalEvaluator(model, given, space)
        batch = evaluator.task.all_rows("train")
        z = np.random.default_rng(3).standard_normal((K, DIM))
        found = evaluator.answers(z, batch)
        slow = gfo.LocalEvaluator(model, given, space, reuse=False).answers(z, batch)
        torch.testing.assert_close(found, slow, atol=1e-4, rtol=1e-4)
        delta = space.decode(torch.from_numpy(z[:1]))
        if kind == "prompt":
            row, ending = rows_of(batch)[1], batch.endings[1][0]
            said = sum(
                float(plain_logits(model, (*row, *ending), len(row) - 1 + i, delta).log_softmax(-1)[token])
                for i, token in enumerate(ending)
            )
            assert float(found[0, 1, 0]) == pytest.approx(said, abs=2e-4)
        assert float(found.std()) > 0.1


@pytest.mark.parametrize("name", FAMILIES)
def test_texts_are_computed_once(models, name):
    """A candidate costs its prompt and what is behind it; whole rows cost all of all rows."""
    model, _ = models[name]
    z = np.random.default_rng(0).standard_normal((K, 5))
    costs, losses = {}, {}
    for kind in (BiasedDecoder, ContinuedRows, WholeRows):
        other = kind(model.module, model.tokenizer, name)
        evaluator = gfo.LocalEvaluator(other, task(), gfo.SoftPrompt(other, tokens=P, dim=5))
        batch = evaluator.task.all_rows("train")
        evaluator(z, 0)
        found = evaluator(z, 1)
        costs[kind], losses[kind] = found.cost.tokens_needed, found.loss
    behind = sum(P + len(after) for after in batch.after)
    assert costs[BiasedDecoder] == costs[ContinuedRows] == K * behind
    assert costs[WholeRows] == K * (behind + sum(map(len, batch.before)))
    np.testing.assert_allclose(losses[BiasedDecoder], losses[WholeRows], atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_are_those_of_whole_rows(models, name):
    model, found = models[name][0], []
    for kind in (BiasedDecoder, WholeRows):
        other = kind(model.module, model.tokenizer, name)
        evaluator = gfo.LocalEvaluator(other, task(), gfo.SoftPrompt(other, tokens=P, dim=5))
        point = torch.from_numpy(np.random.default_rng(0).standard_normal((K, 5))).requires_grad_()
        loss, _ = evaluator.loss_tensor(point, 0)
        loss.sum().backward()
        found.append(point.grad)
    torch.testing.assert_close(*found, atol=1e-6, rtol=1e-3)
    assert float(found[0].abs().max()) > 1e-4


@pytest.mark.parametrize("name", FAMILIES)
def test_half_precision(name):
    family, more = MODELS[name]
    model, warning = frozen(build(family, **more).to(torch.bfloat16), family, "causal")
    assert type(model) is BiasedDecoder
    assert not warning
    with torch.no_grad():
        assert deviation(model, 40) < 0.2


def test_rows_are_as_long_as_there_are_biases(models):
    assert models["mpt"][0].context_length == models["mpt"][0].module.config.max_seq_len
    assert models["bloom"][0].context_length == 2**20
    short, _ = frozen(build("mpt", max_seq_len=16), "mpt", "causal")
    assert short.context_length == 16
    with pytest.raises(gfo.GfoError, match="16"):
        gfo.LocalEvaluator(short, task("{text} " * 3 + "{soft}"), gfo.SoftPrompt(short, tokens=P, dim=5))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_that_has_passed_need_not_be_compared(models, name):
    model, _ = models[name]
    again = gfo.freeze(model.module, model.tokenizer, name, check=False)
    assert type(again) is BiasedDecoder
    assert not again.checks


def test_other_decoders_have_no_biases(models):
    for family in ("llama", "falcon"):
        module = build(family)
        with pytest.raises(gfo.GfoError, match="its layers are given no biases"):
            BiasedDecoder(module, models["bloom"][0].tokenizer, family)


def test_biases_that_are_not_those_of_positions_are_left_to_other_ways(monkeypatch):
    own = BiasedDecoder._biases
    monkeypatch.setattr(BiasedDecoder, "_biases", lambda self, keys: keys * own(self, keys))
    module, tokenizer = build("bloom"), frozen(build("llama"), "llama", "causal")[0].tokenizer
    with pytest.raises(gfo.GfoError, match="its biases are not those of positions"):
        BiasedDecoder(module, tokenizer, "bloom")
    model, warning = frozen(module, "bloom", "causal")
    assert type(model) is ContinuedRows
    assert "takes no position_ids" in warning
