"""Windows by hand, losses against transformers' own `labels=`, masks, and bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain import Words, plain_logits, prompts, refused

from gfo import BiasSpace, LanguageModeling, LocalEvaluator, SoftPrompt
from gfo.core.protocols import BoundTask, Task
from gfo.tasks.language_modeling import windows

TEXTS = [
    "the movie is a great joy from the first minute to the last, and the food was good",
    "a terrible waste of time, and not even a short one! the service was bad",
    "so",
]
ROWS = [{"text": text} for text in TEXTS]
Z = np.random.default_rng(0).standard_normal((3, 8))


def test_windows_by_hand():
    tokens = tuple(range(10))
    cut = [(w.context, w.scored) for w in windows(tokens, 4, 4, first=True)]
    assert cut == [((), (0, 1, 2, 3)), ((3,), (4, 5, 6, 7)), ((7,), (8, 9))]
    cut = [(w.context, w.scored) for w in windows(tokens, 4, 4, first=False)]
    assert cut == [((0,), (1, 2, 3)), ((3,), (4, 5, 6, 7)), ((7,), (8, 9))]
    cut = [(w.context, w.scored) for w in windows(tokens, 4, 2, first=False)]
    assert cut == [((0,), (1, 2, 3)), ((2, 3), (4, 5)), ((4, 5), (6, 7)), ((6, 7), (8, 9))]
    assert windows((5,), 4, 4, first=False) == []
    assert [w.scored for w in windows((5,), 4, 4, first=True)] == [(5,)]


@given(st.integers(0, 40), st.integers(1, 12), st.integers(1, 12), st.booleans())
def test_every_token_is_scored_once(n, window, stride, first):
    stride = min(stride, window)
    tokens = tuple(range(n))
    found = windows(tokens, window, stride, first=first)
    assert sum((w.scored for w in found), ()) == tokens[0 if first else 1 :]
    for w in found:
        assert len(w.context) + len(w.scored) <= window + 1
        assert w.context or w.scored[0] == 0
        assert not w.context or w.context[-1] + 1 == w.scored[0]


def huggingface_loss(model, ids, window, stride):
    """The sliding window of transformers' guide to perplexity: mean of each window's loss by its targets."""
    nats, count, done = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + window, len(ids))
        labels = torch.tensor(ids[begin:end])[None].clone()
        inputs = labels.clone()
        labels[:, : -(end - done)] = -100
        targets = int((labels[:, 1:] != -100).sum())  # transformers shifts the labels
        if targets:
            with torch.no_grad():
                nats += targets * float(model.module(input_ids=inputs, labels=labels).loss)
            count += targets
        done = end
        if end == len(ids):
            break
    return nats, count


@pytest.mark.parametrize("stride", [3, 5])
def test_a_sliding_window_against_transformers(tiny, stride):
    """Unchanged weights (a space of biases at 0), a stride below the window: the guide's own numbers."""
    model = tiny("llama")
    task = LanguageModeling(ROWS, template="{text}", window=8, stride=stride)
    evaluator = LocalEvaluator(model, task, BiasSpace(model, 8))
    found = [huggingface_loss(model, model.encode(text), 8, stride) for text in TEXTS]
    nats, count = map(sum, zip(*found, strict=True))
    metrics = evaluator.score(np.zeros((1, 8)), "train").metrics
    np.testing.assert_allclose(metrics["loss"], nats / count, rtol=1e-5)
    np.testing.assert_allclose(metrics["perplexity"], np.exp(nats / count), rtol=1e-4)
    assert int(evaluator.task.all_rows("train").target.sum()) == count
    other = LanguageModeling(ROWS, template="{text}", window=8)
    assert (
        abs(LocalEvaluator(model, other, BiasSpace(model, 8))(np.zeros((1, 8)), 0).loss - nats / count) > 1e-3
    )
    assert (np.abs(evaluator(Z, 0).loss - nats / count) > 1e-3).all()


@pytest.mark.parametrize("start", [False, True])
def test_windows_behind_a_soft_prompt_against_transformers(tiny, start):
    """Each window whole: start token, soft prompt, the token in front of the window, the window."""
    model = tiny("llama", start=start)
    space = SoftPrompt(model, 2, 8)
    evaluator = LocalEvaluator(model, LanguageModeling(ROWS, window=6), space)
    for k, prompt in enumerate(prompts(space, Z)):
        nats = count = 0
        for text in TEXTS:
            ids = model.encode(text)
            for begin in range(0, len(ids), 6):
                front = ids[begin - 1 : begin] if begin else ()
                row = (*front, *ids[begin : begin + 6])
                first = len(front) or (0 if start else 1)
                first_tokens = model.encode("", start=True)
                parts = [model.embed(torch.tensor(first_tokens)), prompt] if start else [prompt]
                embeds = torch.cat([*parts, model.embed(torch.tensor(row))])[None]
                labels = torch.full((1, embeds.shape[1]), -100)
                scored = torch.tensor(row[first:])
                if not len(scored):
                    continue
                labels[0, -len(scored) :] = scored
                with torch.no_grad():
                    nats += len(scored) * float(model.module(inputs_embeds=embeds, labels=labels).loss)
                count += len(scored)
        np.testing.assert_allclose(evaluator(Z, 0).loss[k], nats / count, rtol=1e-5)
    tokens = sum(len(model.encode(text)) for text in TEXTS)
    assert count == tokens if start else count == tokens - len(TEXTS)


def test_words_in_front_are_context(tiny):
    model = tiny("llama")
    task = LanguageModeling(ROWS, template="Review: {soft}It is {text}", window=50)
    evaluator = LocalEvaluator(model, task, SoftPrompt(model, 2, 8))
    batch = evaluator.task.all_rows("train")
    assert set(batch.before) == {model.encode("Review: ", start=True)}
    assert set(batch.after) == {model.encode("It is ")}
    assert batch.endings == tuple((model.encode(text),) for text in TEXTS)
    plain = LanguageModeling(ROWS, template="It is {text}", window=50).bind(model).all_rows("train")
    assert set(plain.before) == {model.encode("It is ", start=True)}
    assert not plain.prompt


def test_minibatches_count_windows():
    rows = [{"text": " ".join(f"w{i}" for i in range(40))}]
    options = {"template": "{soft}{text}", "window": 4, "batch_size": 3}
    task = LanguageModeling(rows, rows, **options, seed=1).bind(Words())
    batches = [task.batch("train", step) for step in range(20)]
    assert {len(batch) for batch in batches} == {3}
    assert not any(batch.recurs for batch in batches)
    assert len({batch.endings for batch in batches}) > 10
    assert len(task.batch("dev", 0)) == len(task.all_rows("train")) == 10
    same, other = (LanguageModeling(rows, **options, seed=s).bind(Words()) for s in (1, 2))
    assert same.batch("train", 5).endings == batches[5].endings
    assert other.batch("train", 5).endings != batches[5].endings
    assert isinstance(task, BoundTask)
    assert isinstance(LanguageModeling(rows), Task)
    refused(
        lambda: LanguageModeling(rows, window=4, batch_size=11).bind(Words()), "batch_size = 11", "1 to 10"
    )


def test_the_loss_by_hand_is_per_token_and_differentiable():
    task = LanguageModeling([{"text": "a b c d e"}], window=3).bind(Words())
    batch = task.all_rows("train")
    assert batch.target.tolist() == [3, 2]
    answers = torch.tensor([[[-6.0], [-1.0]], [[-torch.inf], [-1.0]]], requires_grad=True)
    loss = task.loss(answers, batch)
    assert loss.tolist() == [pytest.approx(7 / 5), np.inf]
    (gradient,) = torch.autograd.grad(loss[0], answers)
    assert gradient[0].flatten().tolist() == pytest.approx([-1 / 5, -1 / 5])
    scores = task.score(answers, batch)
    assert scores["perplexity"][0] == pytest.approx(np.exp(7 / 5))
    assert np.isnan(scores["loss"]).tolist() == [False, True]


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize("template", ["{soft}{text}", "It is {soft}so: {text}"])
def test_masked_words_against_transformers(tiny, family, template):
    """transformers' loss of labels in the masked places alone, of each window."""
    model = tiny(family)
    space = SoftPrompt(model, 2, 8)
    evaluator = LocalEvaluator(model, LanguageModeling(ROWS, template=template, window=9), space)
    losses = []
    for step in (0, 1):
        batch = evaluator.task.batch("train", step)
        nats = np.zeros(3)
        for before, after, (said,) in zip(batch.before, batch.after, batch.endings, strict=True):
            for k, prompt in enumerate(prompts(space, Z)):
                logits = plain_logits(model, before, prompt, after)
                ids = torch.tensor([*before, -1, -1, *after])
                labels = torch.full_like(ids, -100)
                labels[ids == model.read_token] = torch.tensor(said)
                nats[k] += len(said) * float(torch.nn.functional.cross_entropy(logits, labels))
        losses.append(nats / batch.target.sum())
        np.testing.assert_allclose(evaluator(Z, step).loss, losses[-1], rtol=1e-5)
    assert (np.abs(losses[0] - losses[1]) > 1e-3).all()  # other masks


def test_masks(tiny):
    model = tiny("bert")
    task = LanguageModeling(ROWS, ROWS, window=20, mask_share=0.3, seed=3).bind(model)
    other = LanguageModeling(ROWS, window=20, mask_share=0.3, seed=4).bind(model)
    first = task.batch("train", 7)
    assert first.after == task.batch("train", 7).after
    assert first.endings != task.batch("train", 8).endings
    assert first.endings != other.batch("train", 7).endings
    assert not first.recurs
    assert first.key != task.batch("train", 8).key
    assert task.all_rows("dev").endings == task.all_rows("dev").endings
    assert task.all_rows("dev").recurs
    whole = [model.encode(text)[i : i + 20] for text in TEXTS for i in range(0, len(model.encode(text)), 20)]
    for before, after, (said,), ids in zip(first.before, first.after, first.endings, whole, strict=True):
        assert before == model.encode("", start=True)
        text = after[: len(ids)]
        assert after[len(ids) :] == model.encode("", end=True)
        assert len(said) == text.count(model.read_token) == max(1, round(0.3 * len(ids)))
        words = iter(said)
        assert tuple(next(words) if token == model.read_token else token for token in text) == ids
    assert first.target.tolist() == [len(said) for (said,) in first.endings]


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"window": 0}, ["window = 0", "at least 1"]),
        ({"window": 4, "stride": 5}, ["stride = 5", "1 to 4"]),
        ({"window": 4, "stride": 0}, ["stride = 0"]),
        ({"mask_share": 1.0}, ["mask_share = 1.0", "between 0 and 1"]),
        ({"max_length": 8}, ["max_length", "cut into windows"]),
        ({"template": "{text}{soft}"}, ["template", "end it with"]),
        ({"template": "{soft}{text} x"}, ["template", "end it with"]),
        ({"template": "{soft}"}, ["template", "one field"]),
        ({"template": "{title}{text}"}, ["template", "one field"]),
        ({"template": "{mask}{text}"}, ["template", "{mask} is not written"]),
        ({"template": "{txt}"}, ["train row 1", "did you mean 'text'"]),
        ({"batch_size": 0}, ["batch_size = 0", "1 to"]),
    ],
)
def test_bad_arguments(options, parts):
    refused(lambda: LanguageModeling(ROWS, **options).bind(Words()), *parts)


def test_bad_documents_and_models(tiny):
    refused(lambda: LanguageModeling([]), "train has no rows")
    refused(lambda: LanguageModeling(ROWS, [{"text": ""}]).bind(Words()), "dev: no document has a token")
    long = [{"text": "so good " * 300}]
    refused(
        lambda: LanguageModeling(long, window=128).bind(tiny("llama")),
        "window = 128",
        "129 are more than the model's context of 128",
        "shorter",
    )

    def evaluator_of(window):
        task, space = LanguageModeling(long, window=window), SoftPrompt(tiny("llama"), 8, 8)
        return LocalEvaluator(tiny("llama"), task, space)

    refused(lambda: evaluator_of(127), "train row 1 has 135 tokens", "context has 128")
    assert np.isfinite(evaluator_of(100)(np.zeros((1, 8)), 0).loss).all()
    refused(lambda: LanguageModeling(ROWS, stride=64).bind(tiny("bert")), "stride = 64", "do not overlap")
    refused(lambda: LanguageModeling(ROWS).bind(Words("sentence")), "sentence encoder", "take a decoder")
